"""Rows of a run as CSV: `metrics.csv`, `episodes.csv` and `quests.csv`, one line a row, for pandas, R or a spreadsheet.

`cluster_rl.export --to csv` uses it. In: the rows that the learner keeps. Out: tables with all that the rows have, in
the order in which they were written; what a row lacks is an empty cell. docs/export.md describes the columns.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from cluster_rl.errors import UserError
from cluster_rl.exploration.bayes_quests import QuestRow
from cluster_rl.exporting.output import TextFile, make_folder
from cluster_rl.report.run_rows import Rows
from cluster_rl.runs.layout import RunDir

Cell = int | float | str | None
Lines = Iterable[dict[str, Cell]]
# Not the structs of programs that write or show them: whatever older and newer programs know of a row is exported.
Row = dict[str, Any]


@dataclass(frozen=True)
class _Table:
    """A table that may be written: `count` lines with these `columns`; `problem` is what was wrong with the rows."""

    name: str
    path: Path
    kind: Any
    lines_of: Callable[[Any], Lines]
    columns: list[str]
    count: int
    problem: str


def export_tables(run_dir: RunDir, out: Path) -> list[str]:
    """Writes the tables of the files that have rows into the folder `out`; returns lines that say what was written, and
    what was damaged or is missing. Raises `UserError` where there is none, or it cannot be written."""
    sources: list[tuple[str, Path, Any, Callable[[Any], Lines]]] = [
        ("metrics.csv", run_dir.metrics, Row, _as_cells),
        ("episodes.csv", run_dir.episodes, Row, _as_cells),
        ("quests.csv", run_dir.quests, QuestRow, _of_quests),
    ]
    tables = [_table(*source) for source in sources]
    if not any(table.count for table in tables):
        raise UserError(
            "; ".join(
                [
                    f"{run_dir.path}: has no rows of metrics, episodes or quests yet",
                    *(table.problem for table in tables if table.problem and table.path.exists()),
                ]
            )
        )
    told = []
    make_folder(out)
    with contextlib.ExitStack() as files:
        for table in tables:
            if not table.path.exists():
                told.append(f"{table.name}: left out, as {table.path.name} is not there")
                continue
            if table.count:
                file = files.enter_context(TextFile(out / table.name))
                _write(file, table)
                told.append(f"{file.path}: {table.count:,} lines, {len(table.columns)} columns")
            else:
                told.append(f"{table.name}: left out, as {table.path.name} has no rows for it")
            if table.problem:
                told.append(f"WARNING: {table.problem}")
    return told


def _table(name: str, path: Path, kind: Any, lines_of: Callable[[Any], Lines]) -> _Table:
    """Reads all rows for the heads: a column may begin with any of them, and all may be more than memory."""
    heads: dict[str, None] = {}
    count = 0
    rows = Rows(path, kind)
    for line in lines_of(rows):
        heads.update(dict.fromkeys(line))
        count += 1
    columns = sorted(heads, key=lambda head: "/" in head)  # what every row has first
    return _Table(name, path, kind, lines_of, columns, count, rows.problem)


def _write(file: TextFile, table: _Table) -> None:
    """Writes heads and lines of one table, of rows that are read again."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(table.columns)
    lines = table.lines_of(Rows(table.path, table.kind))
    for line in itertools.islice(lines, table.count):  # what came meanwhile may have other columns
        writer.writerow([line.get(name) for name in table.columns])


def _as_cells(rows: Rows[Row]) -> Lines:
    """A line a row."""
    return (cells_of(row, rows.leave_out) for row in rows)


def cells_of(row: Row, leave_out: Callable[[str], object]) -> dict[str, Cell]:
    """The cells of a row by their columns: what is by name becomes `COLUMN/NAME`, a list of names one text with blanks
    between, what is yes or no 1 or 0. `leave_out` is called with the column of what is no cell."""
    cells: dict[str, Cell] = {}
    for name, value in row.items():
        parts = {f"{name}/{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
        for column, part in parts.items():
            if isinstance(part, list) and all(isinstance(item, str) for item in part):
                cells[column] = " ".join(part)
            elif isinstance(part, list | dict):
                leave_out(column)
            else:
                cells[column] = int(part) if isinstance(part, bool) else part
    return cells


def _of_quests(rows: Iterable[QuestRow]) -> Lines:
    """A line for each quest of each row; what is yes or no is 1 or 0."""
    for row in rows:
        when: dict[str, Cell] = {"time": row.time, "env_steps": row.env_steps, "episodes": row.episodes}
        for name, state in row.quests.items():
            known = msgspec.structs.asdict(state) | {"stagnant": int(state.stagnant)}
            yield {**when, "quest": name, "in_frontier": int(name in row.frontier), **known}
