"""Ends of real runs: on a busy machine, asked twice, with no learner there. Exit code and reason are true."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_fixtures import Launcher, logged_positions, overrides, processes_of

from cluster_rl.errors import EXIT_FAILURE, EXIT_OK
from cluster_rl.runs.checkpoint import load_checkpoint

BUSY = 8  # besides launcher, learner and two actors: a load of about 10


@contextlib.contextmanager
def busy_machine(count: int = BUSY) -> Iterator[list[int]]:
    """Loops that take what they get, as another user's job would; stopped, until `SIGCONT` lets them go."""
    loops = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(count)]
    try:
        for loop in loops:
            loop.send_signal(signal.SIGSTOP)
        yield [loop.pid for loop in loops]
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def tell(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.kill(pid, number)


def assert_all_is_saved(launcher: Launcher, reason: str) -> None:
    """A checkpoint of the last update, every step counted, and nobody left."""
    progress = launcher.progress()
    assert progress is not None
    assert progress.jobs[-1].reason == reason, launcher.output
    found = load_checkpoint(launcher.run_dir.checkpoint)
    assert found is not None
    assert found.updates == progress.updates == progress.jobs[-1].updates_end
    distinct, counted, episodes = logged_positions(launcher.run_dir)
    assert distinct == counted == progress.env_steps == progress.jobs[-1].env_steps_end
    assert episodes == progress.episodes
    assert processes_of(launcher.run_dir) == []


def end_under_load(folder: Path, target: int) -> None:
    """One TERM to a run that trains, as the machine has just become busy."""
    with busy_machine() as loops:
        launcher = Launcher(folder, *overrides(target_total_steps=target))
        before = launcher.progress()
        jobs = len(before.jobs) if before is not None else 0
        launcher.wait_for(lambda p: len(p.jobs) > jobs and p.updates > p.jobs[-1].updates_start + 5)
        tell(loops, signal.SIGCONT)
        code, _ = launcher.terminate()
    assert "was killed" not in launcher.output, launcher.output
    assert code == EXIT_OK, launcher.output
    assert_all_is_saved(launcher, "signal SIGTERM")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_terms_on_a_busy_machine_lose_nothing(tmp_path: Path) -> None:
    for _ in range(int(os.environ.get("CLUSTER_RL_TERMS", "30"))):
        end_under_load(tmp_path, target=10_000_000)


@pytest.mark.parametrize("busy", [0, pytest.param(BUSY, marks=pytest.mark.slow)])
def test_who_asks_twice_waits_for_the_checkpoint_alone(tmp_path: Path, busy: int) -> None:
    """With an actor that will never answer."""
    with busy_machine(busy) as loops:
        launcher = Launcher(tmp_path, *overrides(target_total_steps=10_000_000))
        launcher.wait_for(lambda p: p.updates > 5)
        stopped = next(iter(launcher.children("actor")))
        os.kill(stopped, signal.SIGSTOP)
        tell(loops, signal.SIGCONT)
        # As from a terminal, which tells the whole group, and the launcher tells its children once more.
        group = [launcher.process.pid, *launcher.children("learner"), *launcher.children("actor")]
        asked = time.monotonic()
        tell(group, signal.SIGINT)
        time.sleep(1.5)
        tell(group, signal.SIGINT)
        code = launcher.wait(60)
    assert code == EXIT_OK, launcher.output
    assert time.monotonic() - asked < 30, "it waited as long as after one"
    assert "actor-" in launcher.output
    assert "learner did not end" not in launcher.output
    assert_all_is_saved(launcher, "signal SIGINT")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_job_that_ends_while_its_learner_is_down_says_what_is_lost(tmp_path: Path, number: signal.Signals) -> None:
    changes = overrides(target_total_steps=10_000_000, checkpoint_interval_seconds=3600, num_actors=1)
    launcher = Launcher(tmp_path, *changes)
    launcher.wait_for(lambda p: p.updates > 5)
    (victim,) = launcher.children("learner")
    os.kill(victim, signal.SIGKILL)
    if number == signal.SIGUSR2:  # not at once, but while the next one imports
        deadline = time.monotonic() + 60
        while not set(launcher.children("learner")) - {victim}:
            assert time.monotonic() < deadline, "the learner was not started again"
            time.sleep(0.01)
    code, _ = launcher.terminate(number)
    progress = launcher.progress()
    assert progress is not None
    (job,) = progress.jobs
    lost = f"the run goes on from update 0, {progress.updates} are lost"
    assert job.reason == f"signal {number.name}; the learner ended without a checkpoint; {lost}"
    assert code == EXIT_FAILURE, launcher.output
    assert processes_of(launcher.run_dir) == []
