"""The trainer on a disk that is full for a while: it goes on, keeps what it had, and says what it could not save."""

from __future__ import annotations

import errno
import math
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from failing_storage import unreadable
from small_disk import SmallDisk, mounted
from trainer_fixtures import changed, episodes, ingest, open_trainer, train

from cluster_rl.config import config_to_json
from cluster_rl.errors import EXIT_STORAGE, StorageError, exit_code_of
from cluster_rl.runs.checkpoint import load_checkpoint
from cluster_rl.runs.identity import ensure_identity
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import read_progress
from cluster_rl.training import outage
from cluster_rl.training import trainer as trainer_module
from cluster_rl.training.metrics import read_metrics
from cluster_rl.training.trainer import Trainer

ALWAYS = changed(
    progress_interval_seconds=1e-9,
    metrics_interval_seconds=1e-9,
    params_file_interval_seconds=1e-9,
    checkpoint_interval_seconds=1e-9,
)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with mounted(tmp_path / "disk", "size=4m") as small:
        yield small


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage, "RETRY_FIRST_SEC", 0.0)
    monkeypatch.setattr(trainer_module, "LAST_TRIES_SEC", 0.2)


def begun(disk: SmallDisk) -> Trainer:
    trainer = open_trainer(disk.folder, ALWAYS)
    ingest(trainer, episodes(0, 4))
    train(trainer, 2)
    tick_until_written(trainer)
    return trainer


def tick_until_written(trainer: Trainer) -> None:
    """Ticks until a checkpoint has all updates and nothing is refused."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        trainer.tick()
        time.sleep(0.005)
        found = load_checkpoint(trainer.run_dir.checkpoint)
        if found is not None and found.updates == trainer.r2d2.updates and not trainer.outage.words:
            return
    raise AssertionError(f"no checkpoint of update {trainer.r2d2.updates}; {trainer.outage.words}")


def test_training_goes_on_while_the_disk_is_full(disk: SmallDisk, capfd: pytest.CaptureFixture[str]) -> None:
    trainer = begun(disk)
    before = read_progress(trainer.run_dir.progress)
    with disk.full():
        for _ in range(10):
            train(trainer, 1)
            trainer.tick()
        assert re.match(r"disk full since \d\d:\d\d \(.*: No space left on device\)$", trainer.outage.words)
        found = load_checkpoint(trainer.run_dir.checkpoint)
        assert found is not None
        assert (found.updates, found.notes) == (2, []), "the old checkpoint stays whole"
        assert read_progress(trainer.run_dir.progress) == before
        assert trainer.run_dir.metrics.read_bytes().endswith(b"\n"), "a row that is not whole"
        while trainer._checkpoints.busy:
            time.sleep(0.005)
        left = list(trainer.run_dir.path.rglob(".*"))
        assert left == [], "half-written files are left"
    assert trainer.r2d2.updates == 12
    ingest(trainer, episodes(4, 1))
    tick_until_written(trainer)
    assert re.search(r"is over after \d+ s; \d+ rows of metrics dropped", capfd.readouterr().out)
    trainer.close("test")
    assert read_metrics(trainer.run_dir.metrics)[-1]["updates"] == 12
    progress = read_progress(trainer.run_dir.progress)
    assert progress is not None
    assert (progress.updates, progress.storage_problem, progress.jobs[-1].reason) == (12, "", "test")


def test_progress_says_what_another_disk_does_not_take(disk: SmallDisk, tmp_path: Path) -> None:
    trainer = open_trainer(tmp_path / "runs", changed(replay_dir=str(disk.folder / "replay")))
    (sequence, *others) = episodes(0, 1)
    with disk.full():
        with pytest.raises(StorageError) as error:
            ingest(trainer, [sequence])
        trainer.outage.begin("the replay log", error.value)
        trainer.write_progress()
        progress = read_progress(trainer.run_dir.progress)
        assert progress is not None
        assert progress.storage_problem.startswith("disk full since ")
        assert str(disk.folder / "replay") in progress.storage_problem
        assert (trainer.replay.env_steps, trainer.limiter.inserted) == (0, 0)
    ingest(trainer, [sequence, *others])
    trainer.outage.end("the replay log")
    trainer.write_progress()
    progress = read_progress(trainer.run_dir.progress)
    assert progress is not None
    assert progress.storage_problem == ""
    assert progress.env_steps == trainer.limiter.inserted == 18
    trainer.close("test")


def test_no_record_comes_before_the_first_progress_file(disk: SmallDisk, tmp_path: Path) -> None:
    """A log without it is one that has lost it. The supervisor starts the learner again."""
    run_dir = RunDir(disk.folder, "run").create()
    config = changed(replay_dir=str(tmp_path / "replay"))
    with disk.full(), pytest.raises(StorageError, match=r"progress\.json: cannot be written: No space left"):
        open_trainer(disk.folder, config)
    assert not run_dir.progress.exists()
    trainer = open_trainer(disk.folder, config)
    assert run_dir.progress.exists()
    with disk.full():  # one that is there is enough
        trainer.replay.close()
        open_trainer(disk.folder, config).replay.close()


def test_the_end_on_a_full_disk_says_what_was_not_saved(disk: SmallDisk) -> None:
    trainer = begun(disk)
    train(trainer, 1)
    with disk.full(), pytest.raises(StorageError) as error:
        trainer.close("signal SIGTERM", "3 sequences that arrived")
    words = str(error.value)
    assert words.startswith(
        "not saved: 3 sequences that arrived, the last checkpoint, online_params.pt, progress.json; disk full since "
    )
    assert "\n" not in words
    again = open_trainer(disk.folder, ALWAYS)
    assert again.r2d2.updates == 2
    assert again.replay.env_steps == 4 * 18
    again.close("test")


def test_who_has_time_saves_all_when_the_disk_takes_it(disk: SmallDisk, capfd: pytest.CaptureFixture[str]) -> None:
    """What was learned since the last checkpoint too."""
    trainer = begun(disk)
    train(trainer, 3)
    disk.fill()
    asked = 0

    def left_sec() -> float:
        nonlocal asked
        asked += 1
        if asked == 3:
            disk.free()
        return 60.0

    trainer.save("target_total_steps reached", left_sec)
    trainer.close("target_total_steps reached")
    found = load_checkpoint(trainer.run_dir.checkpoint)
    progress = read_progress(trainer.run_dir.progress)
    assert found is not None
    assert progress is not None
    assert found.updates == progress.updates == 5
    assert (progress.jobs[-1].reason, progress.storage_problem) == ("target_total_steps reached", "")
    assert asked >= 3
    line = "target_total_steps reached; what is saved last is tried again until storage takes it"
    assert capfd.readouterr().out.splitlines().count(line) == 1


def test_what_fails_for_another_reason_than_storage_is_not_tried_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a folder whose permissions were taken away: that need not pass."""
    monkeypatch.setattr(trainer_module, "LATE_TRIES_SEC", 0.3)
    trainer = open_trainer(tmp_path, ALWAYS)
    ingest(trainer, episodes(0, 4))

    def refuse() -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "checkpoint")

    monkeypatch.setattr(trainer, "checkpoint", refuse)
    monkeypatch.setattr(trainer._checkpoint_writer, "_wait_max_sec", 0.05)
    trainer.save("target_total_steps reached", lambda: math.inf)
    progress = read_progress(trainer.run_dir.progress)
    assert progress is not None
    assert "not saved: the last checkpoint" in progress.jobs[-1].reason


def test_progress_that_fails_for_another_reason_is_not_tried_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module, "LATE_TRIES_SEC", 0.3)
    trainer = open_trainer(tmp_path, ALWAYS)

    def refuse(reason: str | None = None) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), f"progress.json: {reason}")

    monkeypatch.setattr(trainer, "write_progress", refuse)
    began = time.monotonic()
    trainer.save("target_total_steps reached", lambda: math.inf)
    assert time.monotonic() - began < 30
    assert trainer.is_saved


def test_sampling_waits_while_the_replay_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = open_trainer(tmp_path)
    ingest(trainer, episodes(0, 4))
    with monkeypatch.context() as patch:

        def away(*_: int) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        patch.setattr(os, "pread", away)
        for _ in range(5):
            assert trainer.try_sample() is None
        assert trainer.outage.words.startswith("storage failing since ")
    sampled = trainer.try_sample()
    assert sampled is not None
    assert trainer.outage.words == ""
    assert (trainer.replay.damaged, trainer.batches_in_flight) == (0, 1)
    trainer.update(sampled)
    trainer.close("test")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_start_that_storage_refuses_loses_nothing(tmp_path: Path, number: int) -> None:
    """Whatever file it is: nothing is rebuilt, moved aside, passed over or made anew."""
    trainer = open_trainer(tmp_path, ALWAYS)
    run_dir = trainer.run_dir
    ensure_identity(run_dir.identity, "0" * 40, "TEST", trainer.run_id)
    run_dir.config.write_bytes(config_to_json(ALWAYS))
    ingest(trainer, episodes(0, 4))
    train(trainer, 2)
    trainer.close("test")
    (checkpoint,) = run_dir.checkpoint.iterdir()
    files = [run_dir.identity, run_dir.progress, run_dir.metrics, *checkpoint.iterdir()]
    files += run_dir.replay.glob("segment-*")
    assert len(files) == 7
    before = contents(run_dir.path)
    for file in files:
        with unreadable(file, number), pytest.raises(StorageError) as error:
            open_trainer(tmp_path, ALWAYS)
        assert str(file) in str(error.value)
        assert exit_code_of(error.value) == EXIT_STORAGE
        assert contents(run_dir.path) == before
    again = open_trainer(tmp_path, ALWAYS)
    assert (again.r2d2.updates, again.replay.env_steps, again.replay.notes) == (2, 4 * 18, [])
    again.close("test")


def contents(folder: Path) -> dict[Path, bytes]:
    """Of all files but the words of who holds the log."""
    return {path: path.read_bytes() for path in folder.rglob("*") if (path.is_file() and path.parent.name != "replay")
            or path.name.startswith("segment-")}  # fmt: skip


def test_a_log_of_which_nothing_can_be_read_is_told_and_ends_nothing(tmp_path: Path) -> None:
    trainer = open_trainer(tmp_path)
    ingest(trainer, episodes(0, 4))
    for path in trainer.run_dir.replay.glob("segment-*"):
        os.truncate(path, 0)
    for _ in range(3):
        assert trainer.try_sample() is None
    assert not trainer.may_sample()
    assert "storage failing since " in trainer.outage.words
    ingest(trainer, episodes(4, 4))
    assert trainer.try_sample() is not None
    assert trainer.outage.words == ""


def test_an_evicted_file_that_cannot_be_deleted_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = open_trainer(tmp_path, changed(replay_capacity_transitions=40))
    with monkeypatch.context() as patch:

        def refused(*_: object, **__: object) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        patch.setattr(Path, "unlink", refused)
        ingest(trainer, episodes(0, 6))
        assert re.search(r"since \d\d:\d\d \(.*segment-00000000.log: Operation not permitted\)", trainer.outage.words)
    ingest(trainer, episodes(6, 1))
    assert trainer.outage.words == ""
    trainer.close("test")


def test_the_last_figures_that_a_disk_does_not_take_are_told(disk: SmallDisk) -> None:
    trainer = begun(disk)
    trainer.save("signal SIGTERM")
    with disk.full(), pytest.raises(StorageError, match=r"^not saved: progress.json; disk full since "):
        trainer.close("signal SIGTERM")


def test_the_reason_of_a_job_says_what_was_lost_before_and_after_it_was_saved(disk: SmallDisk) -> None:
    trainer = begun(disk)
    train(trainer, 1)
    with disk.full():
        trainer.save("signal SIGTERM")
    with pytest.raises(StorageError, match="not saved: 3 sequences, the last checkpoint, online"):
        trainer.close("signal SIGTERM", "3 sequences")
    progress = read_progress(trainer.run_dir.progress)
    assert progress is not None
    assert progress.jobs[-1].reason == ("signal SIGTERM; not saved: 3 sequences, the last checkpoint, online_params.pt")
