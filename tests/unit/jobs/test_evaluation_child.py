"""An evaluation beside a training: when it starts, what is said of one that fails, and that none is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from run_golden import EVALUATION

from cluster_rl.config import Config
from cluster_rl.jobs import evaluation_child
from cluster_rl.jobs.evaluation_child import EvaluationChild
from cluster_rl.jobs.machine import use_of_process
from cluster_rl.jobs.supervise import spawn
from cluster_rl.runs.evaluation import save_evaluation
from cluster_rl.runs.layout import RunDir

SLEEP = "import time; time.sleep(60)"
BUSY = "while True: pass"


class Beside:
    """An `EvaluationChild` whose process runs Python code instead; what it said, and who ran."""

    def __init__(self, run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run_dir, self.said, self.code = run_dir, list[str](), SLEEP
        self.started: list[subprocess.Popen[bytes]] = []
        self.commands: list[list[str]] = []

        def start(
            argv: list[str], environment: dict[str, str], log_path: Path, becomes_child: bool
        ) -> tuple[subprocess.Popen[bytes], int]:
            self.commands.append(argv)
            process, size = spawn([sys.executable, "-S", "-c", self.code], environment, log_path, becomes_child)
            self.started.append(process)
            return process, size

        monkeypatch.setattr(evaluation_child, "spawn", start)

    def child(self, interval_sec: float) -> EvaluationChild:
        return EvaluationChild(Config(evaluate_interval_seconds=interval_sec), self.run_dir, self.said.append)

    def tend_until(self, child: EvaluationChild, reached: Callable[[], object]) -> None:
        deadline = time.monotonic() + 60
        while not reached():
            assert time.monotonic() < deadline, "it did not happen in time"
            child.tend()
            time.sleep(0.01)


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Beside]:
    run_dir = RunDir(tmp_path, "one").create()
    run_dir.online_params.touch()
    found = Beside(run_dir, monkeypatch)
    yield found
    for process in found.started:
        process.kill()
        process.wait()


def state_of(pid: int) -> str:
    """R, S, T and so on; Z of one that has ended and was not waited for, empty of one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


def test_nothing_starts_where_it_is_off(beside: Beside) -> None:
    with beside.child(0) as child:
        for _ in range(3):
            child.tend()
    assert (beside.started, beside.said) == ([], [])


def test_the_first_starts_with_the_first_parameters(beside: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_child, "_AGAIN_SEC", 0.05)
    beside.run_dir.online_params.unlink()
    with beside.child(3600) as child:
        for _ in range(10):
            child.tend()
            time.sleep(0.01)
        assert beside.started == []
        beside.run_dir.online_params.touch()
        beside.tend_until(child, lambda: beside.started)
        ((*program, _, root, _, name, last),) = beside.commands
        assert program == [sys.executable, "-m", "cluster_rl.jobs.evaluation_process", str(os.getpid()), "19"]
        assert (root, name, last) == (str(beside.run_dir.root), "one", "--publish")


@pytest.mark.parametrize(("ago_sec", "starts"), [(0, False), (3500, False), (3700, True), (-(10**6), False)])
def test_the_time_counts_over_jobs(beside: Beside, ago_sec: float, starts: bool) -> None:
    """Also where the clock was set back, which delays it by one interval at most."""
    newest = msgspec.structs.replace(EVALUATION, began=time.time() - ago_sec)
    save_evaluation(beside.run_dir.evaluation, newest)
    with beside.child(3600) as child:
        assert child._due <= time.monotonic() + 3600
        child.tend()
        assert len(beside.started) == starts


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os; os.kill(os.getpid(), 9)", "was killed by SIGKILL (out of memory?): nothing in its log"),
        ("raise ValueError('no luck')", "exited with code 1: ValueError: no luck"),
        ("import sys; sys.exit('error: a file is missing')", "exited with code 1: error: a file is missing"),
    ],
)
def test_one_that_dies_is_told_and_the_next_starts_when_it_is_due(beside: Beside, code: str, words: str) -> None:
    beside.code = code
    with beside.child(0.4) as child:
        began = time.monotonic()
        beside.tend_until(child, lambda: len(beside.started) >= 2)
        assert time.monotonic() - began >= 0.4
        assert beside.said[0].startswith(f"the evaluation {words}; log {beside.run_dir.logs / 'evaluate.log'}; ")
        beside.code = "pass"
        beside.tend_until(child, lambda: beside.run_dir.online_params.touch() or len(beside.started) >= 4)
    assert len(beside.said) <= 2, "a good end is not told"


def test_one_that_hangs_is_killed_and_the_next_starts(beside: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_child, "_LOOK_MIN_SEC", 0.3)
    beside.code = BUSY
    with beside.child(0.3) as child:
        beside.tend_until(child, lambda: beside.started)
        time.sleep(0.5)
        os.kill(beside.started[0].pid, signal.SIGSTOP)
        beside.tend_until(child, lambda: len(beside.started) >= 2)
        (line,) = beside.said
        assert line.startswith("the evaluation hangs, it has used no processor for 0 s, and was killed; log ")
    assert all(process.poll() == -signal.SIGKILL for process in beside.started)


def test_one_that_takes_longer_than_the_interval_goes_on(beside: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it gets next to nothing of the machine meanwhile, as in these tests it may."""
    monkeypatch.setattr(evaluation_child, "_LOOK_MIN_SEC", 0.1)
    beside.code = BUSY
    with beside.child(0.1) as child:
        child.tend()
        pid = beside.started[0].pid
        while not use_of_process(pid).processor_sec:  # its imports wait for a disk, which looks like a hang
            time.sleep(0.01)
        began = time.monotonic()
        beside.tend_until(child, lambda: time.monotonic() - began > 2)
        assert len(beside.started) == 1
        assert beside.said == []


def test_one_that_cannot_be_started_is_told(beside: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(evaluation_child, "spawn", refuse)
    with beside.child(3600) as child:
        child.tend()
        child.tend()
    (line,) = beside.said
    assert line.startswith("the evaluation cannot be started: Resource temporarily unavailable; log ")
    assert line.endswith("training goes on, and the next one starts in 60 min")


def test_where_nothing_was_played_the_next_waits_for_other_parameters_and_no_longer(
    beside: Beside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation_child, "_AGAIN_SEC", 0.01)
    beside.code = "pass"  # as those parameters were evaluated before
    params = beside.run_dir.online_params
    with beside.child(3600) as child:
        for number in (1, 2):
            beside.tend_until(child, lambda number=number: len(beside.started) == number)  # type: ignore[misc]
            beside.started[-1].wait()
            for _ in range(5):
                child.tend()
                time.sleep(0.02)
            assert len(beside.started) == number
            os.utime(params, ns=(number, number))
        beside.code = f"open({str(beside.run_dir.evaluation)!r}, 'w').close()"
        beside.tend_until(child, lambda: len(beside.started) == 3)
        beside.started[-1].wait()
        os.utime(params, ns=(9, 9))
        child.tend()
        child.tend()
        assert len(beside.started) == 3
        assert child._due > time.monotonic() + 3000
    assert beside.said == []


@pytest.mark.parametrize("stopped", [False, True])
def test_none_is_left_at_the_end(beside: Beside, stopped: bool) -> None:
    with beside.child(3600) as child:
        child.tend()
        if stopped:
            os.kill(beside.started[0].pid, signal.SIGSTOP)
    assert state_of(beside.started[0].pid) == ""
    child.tend()
    assert len(beside.started) == 1


# What Python runs in a forked copy of it, before that is a program, ends the copy.
PARENT = """
import os, sys, time
from pathlib import Path
from cluster_rl.config import Config
from cluster_rl.jobs.evaluation_child import EvaluationChild
from cluster_rl.runs.layout import RunDir
os.register_at_fork(after_in_child=lambda: os._exit(7))
child = EvaluationChild(Config(evaluate_interval_seconds=3600), RunDir(Path(sys.argv[1]), "one"), print)
child.tend()
print(child._process.pid, flush=True)
time.sleep(60)
"""


def test_the_kernel_kills_it_with_the_launcher_also_where_it_is_stopped(beside: Beside) -> None:
    command = [sys.executable, "-c", PARENT, str(beside.run_dir.root)]
    deadline = time.monotonic() + 60
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        while os.getpriority(os.PRIO_PROCESS, pid) != 19:  # it has asked the kernel before
            assert state_of(pid) not in ("", "Z"), "it ended before it was a program"
            assert time.monotonic() < deadline, "it starts too slowly"
            time.sleep(0.01)
        os.kill(pid, signal.SIGSTOP)
        while state_of(pid) != "T":  # a signal that comes before would be taken
            time.sleep(0.01)
        parent.kill()
    try:
        while state_of(pid) not in ("", "Z"):
            assert time.monotonic() < deadline, "it outlives the launcher"
            time.sleep(0.01)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
