"""What a job may have of a machine: the least of what everybody who limits it says."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from cluster_rl.jobs.machine import Limit, core_limit, memory_limit, process_limit

GIB = 2**30


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Files of a kernel: a machine of 32 GiB, without cgroups."""
    write(tmp_path, "proc/meminfo", f"MemTotal:       {32 * 2**20} kB\nMemFree: 1 kB\n")
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def test_this_machine() -> None:
    said = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    assert 0 < memory_limit().amount <= 1024 * int(said.split()[1])
    assert 0 < core_limit().amount <= len(os.sched_getaffinity(0))
    assert process_limit().amount > 0


def test_affinity_mask(root: Path) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert core_limit(root) == Limit(1, "this machine")
    finally:
        os.sched_setaffinity(0, before)


def test_cgroups_of_version_2(root: Path) -> None:
    """The least on the way up counts, and `max` is none."""
    assert memory_limit(root) == Limit(32 * GIB, "this machine")
    write(root, "proc/self/cgroup", "0::/system.slice/slurm/job_17/step_batch\n")
    slurm = root / "sys/fs/cgroup/system.slice/slurm"
    write(slurm, "job_17/step_batch/memory.max", "max\n")
    write(slurm, "job_17/memory.max", f"{4 * GIB}\n")
    write(slurm, "memory.max", f"{8 * GIB}\n")
    write(slurm, "job_17/cpu.max", "150000 100000\n")
    write(slurm, "cpu.max", "max 100000\n")
    assert memory_limit(root) == Limit(4 * GIB, f"the limit of cgroup {slurm / 'job_17'}")
    assert core_limit(root).amount == min(1.5, len(os.sched_getaffinity(0)))


def test_cgroups_of_version_1(root: Path) -> None:
    """Without a limit its file has a huge number. A container's path is not in its own mount: then the top counts."""
    write(root, "proc/self/cgroup", "9:name=systemd:/\n4:cpu,cpuacct:/c/1\n3:memory:/c/1\n0::/\n")
    top = root / "sys/fs/cgroup"
    write(top, "memory/memory.limit_in_bytes", "9223372036854771712\n")
    write(top, "cpu/cpu.cfs_quota_us", "-1\n")
    write(top, "cpu/cpu.cfs_period_us", "100000\n")
    assert memory_limit(root).source == "this machine"
    assert core_limit(root).source == "this machine"
    write(top, "memory/memory.limit_in_bytes", f"{3 * GIB}\n")
    assert memory_limit(root) == Limit(3 * GIB, f"the limit of cgroup {top / 'memory'}")
    write(top, "cpu/cpu.cfs_quota_us", "50000\n")
    assert core_limit(root).amount == 0.5


@pytest.mark.parametrize(
    ("variables", "memory_gib", "cores"),
    [
        ({"SLURM_MEM_PER_NODE": "16384", "SLURM_CPUS_PER_TASK": "1"}, 16, 1),
        ({"SLURM_MEM_PER_CPU": "2048", "SLURM_CPUS_ON_NODE": "1"}, 2, 1),
        ({"SLURM_MEM_PER_CPU": "2048", "SLURM_CPUS_PER_TASK": "8"}, 16, math.inf),
        # Several tasks of one CPU each: the job has them all.
        ({"SLURM_MEM_PER_CPU": "1024", "SLURM_CPUS_ON_NODE": "8", "SLURM_CPUS_PER_TASK": "1"}, 8, math.inf),
        ({"SLURM_MEM_PER_NODE": "0"}, 32, math.inf),  # all of the node
        ({"SLURM_MEM_PER_NODE": "what?", "SLURM_CPUS_PER_TASK": ""}, 32, math.inf),
    ],
)
def test_word_of_slurm(
    root: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], memory_gib: int, cores: float
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert memory_limit(root).amount == memory_gib * GIB
    assert core_limit(root).amount == min(cores, len(os.sched_getaffinity(0)))
