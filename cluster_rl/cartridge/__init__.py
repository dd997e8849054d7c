"""The embedded games: small Game Boy role-playing games that keep their state where Pokémon Red keeps its own.

In come their sources, one engine in `src/` and the worlds of `content/`; out go a ROM a world, its symbols and its
names in `game/tables/`, built by `python -m cluster_rl.cartridge.build` and shipped built, so that installing needs no
compiler. Any process reads the ROMs. It may import `errors` alone.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, Final

PACKAGE_DIR = Path(__file__).resolve().parent
CONTENT_DIR = PACKAGE_DIR / "content"
MANIFEST_NAME = "manifest.json"
SMALL: Final = "small"
"""The world that an empty `rom` plays."""

_FILE_NAMES: Final = {SMALL: "lantern"}


@functools.cache
def manifest() -> dict[str, Any]:
    """The record of the build, for each world: the compiler, the hashes of its ROM and of what it was made from."""
    record: dict[str, Any] = json.loads((PACKAGE_DIR / MANIFEST_NAME).read_text(encoding="ascii"))
    return record


def world_names() -> tuple[str, ...]:
    """The embedded worlds, the small one first."""
    return tuple(manifest()["worlds"])


def rom_name(world: str = SMALL) -> str:
    """The file name of a world's ROM."""
    return f"{_FILE_NAMES.get(world, world)}.gb"


def symbols_name(world: str = SMALL) -> str:
    """The file name of a world's symbols."""
    return f"{_FILE_NAMES.get(world, world)}.sym"


def table_name(world: str = SMALL) -> str:
    """The file name of a world's names table, in `game/tables/`."""
    return "cartridge.json" if world == SMALL else f"{world}.json"


def rom_path(world: str = SMALL) -> Path:
    """Path of a built ROM (64 or 128 KiB)."""
    return PACKAGE_DIR / rom_name(world)


def rom_bytes(world: str = SMALL) -> bytes:
    """A built ROM."""
    return rom_path(world).read_bytes()


def symbols_path(world: str = SMALL) -> Path:
    """Path of the symbol file that belongs to a ROM, for `PyBoy(symbols=...)`."""
    return PACKAGE_DIR / symbols_name(world)


def rom_sha1s() -> frozenset[str]:
    """SHA-1 of each embedded ROM, as the manifest has them."""
    return frozenset(record["rom_sha1"] for record in manifest()["worlds"].values())
