"""Real children: restarted, given up, told apart, stopped, and never left behind; and the flag that signals set."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest
from small_disk import SmallDisk

from cluster_rl.errors import EXIT_BAD_INPUT, EXIT_FAILURE, EXIT_STORAGE
from cluster_rl.jobs import supervise
from cluster_rl.jobs.grace import Grace
from cluster_rl.jobs.signals import StopFlag
from cluster_rl.jobs.supervise import ChildEvent, Supervisor, first_error

TAKE_SIGNALS = "import signal, sys, time\nsignal.pthread_sigmask(signal.SIG_SETMASK, [])\n"
SLEEP = [sys.executable, "-S", "-c", f"{TAKE_SIGNALS}time.sleep(60)"]


class Seconds(Grace):
    """So many, whatever happens; `short` from the start or never."""

    def __init__(self, seconds: float, short: bool = False) -> None:
        super().__init__(StopFlag(), patient=False, demanded_sec=seconds)
        self._ends, self._short = time.monotonic() + seconds, short

    def left_sec(self, running: Collection[str]) -> float:
        return self._ends - time.monotonic()

    def is_short(self, running: Collection[str]) -> bool:
        return self._short


@pytest.fixture(autouse=True)
def short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "BACKOFF_FIRST_SEC", 0.05)


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(tmp_path, max_restarts=2)
    yield supervisor
    supervisor.stop_all(signal.SIGKILL, Seconds(5))


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def until(reached: Callable[[], object], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def events_until(supervisor: Supervisor, kind: str) -> list[ChildEvent]:
    events: list[ChildEvent] = []

    def step() -> bool:
        events.extend(supervisor.poll())
        return any(event.kind == kind for event in events)

    until(step)
    return events


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended but was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_killed_child_comes_back(supervisor: Supervisor) -> None:
    supervisor.start("actor-0", SLEEP)
    pid = supervisor.pids["actor-0"]
    assert supervisor.poll() == []
    os.kill(pid, signal.SIGKILL)
    events = events_until(supervisor, "restarted")
    assert [event.kind for event in events] == ["died", "restarted"]
    assert events[0].exit_code == -signal.SIGKILL
    assert "actor-0 was killed by SIGKILL (out of memory?): nothing in its log; log " in events[0].line
    assert "2 restarts left" in events[0].line
    assert supervisor.pids["actor-0"] != pid
    assert is_alive(supervisor.pids["actor-0"])


def test_the_budget_ends_and_the_backoff_grows(supervisor: Supervisor, tmp_path: Path) -> None:
    started = time.monotonic()
    supervisor.start("actor-0", python("raise ValueError('no luck')"))
    events = events_until(supervisor, "gave_up")
    assert [event.kind for event in events] == ["died", "restarted", "died", "restarted", "gave_up"]
    assert time.monotonic() - started >= 0.05 + 0.1
    assert "starting it again in 0.05 s" in events[0].line
    assert "starting it again in 0.1 s" in events[2].line
    for event in (events[0], events[4]):
        assert f"ValueError: no luck; log {tmp_path / 'actor-0.log'}" in event.line
    assert supervisor.unfinished == []
    assert (tmp_path / "actor-0.log").read_text().count("Traceback") == 3


# Prints its number first, as a log does that says a port or a process id.
COUNTS = "import os, sys; print('life', os.getpid()); sys.exit('error: port 4{} is taken'.format(os.getpid()))"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (python("x = {}\nx['map']"), "KeyError: 'map'"),
        (python("import os; os.kill(os.getpid(), 11)"), "was killed by SIGSEGV: nothing in its log"),
        (python(COUNTS), "exited with code 1: error: port 4"),
    ],
)
def test_three_starts_that_end_alike_are_enough(tmp_path: Path, argv: list[str], says: str) -> None:
    supervisor = Supervisor(tmp_path, max_restarts=10)
    supervisor.start("actor-0", argv)
    events = events_until(supervisor, "gave_up")
    assert [event.kind for event in events] == ["died", "restarted", "died", "restarted", "gave_up"]
    first, *last = events[-1].line.splitlines()
    assert says in first
    assert first.endswith("not started again: 3 starts in a row ended in this way")
    log = (tmp_path / "actor-0.log").read_text().splitlines()
    assert last == [f"    {line}" for line in log[len(log) // 3 * 2 :]]
    assert supervisor.unfinished == []


# Each life says its number and ends in one of three ways, by turns.
BY_TURNS = """
import os, pathlib, sys
count = pathlib.Path(sys.argv[1])
life = int(count.read_text()) if count.exists() else 0
count.write_text(str(life + 1))
os.kill(os.getpid(), 9) if life % 3 == 0 else sys.exit("error: " + "ab"[life % 3 - 1])
"""


@pytest.mark.parametrize(
    ("code", "healthy_sec"),
    [
        (BY_TURNS, 120.0),  # no two in a row are alike
        ("import os; os.kill(os.getpid(), 9)", 120.0),  # from outside, as by the kernel where memory is short
        ("raise ValueError('the same, after hours of work')", 0.0),
        ("import sys, time; time.sleep(0.1); print('error: disk quota exceeded'); sys.exit(2)", 120.0),
    ],
)
def test_other_deaths_have_the_whole_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, healthy_sec: float
) -> None:
    monkeypatch.setattr(supervise, "HEALTHY_SEC", healthy_sec)
    monkeypatch.setattr(supervise, "_BAD_INPUT_SEC", 0.05)
    monkeypatch.setattr(supervise, "BACKOFF_MAX_SEC", 0.05)
    supervisor = Supervisor(tmp_path, max_restarts=4)
    supervisor.start("actor-0", [*python(code), str(tmp_path / "count")])
    events = events_until(supervisor, "gave_up")
    assert [event.kind for event in events].count("died") == 4
    assert events[-1].line.endswith("not started again, it was 4 times")


def test_zero_is_finished_and_two_is_bad_input_and_neither_comes_back(supervisor: Supervisor) -> None:
    supervisor.start("good", ["true"])
    finished = events_until(supervisor, "finished")
    assert [(event.name, event.exit_code) for event in finished] == [("good", 0)]
    supervisor.start("bad", python("import sys; print('error: the ROM is missing', file=sys.stderr); sys.exit(2)"))
    events = events_until(supervisor, "bad_input")
    assert "bad exited with code 2: error: the ROM is missing; log " in events[0].line
    time.sleep(0.15)
    assert supervisor.poll() == []
    assert supervisor.unfinished == []


def test_the_error_shown_is_that_of_the_last_life(supervisor: Supervisor, tmp_path: Path) -> None:
    (tmp_path / "actor-0.log").write_text("error: of a former job\n")
    supervisor.start("actor-0", python("raise KeyError('now')"))
    assert "KeyError: 'now'" in events_until(supervisor, "died")[0].line


def test_stop_all_is_soft_then_hard(supervisor: Supervisor, tmp_path: Path) -> None:
    ready = "open({!r}, 'w').close()\nwhile True: time.sleep(0.01)"
    soft, hard = tmp_path / "soft", tmp_path / "hard"
    heed = f"{TAKE_SIGNALS}signal.signal(signal.SIGTERM, lambda *a: sys.exit(0))\n"
    supervisor.start("soft", python(heed + ready.format(str(soft))))
    ignore = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    supervisor.start("hard", python(ignore + ready.format(str(hard))))
    until(lambda: soft.exists() and hard.exists())
    pids = list(supervisor.pids.values())
    events = {event.name: event for event in supervisor.stop_all(signal.SIGTERM, Seconds(0.5))}
    assert events["soft"].exit_code == 0
    assert events["hard"].exit_code == -signal.SIGKILL
    assert "did not end within" in events["hard"].line
    assert not any(is_alive(pid) for pid in pids)
    assert supervisor.poll() == []
    assert supervisor.stop_all(signal.SIGTERM, Seconds(0.5)) == []


@pytest.mark.parametrize("short", [False, True])
def test_children_are_told_once_the_time_is_short(supervisor: Supervisor, tmp_path: Path, short: bool) -> None:
    ready = tmp_path / "ready"
    wait = (
        "from cluster_rl.jobs.signals import StopFlag\nstop = StopFlag().install()\n"
        f"open({str(ready)!r}, 'w').close()\n"
        "while not stop.hurried: stop.wait(60) and time.sleep(0.01)\nprint(stop.reason)"
    )
    supervisor.start("actor-0", [sys.executable, "-c", f"import time\n{wait}"])
    until(ready.exists)
    (event,) = supervisor.stop_all(signal.SIGTERM, Seconds(20 if short else 0.5, short))
    assert event.exit_code == (0 if short else -signal.SIGKILL)
    assert (tmp_path / "actor-0.log").read_text() == "signal SIGTERM\n" * short


def test_a_child_that_is_starting_gets_its_signals_later(supervisor: Supervisor, tmp_path: Path) -> None:
    """Sent before it has even become the program that it will be."""
    take = "from cluster_rl.jobs.signals import StopFlag; print(StopFlag().install().reason)"
    supervisor.start("actor-0", [sys.executable, "-c", take])
    supervisor.send("actor-0", signal.SIGUSR2)
    assert events_until(supervisor, "finished")[0].exit_code == 0
    assert (tmp_path / "actor-0.log").read_text() == "signal SIGUSR2\n"


def test_a_child_that_waits_for_its_restart_is_not_started_by_stop(supervisor: Supervisor) -> None:
    supervisor.start("actor-0", ["false"])
    events_until(supervisor, "died")
    supervisor.stop_all(signal.SIGTERM, Seconds(1))
    time.sleep(0.15)
    assert supervisor.poll() == []
    assert supervisor.pids == {}


def test_a_program_that_is_not_there_is_bad_input(supervisor: Supervisor) -> None:
    supervisor.start("x", ["no-such-program"])
    assert supervisor.unfinished == ["x"]
    (event,) = supervisor.poll()
    assert (event.kind, event.job_exit_code) == ("bad_input", EXIT_BAD_INPUT)
    assert re.fullmatch(r"cannot start x \(no-such-program, log .*x\.log\): No such file or directory", event.line)
    assert supervisor.unfinished == []


@contextlib.contextmanager
def free_descriptors(count: int) -> Iterator[None]:
    """`ulimit -n` leaves this process so many more meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as held:
        held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (500, hard))
        files = []
        with contextlib.suppress(OSError):
            while True:
                files.append(held.enter_context(Path(os.devnull).open()))
        for file in files[len(files) - count :]:
            file.close()
        yield


@pytest.mark.parametrize("free", [0, 1, 3])
def test_open_files_that_are_all_used_end_the_job_and_may_be_tried_again(supervisor: Supervisor, free: int) -> None:
    """For the log, for /dev/null, for the pipe by which Python hears of its child."""
    with free_descriptors(free):
        supervisor.start("actor-0", SLEEP)
    (event,) = supervisor.poll()
    assert (event.kind, event.job_exit_code) == ("gave_up", EXIT_FAILURE)
    assert "Too many open files: more open files than `ulimit -n` allows; raise it, or run fewer" in event.line
    assert event.line.startswith("cannot start actor-0 (")


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (errno.EAGAIN, EXIT_FAILURE, "Resource temporarily unavailable: more processes than `ulimit -u` or the job"),
        (errno.ENOMEM, EXIT_FAILURE, "Cannot allocate memory: give it more memory, or run fewer at once"),
        (errno.ESTALE, EXIT_STORAGE, "Stale file handle"),  # of Python's own file
    ],
)
def test_a_fork_that_the_system_refuses_is_no_bad_input(
    supervisor: Supervisor, number: int, code: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root has no limit of processes, so the system's answer is made up."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", refuse)
        supervisor.start("actor-0", SLEEP)
    (event,) = supervisor.poll()
    assert event.job_exit_code == code
    assert words in event.line
    assert "\n" not in event.line


def test_a_child_that_ended_well_and_cannot_start_again_is_tried_later(supervisor: Supervisor) -> None:
    supervisor.start("actor-0", ["true"])
    events_until(supervisor, "finished")
    with free_descriptors(0):
        supervisor.start("actor-0", SLEEP)
    assert supervisor.unfinished == ["actor-0"]
    died, back = events_until(supervisor, "restarted")
    assert (died.kind, died.job_exit_code) == ("died", None)
    assert died.line.endswith("raise it, or run fewer at once; trying again in 0.05 s")
    assert back.line.startswith("actor-0 started again as process ")


def test_what_the_system_does_not_start_for_long_ends_the_job(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "STORAGE_PATIENCE_SEC", 0.2)
    supervisor.start("actor-0", ["true"])
    events_until(supervisor, "finished")
    with free_descriptors(0):
        supervisor.start("actor-0", SLEEP)
        end = events_until(supervisor, "gave_up")[-1]
    assert end.job_exit_code == EXIT_FAILURE
    assert "not tried again, it was for 0 s" in end.line
    assert supervisor.unfinished == []


LAUNCHER = f"""
import sys, time
from pathlib import Path
from cluster_rl.jobs.supervise import Supervisor
supervisor = Supervisor(Path(sys.argv[1]), 1)
supervisor.start("child", {SLEEP!r})
print(supervisor.pids["child"], flush=True)
time.sleep(60)
"""


def test_children_die_with_a_killed_launcher(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", LAUNCHER, str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        child = int(launcher.stdout.readline())
        assert is_alive(child)
        launcher.kill()
    until(lambda: not is_alive(child))


ORPHAN = """
import os, sys, time
from cluster_rl.jobs.signals import die_with_parent
parent = os.getpid()
if os.fork() == 0:
    while os.getppid() == parent: time.sleep(0.005)  # the parent is dead before the call
    if sys.argv[1] == "yes": die_with_parent(parent)
    print("still here", flush=True)
"""


@pytest.mark.parametrize(("call", "output"), [("yes", ""), ("no", "still here\n")])
def test_a_parent_that_died_before_the_call_is_noticed(call: str, output: str) -> None:
    done = subprocess.run([sys.executable, "-c", ORPHAN, call], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == output


FLAG = """
from cluster_rl.jobs.signals import StopFlag
flag = StopFlag().install()
print("ready", flush=True)
flag.wait(30)
first = flag.reason, flag.signal_number
flag.wait(0.3)
StopFlag.wait(StopFlag(), 0.3)
assert (flag.reason, flag.signal_number) == first
print(flag.reason, bool(flag), flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_sets_the_flag_and_its_repetition_kills_nothing(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", FLAG], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        started = time.monotonic()
        for _ in range(3):
            process.send_signal(number)
            time.sleep(0.02)
        output = process.stdout.read()
    assert (process.returncode, output) == (0, f"signal {number.name} True\n")
    assert time.monotonic() - started < 10, "the flag did not end the wait"


def test_the_first_reason_stays() -> None:
    flag = StopFlag()
    assert not flag
    assert (flag.reason, flag.wait(0.01)) == ("", False)
    flag.set("target reached")
    flag.set("time is up")
    assert (flag.reason, flag.is_set(), flag.wait(60), flag.signal_number) == ("target reached", True, True, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("start\nlast words\n\n", "last words"),
        ("a\nerror: bad key\nb\n", "error: bad key"),
        ('Traceback (most recent call last):\n  File "x", line 1\nOSError: gone\nlater\n', "OSError: gone"),
        ("Fatal Python error: Segmentation fault\n\nThread 1:\n", "Fatal Python error: Segmentation fault"),
        ("x" * 1000, "x" * 300),
    ],
)
def test_first_error(tmp_path: Path, text: str, expected: str) -> None:
    log = tmp_path / "log"
    log.write_text(text)
    assert first_error(log) == expected


def test_first_error_of_a_huge_log_looks_at_both_ends(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("noise\n" * 200_000 + "Traceback (most recent call last):\n  x\nRuntimeError: at the end\n")
    assert first_error(log) == "RuntimeError: at the end"
    assert "cannot be read" in first_error(tmp_path / "missing")


# --- storage that refuses ---


def test_a_child_that_storage_refuses_is_waited_for(supervisor: Supervisor, tmp_path: Path) -> None:
    """Its restarts are not counted, and starts that end alike are no reason to give up."""
    code = f"""
import pathlib, sys
tries = pathlib.Path({str(tmp_path / "tries")!r})
tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
if len(tries.read_text()) <= 5:
    print("error: /data: No space left on device")
    sys.exit({EXIT_STORAGE})
"""
    supervisor.start("learner", python(code))
    events = events_until(supervisor, "finished")
    deaths = [event for event in events if event.kind == "died"]
    assert len(deaths) == 5
    assert {event.exit_code for event in deaths} == {EXIT_STORAGE}
    assert supervisor.unfinished == []


def test_storage_that_refuses_for_good_ends_the_child_with_its_code(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where each start takes long until it is refused."""
    monkeypatch.setattr(supervise, "STORAGE_PATIENCE_SEC", 2.0)
    monkeypatch.setattr(supervise, "HEALTHY_SEC", 0.0)
    supervisor.start("learner", python(f"import sys; print('error: /data: full'); sys.exit({EXIT_STORAGE})"))
    end = events_until(supervisor, "gave_up")[-1]
    assert end.exit_code == EXIT_STORAGE
    assert "error: /data: full" in end.line
    assert "storage has refused it for" in end.line


def test_a_log_that_cannot_be_opened_costs_its_lines_alone(disk: SmallDisk, capfd: pytest.CaptureFixture[str]) -> None:
    logs = disk.folder / "logs"
    logs.mkdir()
    (logs / "actor-0.log").write_text("error: of an earlier job\n")
    supervisor = Supervisor(logs, max_restarts=2)
    with disk.read_only():
        supervisor.start("actor-0", python("import sys; print('lost'); sys.exit(3)"))
        supervisor.start("actor-1", python("print('lost')"))
        events = events_until(supervisor, "died")
        while "actor-1" in supervisor.unfinished:
            events += supervisor.poll()
            time.sleep(0.01)
        assert {event.name for event in events if event.kind == "finished"} == {"actor-1"}
        assert "an earlier job" not in "".join(event.line for event in events)
        supervisor.stop_all(signal.SIGKILL, Seconds(5))
    said = capfd.readouterr().out
    assert f"{logs}/actor-0.log: Read-only file system; what is said meanwhile is lost" in said
