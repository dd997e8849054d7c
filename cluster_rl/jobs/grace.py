"""How long the processes of a job may take for their end, and when they should leave out what can wait.

The launcher and actor jobs ask again and again while they end their children. In: the stop flag, which counts how
often somebody demanded the end, and who still runs. Out: seconds that are left, and whether to hurry.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from cluster_rl.jobs.signals import StopFlag
from cluster_rl.runs.slurm_job import slurm_job_id

# After TERM SLURM kills what is left of a job: KillWait, 30 s unless the cluster's slurm.conf says otherwise.
_SLURM_KILLS_SEC = 30.0
_MARGIN_SEC = 4.0  # for the launcher's own last words, and the job script's
_UNHURRIED_SEC = 60.0
# A batch system's warning leaves minutes, and a checkpoint on a busy disk may take one.
_WARNED_SEC = 300.0
_HURRY_SEC = 6.0  # for what cannot wait: a learner's last figures and its files
_SOURCE_GONE_SEC = 10.0  # for what actors do without a learner: the logs of their open episodes
_KILLING_DEMAND = 3


class Grace:
    """The time for an end that begins now; asked again and again, with the names of the children that still run.

    `patient`: nobody has demanded the end, such as after a warning signal. Whoever then does, shortens the time to what
    a demand leaves. The second demand leaves out what can wait, the third leaves no time at all. `source` names the
    child that all others deliver to: once it has ended, they need not wait.
    """

    def __init__(self, stop: StopFlag, patient: bool, source: str = "") -> None:
        self._stop, self._patient, self._source = stop, patient, source
        self._started = time.monotonic()
        self._source_ended_at: float | None = None

    def left_sec(self, running: Collection[str]) -> float:
        """Until those that are `running` are killed."""
        if self._stop.demands >= _KILLING_DEMAND:
            return 0.0
        now = time.monotonic()
        if self._source and self._source not in running and self._source_ended_at is None:
            self._source_ended_at = now
        demanded_sec = _SLURM_KILLS_SEC - _MARGIN_SEC if slurm_job_id() else _UNHURRIED_SEC
        ends = self._started + (_WARNED_SEC if self._patient else demanded_sec)
        if self._stop.demanded_at is not None:
            ends = min(ends, self._stop.demanded_at + demanded_sec)
        if self._source_ended_at is not None:
            ends = min(ends, self._source_ended_at + _SOURCE_GONE_SEC)
        return ends - now

    def is_short(self, running: Collection[str]) -> bool:
        """Whether those that are `running` should leave out what can wait."""
        left_sec = self.left_sec(running)
        return self._stop.demands > 1 or self._source_ended_at is not None or left_sec <= _HURRY_SEC
