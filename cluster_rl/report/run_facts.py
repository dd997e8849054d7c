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

from cluster_rl.cartridge import world_names
from cluster_rl.config import SCHOOL_PREFIX, Config, config_from_builtins, config_values
from cluster_rl.errors import StorageError, UserError, read_error
from cluster_rl.game.world import World
from cluster_rl.report.run_rows import (
    Column,
    EpisodeRow,
    Episodes,
    Metrics,
    QuestRow,
    read_episodes,
    read_metrics,
    read_quests,
)
from cluster_rl.report.video_record import VideoRecord, log_stem, path_picture, record_path, video_of
from cluster_rl.rom import load_rom
from cluster_rl.runs.episode_log import SUFFIX, log_paths
from cluster_rl.runs.identity import RunIdentity, read_identity
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import Progress, read_progress
from cluster_rl.runs.small_file import (
    Count,
    MissingFileError,
    UnixSeconds,
    UnreadableError,
    Version,
    read_json,
)

NOT_THERE = "not there"
BY_DEFAULTS = "limits and targets on this page are this program's defaults, not the run's"
"""What is said where nothing tells a run's config."""

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
    """Red's where the game is not known."""
    identity: RunIdentity | None = None
    rom_sha1: str = ""
    """Of the game, empty where it is not known."""
    config: dict[str, Any] = field(default_factory=dict)
    """By dotted key, as config.json has it, or else the newest job's record; keys of other programs too. Empty where
    neither can be read."""
    settings: Config = field(default_factory=Config)
    """The same as this program understands it: defaults for what it lacks, and for all of one with a wrong value."""
    progress: Progress | None = None
    jobs: tuple[JobFacts, ...] = ()
    episodes: Episodes = field(default_factory=Episodes)
    metrics: dict[str, Column] = field(default_factory=dict)
    map_bonus: dict[int, float] = field(default_factory=dict)
    """Curiosity's mean bonus on each map, by its number, as of the newest rows; empty where it is off."""
    quests: list[QuestRow] = field(default_factory=list)
    videos: Videos = field(default_factory=Videos)
    logs: frozenset[str] = frozenset()
    """The names of the episodes whose logs are there."""
    problems: tuple[str, ...] = ()

    @property
    def milestones(self) -> dict[str, int]:
        """Name to the env step at which an episode first reached it that began where the run's do."""
        if self.progress is not None:
            return dict(self.progress.milestones)
        return {name: row.env_steps for name, row in self.episodes.first.items()}

    @property
    def school(self) -> str:
        """The name of the school in which episodes begin; of another start its path, which is no school's name."""
        return self.settings.initial_state.removeprefix(SCHOOL_PREFIX)

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

    def tried(path: Path, read: Callable[[], _Kind | None], instead: str = "") -> _Kind | None:
        """None, and a problem, where it cannot be read; `instead` is what this page does then."""
        try:
            found = read()
        except StorageError:
            raise
        except MissingFileError:
            found = None
        except UserError as error:
            problems.append(_in_run(run_dir, str(error)) + instead)
            return None
        if found is None:
            problems.append(f"{path.relative_to(run_dir.path)}: {NOT_THERE}{instead}")
        return found

    def rows_of(read: Callable[[Path], tuple[_Kind, str]], path: Path, otherwise: _Kind) -> _Kind:
        found, problem = tried(path, lambda: read(path)) or (otherwise, "")
        if problem:
            problems.append(problem)
        return found

    paths = tried(run_dir.jobs, lambda: _record_paths(run_dir)) or []
    read_records = [tried(path, partial(read_json, path, JobRecord, _JOB_RECORD)) for path in paths]
    records = [record for record in read_records if record is not None]
    of_job = next((record for record in reversed(records) if record.config), None)
    instead = f"; the config is that of job {of_job.id}" if of_job is not None else f"; {BY_DEFAULTS}"
    config = tried(run_dir.config, lambda: flat(read_json(run_dir.config, dict[str, Any])), instead)
    if config is None:
        config = flat(of_job.config) if of_job is not None else {}
    settings = tried(run_dir.config, lambda: settings_of(config), f"; {BY_DEFAULTS}") or Config()
    rom = settings.rom
    is_embedded = bool(config) and (rom in world_names() or not rom)
    instead = "" if is_embedded else "; maps and milestones have the names of Pokémon Red, and are its if the game is"
    identity = tried(run_dir.identity, lambda: read_identity(run_dir.identity), instead)
    rom_sha1 = identity.rom_sha1 if identity is not None else load_rom(rom).sha1 if is_embedded else ""
    progress = tried(run_dir.progress, lambda: read_progress(run_dir.progress))
    metrics = rows_of(read_metrics, run_dir.metrics, Metrics())
    videos = tried(run_dir.videos, lambda: videos_in(run_dir.videos)) or Videos()
    return RunFacts(
        name=run_dir.run_name,
        run_dir=run_dir,
        world=World.for_rom(rom_sha1),
        identity=identity,
        rom_sha1=rom_sha1,
        config=config,
        settings=settings,
        progress=progress,
        jobs=jobs_of(progress, records),
        episodes=rows_of(partial(read_episodes, filmed=videos.there), run_dir.episodes, Episodes()),
        metrics=metrics.columns,
        map_bonus=metrics.map_bonus,
        quests=rows_of(read_quests, run_dir.quests, []),
        videos=videos,
        logs=frozenset(path.name.removesuffix(SUFFIX) for path in log_paths(run_dir.episode_logs)),
        problems=tuple(problems),
    )


def _in_run(run_dir: RunDir, words: str) -> str:
    """An error's words with paths as they are in the run: the page may be shown to others."""
    return words.replace(f"{run_dir.path}/", "")


def _record_paths(run_dir: RunDir) -> list[Path]:
    """Records of jobs by number. Raises as `_names_in` does."""
    paths = [run_dir.jobs / name for name in _names_in(run_dir.jobs) if name.endswith(".json")]
    return sorted((path for path in paths if path.stem.isdecimal()), key=lambda path: int(path.stem))


def _names_in(folder: Path) -> set[str]:
    """What lies in a folder, nothing where it is not there. Raises `UserError` where it cannot be read or is none."""
    try:
        return {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return set()
    except NotADirectoryError:
        raise UnreadableError(folder, "a file lies where a folder was expected; move it away") from None
    except OSError as error:
        raise read_error(error, folder) from None


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
    """What was rendered. A video that has no record beside it is being rendered, or its replayer was killed.

    Raises `UserError` for a folder that cannot be read.
    """
    names = _names_in(folder)
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
