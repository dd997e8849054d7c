"""The newest evaluation, from its file into a row of metrics: each once, whoever is killed meanwhile.

The learner owns one. In: `evaluation.json`, which another process replaces, and at the start the rows of earlier jobs,
which say what is in them already. Out: figures for the next row. Nothing that is wrong with the file stops anything.
"""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

import msgspec

from cluster_rl.errors import UserError
from cluster_rl.runs.evaluation import Evaluation, ParamsPoint, read_evaluation
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.metrics_tail import rows_backwards
from cluster_rl.runs.small_file import Count, UnreadableError, decode_json


class EvaluationRows:
    """What the rows have not told yet."""

    def __init__(self, run_dir: RunDir) -> None:
        self._path, self._metrics = run_dir.evaluation, run_dir.metrics
        self.newest: Evaluation | None = None
        self._told: ParamsPoint | None = None
        self._knows_told = False  # the rows of earlier jobs have been looked through
        self._said = ""
        self._look()

    def row(self, reached: Container[str]) -> dict[str, float]:
        """The figures of an evaluation that no row has; `told` says that one has them now.

        Of milestones those that it reached, and those that the run had `reached`.
        """
        self._look()
        found = self.newest
        if found is None:
            return {}
        if not self._knows_told:
            self._told, self._knows_told = told_point(self._metrics, found.env_steps), True
        # One that took long may come after those of newer parameters.
        if self._told is not None and not found.point.is_newer_than(self._told):
            return {}
        figures: dict[str, float] = {
            "env_steps": found.env_steps,
            "updates": found.updates,
            "return": found.episode_return,
            "steps": found.steps,
            "finished": found.finished,
            "episodes": found.episodes,
            "distinct": found.distinct,
            "seconds": found.seconds,
        }
        if found.half_interval is not None:
            figures["return_half_interval"] = found.half_interval
        shown = {name: share for name, share in found.milestones.items() if share or name in reached}
        figures |= {f"milestone/{name}": share for name, share in shown.items()}
        return {f"evaluate/{name}": value for name, value in figures.items()}

    def told(self) -> None:
        """What `row` gave last is in the file."""
        self._told = self.newest.point if self.newest is not None else None

    def _look(self) -> None:
        """Reads the file. What is wrong with it is said once, and the evaluation before it stays."""
        try:
            self.newest = read_evaluation(self._path) or self.newest
            self._said = ""
        except UserError as error:
            if str(error) != self._said:
                print(error, flush=True)
            self._said = str(error)


class _Row(msgspec.Struct):
    env_steps: Count = 0
    evaluated_env_steps: float | None = msgspec.field(name="evaluate/env_steps", default=None)
    evaluated_updates: float | None = msgspec.field(name="evaluate/updates", default=None)


def told_point(metrics: Path, since_env_steps: int) -> ParamsPoint | None:
    """The parameters of the newest evaluation that rows tell of, of those from `since_env_steps` on, else None.

    No row before that can tell of parameters that were made then.
    """
    try:
        for line in rows_backwards(metrics):
            try:
                row = decode_json(line, _Row, metrics)
            except UnreadableError:  # whoever reads all rows is told
                continue
            if row.evaluated_env_steps is not None and row.evaluated_updates is not None:
                return ParamsPoint(int(row.evaluated_env_steps), int(row.evaluated_updates))
            if row.env_steps < since_env_steps:
                return None
    except (UserError, OSError) as error:
        print(f"{error}; an evaluation may be in two rows of {metrics.name}", flush=True)
    return None
