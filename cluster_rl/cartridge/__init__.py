"""The embedded game: a small Game Boy role-playing game that keeps its state where Pokémon Red keeps its own.

Any process reads it. The ROM is built from `src/` and `content/` by `python -m cluster_rl.cartridge.build` and shipped
built, so that installing needs no compiler.
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
