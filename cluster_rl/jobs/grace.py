"""How long the processes of a job may take for their end, and when they should leave out what can wait.

The launcher and actor jobs ask again and again while they end their children, and trainers while storage refuses what
they save last. In: SLURM's KillWait, the stop flag, which counts how often somebody demanded the end, and who still
runs. Out: seconds that are left, and whether to hurry.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection

from cluster_rl.errors import EXIT_OK
from cluster_rl.jobs.deadline import Deadline
from cluster_rl.jobs.signals import StopFlag
from cluster_rl.jobs.slurm import kill_wait_sec
from cluster_rl.runs.slurm_job import slurm_job_id

_MARGIN_SEC, _MARGIN_PART = 4.0, 0.5  # at most, before SLURM kills: for the launcher's last words and the job script's
_UNHURRIED_SEC = 60.0
# A batch system's warning leaves minutes, and a checkpoint on a busy disk may take one.
_WARNED_SEC = 300.0
_HURRY_SEC = 6.0  # for what cannot wait: a learner's last figures and its files
_SOURCE_GONE_SEC = 10.0  # for what actors do without a learner: the logs of their open episodes
_KILLING_DEMAND = 3
# Of what storage refuses when a job ends: where somebody demands the end, and where its time is up. The launcher, or
# SLURM, ends a learner that takes minutes then, and its actors' last sequences are still to come.
LAST_TRIES_SEC = 3.0
LATE_TRIES_SEC = 30.0


def demanded_end_sec() -> float:
    """How long the end may take that a signal demands: less than until SLURM kills this job, elsewhere a minute.

    It asks SLURM, for seconds: to be called at a job's start.
    """
    if not slurm_job_id():
        return _UNHURRIED_SEC
    killed_sec = kill_wait_sec()
    return min(killed_sec - min(_MARGIN_SEC, _MARGIN_PART * killed_sec), _WARNED_SEC)


class Grace:
    """The time for an end that begins now; asked again and again, with the names of the children that still run.

    `demanded_sec` is what a demand leaves, see `demanded_end_sec`. `patient`: nobody has demanded the end, such as
    after a warning signal; whoever then does, shortens the time to that. The second demand leaves out what can wait,
    the third leaves no time at all. `source` names the child that all others deliver to: once it has ended, they need
    not wait.
    """

    def __init__(self, stop: StopFlag, patient: bool, demanded_sec: float, source: str = "") -> None:
        self._stop, self._patient, self._demanded_sec, self._source = stop, patient, demanded_sec, source
        self._started = time.monotonic()
        self._source_ended_at: float | None = None

    def left_sec(self, running: Collection[str]) -> float:
        """Until those that are `running` are killed."""
        if self._stop.demands >= _KILLING_DEMAND:
            return 0.0
        now = time.monotonic()
        if self._source and self._source not in running and self._source_ended_at is None:
            self._source_ended_at = now
        ends = self._started + (_WARNED_SEC if self._patient else self._demanded_sec)
        if self._stop.demanded_at is not None:
            ends = min(ends, self._stop.demanded_at + self._demanded_sec)
        if self._source_ended_at is not None:
            ends = min(ends, self._source_ended_at + _SOURCE_GONE_SEC)
        return ends - now

    def is_short(self, running: Collection[str]) -> bool:
        """Whether those that are `running` should leave out what can wait."""
        left_sec = self.left_sec(running)
        return self._stop.demands > 1 or self._source_ended_at is not None or left_sec <= _HURRY_SEC


class SavingTime:
    """How long a trainer that ends now tries to save what storage refuses; asked again and again.

    When the run is complete nobody hurries it, if it is `patient`: until somebody tells it to end, or the time of its
    job is up. Else, after a warning, or as its time is up, that is half a minute; where somebody demands the end
    seconds, and none for who demands it twice.
    """

    def __init__(self, stop: StopFlag, deadline: Deadline, patient: bool = True) -> None:
        self._stop, self._deadline, self._patient = stop, deadline, patient
        self._began = time.monotonic()
        self._late_since: float | None = None

    def left_sec(self) -> float:
        """Until what could not be saved is left out; infinite where nothing ends it yet."""
        stop, now = self._stop, time.monotonic()
        if stop.hurried or stop.demands > 1:
            return 0.0
        if stop.demanded_at is not None:
            return max(self._began, stop.demanded_at) + LAST_TRIES_SEC - now
        complete = stop.exit_code == EXIT_OK and not stop.signalled and not self._deadline.is_over()
        if complete and self._patient:
            return math.inf
        if self._late_since is None:
            self._late_since = now
        return self._late_since + LATE_TRIES_SEC - now
