"""One run for each of several seeds, as a job array: which tasks belong to which run, and what sbatch is told.

`slurm/job.sh` does the rest in the job: task 3 of an array whose run is NAME trains NAME-s3 with `base_seed` 3. In: the
user's words, jobs in the queue. Out: seeds, options of sbatch, and whose a job is.
"""

from __future__ import annotations

import re

from cluster_rl.errors import UserError
from cluster_rl.jobs.slurm import QueuedJob
from cluster_rl.runs.layout import RunDir

_SEEDS = re.compile(r"(?:(\d+)-)?(\d+)")
_LAST = 1000  # SLURM's MaxArraySize, where nobody has raised it
# Stands for the task in the comment that all jobs of an array share, as in the names of their logs.
_OF_TASK = "-s%a"


def read_seeds(text: str) -> range:
    """`5` for 1 to 5, `3-7` for these, at most `_LAST`. Raises `UserError` for anything else."""
    found = _SEEDS.fullmatch(text)
    first, last = (int(found[1] or 1), int(found[2])) if found else (1, 0)
    if last > _LAST:
        raise UserError(f"--seeds {text}: a task of an array has a number of at most {_LAST}")
    if first > last:
        raise UserError(f"--seeds {text}: give how many (5 for seeds 1 to 5), or the first and the last (3-7)")
    return range(first, last + 1)


def array_option(seeds: range, tasks_at_once: int) -> str:
    """sbatch's: a task for each seed, at most `tasks_at_once` of them at a time."""
    limited = f"%{tasks_at_once}" if tasks_at_once < len(seeds) else ""
    return f"--array={seeds[0]}-{seeds[-1]}{limited}"


def job_comment(run_dir: RunDir, seeds: range | None) -> str:
    """By what jobs of a run, or of the runs of its seeds, are known in the queue."""
    return f"cluster_rl:{run_dir.path.absolute()}" + ("" if seeds is None else _OF_TASK)


def own_comment(job: QueuedJob) -> str:
    """The job's comment; of a task of an array the one that a job of its run alone would have."""
    task = job.job_id.partition("_")[2]
    return f"{job.comment.removesuffix(_OF_TASK)}-s{task}" if job.comment.endswith(_OF_TASK) else job.comment


def is_of_run(job: QueuedJob, run_dir: RunDir) -> bool:
    """Whether `cluster submit` made this job, or this task of an array, for the run."""
    return own_comment(job) == job_comment(run_dir, None)
