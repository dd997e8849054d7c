"""When a job is over: after `max_runtime_seconds`, before the batch system ends it, or as the run is complete.

The learner, the serial mode and actor jobs ask for the moment once, at their start. In: the config's limit, and the
SLURM job this process runs in, if any. Out: a moment and the reason to give when it comes.
"""

from __future__ import annotations

import math
import time
from typing import NamedTuple

from cluster_rl.config import Config
from cluster_rl.jobs.slurm import SlurmError, installed, time_left_sec
from cluster_rl.runs.slurm_job import slurm_job_id

# What is left for a checkpoint where no warning signal comes, as in an interactive session: five minutes, or a tenth.
_MARGIN_SEC = 300.0
_MARGIN_PART = 0.1


class Deadline(NamedTuple):
    """A moment of `time.monotonic()`, which a machine's processes share; infinite if there is no limit."""

    at_sec: float
    reason: str

    def is_over(self) -> bool:
        """Whether the moment has come."""
        return time.monotonic() >= self.at_sec

    def unix_sec(self) -> float | None:
        """The moment as a Unix time, None if there is no limit."""
        return None if math.isinf(self.at_sec) else time.time() + self.at_sec - time.monotonic()


def job_deadline(max_runtime_seconds: float, job_started: float) -> Deadline:
    """The first of the two limits. `job_started` is the job's start by `time.monotonic()`; 0 seconds is no limit.

    If SLURM does not answer, a line says so and only the config's limit holds: the warning signal still comes.
    """
    limit = Deadline(math.inf, "")
    if max_runtime_seconds:
        limit = Deadline(job_started + max_runtime_seconds, "max_runtime_seconds reached")
    job_id = slurm_job_id()
    if not job_id or not installed():
        return limit
    try:
        left_sec = time_left_sec(job_id)
    except SlurmError as error:
        print(f"the end of SLURM job {job_id} is not known: {error}", flush=True)
        return limit
    margin_sec = min(_MARGIN_SEC, _MARGIN_PART * left_sec)
    return min(limit, Deadline(time.monotonic() + left_sec - margin_sec, f"the end of SLURM job {job_id} is near"))


def why_complete(config: Config, env_steps: int, episodes: int) -> str:
    """Why a run that is this far needs no more of anything; empty while it does."""
    if env_steps >= config.target_total_steps:
        return "target_total_steps reached"
    if config.total_episodes and episodes >= config.total_episodes:
        return "total_episodes reached"
    return ""
