"""The tables of a page as text: what runs are, their configs and jobs, milestones, and episodes.

The report's page fills its template with them. In: `RunFacts`. Out: rows of words; nothing is escaped here. Pure.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import msgspec
import numpy as np

from cluster_rl.config import config_keys
from cluster_rl.report.bars import duration_words, size_words
from cluster_rl.report.curves import number_words
from cluster_rl.report.pictures import hours_now, hours_of, job_spans, milestone_hours
from cluster_rl.report.rivals import RivalFacts, by_agent, is_of_game
from cluster_rl.report.run_facts import DEFAULTS, JobFacts, RunFacts
from cluster_rl.report.run_rows import EpisodeRow
from cluster_rl.runs.progress import Progress

UNKNOWN: Final = "unknown"
EPISODE_COLUMNS: Final = (
    "episode",
    *("trained", "env steps", "return", "steps", "cells", "circles", "entropy", "epsilon"),
    *("began", "ended", "last map", "milestones", "files"),
)


class JobLine(NamedTuple):
    """A row of the table of jobs."""

    id: int
    began: str
    lasted: str
    env_steps: str
    updates: str
    reason: str
    restored: str
    where: str
    program: str
    command: str
    changed: list[str]


class EpisodeLine(NamedTuple):
    """A row of the table of episodes. `numbers` are (shown, key to sort by); `video` and `picture` are links."""

    name: str
    numbers: list[tuple[str, str]]
    texts: list[str]
    milestones: list[str]
    video: str
    picture: str


def facts_table(runs: Sequence[RunFacts]) -> list[tuple[str, list[str]]]:
    """What each run is and how far it is, one value a run."""
    rows = [_facts(run) for run in runs]
    return [(name, [row[name] for row in rows]) for name in rows[0]]


def _facts(run: RunFacts) -> dict[str, str]:
    progress, identity = run.progress, run.identity
    target = progress.target_total_steps if progress is not None else run.settings.target_total_steps
    is_known = progress is not None or bool(run.config)
    of = len(run.world.milestones_from(run.school))
    versions = next((job.versions for job in reversed(run.jobs) if job.versions), {})
    return {
        "game": _game(run),
        "made": _date(identity.created) if identity is not None else UNKNOWN,
        "run id": identity.run_id if identity is not None else UNKNOWN,
        "now": _state(run),
        "env steps": f"{run.env_steps:,}{f' of {target:,}' if is_known else ''}",
        "updates": f"{progress.updates:,}" if progress is not None else UNKNOWN,
        "episodes": f"{progress.episodes if progress is not None else run.episodes.count:,}",
        "training": duration_words(hours_now(run) * 3600),
        "mean return of the newest 100": _optional(progress.mean_return_recent if progress is not None else None),
        "newest evaluation": _evaluation(progress),
        "milestones": f"{len(run.milestones)}{f' of {max(of, len(run.milestones))}' if run.rom_sha1 else ''}",
        "replay": _replay(run),
        "samples per insert": _optional(progress.samples_per_insert if progress is not None else None),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()) or UNKNOWN,
        "commit": ", ".join(dict.fromkeys(job.commit for job in run.jobs if job.commit)) or UNKNOWN,
        "machines": ", ".join(dict.fromkeys(job.host for job in run.jobs if job.host)) or UNKNOWN,
    }


def _game(run: RunFacts) -> str:
    if run.identity is not None:
        return f"{run.identity.rom_title} (SHA-1 {run.rom_sha1})"
    return f"{run.world.title}, by its config (SHA-1 {run.rom_sha1})" if run.rom_sha1 else UNKNOWN


def _state(run: RunFacts) -> str:
    if run.progress is None or not run.jobs:
        return UNKNOWN
    job = run.jobs[-1]
    if job.ended is not None:
        return f"no job runs; the last one ended: {job.reason}"
    return f"job {job.id}: {run.progress.activity or 'begun'}, as of {_date(run.progress.updated)}"


def _evaluation(progress: Progress | None) -> str:
    newest = progress.evaluation if progress is not None else None
    return UNKNOWN if newest is None else f"{newest.words}, {_date(newest.began)}"


def _replay(run: RunFacts) -> str:
    if run.progress is None:
        return UNKNOWN
    replay = run.progress.replay
    return f"{replay.transitions:,} of {replay.capacity:,} transitions, {size_words(replay.bytes)}"


def _optional(value: float | None) -> str:
    return UNKNOWN if value is None else number_words(value)


def _date(unix_sec: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(unix_sec))


def value_words(value: Any) -> str:
    """A config's value as JSON has it, but texts without quotes."""
    return value if isinstance(value, str) and value else msgspec.json.encode(value).decode()


def changed_keys(config: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """(key, value, default, what it is) of all that is not as by default; what this program does not know is last."""
    helps = {key: meta.description or "" for key, meta in config_keys().items()}
    known = [(key, config[key], DEFAULTS[key]) for key in DEFAULTS if key in config and config[key] != DEFAULTS[key]]
    rows = [(key, value_words(value), value_words(default), helps[key]) for key, value, default in known]
    unknown = sorted(key for key in config if key not in DEFAULTS)
    return rows + [(key, value_words(config[key]), "", "not known to this program") for key in unknown]


def differing_keys(configs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """(key, its value in each) of all keys that are not the same in all configs; one that is not there is `unset`."""
    keys = dict.fromkeys(key for config in configs for key in config)
    values = {key: [value_words(config[key]) if key in config else "unset" for config in configs] for key in keys}
    return [(key, found) for key, found in values.items() if len(set(found)) > 1]


def job_lines(run: RunFacts) -> list[JobLine]:
    """All jobs, oldest first, each with what it changed of the config of the one before."""
    lines = []
    before: Mapping[str, Any] | None = None
    for job, (start, end) in zip(run.jobs, job_spans(run), strict=True):
        changed = differing_keys([before, job.config]) if before is not None and job.config is not None else []
        before = job.config if job.config is not None else before
        lines.append(
            JobLine(
                id=job.id,
                began=_date(job.started),
                lasted=duration_words(end - start),
                env_steps=_from_to(job.env_steps),
                updates=_from_to(job.updates),
                reason=job.reason or ("" if job.ended is None else UNKNOWN),
                restored=job.restored,
                where=_where(job),
                program=", ".join(filter(None, [job.commit, f"torch {job.versions.get('torch', UNKNOWN)}"])),
                command=job.command,
                changed=[f"{key}: {was} to {now}" for key, (was, now) in changed],
            )
        )
    return lines


def _from_to(counts: tuple[int, int | None] | None) -> str:
    if counts is None:
        return "never up"
    return f"{counts[0]:,} to {'now' if counts[1] is None else format(counts[1], ',')}"


def _where(job: JobFacts) -> str:
    slurm = " ".join(f"{name} {value}" for name, value in job.slurm.items())
    return f"{job.host}{', SLURM ' + slurm if slurm else ''}"


def rival_lines(runs: Sequence[RunFacts], rivals: Sequence[RivalFacts]) -> list[tuple[str, list[str]]]:
    """(agent, seeds, env steps, episodes, what its game has other than a run's) of each rival."""
    lines = []
    for agent, trainings in by_agent(rivals).items():
        steps = sorted(rival.env_steps for rival in trainings)
        episodes = sum(len(rival.episodes["return"]) for rival in trainings)
        other = dict.fromkeys(words for rival in trainings for run in runs for words in _other_game(rival, run))
        lines.append(
            (
                agent,
                [
                    ", ".join(str(rival.seed) for rival in trainings),
                    f"{steps[0]:,}" if steps[0] == steps[-1] else f"{steps[0]:,} to {steps[-1]:,}",
                    f"{episodes:,}",
                    "; ".join(other) or "nothing that its records tell of",
                ],
            )
        )
    return lines


def _other_game(rival: RivalFacts, run: RunFacts) -> list[str]:
    """What both tell of the game and its rewards, and tell otherwise."""
    if not rival.config:
        return ["its records tell no config"]
    return [
        f"{key} {value_words(rival.config[key])}, {run.name} {value_words(run.config[key])}"
        for key in rival.config
        if is_of_game(key) and key in run.config and run.config[key] != rival.config[key]
    ]


def milestone_table(runs: Sequence[RunFacts], rivals: Sequence[RivalFacts] = ()) -> list[tuple[str, list[str]]]:
    """(milestone, env steps, time and episodes of each run, env steps of each rival) of all that any reached, in the
    order of play."""
    agents = list(by_agent(rivals).values())
    order = [milestone.name for run in runs for milestone in run.world.milestones]
    reached = dict.fromkeys(name for run in runs for name in [*run.milestones, *run.episodes.reached])
    reached |= dict.fromkeys(name for rival in rivals for name in rival.milestones)
    names = [*(name for name in dict.fromkeys(order) if name in reached), *(n for n in reached if n not in order)]
    hours = [milestone_hours(run) for run in runs]
    rows = []
    for name in names:
        values: list[str] = []
        for run, when in zip(runs, hours, strict=True):
            values.append(f"{run.milestones[name]:,}" if name in run.milestones else "")
            values.append(duration_words(when[name] * 3600) if name in when else "")
            values.append(f"{run.episodes.reached[name]:,}" if name in run.episodes.reached else "")
        values += [_median_reached([rival.milestones.get(name, np.inf) for rival in trainings]) for trainings in agents]
        rows.append((name, values))
    return rows


def _median_reached(at: Sequence[float]) -> str:
    """The median env step, and how many of the seeds came there. One that did not counts as later than all others, so
    there is no median where half of them or more did not."""
    reached = sum(np.isfinite(at))
    median = float(np.median(at))
    words = f"{median:,.0f}" if np.isfinite(median) else "-"
    return f"{words} ({reached} of {len(at)})" if reached else ""


def episode_lines(run: RunFacts, out: Path, most: int) -> list[EpisodeLine]:
    """The newest of `RunFacts.shown_episodes`, three in four of them, and the best of the rest, newest first.

    Links lead from the page's file `out` to the run's videos.
    """
    rows = run.shown_episodes
    if len(rows) > most:
        newest = rows[: most - most // 4]
        others = sorted(rows[len(newest) :], key=lambda row: row.episode_return, reverse=True)[: most // 4]
        rows = newest + sorted(others, key=lambda row: row.env_steps, reverse=True)
    hours = hours_of(run, np.array([row.time for row in rows], np.float64))
    return [_episode_line(run, row, float(when), out) for row, when in zip(rows, hours, strict=True)]


def _episode_line(run: RunFacts, row: EpisodeRow, hours: float, out: Path) -> EpisodeLine:
    numbers = [
        (duration_words(hours * 3600), hours),
        (f"{row.env_steps:,}", row.env_steps),
        (f"{row.episode_return:.2f}", row.episode_return),
        (f"{row.steps:,}", row.steps),
        (f"{row.cells:,}", row.cells),
        (f"{row.loop_share:.0%}", row.loop_share),
        ("" if row.entropy is None else f"{row.entropy:.2f}", "" if row.entropy is None else row.entropy),
        (f"{row.epsilon:.3g}", row.epsilon),
    ]
    video, picture = run.videos.there.get(row.name), run.videos.pictures.get(row.name)
    return EpisodeLine(
        name=row.name,
        numbers=[(text, str(key)) for text, key in numbers],
        texts=[f"{row.start_tag} {row.start_id}".strip(), row.reason, run.world.map_name(row.final_map)],
        milestones=list(row.milestones),
        video=link(run.run_dir.videos / video, out) if video else "",
        picture=link(run.run_dir.videos / picture, out) if picture else "",
    )


def link(path: Path, out: Path) -> str:
    """From a page to a file, relative, so that the folder may be moved with both. Names may be of any bytes."""
    return quote(os.fsencode(os.path.relpath(path.absolute(), out.absolute().parent)))
