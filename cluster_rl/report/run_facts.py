"""What a run's folder tells of it, as plain values: the page's only look at the disk, but for the map's positions.

The report's page uses it, and the rules of `findings` judge it. In: a run directory, of which nothing need be there or
whole. Out: `RunFacts`, with a line for each thing that is missing or damaged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from cluster_rl.config import Config, config_from_builtins, config_values
from cluster_rl.errors import StorageError, UserError
from cluster_rl.game.world import World
from cluster_rl.report.run_rows import (
    Column,
    EpisodeRow,
    Episodes,
    QuestRow,
    read_episodes,
    read_metrics,
    read_quests,
)
from cluster_rl.report.video_record import VideoRecord, log_stem, path_picture, record_path, video_of
from cluster_rl.runs.identity import RunIdentity, read_identity
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import Progress, read_progress
from cluster_rl.runs.small_file import Count, UnixSeconds, UnreadableError, Version, read_json

_JOB_RECORD = Version("schema_version", 1)

_Kind = TypeVar("_Kind")


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the page needs of a record in `jobs/`. `runs.job_record` has all of it, and needs torch to write one."""

    id: Count
    started: UnixSeconds
    host: str = ""
    command: list[str] = []
    slurm: dict[str, str] = {}
    git: dict[str, Any] | None = None
    versions: dict[str, str | None] = {}
    config: dict[str, Any] = {}


@dataclass(frozen=True)
class JobFacts:
    """One job, from its record and from `progress.json`; either may lack it. `config` is by dotted key."""

    id: int
    started: float
    host: str = ""
    ended: float | None = None
    reason: str = ""
    restored: str = ""
    slurm: dict[str, str] = field(default_factory=dict)
    env_steps: tuple[int, int | None] | None = None
    """At its start and end; the end is None while it runs. None for a job whose learner never was up."""
    updates: tuple[int, int | None] | None = None
    commit: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    command: str = ""
    config: dict[str, Any] | None = None


@dataclass(frozen=True)
class Videos:
    """What lies in `videos/`: the names of an MP4 at the game's speed, and of the picture of its path, by the episode's
    name. `failed` are those without a video or picture that should be there: (file, what is wrong with it)."""

    there: Mapping[str, str] = field(default_factory=dict)
    pictures: Mapping[str, str] = field(default_factory=dict)
    failed: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class RunFacts:
    """One run. Where a file is missing, its part is empty, and `problems` has a line."""

    name: str
    run_dir: RunDir
    world: World = field(default_factory=World.cartridge)
    identity: RunIdentity | None = None
    config: dict[str, Any] = field(default_factory=dict)
    """By dotted key, as the file has it; keys of other programs too."""
    settings: Config = field(default_factory=Config)
    """The same as this program understands it: defaults for what the file lacks, and for all of a damaged one."""
    progress: Progress | None = None
    jobs: tuple[JobFacts, ...] = ()
    episodes: Episodes = field(default_factory=Episodes)
    metrics: dict[str, Column] = field(default_factory=dict)
    quests: list[QuestRow] = field(default_factory=list)
    videos: Videos = field(default_factory=Videos)
    problems: tuple[str, ...] = ()

    @property
    def milestones(self) -> dict[str, int]:
        """Name to the env step at which an episode first reached it that began where the run's do."""
        if self.progress is not None:
            return dict(self.progress.milestones)
        return {name: row.env_steps for name, row in self.episodes.first.items()}

    @property
    def env_steps(self) -> int:
        """How many were played, as far as any file tells."""
        columns = (self.metrics.get("env_steps"), self.episodes.columns.get("env_steps"))
        told = [int(np.nanmax(column, initial=0)) for column in columns if column is not None]
        return max([*told, self.progress.env_steps if self.progress is not None else 0])

    @property
    def shown_episodes(self) -> list[EpisodeRow]:
        """The newest, the best, the first to reach each milestone and those with a video, newest first, each once."""
        episodes = self.episodes
        rows = [*episodes.newest, *episodes.best, *episodes.first.values(), *episodes.filmed]
        return sorted({row.name: row for row in rows}.values(), key=lambda row: row.env_steps, reverse=True)


DEFAULTS = config_values(Config())
"""Every config key that this program knows, by its dotted name."""


def read_run(run_dir: RunDir) -> RunFacts:
    """All facts of a run. Raises `StorageError` where a disk fails; whatever else cannot be read is a problem told."""
    problems: list[str] = []

    def tried(read: Callable[[], _Kind], otherwise: _Kind) -> _Kind:
        try:
            return read()
        except StorageError:
            raise
        except UserError as error:
            problems.append(_in_run(run_dir, str(error)))
            return otherwise

    def rows_of(read: Callable[[Path], tuple[_Kind, str]], path: Path, otherwise: _Kind) -> _Kind:
        found, problem = tried(lambda: read(path), (otherwise, ""))
        if problem:
            problems.append(problem)
        return found

    identity = tried(lambda: read_identity(run_dir.identity), None)
    config: dict[str, Any] = tried(lambda: flat(read_json(run_dir.config, dict[str, Any])), {})
    settings = tried(lambda: settings_of(config), Config())
    progress = tried(lambda: read_progress(run_dir.progress), None)
    if progress is None and not run_dir.progress.exists():
        problems.append(f"{run_dir.progress.name}: not there")
    records = [tried(partial(read_json, path, JobRecord, _JOB_RECORD), None) for path in _record_paths(run_dir)]
    videos = videos_in(run_dir.videos)
    return RunFacts(
        name=run_dir.run_name,
        run_dir=run_dir,
        world=World.for_rom(identity.rom_sha1 if identity is not None else ""),
        identity=identity,
        config=config,
        settings=settings,
        progress=progress,
        jobs=jobs_of(progress, [record for record in records if record is not None]),
        episodes=rows_of(partial(read_episodes, filmed=videos.there), run_dir.episodes, Episodes()),
        metrics=rows_of(read_metrics, run_dir.metrics, {}),
        quests=rows_of(read_quests, run_dir.quests, []),
        videos=videos,
        problems=tuple(problems),
    )


def _in_run(run_dir: RunDir, words: str) -> str:
    """An error's words with paths as they are in the run: the page may be shown to others."""
    return words.replace(f"{run_dir.path}/", "")


def _record_paths(run_dir: RunDir) -> list[Path]:
    return sorted((p for p in run_dir.jobs.glob("*.json") if p.stem.isdecimal()), key=lambda path: int(path.stem))


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A config as its file has it, by dotted keys; a section is any mapping that is not itself a key's value."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        key = prefix + name
        found |= flat(value, f"{key}.") if isinstance(value, dict) and key not in DEFAULTS else {key: value}
    return found


def settings_of(config: dict[str, Any]) -> Config:
    """A config by dotted keys, without those that this program does not know. Raises `UserError` for a wrong value."""
    nested: dict[str, Any] = {}
    for key, value in config.items():
        section, dot, name = key.rpartition(".")
        if key in DEFAULTS:
            (nested.setdefault(section, {}) if dot else nested)[name] = value
    return config_from_builtins(nested, "config.json")


def jobs_of(progress: Progress | None, records: Iterable[JobRecord]) -> tuple[JobFacts, ...]:
    """Every job that either tells of, by its number."""
    jobs = {
        record.id: JobFacts(
            id=record.id,
            started=record.started,
            host=record.host,
            slurm=record.slurm,
            commit=_commit(record.git),
            versions={name: version for name, version in record.versions.items() if version},
            command=" ".join(record.command),
            config=flat(record.config) if record.config else None,
        )
        for record in records
    }
    for job in progress.jobs if progress is not None else ():
        known = jobs.get(job.id, JobFacts(job.id, job.started, job.host))
        slurm = known.slurm or ({"JOB_ID": job.slurm_job_id} if job.slurm_job_id else {})
        jobs[job.id] = replace(
            known,
            started=job.started,
            ended=job.ended,
            reason=job.reason,
            restored=job.restored,
            slurm=slurm,
            env_steps=(job.env_steps_start, job.env_steps_end),
            updates=(job.updates_start, job.updates_end),
        )
    return tuple(jobs[number] for number in sorted(jobs))


def _commit(git: dict[str, Any] | None) -> str:
    """The commit, with a mark where files were not as in it."""
    commit = str((git or {}).get("commit", ""))
    return f"{commit[:12]} with changes" if commit and (git or {}).get("dirty") else commit[:12]


def videos_in(folder: Path) -> Videos:
    """What was rendered. A video that has no record beside it is being rendered, or its replayer was killed."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    there: dict[str, str] = {}
    failed: list[tuple[str, str]] = []
    for name in sorted(name for name in names if name.endswith(".json")):
        try:
            record = read_json(folder / name, VideoRecord)
        except UnreadableError:
            failed.append((name, "its record is damaged"))
            continue
        video = video_of(folder / name, record)
        if video.name not in names:
            failed.append((video.name, "the video is missing"))
            continue
        if record.path_bytes is None:
            failed.append((path_picture(video).name, "the picture of its path could not be drawn"))
        if record.kind == "mp4" and record.speed == 1:
            there[log_stem(video, record)] = video.name
    for name in sorted(name for name in names if name.endswith((".mp4", ".gif")) and not name.startswith(".")):
        if record_path(folder / name).name not in names:
            failed.append((name, "its record is missing"))
            if name.endswith(".mp4"):
                there.setdefault(name.removesuffix(".mp4"), name)
    partly = "half a video, of a replayer that was killed or is at work"
    failed += [(name, partly) for name in names if name.startswith(".") and name.endswith(".partial")]
    drawn = {episode: path_picture(folder / name).name for episode, name in there.items()}
    pictures = {episode: picture for episode, picture in drawn.items() if picture in names}
    return Videos(there, pictures, tuple(sorted(failed)))
