"""Rows of a run as CSV: `metrics.csv`, `episodes.csv` and `quests.csv`, one line a row, for pandas, R or a spreadsheet.

`cluster_rl.export --to csv` uses it. In: the rows that the learner keeps. Out: tables with all that the rows have, in
the order in which they were written; what a row lacks is an empty cell. docs/export.md describes the columns.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from cluster_rl.errors import UserError
from cluster_rl.exploration.bayes_quests import QuestRow
from cluster_rl.exporting.output import TextFile, make_folder
from cluster_rl.report.run_rows import Rows
from cluster_rl.runs.layout import RunDir

_Number = int | float
Cell = _Number | str | None
Lines = Iterable[dict[str, Cell]]
# Not the structs of programs that write or show them: whatever older and newer programs know of a row is exported.
MetricsRow = dict[str, _Number | None]
EpisodeRow = dict[str, _Number | str | list[str] | dict[str, _Number] | None]


def export_tables(run_dir: RunDir, out: Path) -> list[str]:
    """Writes the tables of the files that are there into the folder `out`; returns lines that say what was written, and
    what was damaged or is missing. Raises `UserError` where there is none, or it cannot be written."""
    sources: list[tuple[str, Path, Any, Callable[[Any], Lines]]] = [
        ("metrics.csv", run_dir.metrics, MetricsRow, _as_cells),
        ("episodes.csv", run_dir.episodes, EpisodeRow, _as_cells),
        ("quests.csv", run_dir.quests, QuestRow, _of_quests),
    ]
    if not any(path.is_file() for _, path, *_ in sources):
        raise UserError(f"{run_dir.path}: has no rows of metrics, episodes or quests yet")
    told = []
    make_folder(out)
    with contextlib.ExitStack() as files:
        for name, path, kind, lines_of in sources:
            if not path.is_file():
                told.append(f"{name}: left out, as {path.name} is not there")
                continue
            file = files.enter_context(TextFile(out / name))
            lines, columns, problem = _write(file, path, kind, lines_of)
            told.append(f"{file.path}: {lines:,} lines, {columns} columns")
            if problem:
                told.append(f"WARNING: {problem}")
    return told


def _write(file: TextFile, path: Path, kind: Any, lines_of: Callable[[Any], Lines]) -> tuple[int, int, str]:
    """Writes heads and lines of one table; returns how many lines and columns, and what was wrong with the rows.

    The rows are read twice, as a column may begin with any of them and all may be more than memory.
    """
    heads: dict[str, None] = {}
    count = 0
    rows = Rows(path, kind)
    for line in lines_of(rows):
        heads.update(dict.fromkeys(line))
        count += 1
    columns = sorted(heads, key=lambda name: "/" in name)  # what every row has first
    table = csv.writer(file, lineterminator="\n")
    table.writerow(columns)
    for line in itertools.islice(lines_of(Rows(path, kind)), count):  # what came meanwhile may have other columns
        table.writerow([line.get(name) for name in columns])
    return count, len(columns), rows.problem


def _as_cells(rows: Iterable[EpisodeRow]) -> Lines:
    """A line a row: what is by name becomes `COLUMN/NAME`, a list of names one text with blanks between."""
    for row in rows:
        cells: dict[str, Cell] = {}
        for name, value in row.items():
            if isinstance(value, dict):
                cells |= {f"{name}/{key}": amount for key, amount in value.items()}
            else:
                cells[name] = " ".join(value) if isinstance(value, list) else value
        yield cells


def _of_quests(rows: Iterable[QuestRow]) -> Lines:
    """A line for each quest of each row; what is yes or no is 1 or 0."""
    for row in rows:
        when: dict[str, Cell] = {"time": row.time, "env_steps": row.env_steps, "episodes": row.episodes}
        for name, state in row.quests.items():
            known = msgspec.structs.asdict(state) | {"stagnant": int(state.stagnant)}
            yield {**when, "quest": name, "in_frontier": int(name in row.frontier), **known}
