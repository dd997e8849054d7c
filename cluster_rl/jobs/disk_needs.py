"""Whether a run fits its disks: what it will still write, against room, number of files and limits on their size.

`--dry-run`, a job's start and `cluster check` ask before anything is started. In: a config and the run's folder. Out: a
line for each file system, and warnings; or an error with need, room and the key to change. What is refused is
certain: the least that the replay takes, as full as this job can make it, and episode logs of this job alone, at the
rate that its run had. What may be too little for the whole run, at its most, is warned of.

A quota is not seen here: the kernel tells room on the file system, not what of it a user may have.
"""

from __future__ import annotations

import errno
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cluster_rl.config import Config
from cluster_rl.errors import StorageError, UserError, read_error
from cluster_rl.jobs.deadline import job_deadline
from cluster_rl.jobs.machine import Limit, file_size_limit
from cluster_rl.jobs.memory_estimate import estimate_replay, parameter_bytes
from cluster_rl.model import ObservationSpec
from cluster_rl.replay_buffer import MAX_SEGMENT_BYTES, SEGMENTS_OF_CAPACITY
from cluster_rl.report.bars import size_words
from cluster_rl.runs import checkpoint
from cluster_rl.runs.atomic import nearest_existing
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import Progress, readable_progress

# Of an episode log: its header and the snapshot at its start; each step. Play on the cartridge has 4,500 and 3.3
# (docs/results.md), noise would have 5.6 a step.
LOG_EPISODE_BYTES = (4e3, 30e3)
LOG_STEP_BYTES = (2.0, 6.0)
ROW_BYTES = 12e3  # of metrics, in both files
OTHER_FILES = 20  # of a run, beside replay, checkpoints and logs
SEQUENCE_BYTES = 12  # of the priorities in a checkpoint

_WEIGHTS_OF_CHECKPOINT = 5  # three networks and two moments
_FILES_OF_CHECKPOINT = 4  # its folder too
_MOST_STEPS_PER_SEC = 1_000  # of an actor, whatever it plays: several times what was ever measured
_CERTAIN_RATE = 0.5  # of the rate that the run had: the least that a job is taken to play
_SMALLER_NETWORK = "give a smaller network (--model.conv_channels, --lstm_hidden_size), or free some space"
_SMALLER_ARCHIVE = "give a smaller --archive_megabytes, or free some space"
_WORTH_TELLING_BYTES = 1e6


class Span(NamedTuple):
    """At least and at most."""

    low: float
    high: float

    def less(self, there: float) -> Span:
        """What is missing where some of it is there."""
        return Span(max(0.0, self.low - there), max(0.0, self.high - there))


@dataclass(frozen=True)
class DiskNeed:
    """What one kind of file will take more than it does."""

    what: str
    folder: Path
    size_bytes: Span
    files: Span
    remedy: str
    largest_file_bytes: float = 0.0  # at least


class Room(NamedTuple):
    """What a file system has left for this user, quotas apart."""

    size_bytes: float
    files: float  # infinite where it has no fixed number


def disk_needs(
    config: Config, run_dir: RunDir, spec: ObservationSpec, fresh: bool = False, job_sec: float | None = None
) -> list[DiskNeed]:
    """What the run will write from here on, with `fresh` all anew. Raises `UserError` for folders out of reach.

    `job_sec` is the time that the batch system will give the job, infinite without a limit; None: this process is of
    the job, which is asked.
    """
    weights = parameter_bytes(config, spec)
    progress = None if fresh else readable_progress(run_dir.progress)
    if job_sec is None:
        now_sec = time.monotonic()
        job_sec = job_deadline(config.max_runtime_seconds, now_sec).at_sec - now_sec
    elif config.max_runtime_seconds:
        job_sec = min(job_sec, config.max_runtime_seconds)
    steps = _steps_ahead(config, progress, job_sec)
    playable = min(steps.high, _MOST_STEPS_PER_SEC * config.total_actors * job_sec)
    replay = run_dir.replay_in(config.replay_dir)
    there_replay = (0, 0) if fresh else _there(replay, "segment-*")
    there_checkpoints = (0, 0) if fresh else _there(run_dir.checkpoint, "**/*")
    return [
        _replay_need(config, replay, spec, there_replay, Span(playable, steps.high)),
        _checkpoint_need(config, run_dir.checkpoint, weights, there_checkpoints),
        DiskNeed("online_params.pt", run_dir.path, Span(weights, 2 * weights), Span(1, 2), _SMALLER_NETWORK, weights),
        *([_archive_need(config, run_dir)] if config.starts_elsewhere else []),
        *([_log_need(config, run_dir, steps)] if config.log_episodes_for_replay else []),
        _rest_need(config, run_dir, job_sec),
    ]


def check_disk(needs: Sequence[DiskNeed], largest_file: Limit) -> list[str]:
    """A line for each file system that `needs` go to, and warnings.

    Raises `StorageError` where the least of them does not fit now, and `UserError` where a file would be larger than
    one may be.
    """
    for need in needs:
        if need.largest_file_bytes > largest_file.amount:
            raise UserError(
                f"{need.what} in {need.folder}: a file of {size_words(need.largest_file_bytes)} is needed, and files "
                f"may have {size_words(largest_file.amount)} ({largest_file.source}); raise it, or {need.remedy}"
            )
    return [_check_room(place, own, room_at(place)) for place, own in _by_file_system(needs)]


def check_disk_here(config: Config, run_dir: RunDir, spec: ObservationSpec, fresh: bool = False) -> list[str]:
    """Holds a run against its disks as a job of it starts: warnings, or a `UserError`, see `check_disk`."""
    lines = check_disk(disk_needs(config, run_dir, spec, fresh), file_size_limit())
    return [line for line in lines if line.startswith("WARNING")]


def room_at(place: Path) -> Room:
    """Room on the file system of an existing path. Raises `UserError` where it does not answer."""
    try:
        found = os.statvfs(place)
    except OSError as error:
        raise read_error(error, place, "the room at") from None
    return Room(found.f_bavail * found.f_frsize, found.f_favail if found.f_files else math.inf)


def _replay_need(config: Config, folder: Path, spec: ObservationSpec, there: tuple[int, int], steps: Span) -> DiskNeed:
    """`there` are bytes and files of the log, `steps` those that this job and the run may add to it at most."""
    capacity = config.replay_capacity_transitions
    full = Span(*estimate_replay(config, spec).log)
    share = min(1.0, config.target_total_steps / capacity)
    missing = Span(share * full.low, share * full.high).less(there[0])
    size = Span(*(min(missing[end], full[end] * steps[end] / capacity) for end in (0, 1)))
    largest = min(MAX_SEGMENT_BYTES, full.low / SEGMENTS_OF_CAPACITY, size.low)
    files = Span(max(1, size.low // MAX_SEGMENT_BYTES), 1 + max(SEGMENTS_OF_CAPACITY, size.high // MAX_SEGMENT_BYTES))
    remedy = "give a smaller --replay_capacity_transitions, or a --replay_dir with more room"
    return DiskNeed("replay", folder, size, files.less(there[1]), remedy, largest)


def _checkpoint_need(config: Config, folder: Path, weights: int, there: tuple[int, int]) -> DiskNeed:
    """Those that are kept, and one that is being written."""
    sequences = min(config.replay_capacity_transitions, config.target_total_steps) / config.unroll_length
    one = _WEIGHTS_OF_CHECKPOINT * weights
    count = checkpoint.KEPT + 1
    size = Span(count * one, count * (one + SEQUENCE_BYTES * sequences))
    files = Span(count * _FILES_OF_CHECKPOINT, count * _FILES_OF_CHECKPOINT)
    return DiskNeed("checkpoints", folder, size.less(there[0]), files.less(there[1]), _SMALLER_NETWORK, one)


def _log_need(config: Config, run_dir: RunDir, steps: Span) -> DiskNeed:
    episodes = Span(steps.low // config.episode_max_steps, math.ceil(steps.high / config.episode_max_steps))
    size = [episodes[end] * LOG_EPISODE_BYTES[end] + steps[end] * LOG_STEP_BYTES[end] for end in (0, 1)]
    remedy = "give --log_episodes_for_replay false, or move older logs away"
    return DiskNeed("episode logs", run_dir.episode_logs, Span(*size), episodes, remedy)


def _rest_need(config: Config, run_dir: RunDir, job_sec: float) -> DiskNeed:
    rows = job_sec / config.metrics_interval_seconds if math.isfinite(job_sec) else 0.0
    least = 0 if run_dir.exists() else OTHER_FILES
    remedy = "remove some files"
    return DiskNeed("metrics", run_dir.path, Span(0.0, rows * ROW_BYTES), Span(least, OTHER_FILES), remedy)


def _steps_ahead(config: Config, progress: Progress | None, job_sec: float) -> Span:
    """Env steps that this job will play at least, and that the run will at most."""
    done = progress.env_steps if progress is not None else 0
    ahead = max(0, config.target_total_steps - done)
    if config.total_episodes:
        episodes = config.total_episodes - (progress.episodes if progress is not None else 0)
        ahead = min(ahead, max(0, episodes) * config.episode_max_steps)
        return Span(0, ahead)
    if math.isinf(job_sec):
        return Span(ahead, ahead)
    return Span(min(ahead, _CERTAIN_RATE * _rate_of(progress) * job_sec), ahead)


def _rate_of(progress: Progress | None) -> float:
    """Env steps a second over the run's jobs so far; 0 where there were none."""
    jobs = [job for job in (progress.jobs if progress is not None else []) if job.ended and job.env_steps_end]
    seconds = sum((job.ended or 0.0) - job.started for job in jobs)
    steps = sum((job.env_steps_end or 0) - job.env_steps_start for job in jobs)
    return steps / seconds if seconds > 0 else 0.0


def _archive_need(config: Config, run_dir: RunDir) -> DiskNeed:
    """Of the archive of start states, whose bound may never be reached."""
    there, files = _there(run_dir.archive, "**/*")
    size_bytes = Span(0, config.archive_megabytes * 1e6 if config.archive_entries else 0).less(there)
    more_files = Span(0, config.archive_entries).less(files)
    return DiskNeed("start states", run_dir.archive, size_bytes, more_files, _SMALLER_ARCHIVE)


def _there(folder: Path, pattern: str) -> tuple[int, int]:
    """Bytes and number of the files in `folder` that are named so."""
    try:
        sizes = [path.stat().st_size for path in folder.glob(pattern) if path.is_file()]
    except OSError:  # one that was deleted meanwhile; what is there counts as nothing
        return 0, 0
    return sum(sizes), len(sizes)


def _by_file_system(needs: Iterable[DiskNeed]) -> Iterator[tuple[Path, list[DiskNeed]]]:
    """(an existing folder, what goes to its file system)."""
    groups: dict[int, tuple[Path, list[DiskNeed]]] = {}
    for need in needs:
        place = nearest_existing(need.folder)
        groups.setdefault(place.stat().st_dev, (place, []))[1].append(need)
    yield from groups.values()


def _check_room(place: Path, needs: list[DiskNeed], room: Room) -> str:
    size, files = _sum(need.size_bytes for need in needs), _sum(need.files for need in needs)
    parts = {what: _sum(need.size_bytes for need in needs if need.what == what) for what in (n.what for n in needs)}
    told = ", ".join(f"{what} {_words(part)}" for what, part in parts.items() if part.high >= _WORTH_TELLING_BYTES)
    need = f"disk of {place}: the run will take {_words(size)} more ({told}) in up to {files.high:,.0f} files"
    free = f"{size_words(room.size_bytes)} is free"
    if math.isfinite(room.files):
        free += f", for {room.files:,.0f} files"
    if size.low > room.size_bytes:
        most = max(needs, key=lambda need: need.size_bytes.low)
        raise StorageError(f"{need}, and {free}; {most.remedy}", place, errno.ENOSPC)
    if files.low > room.files:
        most = max(needs, key=lambda need: need.files.low)
        raise StorageError(f"{need}, at least {files.low:,.0f}, and {free}; {most.remedy}", place, errno.ENOSPC)
    if size.high > room.size_bytes or files.high > room.files:
        return f"WARNING: {need}, and {free} (quotas apart), which may be too little"
    return f"{need}; {free} (quotas apart)"


def _sum(spans: Iterable[Span]) -> Span:
    pairs = list(spans)
    return Span(sum(low for low, _ in pairs), sum(high for _, high in pairs))


def _words(span: Span) -> str:
    low, high = size_words(span.low), size_words(span.high)
    return high if low == high else f"{low} to {high}"
