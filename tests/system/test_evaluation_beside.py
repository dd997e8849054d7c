"""Evaluations beside real runs: killed, stopped, and the learner killed: rows come once, and the run goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import pytest
from run_fixtures import Launcher, overrides, processes_of

from cluster_rl.errors import EXIT_OK
from cluster_rl.runs.layout import RunDir
from cluster_rl.training.metrics import read_metrics

# Short times, an interval of a second too, which no config may have; and no low priority: other tests may leave it no
# processor for minutes.
PROGRAM = """
import sys
import msgspec
from cluster_rl.jobs import evaluation_child
begin = evaluation_child.EvaluationChild.__init__
evaluation_child.EvaluationChild.__init__ = lambda child, config, *rest: begin(
    child, msgspec.structs.replace(config, evaluate_interval_seconds=1.0), *rest
)
evaluation_child._NICENESS, evaluation_child._LOOK_MIN_SEC = 0, 3.0
from cluster_rl import {module}
{module}.command()
"""
OFTEN = {"target_total_steps": 10_000_000, "max_runtime_seconds": 0, "evaluate_interval_seconds": 10}


class BesideLauncher(Launcher):
    """A launcher with those times."""

    def __init__(self, folder: Path, module: str = "train_cluster", **changes: object) -> None:
        super().__init__(folder, *overrides(**OFTEN | changes), program=PROGRAM.format(module=module))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()  # where the test failed
        self.process.wait()

    def until(self, reached: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + 240
        while not reached():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, f"{what}: not in time; it said:\n{self.output}"
            time.sleep(0.02)

    def until_told(self, what: str) -> None:
        """Until there is another row."""
        before = len(told(self.run_dir))
        self.until(lambda: len(told(self.run_dir)) > before, what)

    def evaluation(self) -> int:
        """The process id of one that plays: what is shorter than the look at it may have ended before."""
        self.until(lambda: self.children("jobs.evaluation_process"), "an evaluation starts")
        return next(iter(self.children("jobs.evaluation_process")), 0) or self.evaluation()


def told(run_dir: RunDir) -> list[tuple[float | None, float | None]]:
    """The parameters of each evaluation in the rows, in order."""
    rows = [row for row in read_metrics(run_dir.metrics) if "evaluate/env_steps" in row]
    return [(row["evaluate/env_steps"], row["evaluate/updates"]) for row in rows]


def assert_each_once(run_dir: RunDir) -> None:
    points = told(run_dir)
    assert len(points) == len(set(points)), "an evaluation is in two rows"
    assert sorted(points) == points


def send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended
        os.kill(pid, number)


@pytest.mark.timeout(900)
def test_evaluations_that_are_killed_and_stopped_cost_their_own_rows(tmp_path: Path) -> None:
    with BesideLauncher(tmp_path) as launcher:
        run_dir = launcher.run_dir
        launcher.until(lambda: told(run_dir), "the first row")
        while "the evaluation was killed by SIGKILL" not in launcher.output:
            send(launcher.evaluation(), signal.SIGKILL)
            time.sleep(0.3)
        launcher.until_told("a row after a kill")
        while "the evaluation hangs" not in launcher.output:
            stopped = launcher.evaluation()
            send(stopped, signal.SIGSTOP)
            launcher.until(
                lambda pid=stopped: pid not in launcher.children("jobs.evaluation_process"), "it is found out"
            )  # type: ignore[misc]
        launcher.until_told("a row after a hang")
        send(launcher.evaluation(), signal.SIGSTOP)  # and so it ends with the job
        code, _ = launcher.terminate()
    assert code == EXIT_OK, launcher.output
    assert processes_of(run_dir) == []
    progress = launcher.progress()
    assert progress is not None
    assert progress.jobs[-1].reason == "signal SIGTERM"
    assert progress.evaluation is not None
    assert progress.updates > 10
    assert_each_once(run_dir)


@pytest.mark.timeout(900)
def test_learner_and_launcher_are_killed_and_each_evaluation_is_in_one_row(tmp_path: Path) -> None:
    with BesideLauncher(tmp_path) as launcher:
        run_dir = launcher.run_dir
        launcher.until(lambda: told(run_dir), "the first row")
        (learner,) = launcher.children("learner")
        os.kill(learner, signal.SIGKILL)
        launcher.until_told("a row by the learner's next process")
        send(launcher.evaluation(), signal.SIGSTOP)
        launcher.process.kill()  # nobody is told anything
        launcher.process.wait()
    deadline = time.monotonic() + 120
    while processes_of(run_dir):
        assert time.monotonic() < deadline, processes_of(run_dir)
        time.sleep(0.1)
    with BesideLauncher(tmp_path) as resumed:
        resumed.until_told("a row in the next job")
        resumed.terminate()
    assert_each_once(run_dir)


@pytest.mark.timeout(900)
def test_serial_mode_evaluates_too(tmp_path: Path) -> None:
    with BesideLauncher(tmp_path, "train_slim") as launcher:
        launcher.until(lambda: len(told(launcher.run_dir)) >= 2, "two rows")
        send(launcher.evaluation(), signal.SIGSTOP)
        code, _ = launcher.terminate(signal.SIGINT)
    assert code == EXIT_OK, launcher.output
    assert processes_of(launcher.run_dir) == []
    assert_each_once(launcher.run_dir)
