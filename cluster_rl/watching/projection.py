"""The newest play of a run as a video: which episode that is, and its rendering, one at a time.

A thread of `watch` does it, and has a process render, with low priority, as the replayer's workers do. In: the facts of
a run, and the logs of its episodes. Out: films on the `Board`, kept in a folder of watch's own, as it only reads the
run. An episode that cannot be rendered is told, and the next best is taken; what is not the episode's doing is tried
again.
"""

from __future__ import annotations

import concurrent.futures
import math
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Final, NamedTuple

from cluster_rl.errors import EXIT_STORAGE, UserError
from cluster_rl.rendering.work import Job, Look, Outcome, work
from cluster_rl.report.run_facts import RunFacts
from cluster_rl.report.run_rows import EpisodeRow
from cluster_rl.report.video import find_encoder, video_frames
from cluster_rl.report.video_record import path_picture, remove
from cluster_rl.rom import load_rom
from cluster_rl.runs.episode_log import SUFFIX
from cluster_rl.watching.board import Board, Film
from cluster_rl.watching.drawing import work_quietly
from cluster_rl.watching.worker import start

GREEDY_EPSILON: Final = 0.1
"""Above it an episode shows the dice rather than the agent."""
AGAIN_SEC: Final = 30.0
"""After so long it is tried again what failed by nothing that the episode can help."""
MOST_TRIES: Final = 3
"""So often an episode is rendered whose rendering dies, or finds the disk full, before it is passed over."""
MOST_FILM_SEC: Final = 300.0
"""A film that would be longer plays faster: a step costs little without a frame, and hours are not looked at."""
_FPS: Final = 30
_LOOK_SEC: Final = 0.25
_ENDING_SEC: Final = 1.0


class Choice(NamedTuple):
    """An episode to show, and why."""

    row: EpisodeRow
    why: str


def choose(rows: Sequence[EpisodeRow]) -> Choice | None:
    """Of episodes, oldest first, the newest with the lowest epsilon; where that is no greedy one, the newest of those
    with the highest return. None of none."""
    if not rows:
        return None
    lowest = min(row.epsilon for row in rows)
    if lowest < GREEDY_EPSILON:
        row = next(row for row in reversed(rows) if row.epsilon == lowest)
        return Choice(row, f"the newest with the lowest epsilon of {len(rows):,} new episodes")
    best = max(reversed(rows), key=lambda row: row.episode_return)
    return Choice(best, f"the highest return of {len(rows):,} new episodes, none of which was greedy")


class Projectionist:
    """Renders what is worth seeing of the facts that it was offered last."""

    def __init__(self, board: Board, folder: Path, rom: str, speed: int) -> None:
        """Videos go to `folder`. `rom` as for `load_rom`, empty for what the run's config says; `speed` is how many
        times as fast as the game a video plays, at least."""
        self._board, self._folder, self._rom, self._speed = board, folder, rom, speed
        self._offered: RunFacts | None = None
        self._done: RunFacts | None = None
        self._failed: set[str] = set()
        self._tries: Counter[str] = Counter()
        self._shown = ""
        self._films = 0

    def offer(self, run: RunFacts) -> None:
        """Newer facts, from any thread."""
        self._offered = run

    def run(self, stopping: Callable[[float], bool]) -> None:
        """Renders until `stopping`, which waits for so many seconds, says so."""
        work_quietly()
        not_before = 0.0
        while not stopping(_LOOK_SEC):
            run = self._offered
            if run is None or run is self._done or not self._board.is_watched or time.monotonic() < not_before:
                continue
            wait_sec = self.show(run, stopping)
            if wait_sec is None:
                self._done = run
            else:
                not_before = time.monotonic() + wait_sec

    def show(self, run: RunFacts, stopping: Callable[[float], bool]) -> float | None:
        """Renders the episode that is worth seeing now, unless it is shown already. Returns after how many seconds
        there is something to try of the same facts; None where one is shown or none is left."""
        folder = run.run_dir.episode_logs
        choice = choose(
            [
                row
                for row in run.episodes.newest
                if row.reason != "stopped" and row.name not in self._failed and _log(folder, row).is_file()
            ]
        )
        if choice is None or choice.row.name == self._shown:
            return None
        name = choice.row.name
        try:
            rom = self._rom or run.settings.rom
            load_rom(rom)
            find_encoder(".mp4")
            outcome = self._rendered(run, choice, rom, stopping)
        except (UserError, OSError) as error:  # of all episodes, and it may be mended
            self._board.note("film", f"nothing is rendered: {error}")
            return AGAIN_SEC
        except BrokenProcessPool:
            return self._put_off(name, f"{name}: the process that rendered it died (out of memory?)")
        if outcome is None:
            return AGAIN_SEC
        if outcome.record is not None:
            self._put(run, choice)
            return None
        if outcome.code == EXIT_STORAGE:
            return self._put_off(name, outcome.line)
        self._failed.add(name)  # damaged, or it leaves its recording: so it will stay
        self._board.note("film", outcome.line)
        return 0.0

    def _put_off(self, name: str, line: str) -> float:
        """Notes what was not the episode's doing, and returns when it is tried again, or another one."""
        self._tries[name] += 1
        if self._tries[name] < MOST_TRIES:
            self._board.note("film", f"{line}; it is tried again")
            return AGAIN_SEC
        self._failed.add(name)
        self._board.note("film", f"{line}; it is passed over after {MOST_TRIES} tries")
        return 0.0

    def _speed_of(self, run: RunFacts, row: EpisodeRow) -> int:
        return max(self._speed, math.ceil(video_frames(_game_frames(run, row), _FPS) / (_FPS * MOST_FILM_SEC)))

    @property
    def _video(self) -> Path:
        return self._folder / f"{self._films + 1}.mp4"

    def _rendered(self, run: RunFacts, choice: Choice, rom: str, stopping: Callable[[float], bool]) -> Outcome | None:
        """Has a process render it. None where that was stopped; raises `OSError` where it cannot be started,
        and `BrokenProcessPool` where it died."""
        row = choice.row
        total = _game_frames(run, row)
        look = Look(_FPS, self._speed_of(run, row), True, "mp4")
        context = multiprocessing.get_context("spawn")
        stop, frames = context.Event(), context.Value("q", 0)
        pool = ProcessPoolExecutor(1, context, start, (os.getpid(), rom, stop, frames))
        future = None
        try:
            future = pool.submit(work, Job(_log(run.run_dir.episode_logs, row), total, self._video, look))
            while not concurrent.futures.wait([future], 0).done:
                if stopping(_LOOK_SEC):
                    return None
                # Past the lock: the process may have died with it.
                share = min(frames.get_obj().value / total, 1.0)
                self._board.note("film", f"{row.name}, {row.steps:,} steps, is rendered: {share:.0%}")
            return future.result()
        finally:
            stop.set()
            if future is not None and not concurrent.futures.wait([future], _ENDING_SEC).done:
                # It may still import, or wait for the encoder. Its parts go with the folder of all films.
                for process in multiprocessing.active_children():
                    process.kill()
            pool.shutdown(cancel_futures=True)

    def _put(self, run: RunFacts, choice: Choice) -> None:
        """Shows what was rendered, and removes what nobody is shown any more."""
        row, video = choice.row, self._video
        self._films += 1
        picture = path_picture(video)
        words = film_words(run, choice, self._speed_of(run, row))
        film = Film(self._films, video, picture if picture.exists() else None, words)
        self._shown = row.name
        for old in self._board.put_film(film):
            remove(old.video)
        self._board.note("film", "")


def film_words(run: RunFacts, choice: Choice, speed: int) -> str:
    """What a film shows, in a line."""
    row = choice.row
    reached = ", ".join(run.world.milestone_title(name) for name in row.milestones) or "no milestone"
    return (
        f"{row.name}, {choice.why}: return {row.episode_return:.2f}, {row.steps:,} steps, epsilon {row.epsilon:.3g}, "
        f"ended at env step {row.env_steps:,}; reached {reached}"
        + (f"; plays {speed} times as fast as the game" if speed > 1 else "")
    )


def _game_frames(run: RunFacts, row: EpisodeRow) -> int:
    return max(row.steps * run.settings.frame_skip, 1)


def _log(folder: Path, row: EpisodeRow) -> Path:
    return folder / f"{row.name}{SUFFIX}"
