"""The newest play of a run as a video: which episode that is, and its rendering, one at a time.

A thread of `watch` does it, and has a process render, with low priority, as the replayer's workers do. In: the facts of
a run, and the logs of its episodes. Out: films on the `Board`, kept in a folder of watch's own, as it only reads the
run. An episode that cannot be rendered is told, and the next best is taken.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Final, NamedTuple

from cluster_rl.errors import EXIT_FAILURE, UserError
from cluster_rl.rendering.work import Job, Look, Outcome, start_worker, work
from cluster_rl.report.run_facts import RunFacts
from cluster_rl.report.run_rows import EpisodeRow
from cluster_rl.report.video import find_encoder
from cluster_rl.report.video_record import path_picture, remove
from cluster_rl.rom import load_rom
from cluster_rl.runs.episode_log import SUFFIX
from cluster_rl.watching.board import Board, Film
from cluster_rl.watching.drawing import work_quietly

GREEDY_EPSILON: Final = 0.1
"""Above it an episode shows the dice rather than the agent."""
MOST_TRIES: Final = 3
"""Episodes that are tried, of one look at the run."""
_FPS: Final = 30
_LOOK_SEC: Final = 0.25


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
        times as fast as the game a video plays."""
        self._board, self._folder, self._rom = board, folder, rom
        self._look = Look(_FPS, speed, True, "mp4")
        self._offered: RunFacts | None = None
        self._failed: set[str] = set()
        self._shown = ""
        self._films = 0

    def offer(self, run: RunFacts) -> None:
        """Newer facts, from any thread."""
        self._offered = run

    def run(self, stopping: Callable[[float], bool]) -> None:
        """Renders until `stopping`, which waits for so many seconds, says so."""
        work_quietly()
        while not stopping(_LOOK_SEC):
            run = self._offered
            if run is not None and self._board.is_watched:
                self._offered = None
                self.show(run, stopping)

    def show(self, run: RunFacts, stopping: Callable[[float], bool]) -> None:
        """Renders the episode that is worth seeing now, unless it is shown already."""
        for _ in range(MOST_TRIES):
            folder = run.run_dir.episode_logs
            choice = choose(
                [
                    row
                    for row in run.episodes.newest
                    if row.reason != "stopped" and row.name not in self._failed and _log(folder, row).is_file()
                ]
            )
            if choice is None or choice.row.name == self._shown:
                return
            try:
                rom = self._rom or run.settings.rom
                load_rom(rom)
                find_encoder(".mp4")
                outcome = self._rendered(run, choice, rom, stopping)
            except (UserError, OSError) as error:  # of all episodes, and it may be mended
                self._board.note("film", f"nothing is rendered: {error}")
                return
            if outcome is None:
                return
            if outcome.record is not None:
                self._put(run, choice)
                return
            self._failed.add(choice.row.name)
            self._board.note("film", outcome.line)

    @property
    def _video(self) -> Path:
        return self._folder / f"{self._films + 1}.mp4"

    def _rendered(self, run: RunFacts, choice: Choice, rom: str, stopping: Callable[[float], bool]) -> Outcome | None:
        """Has a process render it. None where that was stopped; raises `OSError` where it cannot be started."""
        row = choice.row
        total = max(row.steps * run.settings.frame_skip, 1)
        context = multiprocessing.get_context("spawn")
        stop, frames = context.Event(), context.Value("q", 0)
        pool = ProcessPoolExecutor(1, context, start_worker, (rom, stop, frames))
        try:
            future = pool.submit(work, Job(_log(run.run_dir.episode_logs, row), total, self._video, self._look))
            while not concurrent.futures.wait([future], 0).done:
                if stopping(_LOOK_SEC):
                    return None
                # Past the lock: the process may have died with it.
                share = min(frames.get_obj().value / total, 1.0)
                self._board.note("film", f"{row.name}, {row.steps:,} steps, is rendered: {share:.0%}")
            return future.result()
        except BrokenProcessPool:
            return Outcome(EXIT_FAILURE, f"{row.name}: the process that rendered it died (out of memory?)")
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)

    def _put(self, run: RunFacts, choice: Choice) -> None:
        """Shows what was rendered, and removes what nobody is shown any more."""
        row, video = choice.row, self._video
        self._films += 1
        picture = path_picture(video)
        film = Film(self._films, video, picture if picture.exists() else None, film_words(run, choice))
        self._shown = row.name
        for old in self._board.put_film(film):
            remove(old.video)
        self._board.note("film", "")


def film_words(run: RunFacts, choice: Choice) -> str:
    """What a film shows, in a line."""
    row = choice.row
    reached = ", ".join(run.world.milestone_title(name) for name in row.milestones) or "no milestone"
    return (
        f"{row.name}, {choice.why}: return {row.episode_return:.2f}, {row.steps:,} steps, epsilon {row.epsilon:.3g}, "
        f"ended at env step {row.env_steps:,}; reached {reached}"
    )


def _log(folder: Path, row: EpisodeRow) -> Path:
    return folder / f"{row.name}{SUFFIX}"
