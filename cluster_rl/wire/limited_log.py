"""Lines for the learner's log that peers can cause, and so must be few: the first of each kind, then a sum a minute.

Used by the learner's channel and its wire thread. In: a kind and a line. Out: print.
"""

from __future__ import annotations

import time

_LINES_OF_A_KIND = 10
_INTERVAL_SEC = 60.0


class LimitedLog:
    """Prints the first lines of each kind in `interval_sec`, and at its end how many more there were.

    Kinds are few, and never a peer's words.
    """

    def __init__(self, lines: int = _LINES_OF_A_KIND, interval_sec: float = _INTERVAL_SEC) -> None:
        self._lines, self._interval_sec = lines, interval_sec
        self._counts: dict[str, int] = {}
        self._newest: dict[str, str] = {}
        self._due = time.monotonic() + interval_sec

    def say(self, kind: str, line: str) -> None:
        """Prints `line`, or counts it."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        if self._counts[kind] <= self._lines:
            print(line, flush=True)
        else:
            self._newest[kind] = line

    def tick(self) -> None:
        """Prints the sums where they are due. Call it often."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + self._interval_sec
            for kind, line in self._newest.items():
                more = self._counts[kind] - self._lines
                print(f"{kind}: {more:,} more in the last {self._interval_sec:.0f} s, the newest: {line}", flush=True)
            self._counts.clear()
            self._newest.clear()
