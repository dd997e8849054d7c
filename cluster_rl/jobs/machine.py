"""What a process may have of this machine: memory and cores, after all who limit it; and what one has used.

Plans are held against it before anything starts. In: files of the kernel and the environment that SLURM gives to a job.
Out: amounts, each with the name of what sets it.
"""

from __future__ import annotations

import math
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# A limit above it is none: cgroup v1 says so with nearly 2**63.
_NO_LIMIT_BYTES = 2**60


class Limit(NamedTuple):
    """An amount, in bytes or cores, and what sets it, for the user."""

    amount: float
    source: str


class ProcessUse(NamedTuple):
    """Of processors."""

    processor_sec: float
    is_ready: bool
    """It runs, or would where others did not come first."""


def memory_limit(root: Path = Path("/")) -> Limit:
    """Most memory that this job's processes together can have: of the machine, its cgroups, and SLURM's word."""
    limits = [Limit(_machine_bytes(root), "this machine"), *_cgroup_memory(root), *_slurm_memory()]
    return min(limits)


def process_limit() -> Limit:
    """Most address space that each process can have (`ulimit -v`); infinite without a limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return Limit(math.inf if soft == resource.RLIM_INFINITY else soft, "ulimit -v")


def file_size_limit() -> Limit:
    """Most bytes that a file may have which this process's children write (`ulimit -f`); infinite without a limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return Limit(math.inf if soft == resource.RLIM_INFINITY else soft, "ulimit -f")


def core_limit(root: Path = Path("/")) -> Limit:
    """Cores that this job's processes can use at once: those they may run on, their cgroups' quota, SLURM's word."""
    limits = [Limit(len(os.sched_getaffinity(0)), "this machine"), *_cgroup_cores(root)]
    for name in ("SLURM_CPUS_ON_NODE", "SLURM_CPUS_PER_TASK"):  # the second alone is of one task of several
        if os.environ.get(name, "").isdecimal():
            limits.append(Limit(int(os.environ[name]), name))
            break
    return min(limits)


def _machine_bytes(root: Path) -> float:
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return 1024.0 * int(line.split()[1])
    return math.inf


def _slurm_memory() -> Iterator[Limit]:
    """SLURM counts in MiB; 0 means all of the node. Of the three it sets the one that was asked for."""
    amounts = {name: _number(os.environ.get(name, "")) for name in ("SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU")}
    if amounts["SLURM_MEM_PER_NODE"]:
        yield Limit(2**20 * amounts["SLURM_MEM_PER_NODE"], "SLURM_MEM_PER_NODE")
    cpus = _number(os.environ.get("SLURM_CPUS_ON_NODE", "")) or _number(os.environ.get("SLURM_CPUS_PER_TASK", ""))
    if amounts["SLURM_MEM_PER_CPU"] and cpus:
        yield Limit(2**20 * amounts["SLURM_MEM_PER_CPU"] * cpus, "SLURM_MEM_PER_CPU")


def _cgroup_memory(root: Path) -> Iterator[Limit]:
    for folder, version in _cgroups(root, "memory"):
        amount = _number(_text(folder / ("memory.max" if version == 2 else "memory.limit_in_bytes")))
        if 0 < amount < _NO_LIMIT_BYTES:
            yield Limit(amount, f"the limit of cgroup {folder}")


def _cgroup_cores(root: Path) -> Iterator[Limit]:
    for folder, version in _cgroups(root, "cpu"):
        if version == 2:
            quota, _, period = _text(folder / "cpu.max").partition(" ")
        else:
            quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
        if _number(quota) and _number(period):
            yield Limit(_number(quota) / _number(period), f"the limit of cgroup {folder}")


def _cgroups(root: Path, controller: str) -> Iterator[tuple[Path, int]]:
    """This process's cgroups that may limit `controller`, with those above them, and their versions.

    A container sees its own cgroup at the top of the mount, under whatever path the host knows it by.
    """
    mount = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        top, version = (mount / controller, 1) if names else (mount, 2)
        relative = Path(path.lstrip("/"))
        for folder in (relative, *relative.parents):
            yield top / folder, version


def _number(text: str) -> int:
    """0 for `max`, for nothing and for whatever else is no amount."""
    return int(text) if text.strip().isdecimal() else 0


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def use_of_process(pid: int) -> ProcessUse:
    """What a process has used, all its threads together, and whether it wants more; nothing of one that is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ProcessUse(0.0, False)
    return ProcessUse((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), fields[0] == "R")
