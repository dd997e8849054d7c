"""What a run's processes and threads have used, as /proc tells: CPU seconds, and seconds that they waited for a core.

CPU time hardly depends on what else runs on the machine, and the wait for a core tells how much did.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_TICK_SEC = 1.0 / os.sysconf("SC_CLK_TCK")
MAIN = "main"


@dataclass(frozen=True)
class Times:
    """Seconds since a thread's start."""

    cpu_sec: float = 0.0
    queued_sec: float = 0.0  # ready to run, while others had the cores

    def __add__(self, other: Times) -> Times:
        return Times(self.cpu_sec + other.cpu_sec, self.queued_sec + other.queued_sec)

    def __sub__(self, other: Times) -> Times:
        return Times(self.cpu_sec - other.cpu_sec, self.queued_sec - other.queued_sec)


def threads(pid: int) -> dict[str, Times]:
    """The living threads of a process by name, those of one name together; the first one is `MAIN`."""
    found: dict[str, Times] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            cpu_ns, queued_ns, _ = map(int, (task / "schedstat").read_text().split())
            name = MAIN if task.name == str(pid) else (task / "comm").read_text().strip()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        found[name] = found.get(name, Times()) + Times(cpu_ns * 1e-9, queued_ns * 1e-9)
    return found


def process_cpu_sec(pid: int) -> float:
    """Of all threads of a process, those that have ended too."""
    # proc(5): the name, in brackets, may hold spaces; after it come the state and 10 fields more, then utime and stime.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_SEC


def machine_cpu_sec() -> float:
    """Of all processes of the machine, since it started."""
    user, nice, system, *_ = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:])
    return (user + nice + system) * _TICK_SEC


def children(pid: int) -> Iterator[tuple[int, list[str]]]:
    """(process id, command line) of those that a process has started."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            command = (stat.parent / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == pid:
            yield int(stat.parent.name), command
