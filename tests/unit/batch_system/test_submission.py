"""What `cluster submit` would give to sbatch, and what it says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from cluster_calls import check, cluster
from slurm_programs import job_programs, put_program

from cluster_rl.batch_system import submission
from cluster_rl.batch_system.settings import read_settings
from cluster_rl.errors import UserError
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.lock import RunLock


def test_check_and_submit_without_slurm(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTER_RL_PYTHON", sys.executable)
    more = ["--actor-jobs", "2", "--batch_size", "16", "--learner_wait_seconds", "7200"]
    done = cluster("submit", "--run-name", "one", "--dry-run", "--chain", *more)
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        "ok  limits: slurm/train_gpu.sbatch: partition gpu-linuxlab, 8 CPUs, 16 GB of memory, 4 h, a GPU with 10 GB"
        in done.stdout
    )
    assert "3 job(s) more; no SLURM on this machine" in done.stdout
    waits, run = [line for line in done.stdout.splitlines() if "GPU memory" in line]
    assert waits.startswith("estimating GPU memory: ")
    assert "18 actors, about" in run
    trainer, *actors = [line for line in done.stdout.splitlines() if line.startswith("would run: sbatch")]
    assert "--export=ALL,CLUSTER_RL_CHAIN=yes" in trainer
    assert trainer.endswith(
        "train_gpu.sbatch --run-name one --runs cluster_runs --batch_size 16 --learner_wait_seconds 7200 --actor_jobs=2"
    )
    assert [line.split(" --job ")[1] for line in actors] == [
        "1 --learner_wait_seconds 7200",
        "2 --learner_wait_seconds 7200",
    ]
    assert "without CUDA, and device is cuda; make another environment" in done.stdout or torch.version.cuda
    assert not (home / "cluster_runs").exists()
    assert not (home / "slurm" / "logs").exists()
    real = cluster("submit", "--script", "train_cpu", "--run-name", "one")
    assert real.returncode == 2
    assert real.stderr == (
        "error: no SLURM on this machine; submit from the cluster's login node, or train here with: "
        "bash slurm/train_cpu.sbatch --run-name one\n"
    )


def test_submitting(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    put_program(job_programs(home), "squeue", "true")
    answer = 'case "$*" in *--test-only*) echo "sbatch: Job 8 to start at noon" >&2; echo "thank you" >&2; exit ;; esac'
    put_program(job_programs(home), "sbatch", f"{answer}\necho 'Welcome to 2026!'; echo '7;local'")
    monkeypatch.setenv("SBATCH_OUTPUT", "my/logs/%x/%j.out")
    from cluster_rl import cluster as commands

    arguments = ["submit", "--script", "train_cpu", "--run-name", "one", "--chain", "--sbatch=--error=errors/%j"]
    monkeypatch.setattr(sys, "argv", ["cluster", *arguments])
    assert commands.main() == 0
    said = capsys.readouterr().out
    assert "ok  sbatch: Job 8 to start at noon\n" in said
    assert said.endswith("submitted job 7: slurm/train_cpu.sbatch, log my/logs/*/7.out\n")
    # A job whose log folder is missing fails before its first line.
    assert (home / "my" / "logs").is_dir()
    assert (home / "errors").is_dir()


def test_bad_input_is_one_line(home: Path) -> None:
    (home / "slurm" / "settings.env").write_text("CLUSTER_RL_MAX_JOBS=some\n")
    done = cluster("check", "--run-name", "one")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "settings.env, line 1: CLUSTER_RL_MAX_JOBS" in done.stderr


def test_seeds_are_an_array(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = submission.make_plan(
        read_settings(),
        "train_cpu",
        runs="cluster_runs",
        run_name="one",
        actor_jobs=1,
        seeds=range(2, 7),
        chain=True,
        sbatch_options=["--output=mine.out"],
        trainer=[],
    )
    assert [(run.run_name, config.base_seed) for run, config in plan.runs] == [(f"one-s{n}", n) for n in range(2, 7)]
    trainer, actors = plan.commands
    # Two of the four jobs that a user may have are one seed's.
    assert {"--array=2-6%2", f"--comment=cluster_rl:{home / 'cluster_runs' / 'one'}-s%a"} <= set(trainer) & set(actors)
    # The user's own option comes later, and holds.
    assert trainer.index("--output=slurm/logs/%x-%A_%a.out") < trainer.index("--output=mine.out")
    assert trainer[-5:] == ["--run-name", "one", "--runs", "cluster_runs", "--actor_jobs=1"]
    check("--seeds", "5", script="train_cpu")
    said = capsys.readouterr().out
    assert "ok  queue: 4 job(s) more, the others wait for them; no SLURM" in said
    assert "ok  run: one-s1 to one-s5: SMALL VALE" in said
    # Each run is looked at by itself.
    with RunLock(RunDir("cluster_runs", "one-s4").create()), pytest.raises(UserError, match="run 'one-s4' is being"):
        check("--seeds", "5", script="train_cpu")


def test_folder_and_rom_of_the_settings(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTER_RL_RUNS", str(tmp_path / "elsewhere"))
    done = cluster("submit", "--script", "slim_cpu", "--run-name", "one", "--no-video", "--fresh", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert f"--run-name one --runs {tmp_path / 'elsewhere'} --no-video --fresh" in done.stdout
    assert str(RunDir(tmp_path / "elsewhere", "one").path) in done.stdout
    monkeypatch.setenv("CLUSTER_RL_ROM", str(tmp_path / "red.gb"))
    with pytest.raises(UserError, match=r"red\.gb"):
        check(script="slim_cpu")
