"""One episode's path, drawn over the map as the episode itself saw it.

The replayer's worker processes use it. In: the screen and the state after each step of a replay, and the positions that
its log holds. Out: a PNG. The map is put together from squares of the episode's own screens, so no picture of a game is
shipped, any ROM works, and what was never on the screen stays blank.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cluster_rl.game.state import GameState
from cluster_rl.game.world import World
from cluster_rl.report.figures import save_png
from cluster_rl.report.positions import known_places

CELL_PIXELS = 16
BLACKOUT_COLOUR = "#d1106b"
_PLAYER_COLUMN, _PLAYER_ROW = 4, 4
_SCREEN_COLUMNS, _SCREEN_ROWS = 10, 9
_BLANK = 217  # grey level of what was never seen
_DPI = 100
_MAX_PIXELS = 2048  # a side; of the real game's whole map a side of 7,000 would take gigabytes to draw

Place = tuple[int, int]
"""A canvas cell, (x, y)."""


class SeenMap:
    """The map as screens showed it, square by square of 16 x 16 pixels.

    People walk through the picture and boxes lie over it, so the most frequent look of a cell counts.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._looks: defaultdict[Place, Counter[bytes]] = defaultdict(Counter)
        self._looked_up: set[int] = set()  # maps whose doors are known
        self.doors: dict[Place, int] = {}
        """The map that each door leads to, by its cell of the canvas."""
        self.people: dict[tuple[int, int], Place] = {}
        """The cell of the canvas where each person or thing was seen first, by its map's id and its slot there."""

    def look(self, state: GameState, screen: npt.NDArray[np.uint8]) -> None:
        """Takes in the squares of a screen, uint8 [144, 160, 3], that shows the map and stands still."""
        if not state.in_game or state.interface_up or state.walk_counter:
            return
        size = self._world.maps.size(state.map_id)
        if size is None:
            return
        if state.map_id not in self._looked_up:
            self._looked_up.add(state.map_id)
            for door in state.warps:
                place = self._world.global_position(state.map_id, door.x, door.y)
                if place is not None and door.x < size[0] and door.y < size[1]:
                    self.doors[place] = door.target_map
        for sprite in state.sprites:
            if sprite.cell is None or (state.map_id, sprite.slot) in self.people:
                continue
            x, y = sprite.cell
            place = self._world.global_position(state.map_id, x, y)
            is_shown = -_PLAYER_COLUMN <= x - state.x < _SCREEN_COLUMNS - _PLAYER_COLUMN
            is_shown = is_shown and -_PLAYER_ROW <= y - state.y < _SCREEN_ROWS - _PLAYER_ROW
            if is_shown and place is not None and 0 <= x < size[0] and 0 <= y < size[1]:
                self.people[state.map_id, sprite.slot] = place
        squares = screen.reshape(_SCREEN_ROWS, CELL_PIXELS, _SCREEN_COLUMNS, CELL_PIXELS, 3).swapaxes(1, 2)
        for row in range(_SCREEN_ROWS):
            for column in range(_SCREEN_COLUMNS):
                # The player is drawn four pixels up, into the square above.
                if column == _PLAYER_COLUMN and row in (_PLAYER_ROW - 1, _PLAYER_ROW):
                    continue
                x, y = state.x + column - _PLAYER_COLUMN, state.y + row - _PLAYER_ROW
                # What lies beyond a map's edge belongs to the map there.
                if not (0 <= x < size[0] and 0 <= y < size[1]):
                    continue
                place = self._world.global_position(state.map_id, x, y)
                if place is not None:
                    self._looks[place][squares[row, column].tobytes()] += 1

    def looks(self) -> Iterator[tuple[Place, npt.NDArray[np.uint8]]]:
        """Each cell that was seen and its most frequent look, uint8 [16, 16, 3]."""
        for place, looks in self._looks.items():
            most_frequent = looks.most_common(1)[0][0]
            yield place, np.frombuffer(most_frequent, np.uint8).reshape(CELL_PIXELS, CELL_PIXELS, 3)

    def size(self) -> Place:
        """Columns and rows of cells of the picture; at least one was seen."""
        return self._extent()[1]

    def _extent(self) -> tuple[Place, Place]:
        """The upper left cell of what was seen, and its columns and rows."""
        places = np.array(list(self._looks))  # [n, 2] of (x, y)
        (left, top), (right, bottom) = places.min(axis=0).tolist(), places.max(axis=0).tolist()
        return (left, top), (right - left + 1, bottom - top + 1)

    def picture(self) -> tuple[npt.NDArray[np.uint8], Place] | None:
        """The map, uint8 [p h, p w, 3], and the canvas cell of its upper left corner; None where nothing was seen.

        A cell has p = 16 pixels, and fewer where the map is so large that nobody could see them all.
        """
        if not self._looks:
            return None
        (left, top), (width, height) = self._extent()
        stride = 1
        while max(height, width) * CELL_PIXELS // stride > _MAX_PIXELS and stride < CELL_PIXELS:
            stride *= 2
        pixels = CELL_PIXELS // stride
        picture = np.full((height, width, pixels, pixels, 3), _BLANK, np.uint8)
        for (x, y), look in self.looks():
            picture[y - top, x - left] = look[::stride, ::stride]
        return picture.swapaxes(1, 2).reshape(height * pixels, width * pixels, 3), (left, top)


def path_places(positions: npt.NDArray[np.uint8], world: World) -> list[Place | None]:
    """Where each step ended, as canvas cells; None on maps that have no place there.

    In: uint8 [steps, 3] of (map id, x, y). A step whose place is not known, or outside of its map, stays where the one
    before it was.
    """
    places: list[Place | None] = []
    for (map_id, x, y), known in zip(positions.tolist(), known_places(positions).tolist(), strict=True):
        size = world.maps.size(map_id)
        outside = size is not None and not (x < size[0] and y < size[1])
        stays = (outside or not known) and places
        places.append(places[-1] if stays else world.global_position(map_id, x, y))
    return places


def draw_path(
    seen: SeenMap,
    positions: npt.NDArray[np.uint8],
    milestones: Sequence[tuple[str, int]],
    world: World,
    title: str,
    path: Path,
    blackouts: Sequence[int] = (),
) -> bool:
    """Draws the map and the path on it, coloured by step, with numbered milestones and a cross at each blackout;
    whether there was a map to draw.

    `milestones` are names and the steps, counted from 1, after which they were reached; `blackouts` are such steps.
    """
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    found = seen.picture()
    if found is None:
        return False
    picture, (left, top) = found
    width, height = seen.size()
    cell = min(0.32, 9 / max(height, width))  # inches, as all sizes here
    across, down = max(2.5, width * cell), max(2.0, height * cell, 0.2 * len(milestones) + 0.9)
    side = 2.6 if milestones else 0.9
    total_across, total_down = across + 0.2 + side, down + 0.5
    figure = Figure(figsize=(total_across, total_down), dpi=_DPI)
    axes = figure.add_axes((0.1 / total_across, 0.1 / total_down, across / total_across, down / total_down))
    edges = (left - 0.5, left + width - 0.5, top + height - 0.5, top - 0.5)
    axes.imshow(picture, extent=edges, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title, fontsize=9, parse_math=False)

    places = path_places(positions, world)
    walked, walked_at, jumped = [], [], []
    for step, (before, after) in enumerate(itertools.pairwise(places), start=1):
        if before is None or after is None or before == after:
            continue
        # Further than a cell: through a door, or carried away.
        if abs(before[0] - after[0]) + abs(before[1] - after[1]) > 1:
            jumped.append((before, after))
        else:
            walked.append((before, after))
            walked_at.append(step)
    axes.add_collection(LineCollection(walked, colors="white", linewidths=4.5, capstyle="round"))
    axes.add_collection(LineCollection(jumped, colors="0.35", linewidths=1, linestyles="dotted"))
    # From dark to light: it reads in grey and for the colour-blind too.
    line = LineCollection(walked, cmap="plasma", array=np.array(walked_at), linewidths=2.5, capstyle="round")
    line.set_clim(1, max(2, len(positions)))
    axes.add_collection(line)
    here = [place for place in places if place is not None]
    if here:
        axes.plot(*here[0], "o", color="white", markeredgecolor="black", markersize=8)
        axes.plot(*here[-1], "s", color="white", markeredgecolor="black", markersize=7)

    fell = [place for step in blackouts if step <= len(places) and (place := places[step - 1]) is not None]
    for x, y in fell:
        axes.plot(x, y, "X", color=BLACKOUT_COLOUR, markeredgecolor="white", markersize=9)

    bar_left, bar_down = (across + 0.3) / total_across, min(1.6, 0.45 * down)
    bar = figure.add_axes((bar_left, 0.25 / total_down, 0.12 / total_across, bar_down / total_down))
    figure.colorbar(line, cax=bar, label="step")
    numbers: defaultdict[Place, list[int]] = defaultdict(list)
    for number, (name, step) in enumerate(milestones, start=1):
        place = places[step - 1] if step <= len(places) else None
        if place is not None:
            numbers[place].append(number)
        line_up = (down + 0.05 - 0.2 * number) / total_down
        figure.text(bar_left, line_up, f"{number}  {name.lower().replace('_', ' ')}, step {step}", fontsize=7)
    box = {"boxstyle": "round,pad=0.3,rounding_size=0.6", "facecolor": "white", "edgecolor": "black"}
    for place, here_reached in numbers.items():
        label = ",".join(map(str, here_reached))
        axes.text(*place, label, fontsize=7, ha="center", va="center", bbox=box)
    save_png(figure, path)
    return True
