"""`python -m cluster_rl.cluster` beside a real SLURM: what it refuses SLURM would refuse, and what it submits runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from run_fixtures import ended_for, overrides
from sbatch_scripts import CASES
from slurm_fixtures import Slurm, cluster

from cluster_rl.jobs.slurm import duration_sec
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.lock import RunLock
from cluster_rl.runs.progress import Progress, read_progress

TINY = ["--config", "quickstart", *overrides()]


def a_python(home: Path) -> str:
    """Stands for the jobs' Python where none is started: importing torch takes seconds."""
    path = home / "job-python"
    path.write_text("#!/bin/sh\necho 2.13.0 12.6\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def progress(home: Path, run: str) -> Progress:
    found = read_progress(RunDir(home / "cluster_runs", run).progress)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--cpus-per-task=9", "asks for 9 CPUs"),
        ("--time=05:00:00", "asks for 5 hours"),
        ("--gres=gpumem:21G", "asks for 21 GB of GPU memory"),
        ("--mem-per-cpu=100M", "sbatch takes memory in one way alone"),
    ],
)
def test_too_large_a_job(slurm: Slurm, home: Path, option: str, says: str) -> None:
    by_slurm = slurm.call("sbatch", "--test-only", option, "slurm/train_gpu.sbatch", "--run-name", "one", cwd=home)
    assert by_slurm.returncode != 0, "SLURM takes it"
    checked = cluster(slurm, home, "check", "--run-name", "one", f"--sbatch={option}", python=a_python(home))
    assert checked.returncode == 2
    assert says in checked.stderr
    assert checked.stderr.count("\n") == 1


def test_scripts_are_read_as_slurm_reads_them(slurm: Slurm, home: Path) -> None:
    """What `tests/unit/batch_system/test_job_script.py` expects of our own reading."""
    for case in CASES:
        (home / "own.sbatch").write_text(f"#!/bin/bash\n{case.lines}\nsleep 60\n", encoding="utf-8")
        variables = dict(word.split("=") for word in case.variables.split())
        job = slurm.submit("own.sbatch", cwd=home, options=["--hold", *case.options.split()], **variables)
        shown = slurm.call("scontrol", "show", "job", str(job), "--oneliner", cwd=home).stdout
        slurm.call("scancel", str(job), cwd=home)
        fields = dict(part.split("=", 1) for part in shown.split() if "=" in part)
        assert (int(fields["NumCPUs"]), duration_sec(fields["TimeLimit"]) / 60) == (case.cpus, case.minutes), case
        if case.memory_gb:  # else the cluster's default is shown
            assert f"mem={case.memory_gb:g}G," in fields["TRES"], case


def test_the_callers_environment(slurm: Slurm, home: Path, tmp_path: Path) -> None:
    """What a user has set for the own calls of SLURM's commands: jobs get what sbatch takes of it, and are found."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "sbatch").write_text(f'#!/bin/sh\necho "Welcome to 2026"\nexec {slurm.folder}/bin/sbatch "$@"\n')
    (tools / "sbatch").chmod(0o755)
    users = {
        "PATH": f"{tools}:{slurm.environment()['PATH']}",
        "SBATCH_TIMELIMIT": "20",
        "SBATCH_NO_REQUEUE": "1",
        "SBATCH_EXPORT": "NONE",
        "SBATCH_WAIT": "1",
        "SQUEUE_STATES": "RUNNING",
        "SQUEUE_PARTITION": "gpu-linuxlab",
        "SQUEUE_FORMAT": "%A",
        "SCANCEL_STATE": "RUNNING",
    }
    python = a_python(home)
    arguments = ["--script", "train_cpu", "--chain", *TINY]
    submitted = cluster(
        slurm, home, "submit", "--run-name", "one", *arguments, "--sbatch=--hold", python=python, **users
    )
    assert submitted.returncode == 0, submitted.stderr
    assert "--  environment: SBATCH_TIMELIMIT=20: goes before" in submitted.stdout
    job = int(submitted.stdout.rsplit("submitted job ", 1)[1].split(":")[0])
    assert (slurm.field(job, "TimeLimit"), slurm.field(job, "Requeue")) == ("00:20:00", "1")
    status = cluster(slurm, home, "status", "--run-name", "one", python=python, **users)
    assert f"job {job} train_cpu: waits (JobHeldUser)" in status.stdout
    cancelled = cluster(slurm, home, "cancel", "--run-name", "one", python=python, **users)
    assert f"cancelled: {job};" in cancelled.stdout
    slurm.wait_for_state(job, "CANCELLED")


def test_a_script_that_nobody_can_read_is_shown_and_cancelled(
    slurm: Slurm, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Submitted by hand and under a name of its own, and since then edited."""
    script = home / "my jobs" / "own.sbatch"
    script.parent.mkdir()
    text = (home / "slurm" / "train_cpu.sbatch").read_text()
    script.write_text(text)
    job = slurm.submit(str(script), "--run-name", "one", cwd=home, options=["--hold"], SBATCH_JOB_NAME="mine")
    script.write_text(text.replace("--time=04:00:00", '--time="04:00:00   # max'))
    monkeypatch.setenv("SLURM_JOB_ID", str(job))
    with RunLock(RunDir(home / "cluster_runs", "one").create()):
        status = cluster(slurm, home, "status", "--run-name", "one")
        assert f"job {job} mine: waits" in status.stdout, status.stderr
        assert f"cancelled: {job};" in cluster(slurm, home, "cancel", "--run-name", "one").stdout
    slurm.wait_for_state(job, "CANCELLED")


def test_a_fifth_job(slurm: Slurm, home: Path) -> None:
    (home / "idle.sh").write_text("#!/bin/sh\nsleep 60\n", encoding="utf-8")
    held = [slurm.submit("idle.sh", cwd=home, options=["--hold", "-t", "5"]) for _ in range(3)]
    try:
        assert cluster(slurm, home, "check", "--run-name", "one", python=a_python(home)).returncode == 0
        held.append(slurm.submit("idle.sh", cwd=home, options=["--hold", "-t", "5"]))
        checked = cluster(slurm, home, "check", "--run-name", "one", python=a_python(home))
        assert checked.returncode == 2
        assert "4 jobs are in the queue and 1 more would be; a user may have 4" in checked.stderr
        slurm.show_to_the_hook(held[-1], cwd=home)
        refused = slurm.call("sbatch", "slurm/train_gpu.sbatch", "--run-name", "one", cwd=home)
        assert refused.returncode != 0
        assert "4 jobs already in the queue" in refused.stderr
    finally:
        slurm.call("scancel", *map(str, held), cwd=home)


def test_one_job_from_submit_to_its_end(slurm: Slurm, home: Path) -> None:
    options = ["--script", "slim_cpu", "--run-name", "one", "--no-video", *TINY, "--max_runtime_seconds=4"]
    planned = cluster(slurm, home, "submit", *options, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "to start at" in planned.stdout, "no estimate of the start"
    assert not (home / "cluster_runs").exists()
    (home / "slurm" / "logs").rmdir()
    submitted = cluster(slurm, home, "submit", *options, "--sbatch=--hold")
    assert submitted.returncode == 0, submitted.stderr
    job = int(submitted.stdout.rsplit("submitted job ", 1)[1].split(":")[0])
    # The log folder was missing; SLURM would have failed the job before its first line.
    assert (home / "slurm" / "logs").is_dir()
    waiting = cluster(slurm, home, "status", "--run-name", "one")
    assert f"job {job} slim_cpu: waits (JobHeldUser): it is held; release it" in waiting.stdout
    assert slurm.call("scontrol", "release", str(job), cwd=home).returncode == 0
    slurm.wait_for_state(job, "COMPLETED")
    log = (home / "slurm" / "logs" / f"slim_cpu-{job}.out").read_text()
    assert "one job was asked for" in log
    assert slurm.field(job, "Restarts") == "0"
    assert [ended_for(job, "max_runtime_seconds reached") for job in progress(home, "one").jobs] == [True]
    ended = cluster(slurm, home, "status", "--run-name", "one")
    assert "and no job script trains it" in ended.stdout
    assert "max_runtime_seconds reached" in ended.stdout


def test_cancel_ends_all_jobs_of_the_run_and_no_other(slurm: Slurm, home: Path) -> None:
    arguments = ["--script", "train_cpu", "--chain", "--actor-jobs", "1", *TINY, "--sbatch=--hold"]
    submitted = cluster(slurm, home, "submit", "--run-name", "one", *arguments)
    assert submitted.returncode == 0, submitted.stderr
    jobs = [int(line.split()[2].rstrip(":")) for line in submitted.stdout.splitlines() if line.startswith("submitted")]
    assert len(jobs) == 2
    other = slurm.submit("slurm/slim_cpu.sbatch", "--run-name", "other", cwd=home, options=["--hold"])
    slurm.wait_for_state(jobs[1], "RUNNING")  # --sbatch is for the trainer's job; the actors wait for its learner
    cancelled = cluster(slurm, home, "cancel", "--run-name", "one")
    assert cancelled.returncode == 0, cancelled.stderr
    for job in jobs:
        slurm.wait_for_state(job, "CANCELLED")
    assert slurm.field(other, "JobState") == "PENDING"
    slurm.call("scancel", str(other), cwd=home)


def test_four_short_jobs_count_as_one_long(slurm: Slurm, home: Path) -> None:
    """The same target in one job, and in a chain whose first three jobs run out of time."""
    target = ["--target_total_steps=2400", "--run-name", "long"]
    long = slurm.submit(
        "slurm/slim_cpu.sbatch", "--no-video", *TINY, *target, cwd=home, CLUSTER_RL_PYTHON=sys.executable
    )
    slurm.wait_for_state(long, "COMPLETED")
    chain = slurm.submit(
        "slurm/slim_cpu.sbatch",
        *("--no-video", *TINY, "--target_total_steps=1000000", "--run-name", "short", "--max_runtime_seconds=3"),
        cwd=home,
        CLUSTER_RL_PYTHON=sys.executable,
    )
    run_dir = RunDir(home / "cluster_runs", "short")

    def jobs_done() -> int:
        found = read_progress(run_dir.progress)
        return sum(job.ended is not None for job in found.jobs) if found is not None else 0

    slurm.wait_for(lambda: jobs_done() >= 3, "the chain does not go on", timeout_sec=120)

    def is_cancelled() -> bool:
        """Asked anew each time: the third job has just ended, and SLURM forgets a scancel of one that is requeued."""
        slurm.call("scancel", str(chain), cwd=home)
        return slurm.field(chain, "JobState") == "CANCELLED"

    slurm.wait_for(is_cancelled, "the chain cannot be cancelled")
    reached = progress(home, "short").env_steps
    last = slurm.submit(
        "slurm/slim_cpu.sbatch",
        *("--no-video", *TINY, f"--target_total_steps={reached + 400}", "--run-name", "short"),
        cwd=home,
        CLUSTER_RL_PYTHON=sys.executable,
    )
    slurm.wait_for_state(last, "COMPLETED")
    one, many = progress(home, "long"), progress(home, "short")
    assert len(one.jobs) == 1
    assert len(many.jobs) >= 4
    for before, after in zip(many.jobs, many.jobs[1:], strict=False):
        assert (after.env_steps_start, after.updates_start) == (before.env_steps_end, before.updates_end)
    for whole in (one, many):
        assert whole.replay.transitions == whole.env_steps  # nothing was dropped
        assert sum((job.env_steps_end or 0) - job.env_steps_start for job in whole.jobs) == whole.env_steps
        assert sum((job.updates_end or 0) - job.updates_start for job in whole.jobs) == whole.updates
        assert whole.env_steps - whole.target_total_steps in range(100)
    # From job to job neither replay nor what is owed to it gets less.
    rows = [json.loads(line) for line in run_dir.metrics.read_text().splitlines()]
    sizes = [row["replay/transitions"] for row in rows]
    sampled = [row["samples_per_insert"] * row["env_steps"] for row in rows]
    assert sizes == sorted(sizes)
    assert sampled == sorted(sampled)
    # Nor does a later job begin with random play again.
    epsilons = [row["actor/epsilon"] for row in rows if "actor/epsilon" in row]
    trained = next(number for number, epsilon in enumerate(epsilons) if epsilon < 0.5)
    assert max(epsilons[trained:]) < 0.9
    assert many.samples_per_insert == pytest.approx(one.samples_per_insert, rel=0.1)
    assert many.updates / many.env_steps == pytest.approx(one.updates / one.env_steps, rel=0.1)
