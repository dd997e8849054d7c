"""What is on a map: doors, and people and objects with the cells they stand on.

Any process uses it. In: the sprites' records in RAM, as `GameState` finds them. Out: typed facts in cells of the map.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from cluster_rl.game import ram

FACINGS: Final = {0: "down", 4: "up", 8: "left", 12: "right"}

_RECORD_BYTES = ram.SPRITE_RECORD_BYTES
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


def sprite_cells(records: bytes, player_cell: tuple[int, int], walk_counter: int) -> list[tuple[int, int] | None]:
    """The cell of each sprite, None while it is hidden or off the screen.

    `records` are the player's and then the sprites', 16 bytes each; `walk_counter` says how far the player is under
    way.
    """
    # Cells follow from pixels relative to the player: the records that hold cells are 240 bytes further on, and
    # reading those each step costs more than this does.
    walked = _CELL_PIXELS - walk_counter * _WALK_PIXELS_PER_COUNT if walk_counter else 0
    walked_x, walked_y = (_signed(records[5]) * walked, _signed(records[3]) * walked) if walked else (0, 0)
    x, y = player_cell
    cells: list[tuple[int, int] | None] = []
    for at in range(_RECORD_BYTES, len(records), _RECORD_BYTES):
        if records[at] == 0 or records[at + 2] == _SPRITE_HIDDEN:
            cells.append(None)
            continue
        dx = _signed(records[at + 6] - _PLAYER_X_PIXELS) + walked_x
        dy = _signed(records[at + 4] - _PLAYER_Y_PIXELS) + walked_y
        # To the nearest cell: a person under way counts where most of it is.
        cells.append((x + (dx + _CELL_PIXELS // 2) // _CELL_PIXELS, y + (dy + _CELL_PIXELS // 2) // _CELL_PIXELS))
    return cells


def _signed(value: int) -> int:
    """The low byte as a signed number."""
    return (value + 0x80 & 0xFF) - 0x80
