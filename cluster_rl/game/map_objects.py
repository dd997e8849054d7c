"""What is on a map: doors, and people and objects with the cells they stand on.

Any process uses it. In: the sprites' records in RAM, as `GameState` finds them. Out: typed facts in cells of the map.
"""

from __future__ import annotations

from typing import Final, NamedTuple

FACINGS: Final = {0: "down", 4: "up", 8: "left", 12: "right"}

_SPRITE_HIDDEN = 0xFF
_PLAYER_Y_PIXELS, _PLAYER_X_PIXELS = 60, 64
_CELL_PIXELS = 16
_WALK_PIXELS_PER_COUNT = 2


class Warp(NamedTuple):
    """A door, stair or hole at cell (x, y). Target map 0xFF is the last outdoor map."""

    x: int
    y: int
    target_warp: int
    target_map: int


class Sprite(NamedTuple):
    """A person or object in the player's view. (x, y) is its cell, None while it is hidden or off the screen."""

    slot: int
    picture: int
    facing: str
    cell: tuple[int, int] | None

    @property
    def visible(self) -> bool:
        """Whether it is drawn now; a text box hides what it covers."""
        return self.cell is not None


def sprite(slot: int, record: bytes, player: bytes, player_cell: tuple[int, int], walk_counter: int) -> Sprite:
    """The sprite of one record; `player` is the player's own, and `walk_counter` says how far it is under way."""
    facing = FACINGS.get(record[9], "down")
    if record[0] == 0 or record[2] == _SPRITE_HIDDEN:
        return Sprite(slot, record[0], facing, None)
    # Cells follow from pixels relative to the player: the records that hold cells are 240 bytes further on, and
    # reading those each step costs more than this does.
    walked = _CELL_PIXELS - walk_counter * _WALK_PIXELS_PER_COUNT if walk_counter else 0
    dy = _signed(record[4] - _PLAYER_Y_PIXELS) + _signed(player[3]) * walked
    dx = _signed(record[6] - _PLAYER_X_PIXELS) + _signed(player[5]) * walked
    x, y = player_cell
    return Sprite(slot, record[0], facing, (x + _cells(dx), y + _cells(dy)))


def _signed(value: int) -> int:
    """The low byte as a signed number."""
    return (value + 0x80 & 0xFF) - 0x80


def _cells(pixels: int) -> int:
    """Pixels to the nearest cell; a person under way counts where most of it is."""
    return (pixels + _CELL_PIXELS // 2) // _CELL_PIXELS
