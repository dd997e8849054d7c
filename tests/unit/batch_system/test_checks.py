"""What `cluster check` looks at, and what it refuses."""

from __future__ import annotations

import math
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_calls import check
from slurm_programs import REPOSITORY, job_programs, put_program
from small_disk import mounted
from terminals import on_terminal

from cluster_rl.batch_system import checks
from cluster_rl.errors import UserError
from cluster_rl.jobs import opening
from cluster_rl.rom import load_rom
from cluster_rl.runs.identity import ensure_identity
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.lock import RunLock
from cluster_rl.runs.progress import Progress, save_progress


def test_check_on_a_terminal_says_what_it_looks_at(home: Path) -> None:
    command = [sys.executable, "-m", "cluster_rl.cluster", "check", "--script", "train_cpu", "--run-name", "one"]
    shown, out = on_terminal(command, PYTHONPATH=str(REPOSITORY))
    assert re.search(r"checking: 4 of 7 checks, run, \d+ s, about \d+ s left", shown)
    assert [line.split(":")[0] for line in out.splitlines()] == [
        *("ok  limits", "ok  queue", "ok  python", "ok  folders", "ok  run", "ok  disk", "ok  sbatch")
    ]


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
            r"memory: about 19\.4 GB: 100 actors .* 17\.2 GB is there \(what slurm/train_cpu\.sbatch asks for\); "
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


def test_what_all_seeds_share_is_looked_at_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(opening, "load_rom", lambda name: loaded.append(name) or load_rom(name))
    check("--seeds", "20", script="train_cpu")
    assert loaded == [""]
    # The last run is still looked at by itself.
    ensure_identity(RunDir("cluster_runs", "one-s20").create().identity, "ab", "ANOTHER")
    with pytest.raises(UserError, match="run 'one-s20' plays ANOTHER"):
        check("--seeds", "20", script="train_cpu")


def test_a_seed_that_is_in_the_queue_already(home: Path) -> None:
    line = r"\t".join(["7_3", "train_cpu", "PENDING", "Priority", "", "4:00:00"])
    comment = f"cluster_rl:{home / 'cluster_runs' / 'one'}-s%%a"
    put_program(job_programs(home), "squeue", f"printf '{line}\\t{comment}\\t(null)'")
    put_program(job_programs(home), "sbatch", "true")
    with pytest.raises(UserError, match=r"job 7_3 \(train_cpu\) of run 'one-s3' is in the queue already"):
        check("--seeds", "3-4", script="train_cpu")
    check("--seeds", "4-5", script="train_cpu")
    check(script="train_cpu")


def test_a_run_that_was_purged(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--fresh` goes on to the trainer, and is no key of its config."""
    run_dir = RunDir("cluster_runs", "one-s2").create()
    save_progress(run_dir.progress, Progress(run_name="one-s2", target_total_steps=9, env_steps=5))
    for seeds in ("2", "1-2"):
        with pytest.raises(UserError, match=r"run 'one-s2': missing or empty: cluster_runs/one-s2/replay; .* --fresh"):
            check("--seeds", seeds, script="train_cpu")
    capsys.readouterr()
    check("--seeds", "2", "--fresh", script="train_cpu")
    check("--seeds", "2", "--fresh", "--no-video", script="slim_cpu")
    assert "missing" not in capsys.readouterr().out
    assert run_dir.progress.exists()


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
    assert checks.quota_left_bytes() == left
    if left is None or math.isinf(left):
        check(script="train_cpu")
        said = "no quota" if left else "`quota` here does not say what is left of your quota"
        assert f"on its disk, {said}\n" in capsys.readouterr().out
    else:
        with pytest.raises(UserError, match="left of your quota: a checkpoint and its successor may not fit"):
            check(script="train_cpu")


def test_a_folder_that_may_not_be_looked_into(home: Path) -> None:
    (home / "file").touch()
    with pytest.raises(UserError, match="file"):
        check("--runs", "file/below", script="train_cpu")


@pytest.fixture
def roomy_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "roomy", "size=250m") as disk:
        yield disk.folder


# The disk first: at home there are no programs to mount and unmount it.
def test_what_the_runs_will_write_is_held_against_the_disk(
    roomy_disk: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = ["--runs", str(roomy_disk), "--replay_capacity_transitions", "1000000"]
    check(*runs, script="train_cpu")
    assert f"ok  disk: WARNING: disk of {roomy_disk}: the run will take " in capsys.readouterr().out
    # A replay for each seed.
    with pytest.raises(UserError, match=f"disk of {roomy_disk}: .*give a smaller --replay_capacity_transitions"):
        check(*runs, "--seeds", "1-3", script="train_cpu")
    assert "(replay " in capsys.readouterr().out
    # One elsewhere, perhaps on a node, cannot be seen from here.
    check(*runs, "--replay_dir", str(home / "node"), script="train_cpu")
    assert "(replay " not in capsys.readouterr().out
