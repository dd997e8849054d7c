"""What storage does not take now: writes that are tried again until it does, and the words for it.

Runs in the learner, for all its threads, and in serial mode. In: functions that write. Out: whether they wrote, lines
in the log when an outage begins and ends, and the words that `progress.json` has meanwhile.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from cluster_rl.errors import StorageError, UserError
from cluster_rl.jobs.grace import LAST_TRIES_SEC

RETRY_FIRST_SEC, RETRY_MAX_SEC = 1.0, 30.0
_PAUSE_SEC = 0.5  # between the tries of a job that ends
_TOLD_INTERVAL_SEC = 60.0  # where the disk is full and not full by turns


class _Problem(NamedTuple):
    state: str  # such as "disk full"
    cause: str  # the path, and the system's words
    is_of_storage: bool


class Outage:
    """The writes that fail now, since the first of them did. Thread-safe; `say` gets the lines for the log."""

    def __init__(self, say: Callable[[str], object] = lambda line: print(line, flush=True)) -> None:
        self._say = say
        self._lock = threading.Lock()
        self._problems: dict[str, _Problem] = {}  # by what is written
        self._first: _Problem | None = None
        self._since = self._told = 0.0  # Unix seconds
        self._dropped: collections.Counter[str] = collections.Counter()

    @property
    def words(self) -> str:
        """`disk full since 14:03 (PATH: No space left on device)`; empty while everything is taken."""
        with self._lock:
            return self._words(next(iter(self._problems.values()))) if self._problems else ""

    @property
    def is_of_storage(self) -> bool:
        """Whether what storage does not take now is all that fails: that passes, and other reasons may not."""
        with self._lock:
            return all(problem.is_of_storage for problem in self._problems.values())

    def begin(self, what: str, error: UserError | OSError, dropped: str = "") -> None:
        """Notes that a write of `what` failed. `dropped`: what is not tried again, such as `rows of metrics`."""
        with self._lock:
            problem = _problem(error)
            if not self._problems:
                self._since, self._first = time.time(), problem
                if self._since - self._told >= _TOLD_INTERVAL_SEC:
                    self._told = self._since
                    self._say(f"{self._words(problem)}: what must be written is tried again until it is taken")
            self._problems[what] = problem
            if dropped:
                self._dropped[dropped] += 1

    def end(self, what: str) -> None:
        """Notes that a write of `what` succeeded."""
        with self._lock:
            if self._problems.pop(what, None) is None or self._problems:
                return
            assert self._first is not None
            if self._told >= self._since or self._dropped:
                dropped = "".join(f"; {count} {name} dropped" for name, count in self._dropped.items())
                now = time.time()
                self._say(f"{self._words(self._first)} is over after {now - self._since:.0f} s{dropped}")
            self._dropped.clear()

    def _words(self, problem: _Problem) -> str:
        return f"{problem.state} since {time.strftime('%H:%M', time.localtime(self._since))} ({problem.cause})"


class Writer:
    """Writes of one kind, every `interval_sec` seconds, and sooner after one that failed: with growing pauses.

    `dropped` names what is lost with a write that failed; empty where the next one makes up for it. Each belongs to one
    thread.
    """

    def __init__(self, outage: Outage, what: str, interval_sec: float = 0.0, dropped: str = "") -> None:
        self._outage, self._what, self._interval_sec, self._dropped = outage, what, interval_sec, dropped
        self._wait_sec, self._wait_max_sec = RETRY_FIRST_SEC, RETRY_MAX_SEC
        self._due = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether it is time to write."""
        return time.monotonic() >= self._due

    def make_due(self) -> None:
        """Has the next write wait for nothing."""
        self._due = time.monotonic()

    def put_off(self) -> None:
        """Has the next write wait for the whole interval."""
        self._due = time.monotonic() + self._interval_sec

    def hurry(self) -> None:
        """Has it be tried now and every second from now on, as the job ends. May be called by another thread."""
        self._wait_sec = self._wait_max_sec = RETRY_FIRST_SEC
        self.make_due()

    def write(self, action: Callable[[], object]) -> bool:
        """Whether `action` wrote. What it raises as a file cannot be written is noted in the outage."""
        try:
            action()
        except (UserError, OSError) as error:
            self._outage.begin(self._what, error, self._dropped)
            self._due = time.monotonic() + min(self._wait_sec, self._interval_sec or self._wait_sec)
            self._wait_sec = min(2 * self._wait_sec, self._wait_max_sec)
            return False
        self._outage.end(self._what)
        self._wait_sec = RETRY_FIRST_SEC
        self.put_off()
        return True

    def write_while(self, action: Callable[[], object], left_sec: Callable[[], float]) -> bool:
        """Tries at least once and as long as `left_sec()` says, in its last seconds without growing pauses; whether it
        wrote."""
        while not self.write(action):
            while (left := left_sec()) > LAST_TRIES_SEC and not self.is_due:
                time.sleep(_PAUSE_SEC)
            if left <= _PAUSE_SEC:
                return False
            if left <= LAST_TRIES_SEC:
                time.sleep(_PAUSE_SEC)
        return True


def _problem(error: UserError | OSError) -> _Problem:
    if isinstance(error, StorageError):
        return _Problem(error.state, error.cause, True)
    return _Problem("a file cannot be written", " ".join(str(error).split()), False)
