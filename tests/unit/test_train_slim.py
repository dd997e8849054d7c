"""Serial mode on storage that refuses the replay log: it learns what it may, and ends at once for who says so twice."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from run_fixtures import overrides

from cluster_rl import train_slim
from cluster_rl.config import load_config, split_overrides
from cluster_rl.errors import StorageError
from cluster_rl.jobs import grace
from cluster_rl.jobs.opening import open_job
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import Progress, read_progress
from cluster_rl.training.trainer import Trainer

FIRST_STEPS = 50  # by the first of two sequences that come at once


def test_it_learns_while_its_log_is_refused_and_a_second_int_ends_the_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grace, "LAST_TRIES_SEC", 1000.0)
    ingest = Trainer.ingest

    def refuse(trainer: Trainer, *block: Any) -> object:
        if trainer.limiter.inserted >= FIRST_STEPS:
            raise StorageError("the log is full", "/data/log", errno.ENOSPC)
        return ingest(trainer, *block)

    monkeypatch.setattr(Trainer, "ingest", refuse)
    run_dir = RunDir(tmp_path, "one")
    changes = {"num_actors": 1, "target_total_steps": 1_000_000, "samples_per_insert": 16.0, "max_runtime_seconds": 0}
    config = load_config("quickstart", split_overrides(overrides(min_replay_transitions=FIRST_STEPS, **changes)))
    seen: list[Progress | None] = []
    told_at: list[float] = []
    over = threading.Event()

    def meddle() -> None:
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline and not over.wait(0.05):
            progress = read_progress(run_dir.progress)
            if progress is not None and progress.updates >= 5:
                break
        seen.append(read_progress(run_dir.progress))
        for _ in range(2):
            time.sleep(2.0)
            told_at.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

    meddler = threading.Thread(target=meddle)
    with open_job(config, run_dir, serial=True) as stop:
        meddler.start()
        try:
            with pytest.raises(StorageError, match=r"not saved: \d sequences; disk full since"):
                train_slim.train(config, run_dir, stop)
            ended_at = time.monotonic()
        finally:
            over.set()
            meddler.join()
            stop.uninstall()
    (while_full,) = seen
    assert while_full is not None
    assert while_full.updates >= 5
    assert while_full.env_steps == FIRST_STEPS
    assert while_full.storage_problem.startswith("disk full since ")
    assert told_at[1] < ended_at < told_at[1] + 60
