"""`cluster status` and `cancel`: of which runs and jobs."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
from cluster_calls import cluster
from slurm_programs import job_programs, put_program

from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.lock import RunLock
from cluster_rl.runs.progress import Progress, save_progress


def test_the_seeds_of_a_run_are_rows(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cluster_rl.cluster import cancel, print_status

    family = RunDir("cluster_runs", "one")
    for seed in (1, 2, 3, 4):
        family.of_seed(seed).create()
    progress = Progress(run_name="one-s2", target_total_steps=9000, env_steps=1234, milestones={"door": 5})
    progress.mean_return_recent = 1.5
    progress.begin_job()
    progress.updates += 1
    progress.end_job("signal SIGTERM")
    save_progress(family.of_seed(2).progress, progress)
    family.of_seed(4).progress.write_text("{")
    print_status(family)
    head, *rows = capsys.readouterr().out.splitlines()[1:]
    assert (re.split("  +", head), len(rows)) == (["run", "job", "env steps", "milestones", "return", "now"], 4)
    assert re.split("  +", rows[1]) == ["one-s2", "no job; signal SIGTERM", "1,234 of 9,000", "1 of 73", "1.50"]
    assert "progress.json cannot be read" in rows[3]
    progress.begin_job()
    progress.activity, progress.updated = "learning", time.time()
    save_progress(family.of_seed(4).progress, progress)
    print_status(family)
    assert re.split("  +", capsys.readouterr().out.splitlines()[-1])[-3:] == ["1 of 73", "1.50", "learning"]
    # Task 1 was made by `submit`; task 3 by hand, and trains.
    comment = f"cluster_rl:{home / 'cluster_runs' / 'one'}-s%%a"
    lines = [
        f"7_1\\tslim_cpu\\tPENDING\\tPriority\\t\\t1:00\\t{comment}\\t(null)",
        r"7_2\tslim_cpu\tRUNNING\tNone\tcpu01\t1:00\t(null)\t(null)",
        rf"8_3\tslim_cpu\tRUNNING\tNone\tcpu01\t1:00\t(null)\t{home}/slurm/slim_cpu.sbatch --run-name one",
    ]
    put_program(job_programs(home), "squeue", "printf '" + r"\n".join(lines) + "'")
    put_program(job_programs(home), "scancel", 'echo "$@" > cancelled')
    for name, value in (("SLURM_JOB_ID", "8"), ("SLURM_ARRAY_JOB_ID", "8"), ("SLURM_ARRAY_TASK_ID", "3")):
        monkeypatch.setenv(name, value)
    with RunLock(family.of_seed(3)):
        print_status(family)
        cancel(family.of_seed(1))
        assert (home / "cancelled").read_text() == "7_1\n"
        cancel(family)
    assert (home / "cancelled").read_text() == "7_1 8_3\n"
    rows = capsys.readouterr().out.splitlines()
    assert rows[1].startswith("one-s1  7_1 slim_cpu: waits (Priority)")
    assert rows[3].startswith("one-s3  8_3 slim_cpu: running on cpu01, 1 min left")
    family.create()
    print_status(family)
    assert "learner: none is running" in capsys.readouterr().out


def test_status_and_cancel_without_slurm(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cluster("status", "--run-name", "one").returncode == 2
    (home / "cluster_runs" / "one").mkdir(parents=True)
    monkeypatch.setenv("CLUSTER_RL_RUNS", str(home / "cluster_runs"))
    monkeypatch.chdir(home)
    done = cluster("status", "--run-name", "one")
    assert (done.returncode, done.stderr) == (0, "")
    assert "no SLURM on this machine" in done.stdout
    assert "learner: none is running" in done.stdout
    done = cluster("cancel", "--run-name", "one")
    assert done.returncode == 2
    assert "squeue is not installed here" in done.stderr


def test_a_job_that_trains_is_known_and_a_notebook_server_is_not_ours(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cluster_rl.cluster import cancel, print_status

    run_dir = RunDir("cluster_runs", "one").create()
    put_program(job_programs(home), "scancel", 'echo "$@" > cancelled')
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with RunLock(run_dir):
        put_program(
            job_programs(home),
            "squeue",
            rf"printf '7\tslim_cpu\tRUNNING\tNone\tcpu01\t1:00\t(null)\t{home}/slurm/jupyter.sbatch\n'",
        )
        cancel(run_dir)
        assert not (home / "cancelled").exists()
        put_program(
            job_programs(home),
            "squeue",
            rf"printf '7\tname\tRUNNING\tNone\tcpu01\t1:00\t(null)\t{home}/slurm/slim_cpu.sbatch --run-name one\n'",
        )
        print_status(run_dir)
        cancel(run_dir)
        assert (home / "cancelled").read_text() == "7\n"
        put_program(job_programs(home), "squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
        print_status(run_dir)
    said = capsys.readouterr().out
    assert "job 7 name: running on cpu01, 1 min left" in said
    assert f"trained by process {os.getpid()}" in said
    assert "the queue cannot be shown: squeue failed: Unable to contact" in said
    assert said.count("progress: none yet") == 2
