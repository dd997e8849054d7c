"""How far something long is: a bar on a terminal, a line a minute anywhere else, on stderr so that stdout stays clean.

Programs that play, check or render use it in their main process. In: what is done, of how much. Out: text; control
characters only where a terminal understands them.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console as Terminal
from rich.progress import BarColumn, Progress, TextColumn

LINE_INTERVAL_SEC = 60.0


def is_live(stream: TextIO) -> bool:
    """Whether `stream` is a terminal that can be drawn on. rich itself takes a file for one if FORCE_COLOR is set."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


def duration_words(seconds: float) -> str:
    """`12 s`, `35 min`, `3 h 20 min` or `2 d 4 h`."""
    minutes = round(seconds / 60)
    if seconds < 120:
        return f"{seconds:.0f} s"
    if minutes < 120:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes // (24 * 60)} d {minutes // 60 % 24} h"


def count_words(number: float, noun: str) -> str:
    """`1 episode`, `1,234 episodes` or `0.5 cores`."""
    text = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{text} {noun}{'' if number == 1 else 's'}"


def size_words(amount: float) -> str:
    """Bytes in decimal units, those of a cluster's limits: `1.2 GB`, `130 MB` or `3.4 MB`."""
    if amount >= 0.95e9:
        return f"{amount / 1e9:.1f} GB"
    return f"{amount / 1e6:.{0 if amount >= 9.5e6 else 1}f} MB"


def say(line: str) -> None:
    """Prints a line on stdout; one that begins with `WARNING` is bold where a terminal can show it."""
    loud = line.startswith("WARNING") and is_live(sys.stdout)
    print(f"\033[1m{line}\033[0m" if loud else line, flush=True)


class Bar:
    """One piece of work. A context manager; while it is open, what is printed appears above the bar."""

    def __init__(self, title: str, total: float | None = None, unit: str = "") -> None:
        """`total` amounts of `unit` (a plural) will be done; None where nobody can tell."""
        self._title, self._total, self._unit = title, total, unit
        self._done, self._words = 0.0, ""
        self._started = time.monotonic()
        self._over = threading.Event()
        self._teller = threading.Thread(target=self._tell, name="bar", daemon=True)  # where there is no terminal
        self._live: Progress | None = None
        if is_live(sys.stderr):
            self._live = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                console=Terminal(stderr=True),
                refresh_per_second=4,
                transient=True,
                redirect_stdout=is_live(sys.stdout),  # else it would go where the bar is
            )
            self._task = self._live.add_task(self._line(), total=total)

    def to(self, done: float, words: str = "") -> None:
        """`done` of the total is done; `words` say what is being done, or what came of it so far."""
        self._done, self._words = done, words
        if self._live is not None:
            self._live.update(self._task, completed=done, description=self._line())

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        else:
            self._teller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._live is not None:
            self._live.stop()
        else:
            self._teller.join()

    def _line(self) -> str:
        spent_sec = time.monotonic() - self._started
        parts = [self._words, duration_words(spent_sec)]
        if self._total is not None:
            parts.insert(0, f"{self._done:,.0f} of {self._total:,.0f} {self._unit}")
            if 0 < self._done < self._total:
                parts.append(f"about {duration_words(spent_sec / self._done * (self._total - self._done))} left")
        return f"{self._title}: {', '.join(filter(None, parts))}"

    def _tell(self) -> None:
        while not self._over.wait(LINE_INTERVAL_SEC):
            with contextlib.suppress(OSError, ValueError):  # nobody reads stderr: that ends no work
                print(self._line(), file=sys.stderr, flush=True)
