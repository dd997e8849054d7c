"""The list of a folder's videos, highest return first: `index.html` to look at, `index.csv` for programs.

The replayer's main process writes it, whole, whenever a video is ready. In: the records beside the videos. Out: two
files, the same bytes for the same videos. The page stands alone: it loads nothing, and sorts itself by a click.
"""

from __future__ import annotations

import csv
import html
import io
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

from cluster_rl.errors import as_text
from cluster_rl.game.world import World
from cluster_rl.report.video_record import VideoRecord, path_picture
from cluster_rl.runs.atomic import write_atomic

PAGE: Final = "index.html"
TABLE: Final = "index.csv"

_STYLE: Final = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em; color: #1f2430; background: #fff }
table { border-collapse: collapse }
th, td { padding: .3em .8em; text-align: left; vertical-align: top; border-bottom: 1px solid #dde1e8 }
th { cursor: pointer; border-bottom: 2px solid #8a93a5; white-space: nowrap }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
"""
_SCRIPT: Final = """
for (const head of document.querySelectorAll("th")) head.onclick = () => {
  const body = document.querySelector("tbody"), key = row => row.cells[head.cellIndex].dataset.key;
  const sign = head.dataset.sign = head.dataset.sign === "-1" ? "1" : "-1";
  const by = head.className === "number" ? (a, b) => key(a) - key(b) : (a, b) => key(a).localeCompare(key(b));
  body.append(...[...body.rows].sort((a, b) => sign * by(a, b)));
};
"""


def write_index(folder: Path, records: Mapping[Path, VideoRecord], world: World) -> None:
    """Writes both files. Raises as `write_atomic` does."""
    ordered = sorted(records.items(), key=_order)
    write_atomic(folder / TABLE, _table(ordered).encode("utf-8", "surrogateescape"))
    write_atomic(folder / PAGE, _page(ordered, world).encode("utf-8"))


def _order(entry: tuple[Path, VideoRecord]) -> tuple[float, str]:
    video, record = entry
    return math.inf if record.episode_return is None else -record.episode_return, video.name


def _table(entries: Iterable[tuple[Path, VideoRecord]]) -> str:
    written = io.StringIO()
    rows = csv.writer(written, lineterminator="\n")
    heads = ("video", "return", "steps", "milestones", "epsilon", "seconds", "started", "complete", "overlay", "speed")
    rows.writerow(heads)
    for video, record in entries:
        reached = " ".join(f"{milestone.name}@{milestone.step}" for milestone in record.milestones)
        told = (record.episode_return, record.steps, reached, record.epsilon, _seconds(record), record.started)
        rows.writerow([video.name, *told, int(record.complete), int(record.overlay), record.speed])
    return written.getvalue()


class _Cell(NamedTuple):
    """`key` is what rows are sorted by; `markup` is HTML."""

    key: float | str
    markup: str


_HEADS: Final = ("return", "video", "steps", "reached", "last milestone", "epsilon", "plays, s", "began", "path")


def _page(entries: Iterable[tuple[Path, VideoRecord]], world: World) -> str:
    rows = [_cells(video, record, world) for video, record in entries]
    numbers = [isinstance(cell.key, float) for cell in rows[0]] if rows else [False] * len(_HEADS)
    classes = [' class="number"' if is_number else "" for is_number in numbers]
    heads = "".join(f"<th{kind}>{html.escape(head)}</th>" for kind, head in zip(classes, _HEADS, strict=True))
    lines = [
        "".join(
            f'<td{kind} data-key="{html.escape(str(cell.key))}">{cell.markup}</td>'
            for kind, cell in zip(classes, row, strict=True)
        )
        for row in rows
    ]
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Videos</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>Videos of {len(rows)} episodes</h1>\n"
        "<p>Returns are without intrinsic terms. A click on a heading sorts.</p>\n"
        f"<table><thead><tr>{heads}</tr></thead>\n<tbody>\n{body}</tbody></table>\n"
        f"<script>{_SCRIPT}</script></body></html>\n"
    )


def _cells(video: Path, record: VideoRecord, world: World) -> list[_Cell]:
    titles = [f"{world.milestone_title(milestone.name)}, step {milestone.step}" for milestone in record.milestones]
    unknown = "" if record.complete else "unfinished"
    about = " ".join(word for word in ("panel" * record.overlay, f"{record.speed} x" * (record.speed != 1)) if word)
    return [
        _number(record.episode_return, ".1f", unknown),
        _Cell(as_text(video.name), _link(video, as_text(video.name)) + (f"<br>{about}" if about else "")),
        _number(record.steps, ",d"),
        _Cell(float(len(titles)), f'<span title="{html.escape("; ".join(titles))}">{len(titles)}</span>'),
        _Cell(titles[-1] if titles else "", html.escape(titles[-1] if titles else "")),
        _number(record.epsilon, ".3g"),
        _number(_seconds(record), ".0f"),
        _Cell(record.started, html.escape(record.started)),
        _Cell("", _link(path_picture(video), "map") if record.path_bytes not in (0, None) else ""),
    ]


def _number(value: float | None, form: str, unknown: str = "") -> _Cell:
    """What is not known comes last, as the lowest."""
    return _Cell(-1e300, unknown) if value is None else _Cell(float(value), format(value, form))


def _link(file: Path, words: str) -> str:
    return f'<a href="{quote(os.fsencode(file.name))}">{html.escape(words)}</a>'


def _seconds(record: VideoRecord) -> float:
    return round(record.frames / record.fps, 3) if record.fps > 0 else 0.0
