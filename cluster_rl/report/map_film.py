"""A film of a run's map over its training: visits add up, and what is entered anew lights up.

`python -m cluster_rl.report --run-name NAME --map-video FILE` makes it. In: `RunFacts` and the logs of its episodes.
Out: an MP4 or a GIF of some seconds, whole or not there at all, a frame for each equal part of the run's env steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from cluster_rl.errors import UserError
from cluster_rl.report.bars import Bar, count_words
from cluster_rl.report.curves import slice_edges
from cluster_rl.report.heatmap import VisitCounts, blackout_marks, canvas_grid
from cluster_rl.report.path import BLACKOUT_COLOUR
from cluster_rl.report.run_facts import RunFacts
from cluster_rl.report.video import VideoWriter
from cluster_rl.report.visits import around, chosen_logs, entered_maps, ground_of_maps, log_of

PARTS: Final = 80
FPS: Final = 10
LAST_FRAMES: Final = 20
"""How often the last one is repeated, so that it can be looked at."""
BAND_PIXELS: Final = 22
"""Above the map, and below it."""
_SIDE_PIXELS: Final = 960
_LEAST_ACROSS: Final = 640
_NEW = (255, 140, 0)
_SHARE: Final = 0.8  # of the colour over the map

if TYPE_CHECKING:
    from PIL import ImageDraw

Frame = npt.NDArray[np.uint8]


def write_film(run: RunFacts, path: Path) -> int:
    """Writes the film; returns how many logs it shows. Raises `UserError` for a run without any log that has a place on
    the canvas, and as `VideoWriter` does."""
    edges = slice_edges(run.env_steps, PARTS)
    problems: list[str] = []
    parts = [VisitCounts() for _ in range(PARTS)]
    read = 0
    with Bar("reading", PARTS, "parts") as bar:
        for number, rows in enumerate(chosen_logs(run.episodes.spread + run.episodes.newest, edges)):
            bar.to(number)
            for row in rows:
                log = log_of(run.run_dir, row, problems)
                if log is not None:
                    parts[number].add(log.positions, log.header.blackouts)
                    read += 1
    grids = [canvas_grid(part, run.world) for part in parts]
    if not any(grid.any() for grid in grids):
        raise UserError(f"{run.run_dir.path}: no log of an episode on a map that has a place; there is no map to film")
    frames = [*_frames(run, parts, grids, edges)]
    palette = _palette(frames[-1]) if path.suffix == ".gif" else None
    height, width = frames[0].shape[:2]
    with VideoWriter(path, FPS, 1, (height, width), palette) as video:
        for frame in frames + [frames[-1]] * LAST_FRAMES:
            video.write(frame)
    return read


def _frames(
    run: RunFacts, parts: list[VisitCounts], grids: list[npt.NDArray[np.int64]], edges: npt.NDArray[np.float64]
) -> Iterator[Frame]:
    """A picture after each part, uint8 [h, w, 3], h and w even; `grids` are the parts' counts on the canvas."""
    from matplotlib import colormaps
    from PIL import Image, ImageDraw, ImageFont

    total = np.sum(grids, axis=0)
    maps = entered_maps(run.world, total)
    left, top, width, height = box = around(maps)
    ground = ground_of_maps(run, maps, [])
    cell = max(1, _SIDE_PIXELS // max(width, height))
    across = max(width * cell, _LEAST_ACROSS)
    size = across + across % 2, 2 * BAND_PIXELS + height * cell + height * cell % 2
    under = Image.new("RGB", (width * cell, height * cell), (217, 217, 217))
    if ground is not None:
        under = Image.fromarray(ground.cut(box)).resize(under.size).convert("RGB")
    font, small = ImageFont.load_default(13), ImageFont.load_default(10)
    seen, fell = np.zeros((height, width), np.int64), VisitCounts()
    most = np.log1p(int(total.max()))
    for number, (part, grid) in enumerate(zip(parts, grids, strict=True)):
        now = grid[top : top + height, left : left + width]
        new = (seen == 0) & (now > 0)
        seen = seen + now
        fell.merge(part)
        colours = (colormaps["viridis"](np.log1p(seen) / most)[..., :3] * 255).astype(np.uint8)
        colours[new] = _NEW
        over = Image.fromarray(colours).resize(under.size, Image.Resampling.NEAREST)
        mask = Image.fromarray(((seen > 0) * int(255 * _SHARE)).astype(np.uint8)).resize(
            under.size, Image.Resampling.NEAREST
        )
        picture = Image.new("RGB", size, "white")
        picture.paste(Image.composite(over, under, mask), (0, BAND_PIXELS))
        draw = ImageDraw.Draw(picture)
        for place in maps:
            x, y = (place.box[0] - left) * cell + 2, (place.box[1] - top) * cell + BAND_PIXELS + 1
            _write_name(draw, place.name, x, y, small)
        marks = blackout_marks(fell, run.world)
        for x, y, _ in marks:
            _cross(draw, (x - left + 0.5) * cell, (y - top + 0.5) * cell + BAND_PIXELS, max(3.0, cell / 3))
        tiles = count_words(int(np.count_nonzero(seen)), "tile")
        falls = count_words(sum(count for *_, count in marks), "blackout") if fell.notes_blackouts else ""
        words = f"{run.name}: env step {edges[number + 1]:,.0f}; {tiles}" + (f"; {falls}" if falls else "")
        draw.text((4, 4), words, "black", font)
        foot = size[1] - BAND_PIXELS + 4
        draw.rectangle((4, foot + 2, 14, foot + 12), _NEW)
        draw.text((20, foot), "new in this part", "black", font)
        for step in range(80):
            colour = tuple(int(255 * value) for value in colormaps["viridis"](step / 79)[:3])
            draw.line((150 + step, foot + 2, 150 + step, foot + 12), colour)
        draw.text((236, foot), f"1 to {int(total.max()):,} steps so far", "black", font)
        if fell.notes_blackouts:
            _cross(draw, 440, foot + 7, 5)
            draw.text((450, foot), "blackout", "black", font)
        yield np.asarray(picture)


def _write_name(draw: ImageDraw.ImageDraw, name: str, x: float, y: float, font: Any) -> None:
    draw.text((x, y), name, "black", font, stroke_width=1, stroke_fill="white")


def _cross(draw: ImageDraw.ImageDraw, x: float, y: float, side: float) -> None:
    for width, colour in ((5, "white"), (3, BLACKOUT_COLOUR)):
        draw.line((x - side, y - side, x + side, y + side), colour, width)
        draw.line((x - side, y + side, x + side, y - side), colour, width)


def _palette(frame: Frame) -> Frame:
    """The 256 colours that a frame is shown best with, uint8 [256, 3]."""
    from PIL import Image

    colours = Image.fromarray(frame).quantize(256).getpalette() or []
    return np.array((colours + [0] * 768)[:768], np.uint8).reshape(256, 3)
