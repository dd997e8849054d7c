"""Chapters of an episode's MP4, one from each milestone on, as ffmpeg reads them: players list them and go there.

The replayer's worker processes use it. In: a log's header. Out: the text of an FFMETADATA file, which `VideoWriter`
takes.
"""

from __future__ import annotations

import itertools
import re

from cluster_rl.game.world import World
from cluster_rl.report.video import video_frames
from cluster_rl.runs.episode_log import EpisodeHeader

_MAX_TITLE = 100  # characters


def chapters(header: EpisodeHeader, world: World, fps: int, speed: int = 1) -> str:
    """The chapters of a video of this episode: its beginning, then what was reached. Empty where nothing was.

    A chapter begins with the last frame of the step that reached its milestone; what was reached there together is one.
    """
    begun: dict[int, list[str]] = {}
    for milestone in sorted(header.milestones, key=lambda milestone: milestone.step):
        if 1 <= milestone.step <= header.steps:
            frame = video_frames(milestone.step * header.frame_skip, fps, speed) - 1
            begun.setdefault(frame, []).append(world.milestone_title(milestone.name))
    if not begun:
        return ""
    begun = begun if 0 in begun else {0: ["beginning"], **begun}
    frames = video_frames(header.steps * header.frame_skip, fps, speed)
    parts = [";FFMETADATA1"]
    for (begin, titles), end in zip(begun.items(), [*itertools.islice(begun, 1, None), frames], strict=True):
        title = _escaped("; ".join(titles))
        parts += ["[CHAPTER]", f"TIMEBASE=1/{fps}", f"START={begin}", f"END={end}", f"title={title}"]
    return "\n".join(parts) + "\n"


def _escaped(words: str) -> str:
    """In one line, without what has a meaning there: a log may hold any name."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in words).split())
    return re.sub(r"([=;#\\])", r"\\\1", line[:_MAX_TITLE])
