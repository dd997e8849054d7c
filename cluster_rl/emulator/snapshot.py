"""Snapshots: a savestate in a container that says what it fits, because PyBoy's own files do not.

Actors write and read them, episode logs hold them. A PyBoy savestate has neither magic nor length: loaded into a
cartridge with another RAM size it shifts without an error. So every snapshot is stamped:

    magic   8 bytes
    length  uint32, little-endian, of the header
    header  JSON: pyboy_version, state_version, rom_sha1, cartridge_ram_bytes, state_bytes, schema_version
    state   PyBoy savestate, zstd
"""

from __future__ import annotations

import struct
from pathlib import Path

import msgspec
import zstandard

from cluster_rl.errors import UserError
from cluster_rl.game.savestate import PINNED_VERSION, import_state
from cluster_rl.rom import Rom, pyboy_version
from cluster_rl.runs.small_file import Count, UnreadableError, Version, decode_json, read_bytes

SCHEMA_VERSION = 1
_MAGIC = b"\x89GBSNAP\n"
_LENGTH = struct.Struct("<I")
_MAX_STATE_BYTES = 1 << 22
_MAX_HEADER_BYTES = 1 << 12
_MAX_FILE_BYTES = 1 << 23
# What PyBoy 2.8.1 loads: its own, and old ones, which `import_state` has completed before they are stamped, or as they
# are unpacked: version 7, which it once left as it was.
_AS_THEY_WERE = 7
_LOADABLE_VERSIONS = (PINNED_VERSION, _AS_THEY_WERE, 8, 9, 10, 11, 12)


class SnapshotHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What a savestate was made by and for."""

    pyboy_version: str
    state_version: Count
    rom_sha1: str
    cartridge_ram_bytes: Count
    state_bytes: Count
    schema_version: int = SCHEMA_VERSION


def pack(state: bytes, rom: Rom) -> bytes:
    """Stamps a savestate that the running PyBoy made (or can load) for `rom`."""
    header = msgspec.json.encode(
        SnapshotHeader(
            pyboy_version=pyboy_version(),
            state_version=state[0],
            rom_sha1=rom.sha1,
            cartridge_ram_bytes=rom.cartridge_ram_bytes,
            state_bytes=len(state),
        )
    )
    return b"".join((_MAGIC, _LENGTH.pack(len(header)), header, zstandard.ZstdCompressor(level=1).compress(state)))


def is_snapshot(data: bytes) -> bool:
    """Whether the bytes begin as a snapshot does."""
    return data.startswith(_MAGIC)


def read_header(data: bytes, source: str = "snapshot") -> SnapshotHeader:
    """The stamp of a snapshot. Raises `UserError` where the bytes are none."""
    return _split(data, source)[0]


def unpack(data: bytes, rom: Rom | None, source: str = "snapshot") -> bytes:
    """The savestate in a snapshot; with a `rom`, as the installed PyBoy loads it, and only if it fits both.

    Raises `UserError` for bytes that are no snapshot, are damaged, or belong to another ROM or savestate version.
    """
    header, stored = _split(data, source)
    if rom is not None:
        _check_fits(header, rom, source)
    try:
        if not 0 < zstandard.frame_content_size(stored) <= _MAX_STATE_BYTES:
            raise UserError(f"{source}: damaged: its savestate has an impossible size; make it again")
        state = zstandard.ZstdDecompressor().decompress(stored)
    except zstandard.ZstdError as error:
        raise UserError(f"{source}: damaged: its savestate cannot be unpacked ({error}); make it again") from None
    if len(state) != header.state_bytes or state[0] != header.state_version:
        raise UserError(f"{source}: damaged: its savestate is not what its header says; make it again")
    return import_state(state) if rom is not None and state[0] == _AS_THEY_WERE else state


def load_savestate_file(path: str, rom: Rom) -> bytes:
    """Reads a snapshot, or a savestate of PyBoy itself (2.8, or up to 2.4: versions 7-12), as a snapshot.

    A savestate of PyBoy names no ROM, so only its length can be checked, and that when a console loads it.
    Raises `UserError` for a file that is missing or is none of these.
    """
    source = f"savestate {path}"
    try:
        data = read_bytes(Path(path), _MAX_FILE_BYTES)
    except UnreadableError as error:
        raise UserError(f"savestate {error}") from None
    if is_snapshot(data):
        unpack(data, rom, source)
        return data
    try:
        return pack(import_state(data), rom)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def _split(data: bytes, source: str) -> tuple[SnapshotHeader, bytes]:
    start = len(_MAGIC) + _LENGTH.size
    if not is_snapshot(data) or len(data) < start:
        raise UserError(f"{source}: not a snapshot of this program")
    (length,) = _LENGTH.unpack_from(data, len(_MAGIC))
    if length > _MAX_HEADER_BYTES or len(data) <= start + length:
        raise UserError(f"{source}: damaged: cut short or with a wrong header length; make it again")
    try:
        version = Version("schema_version", SCHEMA_VERSION)
        header = decode_json(data[start : start + length], SnapshotHeader, f"{source}: its header", version)
    except UnreadableError as error:
        raise UserError(f"{error}; make it again") from None
    return header, data[start + length :]


def _check_fits(header: SnapshotHeader, rom: Rom, source: str) -> None:
    if header.rom_sha1 != rom.sha1:
        raise UserError(
            f"{source}: made for the ROM with SHA-1 {header.rom_sha1}, but {rom.path or 'the small world'} has "
            f"{rom.sha1}; give the ROM it was made for"
        )
    if header.state_version not in _LOADABLE_VERSIONS:
        raise UserError(
            f"{source}: made by PyBoy {header.pyboy_version} (savestate version {header.state_version}), but PyBoy "
            f"{pyboy_version()} reads version {PINNED_VERSION}; install the PyBoy it was made by"
        )
    if header.cartridge_ram_bytes != rom.cartridge_ram_bytes:
        raise UserError(
            f"{source}: made with {header.cartridge_ram_bytes} bytes of cartridge RAM, but the ROM has "
            f"{rom.cartridge_ram_bytes}; make it again"
        )
