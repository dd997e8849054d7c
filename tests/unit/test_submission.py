"""Settings of a cluster, job scripts as requests, and what `cluster check` and `submit` say of them."""

from __future__ import annotations

import math
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from slurm_programs import put_program

from cluster_rl import submission
from cluster_rl.cluster_settings import read_settings
from cluster_rl.errors import EXIT_OK, EXIT_UNFINISHED, UserError
from cluster_rl.job_script import read_request
from cluster_rl.runs.chain import read_chain
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.lock import RunLock

ROOT = Path(__file__).resolve().parents[2]

LIMITS = "\n".join(f"CLUSTER_RL_MAX_{name}" for name in ("JOBS=4", "CPUS=8", "HOURS=4", "GPUMEM_GB=20")) + "\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to call `cluster` from, with the job scripts as they are, on a machine without SLURM or quotas."""
    folder = tmp_path / "home"
    shutil.copytree(ROOT / "slurm", folder / "slurm", ignore=shutil.ignore_patterns("logs"))
    (folder / "slurm" / "settings.env").write_text(LIMITS)  # a user's own may stand there
    (tmp_path / "bin").mkdir()
    monkeypatch.chdir(folder)
    for name in list(os.environ):
        if name.startswith(("CLUSTER_RL_", "SLURM_", "SBATCH_")):
            monkeypatch.delenv(name)
    put_program(tmp_path / "bin", "job-python", "echo 2.13.0 12.6")  # importing torch takes seconds
    monkeypatch.setenv("CLUSTER_RL_PYTHON", str(tmp_path / "bin" / "job-python"))
    # Without /usr/bin: a SLURM may be installed there.
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return folder


def programs(home: Path) -> Path:
    return home.parent / "bin"


# Settings.


def test_the_settings_of_the_repository() -> None:
    settings = read_settings(ROOT / "slurm" / "settings.env", {})
    limits = (settings.max_jobs, settings.max_cpus, settings.max_hours, settings.max_gpumem_gb)
    assert limits == (4, 8, 4, 20)


def test_settings_as_shell_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "settings.env"
    path.write_text(
        "# a comment\nCLUSTER_RL_RUNS='/data/my runs'  # quoted\n\nCLUSTER_RL_MAX_JOBS=\nCLUSTER_RL_ROM=a.gb\n"
    )
    settings = read_settings(path, {"CLUSTER_RL_ROM": "b.gb", "CLUSTER_RL_OTHER": "not ours"})
    assert (settings.runs, settings.max_jobs, settings.rom) == ("/data/my runs", math.inf, "b.gb")
    shell = subprocess.run(
        ["bash", "-c", f". {path}; echo $CLUSTER_RL_RUNS"], capture_output=True, text=True, check=True
    )
    assert shell.stdout.strip() == settings.runs


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("CLUSTER_RL_MAX_CPU=8", "line 1: 'CLUSTER_RL_MAX_CPU=8' is no setting"),
        ("CLUSTER_RL_MAX_CPUS=eight", "line 1: CLUSTER_RL_MAX_CPUS: 'eight' is no limit"),
        ("CLUSTER_RL_MAX_JOBS=-1", "CLUSTER_RL_MAX_JOBS: '-1' is no limit"),
        ("CLUSTER_RL_MAX_HOURS=nan", "'nan' is no limit"),
        ("CLUSTER_RL_RUNS=two words", "more than one word"),
        ("CLUSTER_RL_RUNS='open", "CLUSTER_RL_RUNS: No closing quotation"),
        ("rm -rf /", "is no setting"),
        ("CLUSTER_RL_RUNS= /data", "no space may stand after ="),
        ("CLUSTER_RL_RUNS=$NOT_SET_HERE/runs", "only .NAME of a variable that is set"),
        ("CLUSTER_RL_RUNS=${HOME:-/tmp}/runs", "only .NAME of a variable that is set"),
        ("CLUSTER_RL_RUNS='$HOME/runs'", "only .NAME of a variable that is set"),
        ("CLUSTER_RL_RUNS='~/runs'", "only as ~/, and without quotes"),
        ("CLUSTER_RL_RUNS=~other/runs", "only as ~/, and without quotes"),
        ("CLUSTER_RL_RUNS=`pwd`/runs", "only .NAME of a variable that is set"),
    ],
)
def test_broken_settings(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "settings.env"
    path.write_text(line + "\n")
    with pytest.raises(UserError, match=f"settings.env, .*{says}"):
        read_settings(path, {})


def test_settings_written_on_windows(tmp_path: Path) -> None:
    path = tmp_path / "settings.env"
    path.write_bytes(b"# a comment\r\nCLUSTER_RL_ROM=red.gb\r\n")
    with pytest.raises(UserError, match=r"settings\.env: has the line ends of Windows"):
        read_settings(path, {})


def test_no_settings(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file; call this from the repository's folder"):
        read_settings(tmp_path / "settings.env", {})
    with pytest.raises(UserError, match="the environment: CLUSTER_RL_MAX_CPUS: "):
        read_settings(ROOT / "slurm" / "settings.env", {"CLUSTER_RL_MAX_CPUS": "many"})


# Requests.


@pytest.mark.parametrize(
    ("name", "module", "preset", "gpumem_gb"),
    [
        ("train_gpu", "train_cluster", "gpu", 10),
        ("train_cpu", "train_cluster", "cpu", 0),
        ("slim_gpu", "train_slim", "slim", 10),
        ("slim_cpu", "train_slim", "slim_cpu", 0),
        ("actors", "jobs.actor_job", "", 0),
    ],
)
def test_the_job_scripts(home: Path, name: str, module: str, preset: str, gpumem_gb: float) -> None:
    request = read_request(name)
    assert (request.module, request.preset, request.gpumem_gb) == (module, preset, gpumem_gb)
    assert (request.cpus, request.time_sec, request.wants_gpu) == (8, 4 * 3600, gpumem_gb > 0)
    assert request.warning_sec == (300 if name == "actors" else 900)
    assert request.partition == ("gpu-linuxlab" if gpumem_gb else "linuxlab")


def test_options_go_before_the_script(home: Path) -> None:
    request = read_request("train_gpu", ["-c", "4", "-t30", "--partition=other", "--gres=gpumem:512M", "--exclusive"])
    assert (request.cpus, request.time_sec, request.partition, request.gpumem_gb) == (4, 1800, "other", 0.5)


@pytest.mark.parametrize(
    ("options", "says"),
    [(["9"], "'9' is no option"), (["-c", "many"], "'many': not a number"), (["--time=soon"], "--time: 'soon'")],
)
def test_options_that_are_not_understood(home: Path, options: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        read_request("train_gpu", options)


def test_an_unknown_script(home: Path) -> None:
    with pytest.raises(UserError, match="no such job script; there are actors, jupyter, slim_cpu"):
        read_request("train_tpu")


# The commands, as processes.


def cluster(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cluster_rl.cluster", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)


def test_check_and_submit_without_slurm(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTER_RL_PYTHON", sys.executable)
    more = ["--actor-jobs", "2", "--batch_size", "16", "--learner_wait_seconds", "7200"]
    done = cluster("submit", "--run-name", "one", "--dry-run", "--chain", *more)
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        "ok  limits: slurm/train_gpu.sbatch: partition gpu-linuxlab, 8 CPUs, 4 h, a GPU with 10 GB for it"
        in done.stdout
    )
    assert "3 job(s) more; no SLURM on this machine" in done.stdout
    assert "18 actors, about" in done.stdout
    assert "GB of GPU memory" in done.stdout
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
        (["--script", "train_cpu", "--no-video"], "--no-video: a value is missing"),
        (["--sbatch=--time=05:00:00"], "asks for 5 hours; a job may have 4"),
        (["--sbatch=--gres=gpumem:21G"], "asks for 21 GB of GPU memory; a job may have 20"),
        (["--sbatch=--gres=gpumem:1G"], r"needs about [\d.]+ GB of GPU memory and slurm/train_gpu.sbatch asks for 1"),
        (["--actor-jobs", "4"], "5 jobs; a user may have 4"),
        (["--actor_jobs", "2"], "actor_jobs 2: give --actor-jobs 2, which submits them too"),
        (["--rom", "missing.gb"], "missing.gb"),
        (["--batch_siz", "8"], "unknown key batch_siz"),
    ],
)
def test_what_check_refuses(home: Path, arguments: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        check(*arguments)


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
    put_program(programs(home), "other-python", "echo 'ModuleNotFoundError: cluster_rl' >&2; exit 1")
    monkeypatch.setenv("CLUSTER_RL_PYTHON", str(programs(home) / "other-python"))
    with pytest.raises(UserError, match=r"CLUSTER_RL_PYTHON .*other-python: ModuleNotFoundError"):
        check()


def test_a_pytorch_without_cuda(home: Path) -> None:
    put_program(programs(home), "job-python", "echo 2.13.0 None")
    put_program(programs(home), "squeue", "true")
    with pytest.raises(UserError, match=r"PyTorch 2\.13\.0 without CUDA, and device is cuda; make another"):
        check()
    put_program(programs(home), "sbatch", "true")
    check("--device", "auto")


def test_actor_jobs_where_the_login_node_has_no_address(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "login.invalid")
    check("--actor-jobs", "2")


def test_the_queue_of_this_user_counts(home: Path) -> None:
    line = r"\tname\tRUNNING\tNone\tcpu01\t1:00\t(null)\n"
    put_program(programs(home), "squeue", f"printf '1{line}2{line}3{line}4{line}'")
    with pytest.raises(UserError, match="4 jobs are in the queue and 1 more would be; a user may have 4"):
        check()
    put_program(programs(home), "squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(UserError, match="squeue failed: Unable to contact"):
        check()


def test_a_run_has_one_job_at_a_time(home: Path) -> None:
    fields = ["7", "train_gpu", "PENDING", "BeginTime", "", "4:00:00"]
    line = r"\t".join([*fields, f"cluster_rl:{home / 'cluster_runs' / 'one'}"])
    put_program(programs(home), "squeue", f"printf '{line}'")
    with pytest.raises(UserError, match=r"job 7 \(train_gpu\) of this run is in the queue already"):
        check()


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
    put_program(programs(home), "quota", f"/bin/cat <<END\n{head}{lines}\nEND")
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
    put_program(programs(home), "scancel", 'echo "$@" > cancelled')
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with RunLock(run_dir):
        put_program(programs(home), "squeue", r"printf '7\tjupyter\tRUNNING\tNone\tcpu01\t1:00\t(null)\n'")
        cancel(run_dir)
        assert not (home / "cancelled").exists()
        put_program(programs(home), "squeue", r"printf '7\tslim_cpu\tRUNNING\tNone\tcpu01\t1:00\t(null)\n'")
        print_status(run_dir)
        cancel(run_dir)
        assert (home / "cancelled").read_text() == "7\n"
        put_program(programs(home), "squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
        print_status(run_dir)
    said = capsys.readouterr().out
    assert "job 7 slim_cpu: running on cpu01, 1 min left" in said
    assert f"trained by process {os.getpid()}" in said
    assert "the queue cannot be shown: squeue failed: Unable to contact" in said
    assert said.count("progress: none yet") == 2


# How a job script ends, without SLURM around it: as an interactive session, and as SLURM would start it.


def run_script(home: Path, code: int, name: str = "train_cpu.sbatch", **environment: str) -> tuple[int, str]:
    """Exit code and output of a job script whose trainer ends with `code`."""
    python = programs(home) / "trainer-python"
    program = f'case "$*" in *train_cluster*--run-name*) case "$*" in *after-job*) ;; *) exit {code} ;; esac ;; esac'
    python.write_text(f'#!/bin/sh\n{program}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    shutil.copy("slurm/train_cpu.sbatch", name)
    done = subprocess.run(
        ["/bin/bash", name, "--run-name", "one"],
        env={"PATH": f"{programs(home)}:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "CLUSTER_RL_PYTHON": str(python)}
        | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("code", [0, 1, 2, 85])
def test_an_interactive_session_ends_as_its_trainer(home: Path, code: int) -> None:
    ended, said = run_script(home, code)
    assert ended == code
    assert ("type the same command to go on" in said) == (code in (1, 85))


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (1, 1), (85, 0), (2, 2)])
def test_one_job_without_a_chain(home: Path, code: int, expected: int) -> None:
    put_program(programs(home), "scontrol", "echo requeued")
    job = {"SLURM_JOB_ID": "7", "CLUSTER_RL_CHAIN": "no"}
    ended, said = run_script(home, code, "slurm_script", **job)
    assert ended == expected
    assert "requeued" not in said


@pytest.mark.parametrize(("code", "goes_on"), [(0, False), (1, True), (85, True), (2, False)])
def test_a_chain_goes_on_after_time_and_crashes(home: Path, code: int, goes_on: bool) -> None:
    put_program(programs(home), "scontrol", 'echo "$1 $2"')
    ended, said = run_script(home, code, "slurm_script", SLURM_JOB_ID="7")
    assert ("requeue 7" in said) == goes_on
    assert ended == (0 if goes_on else code)


@pytest.mark.parametrize("code", [85, 9])
def test_a_requeue_that_fails_is_tried_again_and_then_told(home: Path, code: int) -> None:
    put_program(programs(home), "scontrol", "echo tried >> tries; exit 1")
    put_program(programs(home), "sleep", "true")
    ended, said = run_script(home, code, "slurm_script", SLURM_JOB_ID="7")
    assert ended == code
    assert "SLURM has not requeued this job; submit it again" in said
    assert (home / "tries").read_text().count("tried") == 5


def test_a_job_that_is_cancelled_while_it_tries_to_requeue(home: Path) -> None:
    put_program(programs(home), "scontrol", "echo tried >> tries; kill -TERM $PPID; exit 1")
    put_program(programs(home), "sleep", "true")
    ended, said = run_script(home, 85, "slurm_script", SLURM_JOB_ID="7")
    assert ended == 0
    assert "has not requeued" not in said
    assert (home / "tries").read_text() == "tried\n"


def test_a_dry_run_is_no_job(home: Path) -> None:
    python = programs(home) / "echo-python"
    put_program(programs(home), "echo-python", 'echo "$*"')
    done = subprocess.run(
        ["/bin/bash", "slurm/train_cpu.sbatch", "--run-name", "one", "--dry-run"],
        env={"PATH": "/usr/bin:/bin", "CLUSTER_RL_PYTHON": str(python)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "-m cluster_rl.train_cluster --config cpu --run-name one --dry-run" in done.stdout
    assert "after-job" not in done.stdout


def test_damaged_files_end_no_chain(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cluster_rl.cluster import conclude

    run_dir = RunDir("cluster_runs", "one").create()
    run_dir.progress.write_text("{")
    run_dir.chain.write_text("{")
    assert conclude(run_dir, None, EXIT_UNFINISHED, cancelled=False) == EXIT_UNFINISHED
    said = capsys.readouterr().out
    assert "progress.json: damaged" in said
    assert "chain.json: damaged" in said
    assert read_chain(run_dir.chain).stalls == 1
    assert conclude(run_dir, None, EXIT_OK, cancelled=False) == EXIT_OK


def test_a_python_without_what_the_package_needs(home: Path) -> None:
    put_program(programs(home), "bare-python", "exit 1")
    done = subprocess.run(
        ["/bin/bash", "slurm/train_cpu.sbatch", "--run-name", "one"],
        env={"PATH": "/usr/bin:/bin", "CLUSTER_RL_PYTHON": str(programs(home) / "bare-python")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "cannot import cluster_rl and what it needs" in done.stderr


def test_not_in_the_repository(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", str(ROOT / "slurm" / "train_cpu.sbatch")], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 2
