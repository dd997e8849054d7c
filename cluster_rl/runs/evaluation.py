"""`evaluation.json`: how the published parameters play, by the newest evaluation.

`evaluate --publish` writes it, which a job's launcher starts now and then; the learner reads it, and puts the figures
into its metrics and `progress.json`. The file has the newest parameters' alone: metrics have the curve of all of them.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import msgspec

from cluster_rl.errors import UserError
from cluster_rl.runs.atomic import write_atomic
from cluster_rl.runs.small_file import (
    Count,
    MissingFileError,
    UnixSeconds,
    UnreadableError,
    decode_json,
    read_bytes,
)

EMULATORS = 8
"""That an evaluation has at most, each for an episode at a time."""


class ParamsPoint(NamedTuple):
    """When parameters were made, in counts of the whole run. Env steps never go back, updates may after a crash."""

    env_steps: Count
    updates: Count

    def is_newer_than(self, other: ParamsPoint) -> bool:
        """Whether what is known of `other` is out of date; so it is if other updates follow on the same env steps."""
        return self != other and self.env_steps >= other.env_steps


class DamagedEvaluationError(UserError):
    """evaluation.json is there and cannot be understood."""


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Means over greedy episodes that began where the run's do. `env_steps` and `updates` are the `ParamsPoint`."""

    env_steps: Count
    updates: Count
    began: UnixSeconds
    seconds: float  # that it took
    episodes: Count
    distinct: Count  # of them, so many differ
    episode_return: float
    half_interval: float | None  # of the mean return, 95 %; None of one distinct episode
    steps: float
    finished: float  # share that ended the game's task
    milestones: dict[str, float]  # share that reached it, of all that lie ahead

    def __post_init__(self) -> None:
        figures = (self.seconds, self.episode_return, self.half_interval or 0.0, self.steps, self.finished)
        if not all(map(math.isfinite, (*figures, *self.milestones.values()))):
            raise ValueError("a figure that is not finite")

    @property
    def point(self) -> ParamsPoint:
        """Which parameters played."""
        return ParamsPoint(self.env_steps, self.updates)

    @property
    def return_words(self) -> str:
        """`greedy return 3.21 +- 0.40`."""
        half = "" if self.half_interval is None else f" +- {self.half_interval:.2f}"
        return f"greedy return {self.episode_return:.2f}{half}"

    @property
    def words(self) -> str:
        """All but the milestones."""
        return (
            f"{self.return_words}, {self.steps:.0f} steps, task finished {self.finished:.0%}, {self.episodes} episodes,"
            f" {self.distinct} distinct; parameters of update {self.updates:,}"
        )


def save_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Replaces the file. Raises `StorageError` for a full disk."""
    write_atomic(path, msgspec.json.format(msgspec.json.encode(evaluation), indent=2) + b"\n")


def read_evaluation(path: Path) -> Evaluation | None:
    """The newest evaluation; None before the first.

    Raises `DamagedEvaluationError`; `UserError` for what lies there and is no file, or may not or cannot be read.
    """
    try:
        data = read_bytes(path)
    except MissingFileError:
        return None
    try:
        return decode_json(data, Evaluation, path)
    except UnreadableError as error:
        raise DamagedEvaluationError(f"{error}; the next evaluation writes it anew") from None


def readable_evaluation(path: Path) -> Evaluation | None:
    """For those to whom a damaged file is as none: the next evaluation replaces it. Else as `read_evaluation`."""
    try:
        return read_evaluation(path)
    except DamagedEvaluationError:
        return None
