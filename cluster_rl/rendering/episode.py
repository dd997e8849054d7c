"""One episode rendered: emulated again from its log, with a panel that comments on it if wanted.

The replayer's worker processes use it. In: a log and its ROM. Out: a video, and the map as the episode saw it, which
the picture of its path is drawn on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from cluster_rl.emulator.console import Frame
from cluster_rl.emulator.playback import first_state, knows_rewards, replay, reward_parts
from cluster_rl.errors import as_text
from cluster_rl.game.buttons import BUTTONS
from cluster_rl.game.flags import ProgressLatch
from cluster_rl.game.state import GameState
from cluster_rl.game.world import World
from cluster_rl.report.chapters import chapters
from cluster_rl.report.overlay import Chance, Facts, Narrator
from cluster_rl.report.path import SeenMap, draw_path
from cluster_rl.report.positions import known_places
from cluster_rl.report.recording import Recording
from cluster_rl.report.video import ENCODERS
from cluster_rl.report.video_record import path_picture
from cluster_rl.rewards import INTRINSIC_TERMS
from cluster_rl.rom import Rom
from cluster_rl.runs.episode_log import EpisodeHeader, EpisodeLog


def render(
    log: EpisodeLog,
    rom: Rom,
    source: str,
    stopping: Callable[[], bool],
    video: Path,
    fps: int,
    commentary: Commentary | None = None,
    speed: int = 1,
) -> SeenMap:
    """Renders an episode to an MP4 with chapters, a GIF, or a folder of PNGs where `video` ends as none of these.

    It plays `speed` times as fast as the game, with a panel if somebody comments on it. Returns the map as the episode
    saw it.

    Raises as `replay` does, and `UserError` where the encoder fails; the video is then not written.
    """
    world = World.for_rom(rom.sha1)
    seen = SeenMap(world)
    known = iter(known_places(log.positions).tolist())
    last: Frame
    videos, folder = ([video], None) if video.suffix in ENCODERS else ([], video)
    about = chapters(log.header, world, fps, speed)
    with Recording(videos, folder, fps, sys.maxsize, commentary is not None, speed, about) as recording:

        def on_frame(frame: Frame) -> None:
            nonlocal last
            last = frame
            recording.on_frame(frame)

        def on_step(state: GameState) -> None:
            recording.step(*(commentary.step(state) if commentary is not None else ()))
            if next(known):
                seen.look(state, last)

        replay(log, rom, source, stopping, on_frame, on_step)
    return seen


class Commentary:
    """What the panel tells of an episode. Logs have no values of a network's."""

    def __init__(
        self,
        log: EpisodeLog,
        rom: Rom,
        source: str,
        stopping: Callable[[], bool],
        chances: Mapping[str, Chance] | None = None,
        speed: int = 1,
    ) -> None:
        """Plays the episode to learn what was paid when. `chances` and `speed` as for `Narrator`. Raises as `replay`
        does."""
        header, world = log.header, World.for_rom(rom.sha1)
        self._frame_skip = header.frame_skip
        parts = reward_parts(log, rom, world, source, stopping)
        self._steps = zip(log.actions.tolist(), parts, strict=True)
        # No more is known of how a button was chosen: epsilon is not the share of random ones (docs/metrics.md).
        self._chosen = f"epsilon {header.epsilon:.3g}"
        state = first_state(log, source)
        reached = header.start.milestones if header.start is not None else []
        self._latch = ProgressLatch(world.milestones)
        self._latch.start(state)
        self._told = set(reached)
        self._return = 0.0
        self._narrator = Narrator(world, chances or {}, knows_rewards(header), speed)
        self._narrator.start(state, reached)

    def step(self, state: GameState) -> tuple[Facts, Facts]:
        """The facts during the next step, which led to `state`, and after it."""
        action, parts = next(self._steps)
        during = self._narrator.press(BUTTONS[action], self._chosen)
        milestones = [name for name in self._latch.update(state) if name not in self._told]
        self._return += sum(amount for name, amount in parts.items() if name not in INTRINSIC_TERMS)
        return during, self._narrator.look(self._frame_skip, state, milestones, parts, self._return)


def draw_path_of(log: EpisodeLog, rom: Rom, seen: SeenMap, video: Path, name: str) -> int:
    """Draws the episode's path beside its video; returns the picture's size in bytes, 0 where no map was seen.

    `name` is the log's. A picture of an older recording goes first, so that none stays where this one cannot be drawn.
    """
    picture, header = path_picture(video), log.header
    picture.unlink(missing_ok=True)
    milestones = [(milestone.name, milestone.step) for milestone in header.milestones]
    title = f"{as_text(name)}: {header.steps} steps, return {header.episode_return:.1f}{_begun_at(header)}"
    drawn = draw_path(seen, log.positions, milestones, World.for_rom(rom.sha1), title, picture, header.blackouts or ())
    return picture.stat().st_size if drawn else 0


def _begun_at(header: EpisodeHeader) -> str:
    """Where the episode began, if that was not the beginning."""
    start = header.start
    return f", from {start.tag} {start.id}" if start is not None and start.tag != "beginning" else ""
