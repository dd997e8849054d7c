"""Where the agents have been: visits counted per tile, and one PNG a map.

The replayer and the report's page use it. In: positions as episode logs hold them, uint8 [steps, 3] of (map id, x, y),
and the `World` that names, sizes and places the maps. Out: `<map id>-<name>.png` for each map visited, and `world.png`,
all maps that have a place on the world's canvas. The same visits give the same bytes.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cluster_rl.game.world import World
from cluster_rl.report.figures import save_png
from cluster_rl.report.positions import known_places

_MAP_TILES = 256  # coordinates are bytes
_DPI = 100


class VisitCounts:
    """Steps that ended on each tile of each map."""

    def __init__(self) -> None:
        self.steps = 0
        self.maps: dict[int, npt.NDArray[np.int64]] = {}
        """Map id to counts, int64 [256, 256] by (y, x)."""

    def add(self, positions: npt.NDArray[np.uint8]) -> None:
        """Counts an episode: uint8 [steps, 3] of (map id, x, y). Steps whose place is not known count on no tile."""
        self.steps += len(positions)
        positions = positions[known_places(positions)]
        for map_id in np.unique(positions[:, 0]).tolist():
            here = positions[positions[:, 0] == map_id].astype(np.int64)
            tiles = np.bincount(here[:, 2] * _MAP_TILES + here[:, 1], minlength=_MAP_TILES**2)
            self._add(map_id, tiles.reshape(_MAP_TILES, _MAP_TILES))

    def merge(self, other: VisitCounts) -> None:
        """Adds all that another counted."""
        self.steps += other.steps
        for map_id, counts in other.maps.items():
            self._add(map_id, counts)

    def _add(self, map_id: int, counts: npt.NDArray[np.int64]) -> None:
        before = self.maps.get(map_id)
        self.maps[map_id] = counts if before is None else before + counts


def draw_maps(visits: VisitCounts, world: World, folder: Path) -> list[Path]:
    """Draws every map visited, and the world; returns the files. `folder` is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for map_id, counts in sorted(visits.maps.items()):
        name = world.map_name(map_id)
        grid = map_grid(counts, world, map_id)
        path = folder / f"{map_id:03d}-{_slug(name)}.png"
        _draw(grid, f"{name} (map {map_id}): {grid.sum()} steps", path)
        paths.append(path)
    canvas = world_grid(visits, world)
    if canvas is not None:
        path = folder / "world.png"
        _draw(canvas, f"World: {canvas.sum()} steps", path)
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
    width, height = world.canvas_size
    canvas = np.zeros((height, width), np.int64)
    for map_id, counts in visits.maps.items():
        place = world.global_position(map_id, 0, 0)
        if place is not None:
            left, top = place
            grid = map_grid(counts, world, map_id)[: height - top, : width - left]
            canvas[top : top + grid.shape[0], left : left + grid.shape[1]] += grid
    return canvas


def world_grid(visits: VisitCounts, world: World) -> npt.NDArray[np.int64] | None:
    """`canvas_grid` cut to what was visited, int64 [height, width]; None if no visited map has a place."""
    canvas = canvas_grid(visits, world)
    rows, columns = np.nonzero(canvas)
    if not len(rows):
        return None
    return canvas[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def _draw(grid: npt.NDArray[np.int64], title: str, path: Path) -> None:
    """Draws counts in a log scale of colours; tiles never stood on are grey."""
    # Here, because matplotlib takes most of a second to import.
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    height, width = grid.shape
    tile = min(0.25, 9 / max(height, width))  # inches, as all sizes here
    across, down = max(3.0, width * tile), max(1.5, height * tile)
    total_across, total_down = across + 1.7, down + 0.95
    figure = Figure(figsize=(total_across, total_down), dpi=_DPI)
    # Placed by hand: matplotlib's layout engines take longer than drawing does.
    bottom, part_down = 0.5 / total_down, down / total_down
    axes = figure.add_axes((0.6 / total_across, bottom, across / total_across, part_down), facecolor="0.85")
    bar_axes = figure.add_axes(((across + 0.75) / total_across, bottom, 0.15 / total_across, part_down))
    seen = np.ma.masked_equal(grid, 0)
    picture = axes.imshow(seen, norm=LogNorm(1, max(2, int(grid.max(initial=0)))), interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("x (tiles)")
    axes.set_ylabel("y (tiles)")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.colorbar(picture, cax=bar_axes, label="steps")
    save_png(figure, path)


def _slug(name: str) -> str:
    """A name as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unnamed"
