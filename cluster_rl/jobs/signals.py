"""What a process does on TERM, INT, HUP, USR1 and USR2: it notes the reason and goes on until it looks.

Used by the launcher and its children. In: signals. Out: a flag with a reason, and how often the end was demanded. A
handler does nothing else, so it can neither tear a write nor deadlock.
"""

from __future__ import annotations

import atexit
import ctypes
import math
import os
import signal
import time
from types import FrameType
from typing import Any

from cluster_rl.errors import EXIT_OK, EXIT_UNFINISHED

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
# A batch system's warning that the job's time is nearly over. TERM and INT are somebody's wish that it ends, HUP says
# that the terminal is gone.
WARNING_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)
# From the launcher to its children: leave out what can wait. No terminal and no batch system sends it.
HURRY_SIGNAL = signal.SIGRTMIN
# SLURM sends TERM to all processes and the job script hands its own on; a terminal does likewise with INT. What comes
# this soon after one that counted is the same demand.
_DOUBLED_SEC = 1.0
_PR_SET_PDEATHSIG = 1
_WAIT_SLICE_SEC = 0.05
# Loaded here, not after a fork: a forked child may only call what cannot need a lock.
_libc = ctypes.CDLL(None, use_errno=True)


def hold_signals() -> None:
    """Has the stop signals wait for `StopFlag.install`: for a program's first line, as its imports take seconds.

    It holds for the process that calls it, or that it becomes by exec, and for processes that this one starts.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, (*STOP_SIGNALS, HURRY_SIGNAL))


def release_signals() -> None:
    """Undoes `hold_signals`: what has come meanwhile is delivered now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*STOP_SIGNALS, HURRY_SIGNAL))


class StopFlag:
    """Set once, by a signal or by `set(reason)`; the first reason stays.

    `demands` counts how often TERM, INT or HUP told the process to end: somebody who does so again will not wait. The
    two halves of a doubled signal are one. `demanded_at` is when the first came, by `time.monotonic()`. `signalled`:
    any stop signal has come, also after the flag was set. `hurried` is what `HURRY_SIGNAL` sets.
    """

    def __init__(self) -> None:
        self.demands = 0
        self.demanded_at: float | None = None
        self.signalled = self.hurried = False
        self._counted_at = -math.inf
        self._reason: str | None = None
        self._signal: int | None = None
        self._before: dict[int, Any] = {}
        self._exit_code = EXIT_OK

    def install(self) -> StopFlag:
        """Takes over the stop signals of this process, and those that `hold_signals` had wait.

        Main thread only. Call it before any child is started. A hang-up that is ignored, as by `nohup`, stays so.
        """
        for number in STOP_SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            self._before[number] = signal.signal(number, self._handle)
        self._before[HURRY_SIGNAL] = signal.signal(HURRY_SIGNAL, self._handle)
        # Python takes the handlers back before the process is gone, and a late second signal would be its exit code.
        atexit.register(hold_signals)
        release_signals()
        return self

    def uninstall(self) -> None:
        """Gives the signals back to who had them before: for processes that live on, such as a notebook's."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
        atexit.unregister(hold_signals)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number == HURRY_SIGNAL:
            self.hurried = True
            return
        self.signalled = True
        now = time.monotonic()
        if number not in WARNING_SIGNALS and now - self._counted_at >= _DOUBLED_SEC:
            self.demands += 1
            self._counted_at = now
            if self.demanded_at is None:
                self.demanded_at = now
        if self._reason is None:
            self._signal = number
            self._exit_code = EXIT_UNFINISHED if number in WARNING_SIGNALS else EXIT_OK
            self._reason = f"signal {signal.Signals(number).name}"

    def set(self, reason: str, exit_code: int = EXIT_OK) -> None:
        """Asks for a stop from inside, for example `target reached` or `time is up`."""
        if self._reason is None:
            self._exit_code = exit_code
            self._reason = reason

    def __bool__(self) -> bool:
        return self._reason is not None

    def is_set(self) -> bool:
        """Whether a stop was asked for; for `should_stop=flag.is_set`."""
        return self._reason is not None

    @property
    def reason(self) -> str:
        """Why, in words; empty if no stop was asked for."""
        return self._reason or ""

    @property
    def exit_code(self) -> int:
        """What the process should exit with once it has stopped well: 0, or `EXIT_UNFINISHED` where its time was up."""
        return self._exit_code

    @property
    def signal_number(self) -> int | None:
        """The signal that set the flag; None if none did."""
        return self._signal

    def wait(self, timeout_sec: float) -> bool:
        """Sleeps until the flag is set or the time is up; returns whether it is set.

        It sleeps in slices because a handler that sets a flag does not end `time.sleep`, and waking a lock from a
        handler can deadlock.
        """
        deadline = time.monotonic() + timeout_sec
        while self._reason is None and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, _WAIT_SLICE_SEC))
        return self._reason is not None


def die_with_parent(parent_pid: int, signal_number: int = signal.SIGTERM) -> None:
    """Has the kernel send this process `signal_number` when its parent dies, `kill -9` included.

    `parent_pid` is the parent's own `os.getpid()`, taken before this process was started: if the parent died before
    the call, the kernel would never send anything, so this process ends here, with exit code 1. (The kernel watches
    the *thread* that started the child: start children from a thread that lives as long as the parent.)
    """
    if _libc.prctl(_PR_SET_PDEATHSIG, int(signal_number), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        os._exit(1)
