"""The first lines of the process that renders for `watch`: it never outlives watch, however that ends.

In: what the projectionist gives it. It imports nothing large before the kernel knows when to end it.
"""

from __future__ import annotations

import signal
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event

from cluster_rl.jobs.signals import die_with_parent


def start(parent_pid: int, rom_path: str, stop: Event, frames: Synchronized[int]) -> None:
    """As `start_worker`, for a process that `parent_pid` starts, from a thread that outlives it."""
    die_with_parent(parent_pid, signal.SIGKILL)
    from cluster_rl.rendering.work import start_worker

    start_worker(rom_path, stop, frames)
