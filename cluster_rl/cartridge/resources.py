"""Data of the cartridge outside its code: numbered pieces, packed into data banks behind a directory.

The build runs it. In: pieces of bytes under names. Out: the banks, and the numbers by which the engine's `res_load`
finds each piece.
"""

from __future__ import annotations

BANK_BYTES = 0x4000
FIRST_DATA_BANK = 2


class Resources:
    """Pieces of data, numbered in the order of adding; C code finds them by their names."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.names: dict[str, int] = {}

    def add(self, name: str, *pieces: bytes | bytearray) -> None:
        """Adds pieces; the name stands for the first."""
        self.names[name] = len(self.pieces)
        self.pieces += map(bytes, pieces)

    def pack(self) -> list[bytes]:
        """Data banks: a directory of (bank, address, length) first, and no piece across a bank's end."""
        directory = bytearray()
        banks = [bytearray(5 * len(self.pieces))]
        for piece in self.pieces:
            if all(len(bank) + len(piece) > BANK_BYTES for bank in banks):
                banks.append(bytearray())
            number = next(i for i, bank in enumerate(banks) if len(bank) + len(piece) <= BANK_BYTES)
            directory.append(FIRST_DATA_BANK + number)
            directory += (BANK_BYTES + len(banks[number])).to_bytes(2, "little") + len(piece).to_bytes(2, "little")
            banks[number] += piece
        banks[0][: len(directory)] = directory
        return [bytes(bank) for bank in banks]
