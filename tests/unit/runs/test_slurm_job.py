"""What SLURM calls the job of this process."""

from __future__ import annotations

import pytest

from cluster_rl.runs.lock import Holder
from cluster_rl.runs.progress import Progress
from cluster_rl.runs.rendezvous import Rendezvous
from cluster_rl.runs.slurm_job import slurm_job_id


@pytest.mark.parametrize(
    ("job", "array", "task", "expected"),
    [
        (None, None, None, None),
        ("17", None, None, "17"),
        ("17", "17", "3", "17_3"),  # the task that has the array's own number
        ("18", "17", "0", "17_0"),
    ],
)
def test_a_job_and_a_task(
    monkeypatch: pytest.MonkeyPatch, job: str | None, array: str | None, task: str | None, expected: str | None
) -> None:
    values = {"SLURM_JOB_ID": job, "SLURM_ARRAY_JOB_ID": array, "SLURM_ARRAY_TASK_ID": task}
    for name, value in values.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert slurm_job_id() == expected
    assert Holder.this_process().slurm_job_id == expected
    assert Progress(run_name="one", target_total_steps=1).begin_job().slurm_job_id == expected
    place = Rendezvous(protocol=1, run="one", endpoint="tcp://127.0.0.1:1", public_key=None, incarnation=1)
    assert place.slurm_job_id == expected
