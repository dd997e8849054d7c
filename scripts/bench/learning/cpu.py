"""The processor time of a training: of its own process with all its threads, and of those that it started."""

from __future__ import annotations

import dataclasses
import os
import resource
import time
from collections.abc import Iterable
from pathlib import Path

_TICK_SEC = 1.0 / os.sysconf("SC_CLK_TCK")


class CpuClock:
    """Processor seconds since it was made. `pids` are the processes that were started since and are not waited for.

    One that was waited for is counted by the system, in `RUSAGE_CHILDREN`, so nothing is lost as it ends.
    """

    def __init__(self) -> None:
        self.pids: list[int] = []
        self._before_sec = _own_sec()

    def seconds(self) -> float:
        return _own_sec() - self._before_sec + sum(_live_sec(self.pids))


def _own_sec() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def _live_sec(pids: Iterable[int]) -> Iterable[float]:
    for pid in pids:
        try:
            line = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # waited for
        # proc(5): the name, in brackets, may hold spaces; after it come the state and 10 fields more, then utime,
        # stime, and both of the children that it waited for.
        yield sum(int(ticks) for ticks in line.rpartition(")")[2].split()[11:15]) * _TICK_SEC


@dataclasses.dataclass(frozen=True)
class Budget:
    """How long a training goes on: until it has both so many env steps and so many processor seconds."""

    env_steps: int
    cpu_sec: float

    def is_spent(self, env_steps: int, clock: CpuClock) -> bool:
        return env_steps >= self.env_steps and (not self.cpu_sec or clock.seconds() >= self.cpu_sec)
