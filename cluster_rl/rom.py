"""A ROM file, read and checked before any emulator sees it.

Actors, the replayer and `debug_rollout` use it. In: a path, the name of an embedded world, or "" for the small one of
them. Out: a `Rom`.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cluster_rl import cartridge
from cluster_rl.errors import UserError, read_error
from cluster_rl.game.file_kinds import MOST_ROM_BYTES, header_holds, is_battery_save, is_rom, other_kind, stated_bytes
from cluster_rl.game.savestate import PINNED_VERSION, ram_image

RED_SHA1 = "ea9bcae617fdf159b045185467ae58b2e4a48b9a"
"""SHA-1 of Pokémon Red, US/Europe, as dumps of it are listed."""

_DOUBTS = {
    "POKEMON RED": "it has Red's title and another SHA-1, so it is another language, a revision or a hack",
    "POKEMON BLUE": "the two are built from one source, but nobody has tried Blue here",
    "POKEMON YELLOW": "Yellow keeps nearly all of it elsewhere",
}

RomKind = Literal["red", "cartridge", "unknown"]

_RAM_BYTES = {0: 0, 1: 0x800, 2: 0x2000, 3: 0x8000, 4: 0x20000, 5: 0x10000}


@dataclass(frozen=True)
class Rom:
    """A ROM whose header holds. `sha1` is lower-case hex; an embedded world has its name as `path`."""

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
    """Reads a ROM and checks it. `""` is the small embedded world; the name of another one is that.

    Raises `UserError` for a file that is missing, no Game Boy ROM (its header checksum does not hold), or not as long
    as its header says.
    """
    world = path or cartridge.SMALL
    data = cartridge.rom_bytes(world) if world in cartridge.world_names() else _read(Path(path))
    problem = _problem(data)
    if problem:
        raise UserError(f"ROM {path or cartridge.rom_path()}: {problem}")
    title = data[0x134:0x144].split(b"\0")[0].decode("ascii", "replace")
    sha1 = hashlib.sha1(data).hexdigest()
    return Rom(data, sha1, _kind(sha1), title, path)


def describe_rom(rom: Rom) -> str:
    """What the ROM is, in a few words."""
    if rom.kind == "cartridge":
        return f"embedded world {rom.title}"
    if rom.kind == "red":
        return "Pokémon Red"
    return f"{_game_name(rom.title)}, read as if it were Pokémon Red"


def game_warning(sha1: str, title: str) -> str:
    """What is to be feared of a ROM that is neither Red nor the cartridge, in one line; empty for those two."""
    if _kind(sha1) != "unknown":
        return ""
    doubt = _DOUBTS.get(title, "where it keeps place, party, flags and progress is not known, and may be elsewhere")
    return (
        f"WARNING: {_game_name(title)} is not Pokémon Red, but its RAM is read at Red's addresses: {doubt}; what the "
        "agent is told, its rewards and milestones may mean nothing"
    )


def _game_name(title: str) -> str:
    return f"the game {title!r}" if title else "a game without a title"


def preflight(rom: Rom) -> str:
    """One line that names everything a savestate depends on: ROM kind and SHA-1, PyBoy, savestate version."""
    return f"{describe_rom(rom)}, SHA-1 {rom.sha1}, PyBoy {pyboy_version()}, savestate version {PINNED_VERSION}"


@functools.cache  # it reads the package's files: 2 ms of every snapshot
def pyboy_version() -> str:
    """Version of the installed PyBoy, without importing it."""
    return importlib.metadata.version("pyboy")


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise UserError(f"ROM {path}: is a folder; give the path of a .gb file")
    try:
        with path.open("rb") as file:  # a video may be longer than the machine's memory
            return file.read(MOST_ROM_BYTES + 1)
    except FileNotFoundError:
        raise UserError(
            f"ROM {path}: no such file; give --rom the path of yours; an empty path plays the small world"
        ) from None
    except OSError as error:
        raise read_error(error, path, "ROM") from None


def _problem(data: bytes) -> str:
    """Why the bytes are no ROM, and what they are if that can be told; empty for a ROM."""
    if is_rom(data):
        return ""
    kind = other_kind(data)
    if kind:
        return f"not a Game Boy ROM: {kind}"
    if header_holds(data):
        return f"{len(data)} bytes, but its header says {stated_bytes(data)}: it is cut short or padded; get it again"
    if len(data) > MOST_ROM_BYTES:
        return f"not a Game Boy ROM: more than {MOST_ROM_BYTES} bytes; give the path of a .gb file"
    if _is_savestate(data):
        return "not a Game Boy ROM: it is a savestate of PyBoy, for --initial_state; give the path of a .gb file"
    if is_battery_save(data):
        return "not a Game Boy ROM: it is as long as a battery save (.sav); give the path of a .gb file"
    return f"not a Game Boy ROM ({len(data)} bytes, and no header whose checksum holds); give the path of a .gb file"


def _is_savestate(data: bytes) -> bool:
    try:
        ram_image(data)
    except UserError:
        return False
    return True


def _kind(sha1: str) -> RomKind:
    if sha1 == RED_SHA1:
        return "red"
    return "cartridge" if sha1 in cartridge.rom_sha1s() else "unknown"
