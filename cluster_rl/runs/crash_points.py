"""Places where a test can have a process killed as by `kill -9`, so that it can be seen what such a death leaves.

Every process passes them. They are dead code unless `CLUSTER_RL_TEST_CRASH` named a folder when the process started,
which only tests do: then the process that passes `crash_point(name)` while a file of that name is in the folder takes
the file away and kills itself. `touch` so asks for one death, of whichever process comes there first. Where a point
has a `detail`, the name of the file that is written, the request is `name@detail` or, of any such file, `name@*.json`.

To be set off by accident it takes the variable, a folder and a file with the name of a point in it. Nothing but a test
may arm one, and a test walks the source: each name of `CRASH_POINTS` is used in one place.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

VARIABLE = "CLUSTER_RL_TEST_CRASH"
CRASH_POINTS = (
    # Any file that is replaced as a whole; the detail is its name.
    "atomic.begin",
    "atomic.written",
    "atomic.renamed",
    # The launcher's start and supervision.
    "launcher.locked",
    "launcher.job_begun",
    "launcher.learner_started",
    "launcher.actors_started",
    "launcher.child_died",
    "launcher.child_restarted",
    "launcher.stopping",
    # The learner's start, after whatever ended the one before.
    "restore.folder_locked",
    "restore.segment_opened",
    "restore.record_found",
    "restore.tail_cut",
    "restore.log_scanned",
    "restore.totals_adopted",
    "restore.weights",
    "restore.priorities",
    "restore.limiter",
    "restore.job_continued",
    "learner.started",
    # The learner's work.
    "learner.sampled",
    "learner.updated",
    "learner.priorities_set",
    "learner.published",
    "learner.stopping",
    "learner.saved",
    "learner.drained",
    # The replay log.
    "replay.before_append",
    "replay.half_a_record",
    "replay.appended",
    "replay.before_sync",
    "replay.synced",
    "replay.before_eviction",
    "replay.evicted",
    # Checkpoints; the detail of `file_written` is the file's name.
    "checkpoint.begin",
    "checkpoint.folder_made",
    "checkpoint.file_written",
    "checkpoint.before_rename",
    "checkpoint.renamed",
    "checkpoint.verified",
    "checkpoint.prune_renamed",
    "checkpoint.pruned",
    # Figures and keys.
    "metrics.half_a_row",
    "metrics.row_written",
    "episodes.half_a_row",
    "episodes.rows_written",
    "quests.half_a_row",
    "quests.row_written",
    "keys.between_files",
    # The archive of start states.
    "archive.taken",
    "archive.admitted",
    "archive.evicted",
    # The learner's end of the wire.
    "wire.welcomed",
    "wire.before_ack",
    "wire.acked",
    # The actor.
    "actor.hello_sent",
    "actor.before_send",
    "actor.sent",
    "actor.acknowledged",
    "actor.before_params",
    "actor.params_loaded",
    "actor.episode_ended",
    "actor.stopping",
    "actor.flushed",
    "episode_log.flush_written",
    "episode_log.flushed",
)
_FOLDER = os.environ.get(VARIABLE)


def crash_point(name: str, detail: str = "") -> None:
    """Kills this process if a test has asked for it here; else nothing, at the cost of a comparison."""
    if _FOLDER is not None and _is_asked_for(_FOLDER, name, detail):
        os.kill(os.getpid(), signal.SIGKILL)


def crash_half_way(name: str, write: Callable[[bytes], object], data: bytes) -> None:
    """Writes the first half of `data` and kills this process, if a test has asked for it here."""
    if _FOLDER is not None and _is_asked_for(_FOLDER, name, ""):
        write(data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)


def _is_asked_for(folder: str, name: str, detail: str) -> bool:
    """Takes the request away, so that one file is one death."""
    for request in (f"{name}@{detail}", f"{name}@*{Path(detail).suffix}") if detail else (name,):
        try:
            (Path(folder) / request).unlink()
        except FileNotFoundError:
            continue
        return True
    return False
