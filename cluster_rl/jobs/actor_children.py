"""The actor processes of one job, whether a learner is in it or not.

The launcher and `actor_job.py` use it. In: the run, the job's number and its actors' slots. Out: their lines for the
log; those that somebody ended from outside are started again.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from cluster_rl.jobs.supervise import ChildEvent, Supervisor
from cluster_rl.runs.layout import RunDir

_MISSED_SEC = 15.0
_PREFIX = "actor-"


class ActorChildren:
    """Actors as children of a `Supervisor`, which restarts those that die. `job` 0 is the learner's own job."""

    def __init__(self, supervisor: Supervisor, run_dir: RunDir, job: int) -> None:
        self._supervisor = supervisor
        self._run_dir = run_dir
        self._job = job
        self._slots: dict[str, int] = {}  # by the child's name
        self._ended_at: dict[str, float] = {}  # of those that ended without an error

    def start(self, slot: int, index: int) -> None:
        """Starts the actor in this slot of the job, number `index` of the run."""
        name = f"{_PREFIX}{index}"
        self._slots[name] = slot
        self._start(name)

    def note(self, event: ChildEvent) -> None:
        """Takes note of an event of the supervisor."""
        if event.kind == "finished" and event.name in self._slots:
            self._ended_at[event.name] = time.monotonic()

    def restart_missed(self, say: Callable[[str], object]) -> None:
        """Starts again the actors that ended well long ago.

        An actor ends well because its learner does, and then the job is over soon, or because somebody ended it from
        outside.
        """
        for name, ended_at in list(self._ended_at.items()):
            if time.monotonic() - ended_at > _MISSED_SEC:
                del self._ended_at[name]
                say(f"{name} was ended from outside while the run goes on; starting it again")
                self._start(name)

    def _start(self, name: str) -> None:
        arguments = ["--run-dir", str(self._run_dir.path), "--job", str(self._job), "--slot", str(self._slots[name])]
        command = [sys.executable, "-m", "cluster_rl.actor", *arguments]
        self._supervisor.start(name, command, {"OMP_NUM_THREADS": "1"})
