"""A ROM with nothing in it but a header: enough to be told apart by, and nobody's game."""

from __future__ import annotations

from pathlib import Path

ROM_BYTES = 0x100000


def blank_rom(folder: Path, title: str, name: str = "game.gb") -> Path:
    """1 MiB of zeros, with a title and a header whose checksum holds: MBC3, 32 KiB of battery RAM, as Red has."""
    data = bytearray(ROM_BYTES)
    data[0x134 : 0x134 + len(title)] = title.encode("ascii")
    data[0x147:0x14A] = b"\x13\x05\x03"
    data[0x14D] = (-sum(data[0x134:0x14D]) - (0x14D - 0x134)) & 0xFF
    path = folder / name
    path.write_bytes(data)
    return path
