"""SLURM as its commands tell it: this user's jobs, the time that one has left, and SLURM's own words for a refusal.

The trainers ask for the end of the job they run in; `python -m cluster_rl.cluster` asks for the rest. In: what `squeue`
and others print. Out: plain values, or a `SlurmError` with one line; a command that fails says nothing about jobs.
"""

from __future__ import annotations

import enum
import math
import os
import re
import shutil
import subprocess
from collections.abc import Sequence

import msgspec

from cluster_rl.runs.slurm_job import slurm_job_id

_TIMEOUT_SEC = 30.0
_ENDING_TIMEOUT_SEC = 3.0  # in a job that SLURM kills within 30 s
_KILL_WAIT_TIMEOUT_SEC = 2.0  # a job's start waits for it
_DEFAULT_KILL_WAIT_SEC = 30.0
_QUEUE_FIELDS = "%i\t%j\t%T\t%r\t%N\t%L\t%k\t%o"
# Variables by which a user's own calls are set up, and with which ours would miss jobs or answer in another form.
_OF_THE_USER = ("SQUEUE_", "SCONTROL_", "SACCT_", "SCANCEL_")
OF_THE_CALL = ("SBATCH_DEBUG", "SBATCH_WAIT")  # those of sbatch that concern the call; the rest is the job's
# [days-]hours[:minutes[:seconds]], minutes, minutes:seconds or hours:minutes:seconds, see `man sbatch`.
# With more digits than any time has, a number would not fit a float.
_DURATION = re.compile(r"(?:(\d{1,15})-)?(\d{1,15})(?::(\d{1,15}))?(?::(\d{1,15}))?")

_RESTARTS = re.compile(r"\bRestarts=(\d{1,15})\b")
_JOB_STATE = re.compile(r"\bJobState=(\w+)")
_KILL_WAIT = re.compile(r"^KillWait\s*=\s*(\d{1,15})\b", re.MULTILINE)
_ROW = re.compile(r"\d+([_+]\S+)?\t")


class SlurmError(Exception):
    """A command of SLURM is missing, failed or did not answer. The message is one line."""


class Ending(enum.Enum):
    """What SLURM means by ending a job: that of `scancel` and of the time limit, or that of `scontrol requeue` and of
    pre-emption, which it starts again."""

    FOR_GOOD = enum.auto()
    TO_START_AGAIN = enum.auto()


class QueuedJob(msgspec.Struct, frozen=True, kw_only=True):
    """One job of this user that waits or runs. `nodes` is empty while it waits, `left_sec` infinite without a limit;
    `command` is its script's path with arguments, or what an interactive session runs."""

    job_id: str
    name: str
    state: str
    reason: str
    nodes: str
    left_sec: float
    comment: str
    command: str


def installed() -> bool:
    """Whether there is a SLURM to ask on this machine."""
    return shutil.which("squeue") is not None


def run_slurm(command: Sequence[str], stderr: bool = False, timeout_sec: float = _TIMEOUT_SEC) -> str:
    """What a command of SLURM prints, on stderr if asked. Raises `SlurmError` with its last lines if it fails.

    The user's settings for such commands do not hold, but sbatch's for jobs (`SBATCH_TIMELIMIT`).
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_OF_THE_USER) and name not in OF_THE_CALL
    }
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_sec, check=False, env=environment
        )
    except FileNotFoundError:
        raise SlurmError(f"{command[0]} is not installed here") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} did not answer within {timeout_sec:.0f} s") from None
    except OSError as error:
        raise SlurmError(f"{command[0]}: {error.strerror}") from None
    if done.returncode != 0:
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise SlurmError(f"{command[0]} failed: {'; '.join(said[-3:]) or f'exit code {done.returncode}'}")
    return done.stderr if stderr else done.stdout


def queued_jobs() -> list[QueuedJob]:
    """This user's jobs, oldest first; of an array each task, as SLURM counts them. Raises `SlurmError`."""
    me = str(os.getuid())
    # --all: those in partitions that are hidden, or closed to this user by now, too.
    printed = run_slurm(["squeue", "--all", "--noheader", "--array", "--user", me, "--sort", "i", "-o", _QUEUE_FIELDS])
    jobs = []
    for line in printed.splitlines():
        if not _ROW.match(line):
            continue  # a line of the site's or the cluster's name
        fields = line.split("\t", 7)
        if len(fields) != 8:
            raise SlurmError(f"squeue: {line!r} is not what was asked for")
        job_id, name, state, reason, nodes, left, comment, script = fields
        jobs.append(
            QueuedJob(
                job_id=job_id,
                name=name,
                state=state,
                reason=reason,
                nodes=nodes,
                left_sec=_left_sec(left),
                comment="" if comment == "(null)" else comment,
                command="" if script == "(null)" else script,
            )
        )
    return jobs


def time_left_sec(job_id: str) -> float:
    """Seconds until SLURM ends a running job; infinite if it has no limit. Raises `SlurmError`."""
    printed = run_slurm(["squeue", "--all", "--noheader", "--jobs", job_id, "-o", "left:%L"]).split()
    left = [word.removeprefix("left:") for word in printed if word.startswith("left:")]
    if not left:
        raise SlurmError(f"squeue knows no job {job_id}")
    return _left_sec(left[0])


def submit_job(command: Sequence[str]) -> str:
    """The number of the job that an `sbatch --parsable` submits, whatever else is printed beside it. Raises
    `SlurmError`."""
    printed = run_slurm(command)
    numbers = re.findall(r"^\s*(\d+)(?:;\S+)?\s*$", printed, re.MULTILINE)
    if not numbers:
        said = "; ".join(printed.split("\n")).strip("; ") or "nothing"
        raise SlurmError(f"{command[0]} printed {said!r} and no job's number; look with squeue whether there is one")
    return str(numbers[-1])


def ending() -> Ending | None:
    """How SLURM is ending the job that this process runs in; None where it is not, or does not answer within 3 s: the
    job has more to do before it is killed.

    A job's script that hears TERM late, or not at all, learns here that nothing may follow: `scontrol requeue` would
    start even a cancelled job again.
    """
    job_id = slurm_job_id()
    if job_id is None:
        return None
    try:
        shown = run_slurm(["scontrol", "show", "job", job_id, "--oneliner"], timeout_sec=_ENDING_TIMEOUT_SEC)
    except SlurmError:
        return None
    restarts, state = _RESTARTS.search(shown), _JOB_STATE.search(shown)
    # It counts a start that is to come, after `scontrol requeue` and pre-emption.
    if restarts is not None and int(restarts[1]) > int(os.environ.get("SLURM_RESTART_COUNT", "0")):
        return Ending.TO_START_AGAIN
    if state is not None and state[1] in ("COMPLETING", "CANCELLED"):
        return Ending.FOR_GOOD
    return None


def kill_wait_sec() -> float:
    """Seconds from TERM until SLURM kills what is left of a job: by this cluster's settings, or SLURM's default where
    it does not answer within 2 s."""
    try:
        found = _KILL_WAIT.search(run_slurm(["scontrol", "show", "config"], timeout_sec=_KILL_WAIT_TIMEOUT_SEC))
    except SlurmError:
        found = None
    return float(found[1]) if found is not None else _DEFAULT_KILL_WAIT_SEC


def duration_sec(text: str) -> float:
    """Seconds of a time as `sbatch --time` takes it: `30` minutes, `4:00:00`, `1-12`. Raises `ValueError`."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a time of SLURM")
    days, first, second, third = (int(part) if part is not None else None for part in found.groups())
    assert first is not None
    if days is not None:
        hours, minutes, seconds = first, second or 0, third or 0
    elif third is not None:
        hours, minutes, seconds = first, second or 0, third
    else:
        hours, minutes, seconds = 0, first, second or 0
    return float((((days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds)


def _left_sec(text: str) -> float:
    """`%L` of squeue: a duration, or a word where there is none."""
    try:
        return duration_sec(text)
    except ValueError:
        return math.inf
