"""The embedded game: a small Game Boy role-playing game that keeps its state where Pokémon Red keeps its own.

In come its sources, `src/` and `content/`; out go the ROM, its symbols and its names in `game/tables/cartridge.json`,
built by `python -m cluster_rl.cartridge.build` and shipped built, so that installing needs no compiler. Any process
reads the ROM. It may import `errors` alone.
"""

from __future__ import annotations

from pathlib import Path

PACKAGE_DIR = Path(__file__).resolve().parent
CONTENT_DIR = PACKAGE_DIR / "content"
ROM_NAME = "lantern.gb"
SYMBOLS_NAME = "lantern.sym"
MANIFEST_NAME = "manifest.json"


def rom_path() -> Path:
    """Path of the built ROM (64 KiB)."""
    return PACKAGE_DIR / ROM_NAME


def rom_bytes() -> bytes:
    """The built ROM."""
    return rom_path().read_bytes()


def symbols_path() -> Path:
    """Path of the symbol file that belongs to the ROM, for `PyBoy(symbols=...)`."""
    return PACKAGE_DIR / SYMBOLS_NAME
