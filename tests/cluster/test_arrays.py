"""Job arrays on a real SLURM: a run for each task, and what ends or starts again is that task alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from run_fixtures import overrides
from slurm_fixtures import Slurm, cluster

from cluster_rl.config import load_config
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import read_progress

TINY = ["--script", "slim_cpu", "--no-video", "--config", "quickstart", *overrides()]
# The array of a user: it calls its runs what it likes, or takes the name that sbatch was given.
OWN = """#!/bin/bash
#SBATCH --array=1-3
#SBATCH --time=10
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=own-%a.out
set -u
. slurm/job.sh || exit 2
run_job train_cluster --run-name own-$SLURM_ARRAY_TASK_ID "$@"
"""
# In the place of Python: a trainer whose time is up at once in the task whose number is the array's, the first time.
TRAINER = """#!/bin/sh
case "$*" in *cluster_rl.train_cluster*) ;; *) exec {python} "$@" ;; esac
echo "trains: $*"
if [ "$SLURM_JOB_ID" = "$SLURM_ARRAY_JOB_ID" ] && [ -z "${{SLURM_RESTART_COUNT:-}}" ]; then exit 85; fi
trap 'exit 0' TERM
sleep 300 &
wait
"""


@pytest.fixture
def trainer(home: Path) -> str:
    path = home / "trainer"
    path.write_text(TRAINER.format(python=sys.executable), encoding="utf-8")
    path.chmod(0o755)
    (home / "own.sbatch").write_text(OWN, encoding="utf-8")
    return str(path)


def array_of(said: str) -> int:
    return int(said.rsplit("submitted array ", 1)[1].split(":")[0])


def test_a_task_that_goes_on_takes_no_other_with_it(slurm: Slurm, home: Path, trainer: str) -> None:
    array = slurm.submit("own.sbatch", cwd=home, CLUSTER_RL_PYTHON=trainer)
    tasks = [f"{array}_{task}" for task in (1, 2, 3)]
    try:
        slurm.wait_for(lambda: any(slurm.field(task, "Restarts") == "1" for task in tasks), "no task is requeued")
        (again,) = (task for task in tasks if slurm.field(task, "JobId") == str(array))
        slurm.wait_for_state(again, "RUNNING")
        assert [slurm.field(task, "Restarts") for task in tasks] == [str(int(task == again)) for task in tasks]
        assert {slurm.field(task, "JobState") for task in tasks} == {"RUNNING"}
        assert f"job {again} goes back into the queue" in (home / f"own-{again[-1]}.out").read_text()
    finally:
        slurm.call("scancel", str(array), cwd=home)
    for task in tasks:
        slurm.wait_for_state(task, "CANCELLED")


def test_a_job_submitted_from_inside_of_a_task_is_no_task(slurm: Slurm, home: Path, trainer: str) -> None:
    inherited = {"SLURM_ARRAY_JOB_ID": "9999", "SLURM_ARRAY_TASK_ID": "7"}
    job = slurm.submit("slurm/train_cpu.sbatch", "--run-name", "red", cwd=home, CLUSTER_RL_PYTHON=trainer, **inherited)
    log = home / "slurm" / "logs" / f"train_cpu-{job}.out"
    slurm.wait_for(lambda: log.exists() and "trains: " in log.read_text(), "it trains nothing")
    assert log.read_text().strip().endswith("--default-config cpu --run-name red")
    slurm.call("scancel", str(job), cwd=home)
    slurm.wait_for_state(job, "CANCELLED")


def queued(slurm: Slurm, home: Path) -> list[str]:
    return slurm.call("squeue", "--noheader", "--array", "--format=%i", cwd=home).stdout.split()


def test_seeds_from_submit_to_their_target(slurm: Slurm, home: Path) -> None:
    options = ["--run-name", "red", "--seeds", "2-3", "--chain", *TINY, "--target_total_steps=400"]
    submitted = cluster(slurm, home, "submit", *options)
    assert submitted.returncode == 0, submitted.stderr
    assert "ok  run: red-s2 to red-s3: SMALL VALE" in submitted.stdout
    array = array_of(submitted.stdout)
    for seed in (2, 3):
        slurm.wait_for_state(f"{array}_{seed}", "COMPLETED", timeout_sec=180)
        run_dir = RunDir(home / "cluster_runs", f"red-s{seed}")
        assert load_config(run_dir.config).base_seed == seed
        progress = read_progress(run_dir.progress)
        assert progress is not None
        assert [(job.slurm_job_id, job.reason) for job in progress.jobs] == [
            (f"{array}_{seed}", "target_total_steps reached")
        ]
        assert f"run red-s{seed}: " in (home / "slurm" / "logs" / f"slim_cpu-{array}_{seed}.out").read_text()
    head, *rows = cluster(slurm, home, "status", "--run-name", "red").stdout.splitlines()
    assert head.split() == ["run", "job", "env", "steps", "milestones", "return", "now"]
    assert [row.split()[0] for row in rows] == ["red-s2", "red-s3"]
    assert all("no job; target_total_steps reached" in row and " of 400 " in row for row in rows)
    assert not (home / "cluster_runs" / "red").exists()


def test_more_seeds_than_jobs_at_a_time_looked_at_and_cancelled(slurm: Slurm, home: Path) -> None:
    settings = home / "slurm" / "settings.env"
    settings.write_text(settings.read_text().replace("MAX_JOBS=4", "MAX_JOBS=2"))
    options = ["--run-name", "red", *TINY]
    submitted = cluster(slurm, home, "submit", *options, "--seeds", "3", "--sbatch=--hold")
    assert "0 job(s) in it, 2 more, the others wait for them" in submitted.stdout, submitted.stderr
    array = array_of(submitted.stdout)
    assert slurm.field(array, "ArrayTaskThrottle") == "2"
    _, *rows = cluster(slurm, home, "status", "--run-name", "red").stdout.splitlines()
    assert [row.split()[:2] for row in rows] == [[f"red-s{task}", f"{array}_{task}"] for task in (1, 2, 3)]
    assert all("waits (JobHeldUser)" in row for row in rows)
    assert cluster(slurm, home, "cancel", "--run-name", "red-s2").stdout.startswith(f"cancelled: {array}_2;")
    assert queued(slurm, home) == [f"{array}_1", f"{array}_3"]
    assert cluster(slurm, home, "cancel", "--run-name", "red").stdout.startswith(f"cancelled: {array}_1, {array}_3;")
    assert queued(slurm, home) == []
    # A cluster that counts each task when it is submitted says so itself.
    settings.write_text(settings.read_text().replace("MAX_JOBS=2", "MAX_JOBS=4"))
    checked = cluster(slurm, home, "check", *options, "--seeds", "5")
    assert checked.returncode == 2
    assert "SLURM would refuse it" in checked.stderr
    assert "5 more asked, 4 allowed for a user" in checked.stderr
    assert checked.stderr.endswith("; if it counts tasks that wait too, give --seeds 1-4 first\n")
