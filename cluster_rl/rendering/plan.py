"""Which episodes are rendered, and what is left to do for them.

The replayer's main process uses it. In: the headers of logs, what the command line asks for, and the records of the
videos that are there. Out: a `Plan`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import msgspec

from cluster_rl.errors import UserError
from cluster_rl.game.flags import Milestone
from cluster_rl.game.world import World
from cluster_rl.rendering.work import Job, Look
from cluster_rl.report.overlay import Chance
from cluster_rl.report.video_record import ENDINGS, VideoRecord, is_finished, log_stem, name_tail, told_by
from cluster_rl.runs.episode_log import EpisodeHeader


class Entry(NamedTuple):
    """An episode whose log was read and is good."""

    path: Path
    header: EpisodeHeader
    log_sha256: str

    @property
    def game_frames(self) -> int:
        """How long it is."""
        return self.header.steps * self.header.frame_skip


@dataclass(frozen=True)
class Plan:
    """What is to be done: jobs for workers, finished videos that get another name, and those that stay as they are."""

    jobs: list[Job]
    renamed: list[tuple[Path, Path, VideoRecord]]
    finished: int


def find_milestone(world: World, words: str) -> Milestone:
    """The one of this name or title, in any case of letters. Raises `UserError`, naming those that there are."""
    for milestone in world.milestones:
        if words.casefold() in (milestone.name.casefold(), milestone.title.casefold()):
            return milestone
    known = ", ".join(f"{milestone.name} ({milestone.title})" for milestone in world.milestones)
    raise UserError(f"--milestone {words}: {world.title} has none of that name; give one of {known}")


def choose(entries: Sequence[Entry], best: int, milestone: Milestone | None) -> list[Entry]:
    """Those that reached a milestone, of these the `best` ones by return; newest first, or highest return first.

    An episode that is not finished has no return yet, so it is never among the best.
    """
    chosen = [
        entry
        for entry in entries
        if milestone is None or any(reached.name == milestone.name for reached in entry.header.milestones)
    ]
    # Newest first: --limit then shows what the agent does now.
    chosen.sort(key=lambda entry: entry.path.stat().st_mtime_ns, reverse=True)
    if best:
        chosen = [entry for entry in chosen if entry.header.complete]
        chosen.sort(key=lambda entry: entry.header.episode_return, reverse=True)
    return chosen[: best or None]


def make_plan(
    out: Path,
    look: Look,
    chosen: Sequence[Entry],
    records: Mapping[Path, VideoRecord],
    chances: Callable[[EpisodeHeader], Mapping[str, Chance]] | None = None,
) -> Plan:
    """What the videos in `out`, whose records are given, leave to do.

    A finished one under another name than it would get now, as older programs gave, gets that name; one of an older
    recording gives way. `chances` are those of milestones when an episode began, for its panel.
    """
    known: defaultdict[str, list[Path]] = defaultdict(list)
    for video, record in records.items():
        if (record.kind, record.speed) == (look.kind, look.speed):
            known[log_stem(video, record)].append(video)
    plan = Plan([], [], 0)
    for entry in chosen:
        stem = entry.path.stem
        video = out / f"{stem}{name_tail(entry.header, look.speed)}{ENDINGS[look.kind]}"
        others = [other for other in known[stem] if other != video]
        nameless = out / f"{stem}{ENDINGS[look.kind]}"  # of an older program that was killed
        if look.speed == 1 and nameless not in records and nameless.exists():
            others.append(nameless)

        def whole(path: Path, log_sha256: str = entry.log_sha256) -> bool:
            return is_finished(path, log_sha256, look.fps, look.overlay)

        if whole(video):
            plan = replace(plan, finished=plan.finished + 1)
        elif (other := next(filter(whole, others), None)) is not None:
            record = msgspec.structs.replace(records[other], **told_by(entry.header, look.speed))
            plan.renamed.append((other, video, record))
        else:
            told = chances(entry.header) if chances is not None else {}
            plan.jobs.append(Job(entry.path, entry.game_frames, video, look, tuple(others), told))
    return plan
