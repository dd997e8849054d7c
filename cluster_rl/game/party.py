"""Who fights: the members of the party, and the enemy's fighting member.

Any process uses it. In: their records in RAM, as `GameState` finds them. Out: typed facts as RAM has
them, and HP as a share that stays within 0..1.
"""

from __future__ import annotations

from typing import NamedTuple


class PartyMon(NamedTuple):
    """One member of the party. `status` 0 is healthy; bits 0-2 sleep turns, 3 poison, 4 burn, 5 freeze, 6 paralysis."""

    species: int
    level: int
    hp: int
    max_hp: int
    status: int
    experience: int
    moves: tuple[int, int, int, int]
    pp: tuple[int, int, int, int]

    @property
    def hp_ratio(self) -> float:
        """HP as a share of the maximum, 0..1; cheated saves hold HP above the maximum."""
        return _ratio(self.hp, self.max_hp)


class Enemy(NamedTuple):
    """The enemy's fighting member."""

    species: int
    level: int
    hp: int
    max_hp: int

    @property
    def hp_ratio(self) -> float:
        """HP as a share of the maximum, 0..1."""
        return _ratio(self.hp, self.max_hp)


def party_mon(record: bytes) -> PartyMon:
    """The member that a record of the party holds."""
    return PartyMon(
        species=record[0],
        level=record[33],
        hp=_word(record, 1),
        max_hp=_word(record, 34),
        status=record[4],
        experience=int.from_bytes(record[14:17], "big"),
        moves=(record[8], record[9], record[10], record[11]),
        pp=(record[29] & 0x3F, record[30] & 0x3F, record[31] & 0x3F, record[32] & 0x3F),
    )


def enemy_mon(record: bytes) -> Enemy:
    """The member that the record of the enemy's fighting one holds."""
    return Enemy(record[0], record[14], _word(record, 1), _word(record, 15))


def _word(record: bytes, at: int) -> int:
    return record[at] << 8 | record[at + 1]


def _ratio(hp: int, max_hp: int) -> float:
    return min(hp / max_hp, 1.0) if max_hp else 0.0
