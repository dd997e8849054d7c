"""What `cluster check` and `submit` say, as processes."""

from __future__ import annotations

import math
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from slurm_programs import REPOSITORY, job_programs, put_program
from terminals import on_terminal

from cluster_rl.batch_system import submission
from cluster_rl.batch_system.settings import read_settings
from cluster_rl.errors import UserError
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.lock import RunLock
from cluster_rl.runs.progress import Progress, save_progress


def cluster(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cluster_rl.cluster", *arguments]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)


def test_check_on_a_terminal_says_what_it_looks_at(home: Path) -> None:
    command = [sys.executable, "-m", "cluster_rl.cluster", "check", "--script", "train_cpu", "--run-name", "one"]
    shown, out = on_terminal(command, PYTHONPATH=str(REPOSITORY))
    assert re.search(r"checking: 4 of 6 checks, run, \d+ s, about \d+ s left", shown)
    assert [line.split(":")[0] for line in out.splitlines()] == [
        *("ok  limits", "ok  queue", "ok  python", "ok  folders", "ok  run", "ok  sbatch")
    ]


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


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--sbatch=-c 9"], "asks for 9 CPUs; a job may have 8"),
        (["--sbatch=-t 15"], "asks for 15 minutes and is warned 15 minutes before their end"),
        (["--script", "train_cpu", "--device", "cuda"], r"device cuda, but slurm/train_cpu\.sbatch asks for no GPU"),
        (["--script", "train_cpu", "--no-video"], "no_video: unknown key; that is the option --no-video of train_slim"),
        (["--sbatch=--time=05:00:00"], "asks for 5 hours; a job may have 4"),
        (
            ["--sbatch=--comment=mine"],
            "--sbatch=--comment=mine: the run's jobs are known by their comment; name them with",
        ),
        (
            ["--sbatch=--export=NONE"],
            "--sbatch=--export=NONE: the job gets all variables of your shell; set NAME=value",
        ),
        (["--sbatch=--no-requeue", "--chain"], "--sbatch=--no-requeue: a chain goes on by requeueing; leave --chain"),
        (["--script", "train_cpu", "--sbatch=-N 2"], "asks for 16 CPUs"),
        (["--sbatch=--gres=gpumem:21G"], "asks for 21 GB of GPU memory; a job may have 20"),
        (["--sbatch=--gres=gpumem:1G"], r"needs about [\d.]+ GB of GPU memory and slurm/train_gpu.sbatch asks for 1"),
        (
            ["--script", "train_cpu", "--num_actors", "100"],
            r"memory: about 19\.5 GB: 100 actors .* 17\.2 GB is there \(what slurm/train_cpu\.sbatch asks for\); "
            r"give at most --num_actors \d+, or --sbatch=--mem=20G",
        ),
        (["--script", "train_cpu", "--sbatch=--mem=800M"], r"839 MB is there .*; every job takes 845 MB, or"),
        (["--script", "slim_cpu", "--sbatch=--mem=400M"], r"memory: about .*, or --sbatch=--mem=1G"),
        (
            ["--script", "train_cpu", "--num_actors=100", "--actor-jobs", "1", "--sbatch=--mem=32G"],
            r"or --mem=\d+G in slurm/actors\.sbatch",
        ),
        (["--actor-jobs", "4"], "5 jobs; a user may have 4"),
        (["actor_jobs=2"], "actor_jobs 2: give --actor-jobs 2, which submits them too"),
        (["--rom", "missing.gb"], "missing.gb"),
        (["--seeds", "0"], "--seeds 0: give how many"),
        (["--seeds", "7-3"], "--seeds 7-3: give how many"),
        (["--seeds", "1,2"], "--seeds 1,2: give how many"),
        (["--seeds", "1001"], "--seeds 1001: a task of an array has a number of at most 1000"),
        (["--seeds", "2", "--base_seed", "7"], "--base_seed: with --seeds each run has its own"),
        (["--sbatch=--array=1-5"], r"--array=1-5: .*; give --seeds, which makes an array with a run each"),
        (["--sbatch=-a 1-5", "--seeds", "5"], r"--array=1-5: .*; give --seeds"),
        (["--seeds", "2", "--actor-jobs", "4"], "5 jobs; a user may have 4"),
        (["--batch_siz", "8"], "batch_siz: unknown key"),
    ],
)
def test_what_check_refuses(home: Path, arguments: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        check(*arguments)


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        (
            {"SBATCH_TIMELIMIT": "5:00:00"},
            r"train_cpu.sbatch with SBATCH_TIMELIMIT=5:00:00 asks for 5 hours; a job may",
        ),
        ({"SBATCH_TIMELIMIT": "15"}, r"with SBATCH_TIMELIMIT=15 asks for 15 minutes and is warned 15 minutes before"),
        ({"SBATCH_GRES": "gpumem:21G"}, r"with SBATCH_GRES=gpumem:21G asks for 21 GB of GPU memory"),
        (
            {"SBATCH_ARRAY_INX": "1-3"},
            "SBATCH_ARRAY_INX=1-3 in the environment: its tasks would all train one run",
        ),
        ({"SBATCH_SIGNAL": "KILL@60"}, "SBATCH_SIGNAL=KILL@60 in the environment: a job expects USR2"),
    ],
)
def test_what_check_refuses_of_the_environment(
    home: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], says: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=says):
        check(script="train_cpu")


def test_check_says_what_counts(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SBATCH_TIMELIMIT", "20")
    monkeypatch.setenv("SBATCH_NO_REQUEUE", "1")
    monkeypatch.setenv("SBATCH_CPUS_PER_TASK", "4")
    script = home / "slurm" / "train_cpu.sbatch"
    script.write_text(script.read_text().replace("--mem=16G", "--moon=full --mem=16G   # ours\n#SBATCH\t--nodes=1"))
    check("--chain", script="train_cpu")
    said = capsys.readouterr().out.splitlines()
    assert said[:4] == [
        "--  slurm/train_cpu.sbatch: --moon is not known here and passed over; sbatch judges it",
        "--  environment: SBATCH_CPUS_PER_TASK is no variable of sbatch's and changes nothing",
        "--  environment: SBATCH_TIMELIMIT=20: goes before the scripts' own; unset what you do not mean",
        "ok  limits: slurm/train_cpu.sbatch with SBATCH_TIMELIMIT=20: "
        "partition linuxlab, 8 CPUs, 16 GB of memory, 0.333 h",
    ]


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


def check(*arguments: str, script: str = "train_gpu") -> None:
    """`cluster check` in this process, which has imported torch."""
    from cluster_rl import cluster as commands

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["cluster", "check", "--script", script, "--run-name", "one", *arguments])
        assert commands.main() == 0


def test_bad_input_is_one_line(home: Path) -> None:
    (home / "slurm" / "settings.env").write_text("CLUSTER_RL_MAX_JOBS=some\n")
    done = cluster("check", "--run-name", "one")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "settings.env, line 1: CLUSTER_RL_MAX_JOBS" in done.stderr


def test_a_python_without_the_package(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_program(job_programs(home), "other-python", "echo 'ModuleNotFoundError: cluster_rl' >&2; exit 1")
    monkeypatch.setenv("CLUSTER_RL_PYTHON", str(job_programs(home) / "other-python"))
    with pytest.raises(UserError, match=r"CLUSTER_RL_PYTHON .*other-python: ModuleNotFoundError"):
        check()


def test_a_pytorch_without_cuda(home: Path) -> None:
    put_program(job_programs(home), "job-python", "echo 2.13.0 None")
    put_program(job_programs(home), "squeue", "true")
    with pytest.raises(UserError, match=r"PyTorch 2\.13\.0 without CUDA, and device is cuda; make another"):
        check()
    put_program(job_programs(home), "sbatch", "true")
    check("--device", "auto")


def test_actor_jobs_where_the_login_node_has_no_address(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "login.invalid")
    check("--actor-jobs", "2")


def test_the_queue_of_this_user_counts(home: Path) -> None:
    line = r"\tname\tRUNNING\tNone\tcpu01\t1:00\t(null)\t(null)\n"
    put_program(job_programs(home), "squeue", f"printf '1{line}2{line}3{line}4{line}'")
    with pytest.raises(UserError, match="4 jobs are in the queue and 1 more would be; a user may have 4"):
        check()
    put_program(job_programs(home), "squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(UserError, match="squeue failed: Unable to contact"):
        check()


def test_a_run_has_one_job_at_a_time(home: Path) -> None:
    fields = ["7", "train_gpu", "PENDING", "BeginTime", "", "4:00:00"]
    line = r"\t".join([*fields, f"cluster_rl:{home / 'cluster_runs' / 'one'}", "(null)"])
    put_program(job_programs(home), "squeue", f"printf '{line}'")
    with pytest.raises(UserError, match=r"job 7 \(train_gpu\) of run 'one' is in the queue already"):
        check()


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
    assert "ok  run: one-s1 to one-s5: LANTERNVALE" in said
    # Each run is looked at by itself.
    with RunLock(RunDir("cluster_runs", "one-s4").create()), pytest.raises(UserError, match="run 'one-s4' is being"):
        check("--seeds", "5", script="train_cpu")


def test_a_seed_that_is_in_the_queue_already(home: Path) -> None:
    line = r"\t".join(["7_3", "train_cpu", "PENDING", "Priority", "", "4:00:00"])
    comment = f"cluster_rl:{home / 'cluster_runs' / 'one'}-s%%a"
    put_program(job_programs(home), "squeue", f"printf '{line}\\t{comment}\\t(null)'")
    put_program(job_programs(home), "sbatch", "true")
    with pytest.raises(UserError, match=r"job 7_3 \(train_cpu\) of run 'one-s3' is in the queue already"):
        check("--seeds", "3-4", script="train_cpu")
    check("--seeds", "4-5", script="train_cpu")
    check(script="train_cpu")


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


def test_a_run_that_somebody_trains(home: Path) -> None:
    run_dir = RunDir("cluster_runs", "one").create()
    with RunLock(run_dir), pytest.raises(UserError, match="run 'one' is being trained by process"):
        check(script="train_cpu")
    check(script="train_cpu")


@pytest.mark.parametrize(
    ("lines", "left"),
    [
        ("     /dev/home  1000  2000 3000 10 0 0", 1000 * 1024),
        ("     /dev/home  1000*  0 1200 7days 10 0 0\n /dev/scratch 5 0 0 1 0 0", 200 * 1024),
        ("     /dev/home  0  0 0 10 0 0", math.inf),
        ("none", math.inf),
        ("something else", None),
    ],
)
def test_quota(home: Path, capsys: pytest.CaptureFixture[str], lines: str, left: float | None) -> None:
    head = "Disk quotas for user me (uid 1): "
    if "/dev" in lines:
        head += "\n Filesystem blocks quota limit grace files quota limit grace\n"
    put_program(job_programs(home), "quota", f"/bin/cat <<END\n{head}{lines}\nEND")
    assert submission.quota_left_bytes() == left
    if left is None or math.isinf(left):
        check(script="train_cpu")
        said = "no quota" if left else "`quota` here does not say what is left of your quota"
        assert f"on its disk, {said}\n" in capsys.readouterr().out
    else:
        with pytest.raises(UserError, match="left of your quota: a checkpoint and its successor may not fit"):
            check(script="train_cpu")


def test_folder_and_rom_of_the_settings(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTER_RL_RUNS", str(tmp_path / "elsewhere"))
    done = cluster("submit", "--script", "slim_cpu", "--run-name", "one", "--no-video", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert f"--run-name one --runs {tmp_path / 'elsewhere'} --no-video" in done.stdout
    assert str(RunDir(tmp_path / "elsewhere", "one").path) in done.stdout
    monkeypatch.setenv("CLUSTER_RL_ROM", str(tmp_path / "red.gb"))
    with pytest.raises(UserError, match=r"red\.gb"):
        check(script="slim_cpu")


def test_a_folder_that_may_not_be_looked_into(home: Path) -> None:
    (home / "file").touch()
    with pytest.raises(UserError, match="file"):
        check("--runs", "file/below", script="train_cpu")


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
