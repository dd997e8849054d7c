"""A picture of a whole embedded world: every map with its name, where doors lead, and its gates in order.

A maintainer runs it for the documents: `python -m cluster_rl.report.world_map [--world WORLD] OUT.png`. In: a ROM and
the world file that it was built from. Out: a PNG. The same ROM and libraries give the same bytes, and the PNG says
under `Source` which ROM it shows. A world without gates has its milestones numbered in their place.
"""

from __future__ import annotations

import argparse
import hashlib
import textwrap
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cluster_rl.cartridge import rom_bytes, world_names
from cluster_rl.cartridge.checks import Cell, door_ends, warp_cell, with_chained
from cluster_rl.cartridge.compile_content import read_world
from cluster_rl.cartridge.maps import map_rows
from cluster_rl.cartridge.scripts import Word
from cluster_rl.cartridge.sources import Place, all_scripts
from cluster_rl.errors import EXIT_OK, run_command
from cluster_rl.report.figures import save_png
from cluster_rl.report.rom_maps import CELL_PIXELS, RomMaps

PIXELS: Final = 8
"""Of a cell in the picture."""
ROWS_CELLS: Final = range(100, 133, 4)
"""Most that a row of maps may be wide, so that a page shows the picture in its own size: the lowest one is taken."""
LEAST_BLOCK_CELLS: Final = 30
TITLE_CELLS, GAP_CELLS, ROOM_GAP_CELLS, MARGIN_CELLS, LEGEND_CELLS = 2, 4, 2, 2, 2
_LEGEND_COLUMN_CELLS: Final = 38
_DPI: Final = 100
_PAPER, _INK, _WAY, _MARK, _TOLD = "#f4f1e8", "#222222", "#c2410c", "#1d4ed8", "#a21caf"
# Lightest to darkest of what is drawn, by a map's category.
_TINTS: Final = {
    "town": ((250, 247, 232), (205, 196, 160), (128, 116, 84), (52, 46, 34)),
    "route": ((241, 249, 234), (182, 207, 158), (98, 128, 80), (34, 54, 30)),
    "dungeon": ((236, 240, 250), (172, 182, 208), (92, 102, 136), (30, 36, 60)),
}
_ROOM_TINTS: Final = ((252, 244, 238), (216, 190, 172), (140, 108, 90), (58, 40, 32))
_WATER_TINTS: Final = ((190, 219, 240), (126, 172, 212), (70, 112, 160), (24, 44, 76))


class Atlas:
    """What the picture tells of a world: which map is a room of which, where each way leads, and where gates are."""

    def __init__(self, world: Mapping[str, Any]) -> None:
        self.world = world
        self.maps = {entry["name"]: entry for entry in world["map"]}
        self.sizes = {name: (len(map_rows(entry)[0]), len(map_rows(entry))) for name, entry in self.maps.items()}
        scripts = list(all_scripts(world))
        named = {place.name: words for place, words in scripts if place.kind == "script"}
        self._scripts = [(place, with_chained(words, named)) for place, words in scripts if place.at is not None]
        self.doors = door_ends(world)
        self.warps = {(place.map, *place.at): ends for place, ends in self._warps() if place.at is not None}
        self.hub_of = self._hubs()

    def _warps(self) -> Iterator[tuple[Place, list[Cell]]]:
        for place, words in self._scripts:
            ends = [warp_cell(word.operands) for word in words if word.name == "warp"]
            if ends:
                yield place, ends

    def _hubs(self) -> dict[str, str]:
        """Each map's hub, hubs in the order in which one comes to them: towns, routes and dungeons, and whatever one
        cannot come to from one of them. Of a room it is the hub from which one first comes to it."""
        game = self.world["game"]["start"]["map"]
        hub_of: dict[str, str] = {}
        todo: list[tuple[str, str]] = []  # (map, hub that it was come to from)
        # From outdoors first, so that a first room is one of its town's.
        outdoors = [name for name, entry in self.maps.items() if entry["category"] in _TINTS]
        first = next((name for name in self._leads(game) if name in outdoors), game)
        for root in (first, *(entry["map"] for entry in self.world.get("school", [])), *self.maps):
            todo.append((root, root))
            while todo:
                name, before = todo.pop(0)
                if name not in hub_of:
                    hub_of[name] = name if name in outdoors else before
                    todo += [(other, hub_of[name]) for other in self._leads(name)]
        return hub_of

    def _leads(self, name: str) -> list[str]:
        """The maps that one comes to from a map, by doors first."""
        ends = [end[0] for cell, end in self.doors.items() if cell[0] == name]
        return ends + [end[0] for cell, ends in self.warps.items() for end in ends if cell[0] == name]

    @property
    def hubs(self) -> list[str]:
        return list(dict.fromkeys(self.hub_of.values()))

    def rooms(self, hub: str) -> list[str]:
        """In the order of their doors."""
        return [name for name, of in self.hub_of.items() if of == hub != name]

    def letters(self) -> dict[str, str]:
        """A letter for each room, from `a` for each hub."""
        return {room: chr(ord("a") + i) for hub in self.hubs for i, room in enumerate(self.rooms(hub))}

    def ways(self) -> list[tuple[Cell, Cell, bool]]:
        """(from, to, whether it is a door) of all ways between the maps of two hubs, each once, doors first."""
        found: dict[frozenset[str], tuple[Cell, Cell, bool]] = {}
        warps = [(cell, end) for cell, ends in self.warps.items() for end in ends]
        for is_door, pairs in ((True, list(self.doors.items())), (False, warps)):
            for cell, end in pairs:
                hubs = frozenset((self.hub_of[cell[0]], self.hub_of[end[0]]))
                if len(hubs) == 2:
                    found.setdefault(hubs, (cell, end, is_door))
        return list(found.values())

    def water(self, name: str) -> npt.NDArray[np.bool_]:
        """bool [h, w]: which cells of a map are drawn with water."""
        keys = {cell["key"] for cell in self.world["cells"] if "water" in cell["tiles"]}
        return np.array([[key in keys for key in row] for row in map_rows(self.maps[name])])

    @cached_property
    def goals(self) -> list[tuple[str, str, str]]:
        """(title, event, event of what is told for it or "") of the gates; where there are none, of milestones."""
        titles = {entry["event"]: entry["title"] for entry in self.world["milestone"] if "event" in entry}
        gates = self.world.get("gate", [])
        if gates:
            return [(titles[gate["event"]], gate["event"], gate.get("told", "")) for gate in gates]
        return [(title, event, "") for event, title in titles.items()]

    def places(self, event: str) -> list[Cell]:
        """The cells of all that sets an event."""
        return [
            (place.map, *place.at) for place, words in self._scripts if place.at is not None and _sets(words, event)
        ]


def _sets(words: list[Word], event: str) -> bool:
    return any(word.name == "set" and word.operands[0] == event for word in words)


@dataclass
class Layout:
    """Where each map's upper left cell is, in cells of the picture, and how many cells the maps take."""

    at: dict[str, tuple[int, int]] = field(default_factory=dict)
    width: int = 0
    height: int = 0


def lay_out(atlas: Atlas, row_cells: int) -> Layout:
    """Hubs in rows of at most so many cells, in the order in which one comes to them, every other row from right to
    left, so that most ways are short; below each hub its rooms. No two maps overlap, and above each there is room for
    its name."""
    layout = Layout()
    blocks = [_block(atlas, hub) for hub in atlas.hubs]
    rows: list[list[Layout]] = [[]]
    for block in blocks:
        if rows[-1] and sum(b.width + GAP_CELLS for b in rows[-1]) + block.width > row_cells:
            rows.append([])
        rows[-1].append(block)
    layout.width = max(sum(b.width + GAP_CELLS for b in row) - GAP_CELLS for row in rows)
    for number, row in enumerate(rows):
        spare = layout.width - sum(b.width for b in row)
        gap = min(spare // max(1, len(row) - 1), 3 * GAP_CELLS)
        left = 0
        for block in row:
            for name, (x, y) in block.at.items():
                across = left + x if number % 2 == 0 else layout.width - left - block.width + x
                layout.at[name] = across, layout.height + y
            left += block.width + gap
        layout.height += max(b.height for b in row) + GAP_CELLS
    layout.height -= GAP_CELLS
    return layout


def _block(atlas: Atlas, hub: str) -> Layout:
    """A hub and below it its rooms, large ones first, each as far up and then left as it finds room."""
    width, height = atlas.sizes[hub]
    block = Layout({hub: (0, TITLE_CELLS)}, width, TITLE_CELLS + height)
    rooms = sorted(atlas.rooms(hub), key=lambda name: -atlas.sizes[name][1])
    most, top = max([width, LEAST_BLOCK_CELLS, *(atlas.sizes[room][0] for room in rooms)]), block.height + 1
    taken: list[tuple[int, int, int, int]] = []  # left, top, right, bottom, with the gap after it
    for room in rooms:
        across, down = max(atlas.sizes[room][0], len(room) + ROOM_GAP_CELLS), TITLE_CELLS + atlas.sizes[room][1]
        corners = [(y, x) for y in {top, *(box[3] for box in taken)} for x in {0, *(box[2] for box in taken)}]
        free = [(y, x) for y, x in corners if x + across <= most and not _meets(taken, x, y, x + across, y + down)]
        y, x = min(free)
        taken.append((x, y, x + across + ROOM_GAP_CELLS, y + down + 1))
        block.at[room] = x, y + TITLE_CELLS
        block.width, block.height = max(block.width, x + across), max(block.height, y + down)
    return block


def _meets(taken: list[tuple[int, int, int, int]], left: int, top: int, right: int, bottom: int) -> bool:
    return any(left < box[2] and box[0] < right and top < box[3] and box[1] < bottom for box in taken)


def draw_world(name: str, path: Path) -> None:
    """Draws an embedded world; the folder is made where it is missing. Raises `UserError` as `save_png` does."""
    from matplotlib.figure import Figure

    world, rom = read_world(name), rom_bytes(name)
    atlas = Atlas(world)
    layout = min((lay_out(atlas, cells) for cells in ROWS_CELLS), key=lambda some: (some.height, some.width))
    across = layout.width + 2 * MARGIN_CELLS
    legend = _legend(atlas, across)
    lines = max(line for _, line, *_ in legend) + 1
    down = layout.height + 2 * MARGIN_CELLS + GAP_CELLS + LEGEND_CELLS * lines
    canvas = np.empty((down * PIXELS, across * PIXELS, 3), np.uint8)
    canvas[:] = [int(_PAPER[i : i + 2], 16) for i in (1, 3, 5)]
    _paint(canvas, RomMaps(rom, world), atlas, layout)

    figure = Figure(figsize=(across * PIXELS / _DPI, down * PIXELS / _DPI), dpi=_DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(canvas, extent=(0, across, down, 0), interpolation="nearest")
    axes.set_axis_off()
    _write_names(axes, atlas, layout)
    _draw_ways(axes, atlas, layout)
    _draw_goals(axes, atlas, layout)
    for x, line, text, colour in legend:
        y = down - MARGIN_CELLS - LEGEND_CELLS * (lines - line) + 1
        axes.text(x, y, text, fontsize=9.5, color=colour, va="center", weight="bold" if colour == _MARK else "normal")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(figure, path, f"{name}, ROM SHA-1 {hashlib.sha1(rom).hexdigest()}")


def _paint(canvas: Any, maps: RomMaps, atlas: Atlas, layout: Layout) -> None:
    """Puts all maps into uint8 [h, w, 3], each pixel the mean of the ROM's that lie in it."""
    shrink = CELL_PIXELS // PIXELS
    for name, place in layout.at.items():
        tints = np.array(_TINTS.get(atlas.maps[name]["category"], _ROOM_TINTS))
        picture = maps.picture(name)
        wet = np.kron(atlas.water(name), np.ones((CELL_PIXELS, CELL_PIXELS), bool))
        colours = np.where(wet[..., None], np.array(_WATER_TINTS)[picture], tints[picture])  # [16 h, 16 w, 3]
        height, width = colours.shape[0] // shrink, colours.shape[1] // shrink
        small = colours.reshape(height, shrink, width, shrink, 3).mean((1, 3))
        left, top = ((c + MARGIN_CELLS) * PIXELS for c in place)
        canvas[top - 1 : top + height + 1, left - 1 : left + width + 1] = tints[3]
        canvas[top : top + height, left : left + width] = small


def _spot(layout: Layout, cell: Cell) -> tuple[float, float]:
    """The middle of a map's cell, in cells of the picture."""
    left, top = layout.at[cell[0]]
    return left + cell[1] + MARGIN_CELLS + 0.5, top + cell[2] + MARGIN_CELLS + 0.5


def _write_names(axes: Any, atlas: Atlas, layout: Layout) -> None:
    letters = atlas.letters()
    for name, (x, y) in layout.at.items():
        place = x + MARGIN_CELLS, y + MARGIN_CELLS - 0.4
        if name in letters:
            axes.text(*place, f"{letters[name]} ", fontsize=7.5, weight="bold", color=_WAY, va="bottom", clip_on=False)
            axes.text(place[0] + 1.2, place[1], name, fontsize=7, color=_INK, va="bottom")
        else:
            axes.text(*place, name, fontsize=10.5, weight="bold", color=_INK, va="bottom")
    box = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": _WAY, "linewidth": 0.7}
    for cell, end in atlas.doors.items():
        if end[0] in letters and atlas.hub_of[end[0]] == cell[0]:
            style = {"fontsize": 6.5, "weight": "bold", "color": _WAY, "ha": "center", "va": "center", "bbox": box}
            axes.text(*_spot(layout, cell), letters[end[0]], **style)


def _draw_ways(axes: Any, atlas: Atlas, layout: Layout) -> None:
    for cell, end, is_door in atlas.ways():
        style = {"arrowstyle": "-" if is_door else "-|>", "linestyle": "-" if is_door else (0, (3, 2))}
        axes.annotate(
            "",
            xy=_spot(layout, end),
            xytext=_spot(layout, cell),
            arrowprops={**style, "color": _WAY, "linewidth": 1.5, "alpha": 0.75, "shrinkA": 0, "shrinkB": 0},
        )
        for place in (cell, end) if is_door else (cell,):
            axes.plot(*_spot(layout, place), "o", color=_WAY, markersize=4.5)


def _draw_goals(axes: Any, atlas: Atlas, layout: Layout) -> None:
    game = atlas.world["game"]["start"]
    x, y = _spot(layout, (game["map"], *game["at"]))
    axes.plot(x, y, "*", color="#facc15", markeredgecolor=_INK, markeredgewidth=0.7, markersize=13)
    labels: defaultdict[tuple[float, float], list[str]] = defaultdict(list)
    for number, (_, event, told) in enumerate(atlas.goals, 1):
        for label, places in ((f"{number}", atlas.places(event)), (f"{number}?", atlas.places(told))):
            for name in dict.fromkeys(place[0] for place in places):
                spots = [_spot(layout, place) for place in places if place[0] == name]
                middle = sum(x for x, _ in spots) / len(spots), sum(y for _, y in spots) / len(spots)
                labels[middle].append(label)
    for (x, y), here in labels.items():
        colour = _TOLD if here[0].endswith("?") else _MARK
        box = {"boxstyle": "circle,pad=0.2", "facecolor": colour, "edgecolor": "white", "linewidth": 1}
        axes.text(
            x, y, ",".join(here), fontsize=8, weight="bold", color="white", ha="center", va="center", bbox=box, zorder=5
        )


def _legend(atlas: Atlas, across: int) -> list[tuple[float, int, str, str]]:
    """(x in cells, line, text, colour) of all that is written below the maps."""
    what = "Gates: none opens before the one before it" if atlas.world.get("gate") else "Milestones"
    written: list[tuple[float, int, str, str]] = [(MARGIN_CELLS, 0, what, _MARK)]
    columns = max(1, across // _LEGEND_COLUMN_CELLS)
    rows = -(-len(atlas.goals) // columns)
    for number, (title, _, _) in enumerate(atlas.goals):
        x = MARGIN_CELLS + number // rows * (across - 2 * MARGIN_CELLS) / columns
        written += [(x, number % rows + 1, f"{number + 1}", _MARK), (x + 3, number % rows + 1, title, _INK)]
    keys = ["star: start", "letter: a room, and its door", "line: a way on", "dashed: whoever goes there is taken"]
    if any(told for *_, told in atlas.goals):
        keys.append("?: what the gate of that number asks for is told here, once")
    # Letters of this size are about 0.8 of a cell wide.
    lines = textwrap.wrap("; ".join(keys), int(1.2 * across))
    return written + [(MARGIN_CELLS, rows + 1 + i, line, _INK) for i, line in enumerate(lines)]


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m cluster_rl.report.world_map", description="Draws a whole embedded world."
    )
    parser.add_argument("--world", choices=world_names(), default="lanternvale")
    parser.add_argument("out", type=Path, help="the PNG file")
    options = parser.parse_args()
    draw_world(options.world, options.out)
    print(f"{options.out}: {options.out.stat().st_size} bytes")
    return EXIT_OK


if __name__ == "__main__":
    run_command(main)
