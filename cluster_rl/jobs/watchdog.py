"""Ends a process that no longer gets anywhere, so that its supervisor starts it again.

An actor uses it: PyBoy runs in compiled code, and a game that met an illegal instruction never comes back from it; no
signal handler of Python runs then. In: `alive()`, called again and again. Out: after `timeout_sec` without it, every
thread's traceback on stderr and exit code 1.
"""

from __future__ import annotations

import faulthandler
import time

_REARM_PART = 0.02


class Watchdog:
    """At most one in a process: it is `faulthandler`'s."""

    def __init__(self, timeout_sec: float) -> None:
        self._timeout_sec = timeout_sec
        self._rearm_at = 0.0

    def alive(self) -> None:
        """Starts the time anew; cheap enough for every step."""
        now = time.monotonic()
        if now >= self._rearm_at:
            self._rearm_at = now + _REARM_PART * self._timeout_sec
            faulthandler.dump_traceback_later(self._timeout_sec, exit=True)

    def close(self) -> None:
        """Lets the process take its time."""
        faulthandler.cancel_dump_traceback_later()
