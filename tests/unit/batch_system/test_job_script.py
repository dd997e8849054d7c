"""Job scripts as requests to SLURM."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from sbatch_scripts import CASES, Case

from cluster_rl.batch_system.job_script import is_trainers_script, read_request
from cluster_rl.errors import UserError


@pytest.mark.parametrize(
    ("name", "module", "preset", "cpus", "gpumem_gb"),
    [
        ("train_gpu", "train_cluster", "gpu", 8, 10),
        ("train_cpu", "train_cluster", "cpu", 8, 0),
        ("slim_gpu", "train_slim", "slim", 4, 10),
        ("slim_cpu", "train_slim", "slim_cpu", 8, 0),
        ("actors", "jobs.actor_job", "", 8, 0),
    ],
)
def test_the_job_scripts(home: Path, name: str, module: str, preset: str, cpus: int, gpumem_gb: float) -> None:
    request = read_request(name)
    assert (request.module, request.default_preset, request.gpumem_gb) == (module, preset, gpumem_gb)
    assert request.preset == ""
    assert (request.cpus, request.time_sec, request.wants_gpu) == (cpus, 4 * 3600, gpumem_gb > 0)
    assert request.warning_sec == (300 if name == "actors" else 900)
    assert request.partition == ("gpu-linuxlab" if gpumem_gb else "linuxlab")


def test_options_go_before_the_script(home: Path) -> None:
    request = read_request("train_gpu", ["-c", "4", "-t30", "--partition=other", "--gres=gpumem:512M", "--exclusive"])
    assert (request.cpus, request.time_sec, request.partition, request.gpumem_gb) == (4, 1800, "other", 0.5)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.lines.strip())
def test_scripts_of_others(home: Path, case: Case) -> None:
    Path("slurm/own.sbatch").write_text(f"#!/bin/bash\n{case.lines}\n", encoding="utf-8")
    variables = dict(word.split("=") for word in case.variables.split())
    request = read_request("own", case.options.split(), variables)
    assert (request.cpus, math.ceil(request.time_sec / 60)) == (case.cpus, case.minutes)
    assert (request.memory_gb, request.gpus, request.gpumem_gb) == (case.memory_gb, case.gpus, case.gpumem_gb)


@pytest.mark.parametrize(
    ("line", "note"),
    [
        ("#SBATCH --moon=full -c 2", "slurm/own.sbatch: --moon is not known here and passed over; sbatch judges it"),
        ("#SBATCH --moon full -c 2", "slurm/own.sbatch: --moon is not known here"),
        ("#SBATCH -Z 2 -c 2", "slurm/own.sbatch: -Z is not known here"),
        ("#SBATCH: -c 2", "slurm/own.sbatch: ':' is not known here"),
        ("#SBATCH and -c 2", "slurm/own.sbatch: 'and' is not known here"),
        ("#SBATCH -c 2 --time=soon", "--time: 'soon' is not a time of SLURM; write HH:MM:SS; it is not counted"),
        ("#SBATCH -c 2 --mem=much", "--mem: 'much': no amount of memory"),
        ("#SBATCH -c 2 -n many", "--ntasks: 'many': not a number"),
        ("#SBATCH -c 2 --exclusive", "slurm/own.sbatch: --exclusive: the node's other CPUs are not counted here"),
        ("#SBATCH -c 2\n#SBATCH hetjob\n#SBATCH -c 3", "line 3: hetjob: only the part before it is looked at"),
        ("#PBS -l nodes=1:ppn=3\n#SBATCH -c 2", "slurm/own.sbatch, line 2: sbatch reads lines of #PBS too"),
        ("#SBATCH -c 2 --comment=\udcff", ""),
    ],
)
def test_what_is_not_known_is_passed_over_with_a_word(home: Path, line: str, note: str) -> None:
    Path("slurm/own.sbatch").write_text(f"#!/bin/bash\n{line}\n", encoding="utf-8", errors="surrogateescape")
    request = read_request("own", (), {})
    assert request.cpus == 2
    assert [said for said in request.notes if note not in said] == []
    assert bool(request.notes) == bool(note)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('#SBATCH --comment="unended', "line 2: a quote has no end, so sbatch refuses"),
        ("#SBATCH -c 2\r", "has the line ends of Windows, which sbatch refuses"),
        ("#SBATCH --array=1-3", r"slurm/own.sbatch: --array=1-3: its tasks would all train"),
        ("#SBATCH --wait", "slurm/own.sbatch: --wait: submit would wait"),
        ("#SBATCH --mem=1G --mem-per-gpu=1G", "--mem=1G and .*--mem-per-gpu=1G: sbatch takes memory in one way alone"),
        ("#SBATCH -D /elsewhere", "slurm/own.sbatch: --chdir=/elsewhere: a job starts where it is submitted"),
        ("#SBATCH --signal=B:KILL@60", "--signal=B:KILL@60: a job expects USR2 as its warning"),
    ],
)
def test_scripts_that_cannot_work(home: Path, line: str, says: str) -> None:
    with Path("slurm/own.sbatch").open("w", encoding="utf-8", newline="") as file:
        file.write(f"#!/bin/bash\n{line}\n")
    with pytest.raises(UserError, match=says):
        read_request("own", (), {})


@pytest.mark.parametrize("line", ["--chdir={home}", "--comment=mine", "--export=NONE", "--signal=SIGUSR1@60"])
def test_lines_that_do_no_harm(home: Path, line: str) -> None:
    Path("slurm/own.sbatch").write_text(f"#SBATCH {line.format(home=home)}\n", encoding="utf-8")
    assert read_request("own", (), {}).notes == []


@pytest.mark.parametrize(
    "option",
    [
        *("--comment=mine", "--comment mine", "--export=NONE", "--export-file=env", "--wrap=true", "-a 1-3", "-M all"),
        *("--array=1-3", "--wait", "-W", "-Q", "--test-only", "--version", "-h", "--usage", "--chdir=/tmp", "--comm=x"),
        *("--signal=KILL@60", "--signal=B:TERM@60", "-HW"),
    ],
)
def test_options_that_undo_what_the_commands_rely_on(home: Path, option: str) -> None:
    with pytest.raises(UserError, match=r"^--sbatch=--\S+.*: .* "):
        read_request("train_gpu", option.split(), {})


@pytest.mark.parametrize(
    ("variable", "counts"),
    [
        ("SBATCH_TIMELIMIT=20", True),
        ("SBATCH_NO_REQUEUE=", True),
        ("SBATCH_NO_REQUEUE=no", False),
        ("SBATCH_EXPORT=NONE", False),
        ("SBATCH_WAIT=1", False),
        ("SQUEUE_STATES=RUNNING", False),
    ],
)
def test_variables_that_count(home: Path, variable: str, counts: bool) -> None:
    request = read_request("train_gpu", (), dict([variable.split("=")]))
    assert request.variables == [variable] * counts
    assert (str(request) == f"slurm/train_gpu.sbatch with {variable}") == counts
    assert request.requeues == (variable != "SBATCH_NO_REQUEUE=")
    assert request.notes == []


def test_variables_that_cannot_work(home: Path) -> None:
    with pytest.raises(UserError, match=r"^SBATCH_ARRAY_INX=1-2 in the environment: its tasks would"):
        read_request("train_gpu", (), {"SBATCH_ARRAY_INX": "1-2"})
    Path("slurm/own.sbatch").write_text("#SBATCH -c 2\n", encoding="utf-8")
    memory = {"SBATCH_MEM_PER_NODE": "1G", "SBATCH_MEM_PER_GPU": "1G"}
    with pytest.raises(UserError, match=r"^SBATCH_MEM_PER_NODE=1G in the environment and SBATCH_MEM_PER_GPU=1G in"):
        read_request("own", (), memory)


def test_whose_command_trains(home: Path) -> None:
    (home / "my jobs").mkdir()
    own = home / "my jobs" / "own run.sbatch"
    own.write_text('#SBATCH --time="\nrun_job train_slim --config slim "$@"\n', encoding="utf-8")
    assert is_trainers_script(f"{own} --run-name one two")
    assert is_trainers_script(f"{home}/slurm/train_gpu.sbatch")
    others = ["jupyter.sbatch", "actors.sbatch --run-name one", "gone.sbatch", "", "/bin/sh", "\0"]
    assert not any(is_trainers_script(f"{home}/slurm/{other}") for other in others)
    assert not any(is_trainers_script(command) for command in ("", "bash", "/bin/sh -i"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["9"], "'9' is no option"),
        (["-c", "2", "-p"], "--sbatch=--partition: its value is missing; write --partition=VALUE"),
        (["--qos"], "--sbatch=--qos: its value is missing"),
        (["-c", "many"], "'many': not a number"),
        (["--time=soon"], "--time: 'soon'"),
        (
            ["--mem-per-cpu=1G"],
            "slurm/train_gpu.sbatch: --mem=16G and --sbatch=--mem-per-cpu=1G: sbatch takes memory in",
        ),
    ],
)
def test_options_that_are_not_understood(home: Path, options: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        read_request("train_gpu", options)


def test_an_unknown_script(home: Path) -> None:
    with pytest.raises(UserError, match="no such job script; there are actors, jupyter, slim_cpu"):
        read_request("train_tpu")
