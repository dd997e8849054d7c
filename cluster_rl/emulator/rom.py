"""A ROM file, read and checked before any emulator sees it.

Actors, the replayer and `debug_rollout` use it. In: a path, or "" for the embedded cartridge. Out: a `Rom`.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cluster_rl import cartridge
from cluster_rl.errors import UserError
from cluster_rl.game.savestate import PINNED_VERSION

RED_SHA1 = "ea9bcae617fdf159b045185467ae58b2e4a48b9a"
"""SHA-1 of Pokémon Red, US/Europe, as dumps of it are listed."""

RomKind = Literal["red", "cartridge", "unknown"]

_HEADER_END = 0x150
_RAM_BYTES = {0: 0, 1: 0x800, 2: 0x2000, 3: 0x8000, 4: 0x20000, 5: 0x10000}


@dataclass(frozen=True)
class Rom:
    """A ROM whose header holds. `sha1` is lower-case hex; `path` is "" for the embedded cartridge."""

    data: bytes
    sha1: str
    kind: RomKind
    title: str
    path: str

    @property
    def cartridge_ram_bytes(self) -> int:
        """Bytes of the cartridge's own RAM, as the header states them."""
        return _RAM_BYTES.get(self.data[0x149], 0)


def load_rom(path: str) -> Rom:
    """Reads a ROM and checks it. `""` is the embedded cartridge.

    Raises `UserError` for a file that is missing, no Game Boy ROM (its header checksum does not hold), or not as long
    as its header says.
    """
    data = _read(Path(path)) if path else cartridge.rom_bytes()
    where = f"ROM {path or cartridge.rom_path()}"
    if len(data) < _HEADER_END:
        raise UserError(f"{where}: {len(data)} bytes are too few for a Game Boy ROM; give the path of a .gb file")
    if _header_checksum(data) != data[0x14D]:
        raise UserError(f"{where}: not a Game Boy ROM (its header checksum does not hold); give the path of a .gb file")
    expected_bytes = 0x8000 << data[0x148] if data[0x148] <= 8 else 0
    if len(data) != expected_bytes:
        raise UserError(
            f"{where}: {len(data)} bytes, but its header says {expected_bytes}: it is cut short or padded; get it again"
        )
    title = data[0x134:0x144].split(b"\0")[0].decode("ascii", "replace")
    sha1 = hashlib.sha1(data).hexdigest()
    return Rom(data, sha1, _kind(sha1), title, path)


def describe_rom(rom: Rom) -> str:
    """What the ROM is, in a few words."""
    if rom.kind == "cartridge":
        return f"embedded cartridge {rom.title}"
    if rom.kind == "red":
        return "Pokémon Red"
    return f"unknown game {rom.title!r}, read as if it were Pokémon Red"


def preflight(rom: Rom) -> str:
    """One line that names everything a savestate depends on: ROM kind and SHA-1, PyBoy, savestate version."""
    return f"{describe_rom(rom)}, SHA-1 {rom.sha1}, PyBoy {pyboy_version()}, savestate version {PINNED_VERSION}"


def pyboy_version() -> str:
    """Version of the installed PyBoy, without importing it."""
    return importlib.metadata.version("pyboy")


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise UserError(f"ROM {path}: is a folder; give the path of a .gb file")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"ROM {path}: no such file; an empty path plays the embedded cartridge") from None
    except OSError as error:
        raise UserError(f"ROM {path}: cannot be read: {error.strerror or error}") from None


def _header_checksum(data: bytes) -> int:
    """The boot ROM's own check over 0x134-0x14C."""
    total = 0
    for byte in data[0x134:0x14D]:
        total = (total - byte - 1) & 0xFF
    return total


def _kind(sha1: str) -> RomKind:
    if sha1 == RED_SHA1:
        return "red"
    return "cartridge" if sha1 == _cartridge_sha1() else "unknown"


@functools.cache
def _cartridge_sha1() -> str:
    return hashlib.sha1(cartridge.rom_bytes()).hexdigest()
