"""What the process of an evaluation beside a training does before it is `evaluate --publish`.

    python -m cluster_rl.jobs.evaluation_process PARENT_PID NICENESS ARGUMENT...

`evaluation_child.py` starts it. In: the process it must not outlive, its niceness, and the arguments of `evaluate`. It
does here what a function between fork and exec would do in a copy of the trainer, where a lock that torch's threads or
the checkpoint's hold at that moment is never given back, and both processes wait for ever.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys

from cluster_rl.errors import end_quietly
from cluster_rl.jobs.signals import die_with_parent
from cluster_rl.jobs.watchdog import Watchdog

STUCK_SEC = 600.0
"""The longest start, and the longest step: imports take seconds, a step milliseconds, and its share of a processor may
be small."""


def main() -> None:
    """Becomes `python -m cluster_rl.evaluate`."""
    end_quietly()
    parent_pid, niceness, *sys.argv[1:] = sys.argv[1:]
    # Killed, not told: a process that is stopped takes nothing else.
    die_with_parent(int(parent_pid), signal.SIGKILL)
    os.setpriority(os.PRIO_PROCESS, 0, int(niceness))
    Watchdog(STUCK_SEC).alive()  # before the imports, which a file server may keep waiting
    # By its name, as a command line has it: what jobs start they do not use.
    importlib.import_module("cluster_rl.evaluate").command()


if __name__ == "__main__":
    main()
