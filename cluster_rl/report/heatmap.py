"""Where the agents have been: visits counted per tile, and one PNG a map.

The replayer and the report's page use it. In: positions as episode logs hold them, uint8 [steps, 3] of (map id, x, y),
the steps of blackouts, and the `World` that names, sizes and places the maps. Out: `<map id>-<name>.png` for each map
visited, and `world.png`, all maps that have a place on the world's canvas: how often each tile was stood on, and when
first, over the map itself, with doors, people and blackouts. The same visits give the same bytes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cluster_rl.game.world import World
from cluster_rl.report.figures import save_png
from cluster_rl.report.ground import Box, Ground, Mark
from cluster_rl.report.path import BLACKOUT_COLOUR, Place
from cluster_rl.report.positions import known_places

_MAP_TILES: Final = 256  # coordinates are bytes
_DPI: Final = 100
_DOOR_COLOUR, _PERSON_COLOUR = "#c2410c", "#1d4ed8"
_SIDE, _TITLE, _FOOT = 1.7, 0.45, 0.8  # inches beside, above and below what a panel shows


class VisitCounts:
    """Steps that ended on each tile of each map, when each was first stood on, and where blackouts were."""

    def __init__(self) -> None:
        self.steps = 0
        self.maps: dict[int, npt.NDArray[np.int64]] = {}
        """Map id to counts, int64 [256, 256] by (y, x)."""
        self.first: dict[int, npt.NDArray[np.float64]] = {}
        """The same of when the first episode began that stood there, in Unix seconds; infinite for none."""
        self.blackouts: dict[int, Counter[Place]] = {}
        """Map id to the number of blackouts at each (x, y)."""
        self.notes_blackouts = False
        """Whether any episode's log has them: those of older programs do not."""

    def add(self, positions: npt.NDArray[np.uint8], blackouts: Sequence[int] | None = None, began: float = 0.0) -> None:
        """Counts an episode: uint8 [steps, 3] of (map id, x, y), the steps (from 1) of its blackouts, None where they
        are not known, and when it began in Unix seconds. Steps whose place is not known count on no tile."""
        self.steps += len(positions)
        self.notes_blackouts |= blackouts is not None
        for step in blackouts or ():
            if 1 <= step <= len(positions):
                map_id, x, y = positions[step - 1].tolist()
                self.blackouts.setdefault(map_id, Counter())[x, y] += 1
        positions = positions[known_places(positions)]
        for map_id in np.unique(positions[:, 0]).tolist():
            here = positions[positions[:, 0] == map_id].astype(np.int64)
            tiles = np.bincount(here[:, 2] * _MAP_TILES + here[:, 1], minlength=_MAP_TILES**2)
            counts = tiles.reshape(_MAP_TILES, _MAP_TILES)
            self._add(map_id, counts, np.where(counts > 0, began, np.inf))

    def merge(self, other: VisitCounts) -> None:
        """Adds all that another counted."""
        self.steps += other.steps
        self.notes_blackouts |= other.notes_blackouts
        for map_id, counts in other.maps.items():
            self._add(map_id, counts, other.first[map_id])
        for map_id, places in other.blackouts.items():
            self.blackouts.setdefault(map_id, Counter()).update(places)

    def _add(self, map_id: int, counts: npt.NDArray[np.int64], first: npt.NDArray[np.float64]) -> None:
        if map_id in self.maps:
            counts, first = self.maps[map_id] + counts, np.minimum(self.first[map_id], first)
        self.maps[map_id], self.first[map_id] = counts, first


def draw_maps(visits: VisitCounts, world: World, folder: Path, ground: Ground | None = None) -> list[Path]:
    """Draws every map visited, and the world, over `ground` where it is known; returns the files. `folder` is made
    where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for map_id, counts in sorted(visits.maps.items()):
        name = world.map_name(map_id)
        grid = map_grid(counts, world, map_id)
        height, width = grid.shape
        drawing = _Drawing(f"{name} (map {map_id})", grid, visits.first[map_id][:height, :width])
        drawing.blackouts = dict(visits.blackouts.get(map_id, {}))
        place = world.global_position(map_id, 0, 0)
        if ground is not None and place is not None:
            drawing.put_on(ground, (*place, width, height))
        path = folder / f"{map_id:03d}-{_slug(name)}.png"
        _draw(drawing, visits.notes_blackouts, path)
        paths.append(path)
    boxes = _boxes(visits, world)
    if boxes:
        left, top = min(box[0] for box in boxes.values()), min(box[1] for box in boxes.values())
        right, bottom = (max(box[i] + box[i + 2] for box in boxes.values()) for i in (0, 1))
        here = np.s_[top:bottom, left:right]
        drawing = _Drawing("World", canvas_grid(visits, world)[here], _first_on_canvas(visits, world)[here])
        drawing.blackouts = {(x - left, y - top): count for x, y, count in blackout_marks(visits, world)}
        drawing.names = {world.map_name(map_id): (box[0] - left, box[1] - top) for map_id, box in boxes.items()}
        if ground is not None:
            drawing.put_on(ground.only(list(boxes.values())), (left, top, right - left, bottom - top))
        path = folder / "world.png"
        _draw(drawing, visits.notes_blackouts, path)
        paths.append(path)
    return paths


def map_grid(counts: npt.NDArray[np.int64], world: World, map_id: int) -> npt.NDArray[np.int64]:
    """A map's counts cut to its size, int64 [height, width]; to what was visited where its size is not known.

    What lies outside of the map counts for no tile.
    """
    size = world.maps.size(map_id)
    if size is None:
        rows, columns = np.nonzero(counts)
        size = int(columns.max()) + 1, int(rows.max()) + 1
    width, height = size
    return counts[:height, :width]


def canvas_grid(visits: VisitCounts, world: World) -> npt.NDArray[np.int64]:
    """All counts on the world's canvas, int64 [height, width]; those of maps without a place there are left out."""
    canvas = np.zeros(world.canvas_size[::-1], np.int64)
    for map_id, (left, top, width, height) in _boxes(visits, world).items():
        canvas[top : top + height, left : left + width] += visits.maps[map_id][:height, :width]
    return canvas


def _boxes(visits: VisitCounts, world: World) -> dict[int, Box]:
    """The boxes of the canvas that the visited maps take, by map id; those without a place are left out."""
    across, down = world.canvas_size
    found = {}
    for map_id, counts in visits.maps.items():
        place = world.global_position(map_id, 0, 0)
        if place is not None:
            height, width = map_grid(counts, world, map_id).shape
            found[map_id] = (*place, min(width, across - place[0]), min(height, down - place[1]))
    return found


def blackout_marks(visits: VisitCounts, world: World) -> list[tuple[int, int, int]]:
    """(x, y, count) of the blackouts at each cell of the canvas."""
    marks: Counter[Place] = Counter()
    for map_id, places in visits.blackouts.items():
        for (x, y), count in places.items():
            place = world.global_position(map_id, x, y)
            if place is not None:
                marks[place] += count
    return [(x, y, count) for (x, y), count in sorted(marks.items())]


def _first_on_canvas(visits: VisitCounts, world: World) -> npt.NDArray[np.float64]:
    """When each cell of the canvas was first stood on, float64 [height, width]; infinite for never."""
    canvas = np.full(world.canvas_size[::-1], np.inf)
    for map_id, (left, top, width, height) in _boxes(visits, world).items():
        part = canvas[top : top + height, left : left + width]
        np.minimum(part, visits.first[map_id][:height, :width], out=part)
    return canvas


@dataclass
class _Drawing:
    """What a picture shows, in cells of its own: visits, int64 [height, width], when each cell was first stood on,
    float64 [height, width], and what else is known."""

    title: str
    visits: npt.NDArray[np.int64]
    first: npt.NDArray[np.float64]
    blackouts: Mapping[Place, int] = field(default_factory=dict)
    names: dict[str, Place] = field(default_factory=dict)
    picture: npt.NDArray[np.uint8] | None = None
    """The map itself, uint8 [8 height, 8 width] of greys."""
    doors: list[Mark] = field(default_factory=list)
    people: list[Mark] = field(default_factory=list)

    def put_on(self, ground: Ground, box: Box) -> None:
        """Takes what the ground has of a box of the canvas."""
        left, top, width, height = box
        self.picture = ground.cut(box)
        self.doors, self.people = (
            [Mark(x - left, y - top, name) for x, y, name in marks if 0 <= x - left < width and 0 <= y - top < height]
            for marks in (ground.doors, ground.people)
        )


def _draw(drawing: _Drawing, notes_blackouts: bool, path: Path) -> None:
    """Draws how often, in a log scale, and when first, if it was not all in one episode; what was never stood on is the
    map itself, or grey."""
    # Here, because matplotlib takes most of a second to import.
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.figure import Figure

    visits, stood_on = drawing.visits, drawing.visits > 0
    panels: list[tuple[str, Any, Any, str]] = [
        (f"{drawing.title}: {visits.sum()} steps", visits, LogNorm(1, max(2, int(visits.max(initial=0)))), "steps")
    ]
    times = drawing.first[stood_on]
    if len(times) and times.min() < times.max():
        hours = np.where(stood_on, drawing.first - times.min(), 0) / 3600
        panels.append(
            (f"{drawing.title}: when first", hours, Normalize(0, hours.max()), "hours after the first episode there")
        )
    height, width = visits.shape
    tile = min(0.25, 9 / max(height, width))  # inches, as all sizes here
    across, down = max(3.0, width * tile), max(1.5, height * tile)
    columns = len(panels) if width <= 1.5 * height else 1
    rows = len(panels) // columns
    panel_across, panel_down = across + _SIDE, down + _TITLE + 0.5
    total_across, total_down = columns * panel_across, rows * panel_down + _FOOT - 0.5
    figure = Figure(figsize=(total_across, total_down), dpi=_DPI)
    # Placed by hand: matplotlib's layout engines take longer than drawing does.
    for number, (title, values, norm, unit) in enumerate(panels):
        left = number % columns * panel_across + 0.6
        bottom = total_down - (number // columns + 1) * panel_down + 0.5
        axes = figure.add_axes(
            (left / total_across, bottom / total_down, across / total_across, down / total_down), facecolor="0.85"
        )
        edges = (-0.5, width - 0.5, height - 0.5, -0.5)
        if drawing.picture is not None:
            axes.imshow(drawing.picture, cmap="gray", vmin=0, vmax=255, extent=edges, interpolation="nearest")
        seen = np.ma.masked_array(values, ~stood_on)
        # Doors and walls are to be seen through it.
        alpha = 1.0 if drawing.picture is None else 0.8
        picture = axes.imshow(seen, norm=norm, extent=edges, interpolation="nearest", alpha=alpha)
        _mark(axes, drawing, tile)
        axes.set_title(title, fontsize=9, parse_math=False)
        _label(axes)
        bar_left = left + across + 0.15
        bar = figure.add_axes((bar_left / total_across, bottom / total_down, 0.15 / total_across, down / total_down))
        figure.colorbar(picture, cax=bar, label=unit)
    _write_legend(figure, drawing, notes_blackouts)
    save_png(figure, path)


def _label(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("x (tiles)")
    axes.set_ylabel("y (tiles)")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _mark(axes: Any, drawing: _Drawing, tile: float) -> None:
    """Doors, people, blackouts and the names of maps; `tile` is the side of one in inches."""
    from matplotlib.patheffects import withStroke

    points = 72 * tile
    for marks, style in ((drawing.doors, _door_style(points)), (drawing.people, _person_style(points))):
        if marks:
            axes.plot([mark.x for mark in marks], [mark.y for mark in marks], **style)
    for (x, y), count in drawing.blackouts.items():
        # More are larger: a hundred times as many have three times the side.
        axes.plot([x], [y], **_blackout_style(max(5.0, 0.6 * points) * (1 + np.log10(count))))
    for name, (x, y) in drawing.names.items():
        outline = [withStroke(linewidth=1.5, foreground="white")]
        axes.text(x - 0.3, y + 0.2, name, fontsize=6, va="top", path_effects=outline, parse_math=False)


def _door_style(size: float) -> dict[str, Any]:
    return _style("s", 0.7 * size) | {"markerfacecolor": "none", "markeredgecolor": _DOOR_COLOUR}


def _person_style(size: float) -> dict[str, Any]:
    return _style("o", 0.8 * size) | {"markerfacecolor": "none", "markeredgecolor": _PERSON_COLOUR}


def _blackout_style(size: float) -> dict[str, Any]:
    style = {"markerfacecolor": BLACKOUT_COLOUR, "markeredgecolor": "white", "markeredgewidth": 0.7}
    return _style("X", size) | style


def _style(marker: str, size: float) -> dict[str, Any]:
    return {"marker": marker, "markersize": size, "linestyle": "none", "markeredgewidth": 1.2}


def _write_legend(figure: Any, drawing: _Drawing, notes_blackouts: bool) -> None:
    """What the marks are, of those that there are; and that blackouts are not known, where logs do not tell."""
    from matplotlib.lines import Line2D

    keys = [
        (_door_style(9), "door", bool(drawing.doors)),
        (_person_style(9), "somebody, or a thing to take", bool(drawing.people)),
        (_blackout_style(8), f"{sum(drawing.blackouts.values())} blackouts", bool(drawing.blackouts)),
        ({"linestyle": "none"}, "no colour: never stood on", True),
        ({"linestyle": "none"}, "no blackout", notes_blackouts and not drawing.blackouts),
        ({"linestyle": "none"}, "blackouts: not in these logs", not notes_blackouts),
    ]
    handles = [Line2D([], [], label=words, **style) for style, words, is_there in keys if is_there]
    figure.legend(handles=handles, loc="lower left", ncols=len(handles), fontsize=7, frameon=False, handletextpad=0.3)


def _slug(name: str) -> str:
    """A name as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unnamed"
