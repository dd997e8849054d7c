"""Which SLURM job this process runs in, by the name that SLURM's commands know it by.

Locks, progress, rendezvous and deadlines name it. In: the environment that SLURM gives to a job. Out: a text or None.
"""

from __future__ import annotations

import os


def slurm_job_id() -> str | None:
    """`17`, of an array's task `17_3`; None outside of a job.

    An array has the number of one of its tasks: by that number alone `scontrol` and `squeue` would mean all of them.
    """
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")
