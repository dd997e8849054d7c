"""`progress.json`: how far a run is, for people and scripts, and the history of its jobs.

The learner (or the single-process trainer) writes it every few seconds; the launcher, status and reports read it. It is
a summary: the replay log and the checkpoint are the truth, so a damaged file is moved aside and rebuilt.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import msgspec

from cluster_rl.errors import UserError
from cluster_rl.runs.aside import free_damaged_path
from cluster_rl.runs.atomic import write_atomic
from cluster_rl.runs.evaluation import Evaluation
from cluster_rl.runs.slurm_job import slurm_job_id
from cluster_rl.runs.small_file import (
    Count,
    MissingFileError,
    UnixSeconds,
    UnreadableError,
    Version,
    decode_json,
    read_bytes,
)

SCHEMA_VERSION = 1
REASON_UNKNOWN = "ended without a word (killed, or the node failed)"
_NOTHING_LEARNED = "; nothing was learned"
_NO_UPDATES = ("waiting for ", "collecting ", "learning waits ")  # how an activity begins in which none is made


class Rates(msgspec.Struct, kw_only=True):
    """Per second, over the last minute or so."""

    env_steps_per_sec: float = 0.0
    updates_per_sec: float = 0.0


class ReplayProgress(msgspec.Struct, kw_only=True):
    """Trained positions in the replay, how many fit, and the bytes of its log."""

    transitions: Count = 0
    capacity: Count = 0
    bytes: Count = 0


class QuestAlarm(msgspec.Struct, kw_only=True):
    """A quest that is below its target: with what probability, and how far."""

    level: str  # warning or critical
    probability: float
    mean: float
    target: float


class QuestProgress(msgspec.Struct, kw_only=True):
    """What is known of the quests, see `exploration.bayes_quests`. `frontier` has each one's mean."""

    frontier: dict[str, float] = msgspec.field(default_factory=dict)
    stagnant: list[str] = msgspec.field(default_factory=list)  # of the frontier
    alarms: dict[str, QuestAlarm] = msgspec.field(default_factory=dict)


class Job(msgspec.Struct, kw_only=True):
    """One stretch of training. Times are Unix seconds; `ended` is None while it runs."""

    id: Count
    host: str
    pid: Count
    slurm_job_id: str | None
    started: UnixSeconds
    env_steps_start: Count
    updates_start: Count
    ended: UnixSeconds | None = None
    reason: str = ""
    token: str = ""  # names the job to a learner that was restarted within it
    restored: str = ""  # what its newest start brought back
    config_sha256: str = ""  # of the resolved config; empty in jobs of older programs
    env_steps_end: Count | None = None
    updates_end: Count | None = None
    ends: float | None = None  # when its time will be over; None without a limit


class Progress(msgspec.Struct, kw_only=True):
    """The whole file. Counters are totals of the run, over all its jobs."""

    run_name: str
    target_total_steps: Count
    schema_version: int = SCHEMA_VERSION
    run_id: str = ""  # empty in files of older programs
    env_steps: Count = 0
    episodes: Count = 0
    updates: Count = 0
    sequences: Count = 0
    params_version: int = -1
    newest_checkpoint: Count | None = None  # its number, 0 before the first; None in files of older programs
    rates: Rates = msgspec.field(default_factory=Rates)
    samples_per_insert: float = 0.0
    replay: ReplayProgress = msgspec.field(default_factory=ReplayProgress)
    milestones: dict[str, Count] = msgspec.field(default_factory=dict)  # name -> env step at which first reached
    milestones_elsewhere: dict[str, Count] = msgspec.field(default_factory=dict)  # of episodes begun elsewhere
    quests: QuestProgress = msgspec.field(default_factory=QuestProgress)
    mean_return_recent: float | None = None
    evaluation: Evaluation | None = None  # the newest that is known
    activity: str = ""  # what the learner does, or waits for, in words; empty when no job runs
    storage_problem: str = ""  # what storage does not take now, since when, and where; empty while all is well
    jobs: list[Job] = msgspec.field(default_factory=list)
    updated: UnixSeconds = 0.0

    def begin_job(self, number: int = 0) -> Job:
        """Appends a job that starts now, with the counters as they are. A job left open by a crash is closed first.

        Its id is the `number` of its record, or the next one if that is another job's.
        """
        if self.jobs and self.jobs[-1].ended is None:
            self._close(self.jobs[-1], REASON_UNKNOWN, self.updated)
        job = Job(
            id=max(number, 1 + (self.jobs[-1].id if self.jobs else 0)),
            host=socket.gethostname(),
            pid=os.getpid(),
            slurm_job_id=slurm_job_id(),
            started=time.time(),
            env_steps_start=self.env_steps,
            updates_start=self.updates,
        )
        self.jobs.append(job)
        return job

    def continue_job(self, token: str, restored: str, number: int = 0) -> Job:
        """The last job if `token` is its own (its learner was started again), else a new one, see `begin_job`."""
        job = self.jobs[-1] if self.jobs and self.jobs[-1].token == token else self.begin_job(number)
        job.token, job.restored, job.pid = token, restored, os.getpid()
        # A learner that died after it had ended the job.
        job.ended, job.reason, job.env_steps_end, job.updates_end = None, "", None, None
        return job

    def end_job(self, reason: str, was_complete: bool = False) -> None:
        """Closes the last job with its reason; closing it again brings its counters up to date, and its reason stays.

        Says so where nothing was learned in it, unless the run `was_complete` when the job began.
        """
        if not self.jobs:
            return
        if self.jobs[-1].ended is None:
            if self.updates == self.jobs[-1].updates_start and not was_complete:
                why = f": {self.activity}" if self.activity.startswith(_NO_UPDATES) else ""
                reason += f"{_NOTHING_LEARNED}{why}"
        else:
            reason = self.jobs[-1].reason
        self._close(self.jobs[-1], reason, time.time())
        self.activity = self.storage_problem = ""

    def had_checkpoint(self) -> bool:
        """Whether one had been made. Older programs do not say; a job of theirs that ended with a reason made one."""
        if self.newest_checkpoint is not None:
            return self.newest_checkpoint > 0
        without = (REASON_UNKNOWN, "without a checkpoint")
        return any(job.ended is not None and not any(word in job.reason for word in without) for job in self.jobs)

    def correct_reason(self, told: str, reason: str) -> None:
        """Puts `reason` where the last job ended for `told`; what is said of its learning stays."""
        job = self.jobs[-1]
        before, mark, learned = job.reason.partition(_NOTHING_LEARNED)
        if before == told:
            job.reason = f"{reason}{mark}{learned}"

    def _close(self, job: Job, reason: str, ended: float) -> None:
        job.ended, job.reason = ended, reason
        job.env_steps_end, job.updates_end = self.env_steps, self.updates


class DamagedProgressError(UserError):
    """progress.json is there and cannot be understood."""


def save_progress(path: Path, progress: Progress) -> None:
    """Writes the file atomically and stamps `updated`. Raises `StorageError` for a full disk."""
    progress.updated = time.time()
    write_atomic(path, msgspec.json.format(msgspec.json.encode(progress), indent=2) + b"\n")


def target_reached(path: Path) -> bool:
    """Whether the run has come to its `target_total_steps`, as far as its progress.json says."""
    try:
        progress = read_progress(path)
    except UserError:
        return False  # damaged; the learner rebuilds it
    return progress is not None and progress.env_steps >= progress.target_total_steps


def read_progress(path: Path) -> Progress | None:
    """For readers: the progress, or None if the run has none yet. Raises `UserError` if the file is damaged."""
    try:
        data = read_bytes(path)
    except MissingFileError:
        return None
    try:
        return decode_json(data, Progress, path, Version("schema_version", SCHEMA_VERSION))
    except UnreadableError as error:
        raise DamagedProgressError(f"{error}; the next job of the run rebuilds it") from None


def readable_progress(path: Path) -> Progress | None:
    """For those to whom a damaged file is as none: the learner rebuilds it. Else as `read_progress`."""
    try:
        return read_progress(path)
    except DamagedProgressError:
        return None


def recover_progress(path: Path) -> tuple[Progress | None, str]:
    """For the writer: `(progress, note)`. A damaged file is moved to `progress.json.damaged`, which the note says.

    Only the history of jobs and the milestones' steps are lost with it; counters come from the replay log. Raises
    `UserError` for the file of a newer program: rebuilding would destroy it.
    """
    try:
        return read_progress(path), ""
    except DamagedProgressError:
        aside = free_damaged_path(path)
        path.replace(aside)
        return None, f"{path.name} was damaged; moved to {aside.name} and rebuilt, without the history of jobs"
