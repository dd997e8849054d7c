"""The rows that a run keeps over time, read for a page: episodes, metrics and quests, with what is damaged left out.

The report's page uses it, the replayer for quests. In: `episodes.jsonl`, `metrics.jsonl` and `quests.jsonl` of a run,
of any length. Out: columns of numbers, and of episodes the rows of some. One pass over each file; of a million episodes
only columns stay.
Only what the page needs of a row is read, so that rows of older and newer programs do as well.
"""

from __future__ import annotations

import heapq
import itertools
import stat
from array import array
from collections import Counter, deque
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Generic, NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from cluster_rl.errors import read_error
from cluster_rl.exploration.bayes_quests import QuestRow
from cluster_rl.runs.metrics_tail import MAX_ROW_BYTES
from cluster_rl.runs.small_file import Count, UnixSeconds, UnreadableError, damaged, decode_json

NEWEST_EPISODES = 300
"""How many of the newest episodes are kept as rows."""
BEST_EPISODES = 100
"""And of those with the highest returns."""
SPREAD_EPISODES = 1000
"""At least so many, if there are, are kept spread evenly over the run, for the map."""
MAP_BONUS = "rnd/map_bonus/"
"""What the metrics of curiosity on a map begin with; its number follows."""
CURIOUS_ROWS = 200
"""So many of the newest rows tell where the learner is still curious: each has but the maps of one batch."""
LARGEST = 1e15
"""A figure beyond it is of no run, and counts as unknown: charts could not draw it."""

Column = npt.NDArray[np.float64]

# Those of metrics.jsonl that the page shows or judges; NAME of a part of the reward besides.
_METRICS = frozenset(
    {
        *("time", "env_steps", "updates", "env_steps_per_sec", "updates_per_sec", "samples_per_insert"),
        *("limiter_ahead", "queue/batches_in_flight", "replay/transitions", "replay/damaged"),
        *("priority/ess", "actor/epsilon", "lag/acting/p50", "lag/training/p50", "staleness/delta_q_last"),
        *("learner/grad_norm", "learner/loss", "learner/q_start", "rnd/skipped_steps", "rnd/bonus_mean"),
        *("wire/actors", "wire/refused_blocks", "wire/bad_messages", "wire/refused_actors", "wire/waiting_actors"),
        *("wire/lost_sequences", "archive/states", "archive/unfit", "archive/newer", "curiosity_scale"),
        *("start/beginning", "start/early", "start/middle", "start/late"),
        *("evaluate/env_steps", "evaluate/return", "evaluate/finished"),
    }
)

_Kind = TypeVar("_Kind")


class EpisodeRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the page needs of a row of `episodes.jsonl`, see `training.episode_rows` for all of it."""

    time: UnixSeconds
    env_steps: Count
    actor: Count
    incarnation: Count
    emulator: Count
    episode: Count
    steps: Count
    episode_return: float = msgspec.field(name="return")
    start_tag: str = "beginning"
    start_id: str = ""
    start_milestones: list[str] = []
    terms: dict[str, float] = {}
    milestones: dict[str, int] = {}
    final_map: Count = 0
    reason: str = ""
    entropy: float | None = None
    loop_share: float = 0.0
    cells: Count = 0
    epsilon: float = 0.0

    @property
    def name(self) -> str:
        """Of its log, without the ending; `runs.episode_log.log_name` has the same."""
        return f"a{self.actor:03d}-e{self.emulator:02d}-{self.incarnation:x}-{self.episode:06d}"

    @property
    def is_elsewhere(self) -> bool:
        """Whether it began elsewhere than the run's episodes begin by its config."""
        return self.start_tag in ("state", "archive")


class Start(NamedTuple):
    """Where an episode began: its tag, and the milestones that had been reached there."""

    tag: str
    milestones: tuple[str, ...] = ()


class Rows(Generic[_Kind]):
    """The rows of one file, in order. What is none is passed over, and told by `problem` after the last one."""

    def __init__(self, path: Path, kind: type[_Kind]) -> None:
        self._path, self._kind = path, kind
        self._damaged, self._first = 0, ""
        self._odd, self._first_odd = 0, ""
        self._no_file = ""
        self._line = 0

    def __iter__(self) -> Iterator[_Kind]:
        """Raises `UserError` for a file that cannot be read."""
        try:
            self._no_file = _no_file(self._path)
            if self._no_file:
                return
            with self._path.open("rb") as file:
                while line := _line(file):
                    self._line += 1
                    try:
                        yield self._row(line)
                    except UnreadableError as error:
                        self._damaged += 1
                        self._first = self._first or str(error)
        except OSError as error:
            raise read_error(error, self._path) from None

    def _row(self, line: bytes) -> _Kind:
        source = f"line {self._line}"
        if len(line) > MAX_ROW_BYTES:
            raise damaged(source, f"more than {MAX_ROW_BYTES} bytes")
        return decode_json(line, self._kind, source)

    def leave_out(self, name: str) -> None:
        """Tells of a value of the newest row that is left out of it, as it is none of its kind."""
        self._odd += 1
        self._first_odd = self._first_odd or f"{name} in line {self._line}"

    @property
    def problem(self) -> str:
        """What was wrong with the file, in a line; empty if nothing."""
        told = [self._no_file] if self._no_file else []
        if self._damaged:
            rows = "a row is" if self._damaged == 1 else f"{self._damaged} rows are"
            told.append(f"{rows} damaged and left out; the first: {self._first}")
        if self._odd:
            values = "a value is" if self._odd == 1 else f"{self._odd} values are"
            told.append(f"{values} of another kind and left out; the first: {self._first_odd}")
        return f"{self._path.name}: {'; '.join(told)}" if told else ""


def _no_file(path: Path) -> str:
    """Why there is no file to read, empty where there is one. Raises `OSError`."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "not there"
    if stat.S_ISREG(mode):
        return ""
    return f"{'a folder' if stat.S_ISDIR(mode) else 'something else'} lies where a file was expected; move it away"


def _line(file: BinaryIO) -> bytes:
    """The next line, cut behind a byte more than `MAX_ROW_BYTES`; empty at the end, and for a row that is being
    written."""
    line = file.readline(MAX_ROW_BYTES + 1)
    if len(line) <= MAX_ROW_BYTES:
        return line if line.endswith(b"\n") else b""
    rest = line
    while rest and not rest.endswith(b"\n"):
        rest = file.readline(MAX_ROW_BYTES)
    return line


@dataclass
class Episodes:
    """All episodes of a run: columns, float64 [episodes], and the rows of some of them."""

    count: int = 0
    columns: dict[str, Column] = field(default_factory=dict)
    """`time`, `env_steps`, `steps`, `return`, `cells`, `loop_share`, `entropy` (NaN where unknown), and `terms/NAME`;
    `whole` is 1 for those that began where the run's do and that no job's end cut; `start` is a place in `starts`."""
    starts: list[Start] = field(default_factory=list)
    """All that any episode began at, in the order in which they came."""
    newest: list[EpisodeRow] = field(default_factory=list)
    best: list[EpisodeRow] = field(default_factory=list)
    """With the highest returns, highest first; of episodes that began where the run's do."""
    spread: list[EpisodeRow] = field(default_factory=list)
    """Spread evenly over the run."""
    first: dict[str, EpisodeRow] = field(default_factory=dict)
    """The first that reached a milestone, of those that began where the run's do."""
    filmed: list[EpisodeRow] = field(default_factory=list)
    """The newest of those that were asked for by name."""
    reached: Counter[str] = field(default_factory=Counter)
    """Episodes of any start that reached a milestone."""
    incarnations: dict[int, set[int]] = field(default_factory=dict)
    """Of each actor: one for each time that it was started. Unix nanoseconds."""


def read_episodes(path: Path, filmed: Container[str] = ()) -> tuple[Episodes, str]:
    """All episodes, and what was wrong with the file. Rows of those with names in `filmed` are kept.

    Raises `UserError` where it cannot be read.
    """
    found = Episodes()
    columns: dict[str, array[float]] = {}
    newest: deque[EpisodeRow] = deque(maxlen=NEWEST_EPISODES)
    with_video: deque[EpisodeRow] = deque(maxlen=NEWEST_EPISODES)
    best: list[tuple[float, int, EpisodeRow]] = []
    every = 1
    rows = Rows(path, EpisodeRow)
    starts: dict[Start, int] = {}
    for number, row in enumerate(rows):
        start = starts.setdefault(Start(row.start_tag, tuple(row.start_milestones)), len(starts))
        _add(columns, number, {**_numbers(row), "start": start})
        newest.append(row)
        if row.name in filmed:
            with_video.append(row)
        if not row.is_elsewhere:
            entry = (row.episode_return, -number, row)  # of equal returns the first
            (heapq.heappush if len(best) < BEST_EPISODES else heapq.heappushpop)(best, entry)
            for name in row.milestones:
                found.first.setdefault(name, row)
        found.reached.update(row.milestones.keys())
        found.incarnations.setdefault(row.actor, set()).add(row.incarnation)
        if number % every == 0:
            found.spread.append(row)
            if len(found.spread) >= 2 * SPREAD_EPISODES:
                every *= 2
                del found.spread[1::2]
        found.count += 1
    found.columns, found.starts = _padded(columns, found.count), list(starts)
    found.newest, found.filmed = list(newest), list(with_video)
    found.best = [row for *_, row in sorted(best, reverse=True)]
    return found, rows.problem


def _numbers(row: EpisodeRow) -> dict[str, float]:
    return {
        "time": row.time,
        "env_steps": row.env_steps,
        "steps": row.steps,
        "return": row.episode_return,
        "cells": row.cells,
        "loop_share": row.loop_share,
        "entropy": np.nan if row.entropy is None else row.entropy,
        "whole": float(not row.is_elsewhere and row.reason != "stopped"),
        **{f"terms/{name}": amount for name, amount in row.terms.items()},
    }


@dataclass
class Metrics:
    """`columns` by name, float64 [rows] with NaN where a row has no number; and curiosity's mean bonus on each map, by
    its number, over the newest rows, empty where it is off."""

    columns: dict[str, Column] = field(default_factory=dict)
    map_bonus: dict[int, float] = field(default_factory=dict)


def read_metrics(path: Path) -> tuple[Metrics, str]:
    """The metrics, and what was wrong with the file. Raises `UserError` where it cannot be read."""
    rows = Rows(path, dict[str, Any])
    columns: dict[str, array[float]] = {}
    newest: deque[dict[str, Any]] = deque(maxlen=CURIOUS_ROWS)
    count = 0
    for row in rows:
        values: dict[str, float] = {}
        for name in _METRICS & row.keys():
            value = row[name]
            if not _is_number(value) and value is not None:
                rows.leave_out(name)
            values[name] = value if _is_number(value) else np.nan
        _add(columns, count, values)
        newest.append(row)
        count += 1
    told: dict[int, list[float]] = {}
    for row in newest:
        for number, bonus in _map_bonus(row).items():
            told.setdefault(number, []).append(bonus)
    return Metrics(
        _padded(columns, count), {number: float(np.mean(told[number])) for number in sorted(told)}
    ), rows.problem


def _map_bonus(row: dict[str, Any]) -> dict[int, float]:
    """What a row tells of curiosity on maps, by their numbers."""
    found = {name.removeprefix(MAP_BONUS): value for name, value in row.items() if name.startswith(MAP_BONUS)}
    return {
        int(number): float(value)
        for number, value in found.items()
        if number.isdecimal() and len(number) <= 3 and _is_number(value) and abs(value) <= LARGEST
    }


def _is_number(value: Any) -> bool:
    """Whether JSON has it as a number; yes and no are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_quests(path: Path) -> tuple[list[QuestRow], str]:
    """All rows, and what was wrong with the file. Raises `UserError` where it cannot be read."""
    rows = Rows(path, QuestRow)
    return list(rows), rows.problem


def _add(columns: dict[str, array[float]], number: int, values: dict[str, float]) -> None:
    """Puts row `number` into the columns. A column that is new, or that earlier rows left out, gets NaN for them, and
    any for a figure beyond `LARGEST`."""
    for name, value in values.items():
        column = columns.setdefault(name, array("d"))
        if len(column) < number:
            column.extend(itertools.repeat(np.nan, number - len(column)))
        column.append(value if abs(value) <= LARGEST else np.nan)


def _padded(columns: dict[str, array[float]], count: int) -> dict[str, Column]:
    _add(columns, count, dict.fromkeys(columns, np.nan))
    return {name: np.array(column, np.float64)[:count] for name, column in columns.items()}
