"""The job scripts, unchanged, on a real SLURM: the chain of jobs, its end, cancelling, crashes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from run_fixtures import ended_for, overrides
from slurm_fixtures import Slurm

from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import Progress, read_progress, save_progress

RUN = "short"


def submit(slurm: Slurm, home: Path, script: str, *arguments: str) -> int:
    options = ["--run-name", RUN, "--config", "job.yaml", *arguments, *overrides()]
    return slurm.submit(f"slurm/{script}", *options, cwd=home, CLUSTER_RL_PYTHON=sys.executable, OMP_NUM_THREADS="1")


def set_target(home: Path, env_steps: int) -> None:
    """For the jobs that start from now on: they read the file anew."""
    (home / "job.yaml").write_text(f"target_total_steps: {env_steps}\n", encoding="utf-8")


def progress(home: Path) -> Progress | None:
    return read_progress(RunDir(home / "cluster_runs", RUN).progress)


def steps(home: Path) -> int:
    found = progress(home)
    return found.env_steps if found is not None else 0


def log(home: Path, script: str, job: int) -> str:
    return (home / "slurm" / "logs" / f"{script}-{job}.out").read_text()


def test_a_job_is_warned_requeued_and_goes_on_to_the_target(slurm: Slurm, home: Path) -> None:
    """With `--fresh`, which begins the run anew in its first job and not in the second."""
    set_target(home, 1_000_000)
    run_dir = RunDir(home / "cluster_runs", RUN).create()
    save_progress(run_dir.progress, Progress(run_name=RUN, target_total_steps=1, env_steps=77))  # all else was purged
    job = submit(slurm, home, "train_cpu.sbatch", "--fresh")
    slurm.wait_for(lambda: steps(home) > 200, "no env steps")
    # The end of the job comes near: SLURM itself warns.
    assert slurm.call("scontrol", "update", f"jobid={job}", "EndTime=now+60", cwd=home).returncode == 0
    slurm.wait_for(lambda: "goes back into the queue" in log(home, "train_cpu", job), log(home, "train_cpu", job))
    first = progress(home)
    assert first is not None
    assert [one.reason for one in first.jobs] == ["signal SIGUSR2"]
    assert first.env_steps > 200
    # Moving the end has shortened the limit itself; the next job gets its four hours back.
    slurm.wait_for_state(job, "PENDING")
    assert slurm.call("scontrol", "update", f"jobid={job}", "TimeLimit=04:00:00", cwd=home).returncode == 0
    set_target(home, first.env_steps + 600)
    # Back in the queue under its number, it goes on where it was, to the target, and there the chain ends.
    slurm.wait_for_state(job, "COMPLETED", timeout_sec=150)
    assert slurm.field(job, "Restarts") == "1"
    assert "the run has reached its target" in log(home, "train_cpu", job)
    last = progress(home)
    assert last is not None
    assert [one.reason for one in last.jobs] == ["signal SIGUSR2", "target_total_steps reached"]
    assert last.jobs[1].env_steps_start == first.env_steps
    assert last.jobs[1].updates_start == first.updates
    assert last.env_steps >= first.env_steps + 600
    assert last.replay.transitions == last.env_steps  # nothing was dropped between the jobs
    [aside] = run_dir.root.glob(f"{RUN}.before-*")
    before = read_progress(RunDir(aside.parent, aside.name).progress)
    assert before is not None
    assert before.env_steps == 77
    assert "--fresh: this job made the run before it was requeued" in log(home, "train_cpu", job)


def test_scancel_stays_cancelled_and_has_checkpointed(slurm: Slurm, home: Path) -> None:
    set_target(home, 1_000_000)
    job = submit(slurm, home, "slim_cpu.sbatch", "--no-video")
    slurm.wait_for(lambda: steps(home) > 100, "no env steps")
    slurm.call("scancel", str(job), cwd=home)
    slurm.wait_for_state(job, "CANCELLED")
    slurm.wait_for(lambda: "cancelled; submit it again" in log(home, "slim_cpu", job), log(home, "slim_cpu", job))
    ended = progress(home)
    assert ended is not None
    assert ended_for(ended.jobs[-1], "signal SIGTERM")
    assert list((home / "cluster_runs" / RUN / "checkpoint").iterdir())
    assert slurm.field(job, "Restarts") == "0"


def test_a_crashing_job_gives_up_at_the_third(slurm: Slurm, home: Path) -> None:
    # A program in the place of Python that imports the package, and dies as soon as it should train.
    broken = home / "python"
    broken.write_text(
        f'#!/bin/sh\ncase "$*" in *cluster_rl.train_cluster*) exit 9 ;; *) exec {sys.executable} "$@" ;; esac\n',
        encoding="utf-8",
    )
    broken.chmod(0o755)
    job = slurm.submit("slurm/train_cpu.sbatch", "--run-name", RUN, cwd=home, CLUSTER_RL_PYTHON=str(broken))
    slurm.wait_for_state(job, "FAILED")
    assert slurm.field(job, "ExitCode") == "9:0"
    assert slurm.field(job, "Restarts") == "2"
    text = log(home, "train_cpu", job)
    assert text.count("goes back into the queue") == 2
    assert "3 jobs in a row crashed, the last with exit code 9" in text
    assert json.loads((home / "cluster_runs" / RUN / "chain.json").read_text())["crashes"] == 0


@pytest.fixture
def urgent(slurm: Slurm, home: Path) -> str:
    """A partition whose jobs take the nodes of others, which are requeued."""
    conf = slurm.folder / "etc" / "slurm.conf"
    if "urgent" not in conf.read_text():
        with conf.open("a", encoding="utf-8") as file:
            file.write("PreemptType=preempt/partition_prio\nPreemptMode=REQUEUE\n")
            file.write("PartitionName=urgent Nodes=cpu01 PriorityTier=10 DefMemPerCPU=1000 State=UP\n")
        assert slurm.call("scontrol", "reconfigure", cwd=home).returncode == 0
    return "urgent"


@pytest.mark.parametrize("by", ["requeue", "pre-emption", "scancel"])
def test_a_job_that_slurm_takes_back_says_so(slurm: Slurm, home: Path, by: str, urgent: str) -> None:
    # In the place of Python: a trainer that waits for its end, and then takes a moment to end well.
    waiting = home / "python"
    program = 'trap "sleep 0.5; exit 85" TERM; echo trains; sleep 300 & wait; exit'
    waiting.write_text(
        f'#!/bin/sh\ncase "$*" in *cluster_rl.train_cluster*) {program} ;; esac\nexec {sys.executable} "$@"\n',
        encoding="utf-8",
    )
    waiting.chmod(0o755)
    (home / "idle.sh").write_text("#!/bin/sh\nsleep 60\n", encoding="utf-8")
    node = ["-w", "cpu01"]
    jobs = [
        slurm.submit(
            "slurm/train_cpu.sbatch", "--run-name", RUN, cwd=home, options=node, CLUSTER_RL_PYTHON=str(waiting)
        )
    ]
    path = home / "slurm" / "logs" / f"train_cpu-{jobs[0]}.out"
    try:
        slurm.wait_for(lambda: path.exists() and "trains" in path.read_text(), "it does not start")
        if by == "pre-emption":
            jobs.append(slurm.submit("idle.sh", cwd=home, options=[*node, "-p", urgent, "--exclusive", "-t", "5"]))
        else:
            slurm.call(*(["scontrol", "requeue"] if by == "requeue" else ["scancel"]), str(jobs[0]), cwd=home)
        slurm.wait_for(lambda: f"run {RUN}: " in path.read_text(), path.read_text())
        said = path.read_text()
        again = "SLURM has put this job back into the queue; it goes on with the run when it starts again"
        assert (again in said) == (by != "scancel")
        assert ("cancelled; submit it again to go on" in said) == (by == "scancel")
        slurm.wait_for_state(jobs[0], "CANCELLED" if by == "scancel" else "PENDING")
    finally:
        slurm.call("scancel", *map(str, jobs), cwd=home)
