"""Where this agent has been in this episode, map by map, and the crop of it around the player.

The environment of an actor uses it. In: each GameState and the button before it. Out: uint8 [2, S, S] with
S = 2 * radius + 1 and the player in the middle: plane 0 how often each cell was entered, plane 1 what is known of it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from cluster_rl.game.buttons import BUTTONS, STEP_OF
from cluster_rl.game.state import GameState
from cluster_rl.game.whereabouts import Whereabouts

# Plane 0 is 255 (1 - 2^-n) after n visits, rounded up: the first visit, which matters most, makes half of the way, and
# eight look like any more.
_FIRST_VISIT: Final = 128

# Codes of plane 1, evenly spaced: networks take them apart into a plane each (`model.expand_crop`).
NOTHING_KNOWN, WARP, SIGN, PERSON, WALL, OUTSIDE = 0, 51, 102, 153, 204, 255

_MAX_MAPS: Final = 64


class _MapMemory:
    """Both planes of one map, uint8 [2, height + 2r, width + 2r]: padded, so that every crop is one slice."""

    def __init__(self, state: GameState, radius: int) -> None:
        width, height = self.size = state.map_size
        self._radius = radius
        self.planes = np.zeros((2, height + 2 * radius, width + 2 * radius), np.uint8)
        known = self.planes[1]
        known[:] = OUTSIDE
        known[radius : radius + height, radius : radius + width] = NOTHING_KNOWN
        for x, y in state.signs:
            self.mark(x, y, SIGN)
        for warp in state.warps:
            self.mark(warp.x, warp.y, WARP)

    def holds(self, x: int, y: int) -> bool:
        return 0 <= x < self.size[0] and 0 <= y < self.size[1]

    def visit(self, x: int, y: int) -> None:
        row, column = y + self._radius, x + self._radius
        self.planes[0, row, column] = _FIRST_VISIT + (int(self.planes[0, row, column]) >> 1)
        if self.planes[1, row, column] == WALL:
            self.planes[1, row, column] = NOTHING_KNOWN  # whatever stood there is gone

    def mark(self, x: int, y: int, code: int) -> None:
        if self.holds(x, y):
            self.planes[1, y + self._radius, x + self._radius] = code

    def mark_wall(self, x: int, y: int) -> None:
        if self.holds(x, y) and self.planes[1, y + self._radius, x + self._radius] == NOTHING_KNOWN:
            self.planes[1, y + self._radius, x + self._radius] = WALL


class OccupancyMemory:
    """Memory of one emulator. `start` at each episode's first state, `step` after each action.

    At most 64 maps are remembered; the one entered longest ago goes first.
    """

    def __init__(self, radius: int) -> None:
        self._radius = radius
        self._shape = (2, 2 * radius + 1, 2 * radius + 1)
        self._maps: dict[int, _MapMemory] = {}
        self._whereabouts = Whereabouts()
        self._here: tuple[int, int, int] | None = None
        self._facing = ""
        self._free = False

    def start(self, state: GameState) -> None:
        """Forgets the last episode; the first cell counts as visited."""
        self._maps.clear()
        self._whereabouts = Whereabouts()
        self._here = None
        self._free = False
        self._arrive(state)

    def step(self, action: int, state: GameState) -> None:
        """Notes where the action led, or the wall that it met."""
        before, facing_before, was_free = self._here, self._facing, self._free
        self._arrive(state)
        step = STEP_OF.get(BUTTONS[action])
        if step is None or not was_free or not self._free or before is None or self._here != before:
            return
        # In free play, toward where the player looked already (a first press may only turn), and nothing moved.
        if facing_before == state.facing == BUTTONS[action]:
            x, y = state.x + step[0], state.y + step[1]
            if all(sprite.cell != (x, y) for sprite in state.sprites):
                self._maps[state.map_id].mark_wall(x, y)

    def crop(self, state: GameState) -> npt.NDArray[np.uint8]:
        """uint8 [2, S, S] around the player, all zero where the player has not arrived on the map or is off it."""
        arrived = self._here is not None and self._here[0] == state.map_id
        here = self._maps.get(state.map_id) if arrived else None
        if here is None or not here.holds(state.x, state.y) or here.size != state.map_size:
            return np.zeros(self._shape, np.uint8)
        side = self._shape[1]
        crop: npt.NDArray[np.uint8] = here.planes[:, state.y : state.y + side, state.x : state.x + side].copy()
        for sprite in state.sprites:
            if sprite.cell is not None:
                column, row = sprite.cell[0] - state.x + self._radius, sprite.cell[1] - state.y + self._radius
                if 0 <= column < side and 0 <= row < side:
                    crop[1, row, column] = PERSON
        return crop

    def visits(self, map_id: int, x: int, y: int) -> int:
        """How often a cell was entered, at most 8."""
        here = self._maps.get(map_id)
        if here is None or not here.holds(x, y):
            return 0
        return 8 - (255 - int(here.planes[0, y + self._radius, x + self._radius])).bit_length()

    def _arrive(self, state: GameState) -> None:
        self._free = self._whereabouts.known(state) and not state.interface_up
        self._facing = state.facing
        if not self._free:
            return
        here = (state.map_id, state.x, state.y)
        if here == self._here:
            return
        memory = self._maps.pop(state.map_id, None)
        if memory is None or memory.size != state.map_size:
            memory = _MapMemory(state, self._radius)
        self._maps[state.map_id] = memory
        if len(self._maps) > _MAX_MAPS:
            del self._maps[next(iter(self._maps))]
        self._here = here
        if memory.holds(state.x, state.y):
            memory.visit(state.x, state.y)
