"""The page of a run, drawn again when the run's files have changed, or long have not though it should train.

A thread of `watch` does it. In: the run's directory, which may grow, be damaged or go away meanwhile. Out: the page on
the `Board`, and the run's facts for whoever wants them. It takes a tenth of a core at most, at low priority.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cluster_rl.errors import UserError
from cluster_rl.jobs.signals import hold_signals
from cluster_rl.report.page import page_of
from cluster_rl.report.run_facts import RunFacts, read_run
from cluster_rl.runs.layout import RunDir
from cluster_rl.watching.board import Board

NICE: Final = 10
"""Of what draws and renders, and its processes: a tenth of a core beside one that trains on it."""
REST: Final = 9
"""So many times the CPU time that a page took is waited before the next one, at least: what does not depend on what
else runs."""
SILENCE_SEC: Final = 300.0
"""While the newest job has no end, the page is drawn at least so often: that nothing is written any more is told by the
clock, when no file changes."""
LOOK_SEC: Final = 2.0
"""As often as a page asks."""


def work_quietly() -> None:
    """For a thread's first line: it has low priority, as have processes that it starts, and signals go to the main
    thread."""
    hold_signals()
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, max(NICE, os.getpriority(os.PRIO_PROCESS, thread)))


class Drawer:
    """Draws the page of one run."""

    def __init__(self, run_dir: RunDir, board: Board, every_sec: float, offer: Callable[[RunFacts], None]) -> None:
        """A page is drawn at most every `every_sec`; `offer` gets the facts that it was drawn from."""
        self._run_dir, self._board, self._every_sec, self._offer = run_dir, board, every_sec, offer
        self._drawn: tuple[object, ...] | None = None
        self._not_before = 0.0
        self._drawn_again_at = math.inf

    def run(self, stopping: Callable[[float], bool]) -> None:
        """Draws until `stopping`, which waits for so many seconds, says so."""
        work_quietly()
        wait_sec = 0.0
        while not stopping(wait_sec):
            wait_sec = LOOK_SEC
            if time.monotonic() >= self._not_before and (not self._board.page or self._board.is_watched):
                self.look()

    def look(self) -> bool:
        """Draws the page if the run's files have changed since, or are silent, and returns whether it did. What hinders
        it is noted, and the page stays as it was."""
        if not self._run_dir.exists():
            self._board.note("page", f"{self._run_dir.path}: the run is gone; this is what was last seen of it")
            return False
        found = stamps(self._run_dir)
        if found == self._drawn and time.monotonic() < self._drawn_again_at:
            self._board.note("page", "")
            return False
        began, worked = time.monotonic(), time.thread_time()
        try:
            run = read_run(self._run_dir)
            page = page_of([run], self._run_dir.report, live=self._board.next_page).encode()
        except (UserError, OSError) as error:  # a file that went while it was looked at
            self._board.note("page", f"the page is not drawn anew: {error}")
            return False
        finally:
            rest_sec = REST * (time.thread_time() - worked)
            self._not_before = max(began + self._every_sec, time.monotonic() + rest_sec)
        if not self._run_dir.exists():  # it went meanwhile, and the page would be empty
            return False
        self._drawn = found
        trains = bool(run.jobs) and run.jobs[-1].ended is None
        self._drawn_again_at = began + SILENCE_SEC if trains else math.inf
        self._board.put_page(page, linked_files(run))
        self._board.note("page", "")
        self._offer(run)
        return True


def stamps(run_dir: RunDir) -> tuple[object, ...]:
    """What changes when a file that the page is made of does: of each its time, size and number; None where there is
    none."""
    paths = (run_dir.identity, run_dir.config, run_dir.progress, run_dir.episodes, run_dir.metrics, run_dir.quests)
    found: list[object] = []
    for path in (*paths, run_dir.jobs, run_dir.videos):
        stamp = None
        with contextlib.suppress(OSError):
            told = path.stat()
            stamp = told.st_mtime_ns, told.st_size, told.st_ino
        found.append(stamp)
    return tuple(found)


def linked_files(run: RunFacts) -> dict[str, Path]:
    """The videos and pictures that the page links to, by where it does."""
    folder = run.run_dir.videos
    names = {*run.videos.there.values(), *run.videos.pictures.values()}
    return {f"{folder.name}/{name}": folder / name for name in names}
