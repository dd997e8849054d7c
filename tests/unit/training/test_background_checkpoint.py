"""Training does not wait for a checkpoint's disk, and what is written is the state of one moment."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from trainer_fixtures import changed, episodes, ingest, open_trainer, train

from cluster_rl.learner import SamplerThread, _raise_error_of
from cluster_rl.replay_buffer import Replay
from cluster_rl.runs import checkpoint
from cluster_rl.runs.checkpoint import load_checkpoint, unflatten_state
from cluster_rl.runs.progress import read_progress
from cluster_rl.training.trainer import Trainer

EVER_DUE = changed(
    checkpoint_interval_seconds=1e-6,
    progress_interval_seconds=3600,
    metrics_interval_seconds=3600,
    params_file_interval_seconds=3600,
)
LIMIT_SEC = 60.0


class SlowDisk:
    """Holds back whoever syncs a file of the checkpoint until it is released, or for a minute."""

    def __init__(self) -> None:
        self.reached, self.released = threading.Event(), threading.Event()
        self._sync = os.fsync

    def fsync(self, descriptor: int) -> None:
        if "/checkpoint/" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            self.reached.set()
            self.released.wait(LIMIT_SEC)
        self._sync(descriptor)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowDisk]:
    slow = SlowDisk()
    monkeypatch.setattr(os, "fsync", slow.fsync)
    yield slow
    slow.released.set()


def started(folder: Path) -> Trainer:
    """A trainer with data, whose checkpoints are always due."""
    trainer = open_trainer(folder, EVER_DUE)
    ingest(trainer, episodes(0, 4))
    return trainer


def writing(folder: Path, disk: SlowDisk) -> Trainer:
    """One whose first checkpoint, of its first update, is on its way to the slow disk."""
    trainer = started(folder)
    train(trainer, 1)
    trainer.tick()
    assert disk.reached.wait(LIMIT_SEC)
    return trainer


def test_the_training_thread_does_not_wait_for_the_disk(tmp_path: Path, disk: SlowDisk) -> None:
    trainer = started(tmp_path)
    train(trainer, 2)
    before = {name: tensor.clone() for name, tensor in trainer.r2d2.state_dict()["tensors"].items()}
    priorities = trainer.replay.state_dict()["priorities"]
    trainer.tick()
    assert disk.reached.wait(LIMIT_SEC)
    train(trainer, 3)
    ingest(trainer, episodes(4, 2))
    trainer.tick()
    assert load_checkpoint(trainer.run_dir.checkpoint) is None  # or the thread above has waited for it
    disk.released.set()
    trainer._checkpoints.wait()

    found = load_checkpoint(trainer.run_dir.checkpoint)
    assert found is not None
    assert found.updates == 2
    state = unflatten_state(found.tensors, found.meta["state"])
    assert all(torch.equal(tensor, state["r2d2"]["tensors"][name]) for name, tensor in before.items())
    assert state["replay"]["priorities"].tobytes() == priorities.tobytes()
    trainer.close("test")


def test_one_that_is_due_waits_for_the_one_before(tmp_path: Path, disk: SlowDisk) -> None:
    trainer = writing(tmp_path, disk)
    train(trainer, 1)
    trainer.tick()  # due, and not begun: the first is being written
    disk.released.set()
    trainer._checkpoints.wait()
    train(trainer, 1)
    trainer.tick()
    trainer._checkpoints.wait()
    names = sorted(path.name for path in trainer.run_dir.checkpoint.iterdir())
    assert names == ["1-1", "3-2"]
    trainer.close("test")


def test_what_a_checkpoint_counts_is_on_disk_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut after it, which takes away all that was not synced, loses nothing of what it counts."""
    durable_bytes: dict[str, int] = {}
    later = [episodes(4, 1)]
    sync = Replay.sync

    def sync_and_more_arrives(replay: Replay) -> None:
        sync(replay)
        durable_bytes.update((path.name, path.stat().st_size) for path in replay._log.folder.glob("segment-*.log"))
        if later:
            ingest(trainer, later.pop())

    monkeypatch.setattr(Replay, "sync", sync_and_more_arrives)
    trainer = open_trainer(tmp_path / "before")
    ingest(trainer, episodes(0, 4))
    env_steps = trainer.replay.env_steps
    trainer.checkpoint()
    assert trainer.replay.env_steps > env_steps
    shutil.copytree(tmp_path / "before", tmp_path / "after")
    for path in (tmp_path / "after").rglob("segment-*.log"):
        os.truncate(path, durable_bytes[path.name])
    again = open_trainer(tmp_path / "after")
    assert "had lost sequences" not in again.restored
    assert again.replay.env_steps == env_steps
    again.close("test")
    trainer.close("test")


def told_checkpoint(trainer: Trainer) -> int | None:
    trainer.write_progress()
    progress = read_progress(trainer.run_dir.progress)
    assert progress is not None
    return progress.newest_checkpoint


def test_a_checkpoint_is_told_of_once_it_was_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that reads back differently is deleted: a start that was told of it would refuse the run."""
    trainer = started(tmp_path)
    train(trainer, 1)
    read_back = checkpoint._verify
    told: list[int | None] = []

    def verify(path: Path) -> object:
        told.append(told_checkpoint(trainer))
        return read_back(path)

    monkeypatch.setattr(checkpoint, "_verify", verify)
    trainer.checkpoint()
    assert told == [0]
    assert told_checkpoint(trainer) == 1
    monkeypatch.undo()
    trainer.close("test")
    again = open_trainer(tmp_path)
    assert told_checkpoint(again) == 2
    again.close("test")


def test_the_last_checkpoint_is_the_one_in_flight_if_that_has_all_updates(tmp_path: Path, disk: SlowDisk) -> None:
    trainer = writing(tmp_path, disk)
    disk.released.set()
    trainer.checkpoint()
    assert [path.name for path in trainer.run_dir.checkpoint.iterdir()] == ["1-1"]
    train(trainer, 1)
    trainer.begin_checkpoint()
    train(trainer, 1)
    trainer.checkpoint()
    assert sorted(path.name for path in trainer.run_dir.checkpoint.iterdir()) == ["2-2", "3-3"]
    trainer.close("test")


def test_a_thread_that_died_after_all_was_saved_costs_no_second_checkpoint(tmp_path: Path) -> None:
    trainer = started(tmp_path)
    train(trainer, 1)
    sampler = SamplerThread(trainer)
    sampler.error = RuntimeError("died")
    with pytest.raises(RuntimeError, match="died"):
        _raise_error_of(trainer, sampler)
    assert [path.name for path in trainer.run_dir.checkpoint.iterdir()] == ["1-1"]
    trainer.save("test")
    with pytest.raises(RuntimeError, match="died"):
        _raise_error_of(trainer, sampler)
    assert sorted(path.name for path in trainer.run_dir.checkpoint.iterdir()) == ["1-1", "1-2"]
    trainer.close("test")
