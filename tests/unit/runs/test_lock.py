"""One launcher a run: the second is told who the first is, and a dead one holds nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster_rl.errors import EXIT_BAD_INPUT, EXIT_FAILURE, UserError, exit_code_of
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.lock import RunLock, current_holder, holder_path

HOLD = """
import subprocess, sys
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.lock import RunLock
lock = RunLock(RunDir(sys.argv[1], "one")).acquire()
child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL)
print(child.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path, "one").create()


@pytest.fixture
def holder(run_dir: RunDir) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock and has a child of its own."""
    argv = [sys.executable, "-c", HOLD, str(run_dir.root)]
    environment = {**os.environ, "SLURM_JOB_ID": "4711"}
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        child_pid = int(process.stdout.readline())
        yield process
        process.kill()
        os.kill(child_pid, signal.SIGKILL)


def test_the_second_launcher_is_told_who_holds_the_run(run_dir: RunDir, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(UserError, match=f"run 'one' is being trained by process {holder.pid} on .*SLURM job 4711"):
        RunLock(run_dir).acquire()
    current = current_holder(run_dir)
    assert current is not None
    assert (current.pid, current.slurm_job_id) == (holder.pid, "4711")


@pytest.mark.parametrize(("job", "code"), [("4711", EXIT_FAILURE), ("4712", EXIT_BAD_INPUT), (None, EXIT_BAD_INPUT)])
def test_an_earlier_start_of_this_slurm_job_is_no_bad_input(
    run_dir: RunDir, holder: subprocess.Popen[str], job: str | None, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node was lost, SLURM has requeued the job, and the launcher before has not ended: the chain goes on."""
    if job is not None:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    with pytest.raises(UserError, match=f"is being trained by process {holder.pid} on ") as error:
        RunLock(run_dir).acquire()
    assert exit_code_of(error.value) == code


def test_a_killed_holder_holds_nothing_though_its_child_lives(run_dir: RunDir, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    assert holder_path(run_dir).exists(), "it had no time to clean up"
    assert current_holder(run_dir) is None
    with RunLock(run_dir):
        current = current_holder(run_dir)
        assert current is not None
        assert current.pid == os.getpid()


def test_release_gives_the_lock_back_and_may_be_repeated(run_dir: RunDir) -> None:
    lock = RunLock(run_dir).acquire()
    with pytest.raises(UserError, match=f"process {os.getpid()} "):
        RunLock(run_dir).acquire()
    lock.release()
    lock.release()
    assert current_holder(run_dir) is None
    assert not holder_path(run_dir).exists()
    with RunLock(run_dir):
        pass


def test_an_unreadable_holder_does_not_hide_that_the_run_is_locked(run_dir: RunDir) -> None:
    with RunLock(run_dir):
        holder_path(run_dir).write_bytes(b"\xff{")
        with pytest.raises(UserError, match="is being trained by another process"):
            RunLock(run_dir).acquire()
        assert current_holder(run_dir) is not None


def test_other_runs_are_not_locked(run_dir: RunDir) -> None:
    with RunLock(run_dir), RunLock(RunDir(run_dir.root, "two").create()):
        assert current_holder(RunDir(run_dir.root, "three")) is None
