"""Where a run's agents have been, slice by slice of its training, as layers of one map; and the ways of some episodes.

The report's page shows it. In: rows of episodes, whose logs are read for positions, and the world. Out: pictures as
data URIs, one pixel a map tile for visits, and paths as SVG path data, all on the canvas of `World.global_position`.
Below lie the maps themselves, where `ground.py` knows them; else their outlines alone.
"""

from __future__ import annotations

import base64
import io
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from cluster_rl.errors import StorageError, UserError
from cluster_rl.game.world import World
from cluster_rl.report.bars import count_words
from cluster_rl.report.curves import slice_edges, slice_of
from cluster_rl.report.ground import Box, Ground, Mark, ground_of
from cluster_rl.report.heatmap import VisitCounts, blackout_marks, canvas_grid
from cluster_rl.report.path import path_places
from cluster_rl.report.run_facts import RunFacts
from cluster_rl.report.run_rows import EpisodeRow
from cluster_rl.runs.episode_log import SUFFIX, EpisodeLog, read_log
from cluster_rl.runs.layout import RunDir

SLICES: Final = 12
LOGS_A_SLICE: Final = 40
"""Read at most: a run has a log for each episode, and a map is full of less."""
MOST_PATHS: Final = 8
_NAMED_MAPS: Final = 3

_Number = TypeVar("_Number", np.int64, np.float64, np.bool_)


class Layer(NamedTuple):
    """The visits of one slice of training, and its blackouts as (x, y, count). `words` say them without a picture."""

    label: str
    picture: str
    words: str
    blackouts: Sequence[tuple[int, int, int]] = ()


class Way(NamedTuple):
    """The path of one episode: `data` of an SVG path, where it began and ended, and its milestones."""

    label: str
    data: str
    start: tuple[int, int]
    end: tuple[int, int]
    marks: list[tuple[str, int, int]]


class MapName(NamedTuple):
    """A map's rectangle on the canvas, its id and its name."""

    id: int
    name: str
    box: Box


@dataclass(frozen=True)
class WorldMap:
    """All that the page draws. `problems` has a line for each log that could not be read."""

    box: Box
    base: str
    maps: list[MapName]
    layers: list[Layer]
    """All of training first, then when each tile was first entered, then curiosity by map if it is on, then the visits
    of each slice."""
    ways: list[Way]
    logs: int
    most_visits: int
    problems: list[str]
    doors: list[Mark]
    people: list[Mark]
    notes_blackouts: bool
    """Whether any of the logs has blackouts: those of older programs do not."""
    is_curious: bool = False
    """Whether a layer shows where the learner is still curious."""

    @property
    def blackouts(self) -> int:
        """Of all logs read."""
        return sum(count for *_, count in self.layers[0].blackouts)

    @property
    def letter(self) -> float:
        """The height of a name's letters, in cells: a page shows a large map smaller."""
        return round(max(1.0, max(self.box[2:]) / 70), 2)


def world_map(run: RunFacts) -> WorldMap | None:
    """The map of a run; None where no log was found that has a place on the canvas. Raises `StorageError`."""
    edges = slice_edges(run.env_steps, SLICES)
    problems: list[str] = []
    counts = [VisitCounts() for _ in range(SLICES)]
    read = 0
    for number, rows in enumerate(chosen_logs(run.episodes.spread + run.episodes.newest, edges)):
        for row in rows:
            log = log_of(run.run_dir, row, problems)
            if log is not None:
                counts[number].add(log.positions, log.header.blackouts)
                read += 1
    grids = [canvas_grid(visits, run.world) for visits in counts]  # each [H, W]
    total = np.sum(grids, axis=0)
    if not total.any():
        return None
    maps = entered_maps(run.world, total)
    box = around(maps)
    ground = ground_of_maps(run, maps, problems)
    ways = [way for row, why in chosen_ways(run) if (way := _way(run, row, why, problems)) is not None]
    most = int(total.max())
    slices = [_words(f"env steps {_span(edges, i)}", counts[i], grids[i], run.world) for i in range(SLICES)]
    curious = curious_layer(run, total, maps, box)
    first = first_entered(grids)
    fresh = [int(np.count_nonzero(first == number + 1)) for number in range(SLICES)]
    newest = new_ground_words(first, maps, edges)
    everything = VisitCounts()
    for visits in counts:
        everything.merge(visits)
    all_words = _words("all of training", everything, total, run.world)
    return WorldMap(
        box=box,
        base="" if ground is None else base_picture(ground, maps, box),
        maps=maps,
        layers=[
            Layer(
                all_words[0],
                visit_picture(_cut(total, box), most),
                all_words[1],
                blackout_marks(everything, run.world),
            ),
            Layer("new ground: brighter where first entered later", visit_picture(_cut(first, box), SLICES), newest),
            *([] if curious is None else [curious]),
            *(
                Layer(
                    label,
                    visit_picture(_cut(grid, box), most),
                    f"{words}; {count_words(new, 'tile')} new",
                    blackout_marks(visits, run.world),
                )
                for visits, grid, (label, words), new in zip(counts, grids, slices, fresh, strict=True)
            ),
        ],
        ways=ways,
        logs=read,
        most_visits=most,
        problems=problems,
        doors=ground.doors if ground is not None else [],
        people=ground.people if ground is not None else [],
        notes_blackouts=everything.notes_blackouts,
        is_curious=curious is not None,
    )


def ground_of_maps(run: RunFacts, maps: Sequence[MapName], problems: list[str]) -> Ground | None:
    """What lies under the visits, of these maps alone; None where that is not known, or damaged, for which `problems`
    gets a line. Raises `StorageError`."""
    try:
        ground = ground_of(run.world, run.run_dir.videos / "maps")
    except StorageError:
        raise
    except UserError as error:
        problems.append(str(error).replace(f"{run.run_dir.path}/", ""))
        return None
    return None if ground is None else ground.only([place.box for place in maps])


def base_picture(ground: Ground, maps: Sequence[MapName], box: Box) -> str:
    """The ground of a box as a data URI, clear between the maps."""
    there = ground._replace(picture=np.zeros_like(ground.picture))
    for place in maps:
        there.cut(place.box)[:] = 255
    return _data_uri(np.stack((ground.cut(box), there.cut(box)), axis=-1))  # [8 h, 8 w, grey and alpha]


def curious_layer(run: RunFacts, total: npt.NDArray[np.int64], maps: Sequence[MapName], box: Box) -> Layer | None:
    """Where the learner is still curious: the entered tiles of each map by its bonus; None where that is not known."""
    known = {place: run.map_bonus[place.id] for place in maps if place.id in run.map_bonus}
    if not known or max(known.values()) <= 0:
        return None
    most = max(known.values())
    share = np.zeros(total.shape)
    for place, bonus in known.items():
        left, top, width, height = place.box
        share[top : top + height, left : left + width] = bonus / most
    there = (total > 0) & (share > 0)
    named = sorted(known, key=lambda place: -known[place])
    words = ", ".join(f"{place.name} {known[place]:.2g}" for place in named[: 2 * _NAMED_MAPS])
    return Layer(
        "still curious: brighter where a map's frames are newer to the learner",
        _coloured(_cut(share, box), _cut(there, box)),
        f"bonus before its weight, mean over the newest rows of metrics: {words}",
    )


def first_entered(grids: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """Visits of each slice, int64 [H, W], to the number from 1 on of the first that entered each tile; 0 is never."""
    entered = np.array(grids) > 0  # [slices, H, W]
    return np.where(entered.any(axis=0), entered.argmax(axis=0) + 1, 0)


def new_ground_words(first: npt.NDArray[np.int64], maps: Sequence[MapName], edges: npt.NDArray[np.float64]) -> str:
    """Where the newest of the new tiles are: of the last slice that entered any."""
    newest = int(first.max())
    counts = {place.name: int(np.count_nonzero(_cut(first, place.box) == newest)) for place in maps}
    named = [name for name in sorted(counts, key=lambda name: -counts[name]) if counts[name]][:_NAMED_MAPS]
    where = ", ".join(f"{count_words(counts[name], 'tile')} of {name}" for name in named)
    return f"the newest in env steps {_span(edges, newest - 1)}: {where}; of the logs read"


def chosen_logs(rows: Iterable[EpisodeRow], edges: npt.NDArray[np.float64]) -> list[list[EpisodeRow]]:
    """At most `LOGS_A_SLICE` of the episodes that ended in each slice of training, spread evenly over it."""
    slices: list[dict[str, EpisodeRow]] = [{} for _ in range(len(edges) - 1)]
    for row in rows:
        slices[slice_of(edges, row.env_steps)][row.name] = row
    chosen = []
    for by_name in slices:
        chosen.append(spread_evenly(list(by_name.values())))
    return chosen


def spread_evenly(rows: Sequence[EpisodeRow]) -> list[EpisodeRow]:
    """At most `LOGS_A_SLICE` of them."""
    take = np.linspace(0, len(rows) - 1, min(len(rows), LOGS_A_SLICE)).astype(int)
    return [rows[place] for place in take.tolist()]


def chosen_ways(run: RunFacts) -> list[tuple[EpisodeRow, str]]:
    """Episodes worth following, and why: the best, the newest whole ones, the first to reach each late milestone."""
    episodes = run.episodes
    firsts = sorted(episodes.first.items(), key=lambda item: item[1].env_steps, reverse=True)
    found = [(row, "best return") for row in episodes.best[:1]]
    whole = [row for row in episodes.newest if row.reason != "stopped"]
    found += [(row, "newest") for row in reversed(whole[-2:])]
    found += [(row, f"first to reach {name}") for name, row in firsts]
    chosen: dict[str, tuple[EpisodeRow, str]] = {}
    for row, why in found:
        chosen.setdefault(row.name, (row, why))
    return list(chosen.values())[:MOST_PATHS]


def log_of(run_dir: RunDir, row: EpisodeRow, problems: list[str]) -> EpisodeLog | None:
    """The log of an episode; None where there is none, as with `log_episodes_for_replay` off, or it is damaged, for
    which `problems` gets a line. Raises `StorageError`."""
    path = run_dir.episode_logs / f"{row.name}{SUFFIX}"
    if not path.exists():
        return None
    try:
        return read_log(path)
    except StorageError:
        raise
    except UserError as error:
        problems.append(str(error).replace(f"{run_dir.path}/", ""))
        return None


def _way(run: RunFacts, row: EpisodeRow, why: str, problems: list[str]) -> Way | None:
    log = log_of(run.run_dir, row, problems)
    if log is None:
        return None
    places = path_places(log.positions, run.world)
    known = [place for place in places if place is not None]
    if not known:
        return None
    marks = [(m.name, m.step) for m in log.header.milestones if 1 <= m.step <= len(places)]
    placed = [(name, place) for name, step in marks if (place := places[step - 1]) is not None]
    label = f"{row.name}: {why}, return {row.episode_return:.2f}, {count_words(row.steps, 'step')}"
    return Way(label, path_data(places), known[0], known[-1], [(name, *place) for name, place in placed])


def path_data(places: Sequence[tuple[int, int] | None]) -> str:
    """Places after each step as SVG path data through the middles of cells. Each pair of neighbours is drawn once, so
    that a path's length is bounded by the world's; a jump, as through a door, begins anew."""
    drawn: set[frozenset[tuple[int, int]]] = set()
    words: list[str] = []
    pen: tuple[int, int] | None = None
    for before, after in itertools.pairwise(places):
        if before is None or after is None or before == after:
            continue
        pair = frozenset((before, after))
        across, down = after[0] - before[0], after[1] - before[1]
        if abs(across) + abs(down) > 1 or pair in drawn:
            continue
        drawn.add(pair)
        if pen != before:
            words.append(f"M{before[0]}.5 {before[1]}.5")
        words.append(f"h{across}" if across else f"v{down}")
        pen = after
    return "".join(words)


def visit_picture(grid: npt.NDArray[np.int64], most: int) -> str:
    """Counts, int64 [h, w], as a data URI of a picture with a pixel each: none is clear, few dark, `most` bright."""
    return _coloured(np.log1p(grid) / np.log1p(max(most, 1)), grid > 0)


def _coloured(share: npt.NDArray[np.float64], there: npt.NDArray[np.bool_]) -> str:
    """Shares from 0, dark, to 1, bright, float64 [h, w], as a data URI; clear where nothing is `there`."""
    from matplotlib import colormaps

    colours = (colormaps["viridis"](share) * 255).astype(np.uint8)  # [h, w, 4]
    colours[..., 3] = 215
    colours[~there] = 0
    return _data_uri(colours)


def _data_uri(pixels: npt.NDArray[np.uint8]) -> str:
    from PIL import Image

    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"


def entered_maps(world: World, total: npt.NDArray[np.int64]) -> list[MapName]:
    """The maps that were entered, with their places."""
    found = []
    for info in world.maps.by_id.values():
        if None in (info.width, info.height, info.global_x, info.global_y):
            continue
        box = (info.global_x or 0, info.global_y or 0, info.width or 0, info.height or 0)
        if _cut(total, box).any():
            found.append(MapName(info.id, info.name, box))
    return found


def around(maps: Sequence[MapName]) -> Box:
    """The least box that has all maps."""
    left, top = min(m.box[0] for m in maps), min(m.box[1] for m in maps)
    right, bottom = max(m.box[0] + m.box[2] for m in maps), max(m.box[1] + m.box[3] for m in maps)
    return left, top, right - left, bottom - top


def _cut(grid: npt.NDArray[_Number], box: Box) -> npt.NDArray[_Number]:
    left, top, width, height = box
    return grid[top : top + height, left : left + width]


def _span(edges: npt.NDArray[np.float64], number: int) -> str:
    return f"{edges[number]:,.0f} to {edges[number + 1]:,.0f}"


def _words(label: str, visits: VisitCounts, grid: npt.NDArray[np.int64], world: World) -> tuple[str, str]:
    """The slice's label, and how much was seen in it and where most."""
    if not visits.steps:
        return label, "no log of an episode"
    steps: Counter[str] = Counter()
    for map_id, counts in visits.maps.items():
        steps[world.map_name(map_id)] += int(counts.sum())
    named = ", ".join(f"{name} {count / visits.steps:.0%}" for name, count in steps.most_common(_NAMED_MAPS))
    tiles = count_words(int(np.count_nonzero(grid)), "tile")
    words = f"{count_words(visits.steps, 'step')} on {tiles} of {count_words(len(visits.maps), 'map')}; {named}"
    falls = Counter({world.map_name(map_id): places.total() for map_id, places in visits.blackouts.items()})
    if falls:
        where = ", ".join(f"{name} {count}" for name, count in falls.most_common(_NAMED_MAPS))
        words += f"; {count_words(falls.total(), 'blackout')}: {where}"
    return label, words
