"""What this agent has seen of the maps in this episode, where it has been, and the crop of both around the player.

The environment of an actor uses it. In: each GameState and the button before it. Out: uint8 [2, S, S] with
S = 2 * radius + 1 and the player in the middle: plane 0 how often each cell was entered, plane 1 what is known of it.
Known is what a player could know: a cell that was on the screen once while he stood there in free play, and people
while they are on it. In the dark he sees neither, and nothing is learned. RAM holds the whole map, and a crop wider
than the screen would show it.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from cluster_rl.game import ram
from cluster_rl.game.buttons import BUTTONS, STEP_OF
from cluster_rl.game.state import BATTLE_NONE, GameState
from cluster_rl.game.whereabouts import Whereabouts

# Plane 0 is 255 (1 - 2^-n) after n visits, rounded up: the first visit, which matters most, makes half of the way, and
# eight look like any more.
_FIRST_VISIT: Final = 128

# Codes of plane 1, evenly spaced: networks take them apart into a plane each (`model.expand_crop`).
NOTHING_KNOWN, WARP, SIGN, PERSON, WALL, OUTSIDE = 0, 51, 102, 153, 204, 255

# The screen is 20 x 18 tiles, 10 x 9 cells; the player stands in the fifth cell of the fifth row. So many cells are to
# the left of him and above, and so many to the right and below.
_LEFT, _UP = 4, 4
_RIGHT, _DOWN = ram.TILE_COLUMNS // 2 - 1 - _LEFT, ram.TILE_ROWS // 2 - 1 - _UP

_MAX_MAPS: Final = 64


class MapState(msgspec.Struct, frozen=True):
    """One map's memory as plain data; `layers` are the bytes of uint8 [3, rows, columns]: both planes, and
    what is there, with the padding."""

    map_id: int
    width: int
    height: int
    layers: bytes


class OccupancyState(msgspec.Struct, kw_only=True, frozen=True):
    """What `OccupancyMemory` keeps, as plain data, for an episode that begins where another one came by."""

    maps: list[MapState]  # the one entered longest ago first
    here: tuple[int, int, int] | None


class _MapMemory:
    """One map's visits and what is known of it. Padded, so that every crop is one slice, and so is every screen."""

    def __init__(self, size: tuple[int, int], radius: int) -> None:
        width, height = self.size = size
        self._radius = radius
        self._pad = pad = max(radius, _LEFT, _RIGHT, _UP, _DOWN)
        self.planes = np.zeros((2, height + 2 * pad, width + 2 * pad), np.uint8)
        self._there = np.full(self.planes.shape[1:], OUTSIDE, np.uint8)  # what is there, seen or not, as in plane 1
        self._there[pad : pad + height, pad : pad + width] = NOTHING_KNOWN

    @classmethod
    def of(cls, state: GameState, radius: int) -> _MapMemory:
        """Of the map where the player is, nothing seen yet."""
        memory = cls(state.map_size, radius)
        cells = [(x, y, SIGN) for x, y in state.signs] + [(warp.x, warp.y, WARP) for warp in state.warps]
        for x, y, code in cells:
            if memory.holds(x, y):
                memory._there[y + memory._pad, x + memory._pad] = code
        return memory

    def state(self, map_id: int) -> MapState:
        """With the padding, whose plane 1 tells where the map's edge was seen."""
        layers = np.concatenate((self.planes, self._there[np.newaxis])).tobytes()
        return MapState(map_id, *self.size, layers)

    @classmethod
    def from_state(cls, state: MapState, radius: int) -> _MapMemory:
        """The inverse. Raises ValueError where it is of another radius or size."""
        memory = cls((state.width, state.height), radius)
        layers = np.frombuffer(state.layers, np.uint8).reshape(3, *memory._there.shape)
        memory.planes, memory._there = layers[:2].copy(), layers[2].copy()
        return memory

    def holds(self, x: int, y: int) -> bool:
        return 0 <= x < self.size[0] and 0 <= y < self.size[1]

    def arrive(self, x: int, y: int) -> None:
        """Counts the visit, and whatever is on the screen there is known from now on.

        Arrivals are a cell apart, so nothing is missed between them: the two screens at the ends of a straight way
        that is no longer than the screen cover those along it. What a script leads the player past is not free play.
        """
        row, column = y + self._pad, x + self._pad
        self.planes[0, row, column] = _FIRST_VISIT + (int(self.planes[0, row, column]) >> 1)
        if self._there[row, column] == WALL:
            self._there[row, column] = NOTHING_KNOWN  # whatever stood there is gone
        screen = slice(row - _UP, row + _DOWN + 1), slice(column - _LEFT, column + _RIGHT + 1)
        self.planes[1][screen] = self._there[screen]

    def mark_wall(self, x: int, y: int) -> None:
        """Beside the player, so in sight."""
        at = y + self._pad, x + self._pad
        if self.holds(x, y) and self._there[at] == NOTHING_KNOWN:
            self._there[at] = self.planes[1][at] = WALL

    def crop(self, x: int, y: int) -> npt.NDArray[np.uint8]:
        """A copy, uint8 [2, S, S], of what is around a cell of the map."""
        row, column, side = y + self._pad - self._radius, x + self._pad - self._radius, 2 * self._radius + 1
        return self.planes[:, row : row + side, column : column + side].copy()

    def visits(self, x: int, y: int) -> int:
        return 8 - (255 - int(self.planes[0, y + self._pad, x + self._pad])).bit_length()


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

    @property
    def memory_state(self) -> OccupancyState:
        """What is remembered now."""
        return OccupancyState(maps=[memory.state(map_id) for map_id, memory in self._maps.items()], here=self._here)

    def check(self, memory: OccupancyState) -> None:
        """Raises ValueError unless `start` takes it."""
        for one in memory.maps:
            _MapMemory.from_state(one, self._radius)

    def start(self, state: GameState, memory: OccupancyState | None = None) -> None:
        """Forgets the last episode; the first cell counts as visited.

        With the `memory` of the episode that came by there, that is known which it knew. Raises ValueError for one of
        another radius.
        """
        self._maps.clear()
        self._whereabouts = Whereabouts()
        self._here = None
        if memory is not None:
            self._maps = {one.map_id: _MapMemory.from_state(one, self._radius) for one in memory.maps}
            self._here = memory.here
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
            if (x, y) not in state.people:
                self._maps[state.map_id].mark_wall(x, y)

    def crop(self, state: GameState) -> npt.NDArray[np.uint8]:
        """uint8 [2, S, S] around the player, all zero in the dark, and where the player has not arrived on the map or
        is off it."""
        arrived = self._here is not None and self._here[0] == state.map_id
        here = self._maps.get(state.map_id) if arrived else None
        if state.is_dark or here is None or not here.holds(state.x, state.y) or here.size != state.map_size:
            return np.zeros(self._shape, np.uint8)
        crop = here.crop(state.x, state.y)
        if state.in_battle != BATTLE_NONE:  # the screen shows no map, whatever people's records say
            return crop
        radius = self._radius
        for x, y in state.people:
            right, down = x - state.x, y - state.y
            # The cartridge gives people a cell when they are only about to come onto the screen.
            in_sight = -_LEFT <= right <= _RIGHT and -_UP <= down <= _DOWN
            if in_sight and abs(right) <= radius and abs(down) <= radius:
                crop[1, down + radius, right + radius] = PERSON
        return crop

    def visits(self, map_id: int, x: int, y: int) -> int:
        """How often a cell was entered, at most 8."""
        here = self._maps.get(map_id)
        if here is None or not here.holds(x, y):
            return 0
        return here.visits(x, y)

    def _arrive(self, state: GameState) -> None:
        self._free = self._whereabouts.known(state) and not state.interface_up
        self._facing = state.facing
        if state.is_dark:
            self._free = False
            self._here = None
        if not self._free:
            return
        here = (state.map_id, state.x, state.y)
        if here == self._here:
            return
        memory = self._maps.pop(state.map_id, None)
        if memory is None or memory.size != state.map_size:
            memory = _MapMemory.of(state, self._radius)
        self._maps[state.map_id] = memory
        if len(self._maps) > _MAX_MAPS:
            del self._maps[next(iter(self._maps))]
        self._here = here
        if memory.holds(state.x, state.y):
            memory.arrive(state.x, state.y)
