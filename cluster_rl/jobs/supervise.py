"""Keeps child processes running: starts them with a log file, restarts the dead, ends them all.

Used by the launcher. In: commands. Out: `ChildEvent`s whose line is for people: who died of what, the first error in
its log, and where that log is. A child that exits 0 or 85 (`EXIT_UNFINISHED`) is finished; one that exits 2 had bad
input, which no restart mends; nor does it what ends a child in the same way at three starts in a row. Full storage
(exit code 75) is waited for, ten minutes long, and costs no restart. A process that the system does not start at all
ends the job where it is the child's first.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cluster_rl.errors import (
    EXIT_BAD_INPUT,
    EXIT_FAILURE,
    EXIT_STORAGE,
    EXITS_WELL,
    describe_exit,
    exceeded_limit,
    is_of_storage,
)
from cluster_rl.jobs.grace import Grace
from cluster_rl.jobs.signals import HURRY_SIGNAL, die_with_parent, hold_signals

BACKOFF_FIRST_SEC = 0.5
BACKOFF_MAX_SEC = 30.0
# A child that ran this long was well: its next death starts again from the short delay, and is no death at its start.
HEALTHY_SEC = 120.0
# Deaths at the start, one after another and all alike, after which no further try is made.
_SAME_DEATHS = 3
# How long storage may refuse what a child needs at its start.
STORAGE_PATIENCE_SEC = 600.0
# Nothing a child does to itself: the next life may be let live.
_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)
_NUMBERS = re.compile(r"0x[0-9a-f]+|\d+")  # in an error's line: a port, a process id, an address, bytes left
_LAST_LINES = 20
_BAD_INPUT_SEC = 30.0
_POLL_SEC = 0.05
_LOG_HEAD_BYTES = 256 * 1024
_LOG_TAIL_BYTES = 64 * 1024
_MAX_ERROR_CHARS = 300

Kind = Literal["finished", "died", "restarted", "bad_input", "gave_up", "stopped"]


@dataclass(frozen=True)
class ChildEvent:
    """What happened to a child. `line` says it in words; `exit_code` is negative for a signal, None at a start."""

    name: str
    kind: Kind
    line: str
    exit_code: int | None
    log_path: Path

    @property
    def job_exit_code(self) -> int | None:
        """Exit code of the job that this ends, whichever child it is of; None where it ends none."""
        if self.kind == "bad_input":
            return EXIT_BAD_INPUT
        if self.kind == "gave_up":
            return EXIT_STORAGE if self.exit_code == EXIT_STORAGE else EXIT_FAILURE
        return None


@dataclass
class _Child:
    name: str
    argv: list[str]
    environment: dict[str, str] | None
    log_path: Path
    process: subprocess.Popen[bytes]
    log_start_bytes: int
    started_at: float
    restarts_left: int
    backoff_sec: float
    last_death: tuple[int, str] | None = None  # at its start: exit code and error, without the numbers in it
    same_deaths: int = 0
    refused_since: float | None = None  # by storage, at one start after another
    unstarted_since: float | None = None  # the system does not start it
    restart_at: float | None = None
    over: bool = False


class Supervisor:
    """Children of this process. Start them from the main thread: they are told when the starting thread ends.

    Stop signals wait in a child until it takes them, see `hold_signals`: none ends it in the middle of its imports.
    """

    def __init__(self, log_dir: Path, max_restarts: int) -> None:
        """`max_restarts` is the budget of each child; its logs are `log_dir/<name>.log`, appended to."""
        self._log_dir, self._max_restarts = log_dir, max_restarts
        self._children: dict[str, _Child] = {}
        self._unstarted: list[ChildEvent] = []  # for the next `poll`

    def start(self, name: str, argv: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Starts a child. `environment` is added to this process's own.

        What the system does not start is an event of the next `poll`: it ends the job, or is tried again where the same
        child was started before.
        """
        assert name not in self._children or self._children[name].over, f"{name} is running"
        full = {**os.environ, **environment} if environment else None
        log_path = self._log_dir / f"{name}.log"
        try:
            process, log_start = spawn(list(argv), full, log_path)
        except OSError as error:
            if (before := self._children.get(name)) is None:
                self._unstarted.append(_not_started(name, argv[0], log_path, error))
            else:
                before.over = False
                self._unstarted.append(_tried_later(before, error, time.monotonic()))
            return
        self._children[name] = _Child(
            name=name,
            argv=list(argv),
            environment=full,
            log_path=log_path,
            process=process,
            log_start_bytes=log_start,
            started_at=time.monotonic(),
            restarts_left=self._max_restarts,
            backoff_sec=BACKOFF_FIRST_SEC,
        )

    def poll(self) -> list[ChildEvent]:
        """What happened since the last call; starts again those whose delay is over. Never waits."""
        events, self._unstarted = self._unstarted, []
        now = time.monotonic()
        for child in self._children.values():
            if child.over:
                continue
            if child.restart_at is not None:
                if now >= child.restart_at:
                    self._restart(child, now, events)
            elif (code := child.process.poll()) is not None:
                self._ended(child, code, now, events)
        return events

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of the children that run now."""
        return {c.name: c.process.pid for c in self._children.values() if c.process.poll() is None and not c.over}

    @property
    def unfinished(self) -> list[str]:
        """Names of the children that run or will be started again, or of which `poll` has still to tell."""
        running = [child.name for child in self._children.values() if not child.over]
        return list(dict.fromkeys([*running, *(event.name for event in self._unstarted)]))

    def send(self, name: str, number: signal.Signals) -> None:
        """Sends a signal to one child, if it runs."""
        child = self._children[name]
        if child.process.poll() is None:
            child.process.send_signal(number)

    def stop_all(self, number: signal.Signals, grace: Grace) -> list[ChildEvent]:
        """Sends `number` to all, waits for them to end as long as `grace` leaves, kills the rest. Nothing is restarted.

        Once the grace is for hurrying, they are told so. A child that had died before and waited for its restart
        counts as ended.
        """
        started, hurried = time.monotonic(), False
        alive = [child for child in self._children.values() if not child.over]
        for child in alive:
            child.over = True
            if child.process.poll() is None:
                child.process.send_signal(number)
        while running := {child.name: child for child in alive if child.process.poll() is None}:
            if grace.left_sec(running) <= 0:
                break
            if not hurried and grace.is_short(running):
                hurried = True
                for child in running.values():
                    child.process.send_signal(HURRY_SIGNAL)
            time.sleep(_POLL_SEC)
        waited_sec = time.monotonic() - started
        events = []
        for child in alive:
            killed = child.process.poll() is None
            if killed:
                child.process.kill()
            code = child.process.wait()
            line = f"{child.name} did not end within {waited_sec:.0f} s and was killed; log {child.log_path}"
            if not killed:
                line = f"{child.name} ended: {describe_exit(code)}"
            events.append(ChildEvent(child.name, "stopped", line, code, child.log_path))
        return events

    def _ended(self, child: _Child, code: int, now: float, events: list[ChildEvent]) -> None:
        def tell(kind: Kind, line: str) -> None:
            events.append(ChildEvent(child.name, kind, line, code, child.log_path))

        if code in EXITS_WELL:
            child.over = True
            tell("finished", f"{child.name} finished")
            return
        error = first_error(child.log_path, child.log_start_bytes)
        line = f"{child.name} {describe_exit(code)}: {error or 'nothing in its log'}; log {child.log_path}"
        # Bad input shows at once. Later it is the words for something that passes, such as a quota or another learner.
        if code == EXIT_BAD_INPUT and now - child.started_at < _BAD_INPUT_SEC:
            child.over = True
            tell("bad_input", line)
        elif code == EXIT_STORAGE:
            self._refused(child, line, now, tell)
        elif _deaths_alike(child, code, error, now) >= _SAME_DEATHS:
            child.over = True
            last = last_lines(child.log_path, child.log_start_bytes)
            tell("gave_up", f"{line}; not started again: {_SAME_DEATHS} starts in a row ended in this way\n{last}")
        elif child.restarts_left == 0:
            child.over = True
            tell("gave_up", f"{line}; not started again, it was {self._max_restarts} times")
        else:
            child.refused_since = None
            pause_sec = _pause(child, now)
            tell("died", f"{line}; starting it again in {pause_sec:g} s, {child.restarts_left} restarts left")
            child.restarts_left -= 1

    def _refused(self, child: _Child, line: str, now: float, tell: Callable[[Kind, str], None]) -> None:
        """What follows as storage has refused what a child needs."""
        # A start may take minutes until it is refused: one that took longer than anybody would wait was up meanwhile.
        if child.refused_since is None or now - child.started_at > STORAGE_PATIENCE_SEC:
            child.refused_since = now
        waited_sec = now - child.refused_since
        if waited_sec > STORAGE_PATIENCE_SEC:
            child.over = True
            tell("gave_up", f"{line}; not started again, storage has refused it for {waited_sec:.0f} s")
        else:
            tell("died", f"{line}; starting it again in {_pause(child, now):g} s")

    def _restart(self, child: _Child, now: float, events: list[ChildEvent]) -> None:
        try:
            child.process, child.log_start_bytes = spawn(child.argv, child.environment, child.log_path)
        except OSError as error:
            events.append(_tried_later(child, error, now))
            return
        child.started_at, child.restart_at, child.unstarted_since = now, None, None
        line = f"{child.name} started again as process {child.process.pid}"
        events.append(ChildEvent(child.name, "restarted", line, None, child.log_path))


def _not_started(name: str, program: str, log_path: Path, error: OSError) -> ChildEvent:
    """Of a child's first start: bad input, but for what the machine or its storage refuses now."""
    if is_of_storage(error):
        return ChildEvent(name, "gave_up", _refusal(name, program, log_path, error), EXIT_STORAGE, log_path)
    kind: Kind = "gave_up" if exceeded_limit(error) else "bad_input"
    return ChildEvent(name, kind, _refusal(name, program, log_path, error), None, log_path)


def _tried_later(child: _Child, error: OSError, now: float) -> ChildEvent:
    """Sets when a child starts that the machine refuses now, ten minutes long: the same command was started before."""
    refusal = _refusal(child.name, child.argv[0], child.log_path, error)
    if child.unstarted_since is None:
        child.unstarted_since = now
    waited_sec = now - child.unstarted_since
    if waited_sec > STORAGE_PATIENCE_SEC:
        child.over = True
        code = EXIT_STORAGE if is_of_storage(error) else None
        return ChildEvent(
            child.name, "gave_up", f"{refusal}; not tried again, it was for {waited_sec:.0f} s", code, child.log_path
        )
    return ChildEvent(child.name, "died", f"{refusal}; trying again in {_pause(child, now):g} s", None, child.log_path)


def _refusal(name: str, program: str, log_path: Path, error: OSError) -> str:
    hint = exceeded_limit(error)
    return f"cannot start {name} ({program}, log {log_path}): {error.strerror}{': ' if hint else ''}{hint}"


def _pause(child: _Child, now: float) -> float:
    """Sets when the child starts again, and returns in how many seconds: longer from one death to the next."""
    if now - child.started_at > HEALTHY_SEC:
        child.backoff_sec = BACKOFF_FIRST_SEC
    pause_sec = child.backoff_sec
    child.restart_at = now + pause_sec
    child.backoff_sec = min(2 * child.backoff_sec, BACKOFF_MAX_SEC)
    return pause_sec


def _deaths_alike(child: _Child, code: int, error: str, now: float) -> int:
    """Notes a death; how many in a row, this one included, came at a start and had its exit code and error.

    Bad input that shows late is left out: it is the words for something that passes.
    """
    death = None
    if now - child.started_at <= HEALTHY_SEC and code not in (*_FROM_OUTSIDE, EXIT_BAD_INPUT):
        death = (code, _NUMBERS.sub("#", error))
    child.same_deaths = 0 if death is None else child.same_deaths + 1 if death == child.last_death else 1
    child.last_death = death
    return child.same_deaths


def become_child(parent_pid: int) -> None:
    """What a new process does before it is its program: its parent's end is told to it by a signal that waits."""
    die_with_parent(parent_pid)
    hold_signals()


def spawn(
    argv: list[str],
    environment: Mapping[str, str] | None,
    log_path: Path,
    becomes_child: bool = True,
) -> tuple[subprocess.Popen[bytes], int]:
    """The process, and the size of its log before it wrote anything. Raises `OSError` where the system refuses it.

    With `becomes_child` it does what `become_child` does before it is its program; without it no Python runs in a copy
    of this process. A log that cannot be opened now, as on a read-only file system, costs its lines and no process.
    """
    parent_pid = os.getpid()
    try:
        log = log_path.open("ab")
    except OSError as error:
        if not is_of_storage(error):
            raise
        print(f"{log_path}: {error.strerror}; what is said meanwhile is lost", flush=True)
        log = Path(os.devnull).open("ab")  # noqa: SIM115  (closed below)
    with log:
        start_bytes = log_path.stat().st_size if log_path.exists() else 0
        # The children stay in this process group, so that a terminal's Ctrl-C reaches them as SLURM's TERM does.
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            preexec_fn=(lambda: become_child(parent_pid)) if becomes_child else None,
        )
        return process, start_bytes


def first_error(log_path: Path, start_bytes: int = 0) -> str:
    """The first thing a log says went wrong, from byte `start_bytes` on, as one line; empty if it says nothing.

    That is an `error: ...` line, a watchdog's, or the exception's line of a traceback; failing these, the last line.
    """
    try:
        lines = _log_lines(log_path, start_bytes)
    except OSError as error:
        return f"the log cannot be read: {error.strerror}"
    in_traceback = False
    for line in lines:
        if line.startswith("Traceback (most recent call last)"):
            in_traceback = True
        elif line.startswith(("error: ", "Fatal Python error: ", "Timeout (")) or (in_traceback and line[:1].strip()):
            return line.strip()[:_MAX_ERROR_CHARS]
    return next((line.strip()[:_MAX_ERROR_CHARS] for line in reversed(lines) if line.strip()), "")


def last_lines(log_path: Path, start_bytes: int = 0) -> str:
    """The last lines of a log that say something, indented, from byte `start_bytes` on; empty if there are none."""
    try:
        lines = [line.rstrip() for line in _log_lines(log_path, start_bytes) if line.strip()]
    except OSError:
        return ""  # whoever asks has the line that says so
    return "\n".join(f"    {line[:_MAX_ERROR_CHARS]}" for line in lines[-_LAST_LINES:])


def _log_lines(log_path: Path, start_bytes: int) -> list[str]:
    """Beginning and end of a log, from byte `start_bytes` on. Raises `OSError`."""
    with log_path.open("rb") as file:
        file.seek(start_bytes)
        data = file.read(_LOG_HEAD_BYTES)
        size = file.seek(0, os.SEEK_END)
        if size > file.seek(max(start_bytes + len(data), size - _LOG_TAIL_BYTES)):
            data += b"\n" + file.read()
    return data.decode(errors="replace").splitlines()
