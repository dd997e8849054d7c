"""SIGKILL at every crash point, one after another in the same runs: nothing is lost, and the run goes on.

A request is a file in a folder (`runs/crash_points.py`); the process that passes the point takes it away and is gone.
"""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import pytest
from chaos_run import ChaosRun
from run_fixtures import Launcher

from cluster_rl.errors import EXIT_FAILURE, EXIT_OK
from cluster_rl.runs.crash_points import CRASH_POINTS, VARIABLE
from cluster_rl.runs.progress import Progress, read_progress

DEATHS_OF_A_LAUNCHER = 4  # and of a test: with each death of a child its restart waits longer
GONE_SEC = 240.0

Way = Literal["train", "kill learner", "kill actor", "start", "new keys", "term"]


class Case(NamedTuple):
    """Points to die at, one after another, and what leads there.

    `train`: playing and learning as ever. `kill learner`, `kill actor`: its next start. `start`: the launcher's.
    `new keys`: a learner that has to make keys. `term`: the end of a job.
    """

    way: Way
    points: tuple[str, ...]


def cases(way: Way, *points: str) -> list[Case]:
    return [Case(way, (point,)) for point in points]


def atomic(*files: str) -> list[str]:
    return [f"atomic.{when}@{file}" for file in files for when in ("begin", "written", "renamed")]


GROUPS: dict[str, list[Case]] = {
    "checkpoint": cases(
        "train",
        "checkpoint.begin",
        "checkpoint.folder_made",
        "checkpoint.file_written@tensors.safetensors",
        "checkpoint.file_written@state.json",
        "checkpoint.file_written@manifest.json",
        "checkpoint.before_rename",
        "checkpoint.renamed",
        "checkpoint.verified",
        "checkpoint.prune_renamed",
        "checkpoint.pruned",
    ),
    "replay": [
        *cases("train", "replay.before_append", "replay.appended", "replay.before_sync", "replay.synced"),
        *cases("train", "replay.half_a_record", "wire.before_ack", "wire.acked"),
        Case("train", ("replay.half_a_record", "restore.tail_cut")),
    ],
    "recovery": [
        *cases(
            "kill learner",
            "restore.folder_locked",
            "restore.segment_opened",
            "restore.record_found",
            "restore.log_scanned",
            "restore.totals_adopted",
            "restore.weights",
            "restore.priorities",
            "restore.limiter",
            "restore.job_continued",
            "learner.started",
        ),
        *cases("kill learner", *atomic("rendezvous.json")),
        Case("kill learner", ("restore.record_found",) * 3),
        Case("kill learner", ("restore.segment_opened", "restore.weights", "restore.job_continued")),
    ],
    "learner": [
        *cases("train", "learner.sampled", "learner.updated", "learner.priorities_set", "learner.published"),
        *cases("train", "metrics.half_a_row", "metrics.row_written"),
        *cases("train", "episodes.half_a_row", "episodes.rows_written"),
        *cases("train", *atomic("progress.json", "online_params.pt")),
        *cases("term", "learner.stopping", "learner.saved", "learner.drained"),
    ],
    "actor": [
        *cases("train", "actor.before_send", "actor.sent", "actor.acknowledged"),
        *cases("train", "actor.before_params", "actor.params_loaded", "actor.episode_ended"),
        *cases("train", *atomic("*.eplog")),
        *cases("kill actor", "actor.hello_sent", "wire.welcomed"),
        *cases("term", "actor.stopping", "actor.flushed"),
    ],
    "archive": [
        *cases("train", "archive.taken", "archive.admitted", "archive.evicted"),
        *cases("train", *atomic("index.json", "*.start")),
    ],
    "open episode": cases("train", "episode_log.flush_written", "episode_log.flushed"),
    "launcher": [
        *cases("start", *atomic("run.json", "config.json", "run.lock.holder")),
        *cases("start", "launcher.locked", "launcher.job_begun", "launcher.learner_started", "launcher.actors_started"),
        *cases("kill actor", "launcher.child_died", "launcher.child_restarted"),
        *cases("term", "launcher.stopping"),
    ],
    "quests": cases("train", "quests.half_a_row", "quests.row_written"),
    "eviction": cases("train", *atomic("*.log"), "replay.before_eviction", "replay.evicted"),
    "keys": cases("new keys", "keys.between_files@learner.json", "keys.between_files@actors.json"),
}
CHANGES: dict[str, dict[str, object]] = {
    "archive": {"archive_entries": 3, "episode_max_steps": 200},
    "open episode": {"episode_max_steps": 1100, "samples_per_insert": 0.1},  # its log is written every 1,000 steps
    "quests": {"episode_max_steps": 20},  # a row comes after a hundred
    "eviction": {"replay_capacity_transitions": 2000},  # segments of 100
}


class Deaths:
    """The requests of a run, and its launchers: one is there while `launcher` is not None."""

    def __init__(self, run: ChaosRun, folder: Path, monkeypatch: pytest.MonkeyPatch, group: str) -> None:
        self.run = run
        self.launcher: Launcher | None = None
        self.died = 0
        self._group = group
        self._folder = folder
        self._folder.mkdir()
        self._deaths_of_this = 0
        monkeypatch.setenv(VARIABLE, str(folder))

    def go_through(self, case: Case) -> None:
        """All of its deaths. After a launcher's end the account is taken."""
        if case.way == "start":
            self.end()
            self._ask(case.points[0])
            launcher = self._start()
            self._wait_until_gone(case.points[0], launcher)
            self._ended(launcher, case.points[0])
            return
        if case.way == "new keys":
            self.end()
            shutil.rmtree(self.run.run_dir.keys, ignore_errors=True)
            self._ask(case.points[0])
        launcher = self.training()
        before = self._progress()
        if case.way != "new keys":
            self._ask(case.points[0])
        if case.way == "kill learner":
            self.run.send(launcher, "learner")
        elif case.way == "kill actor":
            self.run.send(launcher, "actor")
        elif case.way == "term":
            launcher.process.terminate()
        for point, following in zip(case.points, (*case.points[1:], ""), strict=True):
            self._wait_until_gone(point, launcher, on_the_way=case.way != "term")
            if following:
                self._ask(following)
        if case.way == "term" or case.points[0].startswith("launcher."):
            self._ended(launcher, case.points[0])
            return
        self._deaths_of_this += len(case.points) + (case.way != "train")
        goes_on = self._goes_on(launcher)
        launcher.wait_for(lambda p: p.env_steps > before.env_steps + 100 and goes_on(p), timeout_sec=240)
        if self._deaths_of_this >= DEATHS_OF_A_LAUNCHER:
            self.end()

    def training(self) -> Launcher:
        """A launcher that plays, learns and has saved: the one that is there, or one that goes on with the run."""
        if self.launcher is None:
            before = self._progress()
            self._start().wait_for(
                # Without a checkpoint a recovery does not come to all of its points.
                lambda p: p.env_steps > before.env_steps + 100 and p.updates > 0 and p.newest_checkpoint > 0,
                timeout_sec=240,
            )
        assert self.launcher is not None
        return self.launcher

    def end(self) -> None:
        """TERM to a launcher that is there, and the account of its run."""
        if self.launcher is not None:
            launcher = self.launcher
            code, _ = launcher.terminate()
            assert code == EXIT_OK, launcher.output
            assert "Traceback" not in launcher.output
            self._take_account(in_order=True)
            self.launcher = None

    def _ask(self, point: str) -> None:
        (self._folder / point).touch()

    def _wait_until_gone(self, point: str, launcher: Launcher, on_the_way: bool = False) -> None:
        deadline = time.monotonic() + GONE_SEC
        while (self._folder / point).exists():
            assert time.monotonic() < deadline, f"nobody came to {point}"
            assert not on_the_way or launcher.process.poll() is None, f"the launcher ended before {point}"
            time.sleep(0.02)
        self.died += 1

    def _start(self) -> Launcher:
        self._deaths_of_this = 0
        self.launcher = self.run.start(**{"max_runtime_seconds": 3600, **CHANGES.get(self._group, {})})
        return self.launcher

    def _ended(self, launcher: Launcher, point: str) -> None:
        """The launcher died at the point, or ended with a child that did."""
        code = launcher.wait()
        of_launcher = point.startswith(("launcher.", "atomic."))
        of_child = EXIT_FAILURE if point.startswith("learner.") else EXIT_OK
        assert code == (-signal.SIGKILL if of_launcher else of_child), launcher.output
        self._take_account(in_order=False)
        self.launcher = None

    def _progress(self) -> Progress:
        return read_progress(self.run.run_dir.progress) or Progress(run_name="", target_total_steps=0)

    def _goes_on(self, launcher: Launcher) -> Callable[[Progress], bool]:
        """Whether the learner that wrote the progress is there, with both actors."""
        return lambda p: list(launcher.children("learner")) == [p.jobs[-1].pid] and len(launcher.children("actor")) == 2

    def _take_account(self, in_order: bool) -> None:
        if self.run.run_dir.progress.exists():
            account = self.run.account(killed=True, ended=in_order, damaged=self._group == "eviction")
            assert account.damaged == 0
            assert account.notes == []


def portions() -> Iterator[tuple[str, list[Case]]]:
    """Each group, cut into parts of about as many deaths as one launcher should see."""
    for group, its_cases in GROUPS.items():
        part: list[Case] = []
        for case in its_cases:
            part.append(case)
            if sum(len(one.points) for one in part) >= DEATHS_OF_A_LAUNCHER:
                yield group, part
                part = []
        if part:
            yield group, part


def go_through(
    run: ChaosRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, the_cases: list[Case]
) -> None:
    deaths = Deaths(run, tmp_path / "requests", monkeypatch, group)
    for case in the_cases:
        deaths.go_through(case)
    deaths.training()
    deaths.end()
    assert deaths.died == sum(len(case.points) for case in the_cases)
    run.next_start(run.account(killed=True, ended=False, damaged=group == "eviction"))
    assert list((tmp_path / "requests").iterdir()) == []


def test_every_point_is_in_the_table() -> None:
    points = {point.partition("@")[0] for group in GROUPS.values() for case in group for point in case.points}
    assert points == set(CRASH_POINTS)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_death_in_a_checkpoint_a_record_a_recovery_and_a_delivery(
    run: ChaosRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = [
        Case("train", ("actor.sent",)),
        Case("train", ("replay.half_a_record", "restore.tail_cut")),
        Case("train", ("checkpoint.renamed",)),
    ]
    go_through(run, tmp_path, monkeypatch, "few", few)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("group", "part"), [pytest.param(*portion, id=f"{portion[0]}-{portion[1][0].points[0]}") for portion in portions()]
)
def test_all_deaths(
    run: ChaosRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, part: list[Case]
) -> None:
    go_through(run, tmp_path, monkeypatch, group, part)
