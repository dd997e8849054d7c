"""Processes that stand still, twins, and a learner that is too slow: others wait or are refused, and nothing grows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chaos_run import ChaosRun, Kind
from run_fixtures import environment

from cluster_rl.errors import EXIT_BAD_INPUT, EXIT_OK

_STOPPED_SEC = 60.0
_MIB = 2**20


def _resident_bytes(pid: int) -> int:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024


@pytest.mark.chaos
@pytest.mark.parametrize("kind", ["actor", "learner", "launcher"])
def test_a_process_stands_still_for_a_minute(run: ChaosRun, kind: Kind) -> None:
    launcher = run.training()
    before = launcher.progress()
    assert before is not None
    pid = run.send(launcher, kind, signal.SIGSTOP)
    time.sleep(_STOPPED_SEC)
    os.kill(pid, signal.SIGCONT)
    launcher.wait_for(lambda p: p.env_steps > before.env_steps + 500 and p.updates > before.updates + 50)
    code, _ = launcher.terminate()
    assert code == EXIT_OK, launcher.output
    run.next_start(run.account())


@pytest.mark.chaos
def test_one_actor_that_stands_still_does_not_stop_the_other(run: ChaosRun) -> None:
    launcher = run.training()
    stopped = run.send(launcher, "actor", signal.SIGSTOP)
    before = launcher.progress()
    assert before is not None
    launcher.wait_for(lambda p: p.env_steps > before.env_steps + 1000)
    os.kill(stopped, signal.SIGCONT)
    code, _ = launcher.terminate()
    assert code == EXIT_OK, launcher.output
    run.next_start(run.account())


@pytest.mark.chaos
def test_memory_is_flat_beside_a_slow_learner(run: ChaosRun) -> None:
    """The learner runs a quarter of the time; what the actors cannot send, they do not pile up."""
    launcher = run.training(env_steps=1000)
    (learner,) = run.pids(launcher, "learner")
    processes = [learner, *run.pids(launcher, "actor")]

    def slow_sec(seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            os.kill(learner, signal.SIGSTOP)
            time.sleep(0.75)
            os.kill(learner, signal.SIGCONT)
            time.sleep(0.25)

    slow_sec(15)
    before = [_resident_bytes(pid) for pid in processes]
    slow_sec(60)
    grown = [_resident_bytes(pid) - first for pid, first in zip(processes, before, strict=True)]
    assert all(growth < 16 * _MIB for growth in grown), grown
    code, _ = launcher.terminate()
    assert code == EXIT_OK, launcher.output
    run.next_start(run.account())


@pytest.mark.chaos
def test_two_launchers_at_once(run: ChaosRun) -> None:
    """One has the run; the other is told so in a line, and changes nothing."""
    first, second = run.start(target_total_steps=1500), run.start(target_total_steps=1500)
    codes = sorted([first.wait(), second.wait()])
    assert codes == [EXIT_OK, EXIT_BAD_INPUT], first.output + second.output
    (refused,) = (launcher for launcher in (first, second) if launcher.process.returncode == EXIT_BAD_INPUT)
    line = refused.output.strip().splitlines()[-1]  # on a busy machine it tells before what it is about
    assert "is being trained by process" in line
    assert "Traceback" not in refused.output
    run.next_start(run.account())


@pytest.mark.chaos
def test_two_actors_with_one_number(run: ChaosRun) -> None:
    """A second process asks for the number of actor 0: it waits, and plays once that one is dead. Each step counts
    once."""
    launcher = run.training(max_restarts=100)
    command = [sys.executable, "-m", "cluster_rl.actor", "--run-dir", str(run.run_dir.path), "--slot", "0"]
    said = run.folder / "twin.log"
    with said.open("wb") as log:
        variables = environment() | run.variables
        twin = subprocess.Popen(command, cwd=run.folder, env=variables, stdout=log, stderr=log)

    def go_on(words: str) -> None:
        """The twin says this, and then the run trains on."""
        launcher.wait_for(lambda _: words in said.read_text())
        before = launcher.progress()
        assert before is not None
        launcher.wait_for(lambda p: p.env_steps > before.env_steps + 1000 and p.updates > before.updates + 20)

    def holders() -> set[int]:
        return {pid for pid, line in launcher.children("actor").items() if "--slot 0" in line}

    try:
        go_on("another process plays as actor 0")
        assert "playing as actor 0" not in said.read_text()
        for _ in range(5):  # its successor may be the one to get the number
            (first,) = holders()
            os.kill(first, signal.SIGKILL)
            launcher.wait_for(lambda _, killed=first: bool(holders() - {killed}))
            if "playing as actor 0" in said.read_text():
                break
        go_on("playing as actor 0")
    finally:
        twin.terminate()
        twin.wait(60)
    assert "Traceback" not in said.read_text()
    code, _ = launcher.terminate()
    assert code == EXIT_OK, launcher.output
    run.next_start(run.account(killed=True))
