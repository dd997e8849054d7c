"""Job scripts as requests to SLURM."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster_rl.batch_system.job_script import read_request
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
    assert (request.module, request.preset, request.gpumem_gb) == (module, preset, gpumem_gb)
    assert (request.cpus, request.time_sec, request.wants_gpu) == (cpus, 4 * 3600, gpumem_gb > 0)
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
