"""What the trainer tells the rate limiter, and what it lets sampler and actors do."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from sequence_fixtures import make_builder, play, summary_of
from trainer_fixtures import BLOCK, CONFIG, MILESTONES, OBSERVATION, changed, episodes, ingest, open_trainer

from cluster_rl.jobs.deadline import job_deadline
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import read_progress
from cluster_rl.training.trainer import Trainer

LENGTH = 18  # steps of an episode: windows of 4 and one of 2
CHUNK = CONFIG.batch_size * CONFIG.unroll_length


def test_the_limiter_counts_trained_positions_only(tmp_path: Path) -> None:
    """Neither burn-in nor tail of what arrives, nor the padding of what is sampled."""
    trainer = open_trainer(tmp_path)
    ingest(trainer, episodes(0, 4, LENGTH))
    assert trainer.limiter.inserted == 4 * LENGTH
    positions = 0
    for _ in range(5):
        sampled = trainer.sample()
        positions += int(sampled.batch.train_length.sum())
        trainer.update(sampled)
    assert positions < 5 * CHUNK  # or no padding was there
    assert trainer.limiter.sampled == positions
    trainer.close("test")


def test_batches_on_their_way_to_an_update_count_as_sampled(tmp_path: Path) -> None:
    trainer = open_trainer(tmp_path)
    ingest(trainer, episodes(0, 4, LENGTH))
    allowed = int((trainer.limiter.buffer - trainer.limiter.ahead) // CHUNK)
    assert allowed >= 2
    for _ in range(allowed):
        assert trainer.may_sample()
        sampled = trainer.sample()
    assert not trainer.may_sample()
    trainer.update(sampled)
    # Recorded now instead of in flight, at most as much: nothing new is allowed by that alone.
    assert trainer.batches_in_flight == allowed - 1
    assert trainer.may_sample() == (trainer.limiter.sampled < CHUNK)
    trainer.close("test")


def test_actors_may_send_what_the_limiter_has_room_for(tmp_path: Path) -> None:
    trainer = open_trainer(tmp_path, changed(min_replay_transitions=4000))
    assert trainer.sequences_wanted() == trainer.limiter.room() // CONFIG.unroll_length > 0
    trainer.close("test")


def test_what_was_logged_without_a_checkpoint_counts_as_inserted(tmp_path: Path) -> None:
    trainer = open_trainer(tmp_path)
    ingest(trainer, episodes(0, 4, LENGTH))
    trainer.replay.close()  # as the kernel does for a killed learner
    again = open_trainer(tmp_path)
    assert again.limiter.inserted == 4 * LENGTH
    again.close("test")


def test_a_copied_run_says_its_own_name(tmp_path: Path) -> None:
    open_trainer(tmp_path).close("test")
    shutil.copytree(tmp_path / "run", tmp_path / "moved")
    moved = RunDir(tmp_path, "moved")
    trainer = Trainer(CONFIG, moved, OBSERVATION, BLOCK, MILESTONES, "next")
    trainer.close("test")
    progress = read_progress(moved.progress)
    assert progress is not None
    assert (progress.run_name, len(progress.jobs)) == ("moved", 2)


def test_why_a_rate_is_0_is_said(tmp_path: Path) -> None:
    config = changed(min_replay_transitions=80, samples_per_insert=4.0, num_actors=1, envs_per_actor=1)
    trainer = open_trainer(tmp_path, config)

    def activity() -> str:
        trainer.write_progress()
        return trainer.progress.activity

    trainer.connected_actors = 0
    assert activity() == f"waiting for actors, none of {config.total_actors} is connected"
    trainer.connected_actors = 1
    assert activity() == "collecting 0 of 80 env steps before learning"
    trainer.connected_actors = None
    ingest(trainer, episodes(0, 3))
    assert activity() == f"collecting {trainer.replay.env_steps} of 80 env steps before learning"
    ingest(trainer, episodes(3, 10))
    owed = 4 * trainer.replay.env_steps
    assert activity() == f"playing waits while {owed:,} owed samples are learned (samples_per_insert)"
    trainer.connected_actors = 1
    assert activity().startswith("playing waits while ")
    while trainer.may_sample():
        trainer.update(trainer.sample())
    assert activity() == "learning waits for env steps (samples_per_insert)"
    trainer.connected_actors = None
    assert activity() == "playing and learning in turn"
    trainer.close("enough")
    assert (trainer.progress.jobs[-1].reason, trainer.progress.activity) == ("enough", "")


def reason_of(trainer: Trainer) -> str:
    """Why its job is over, after it was closed with what it says itself of the run."""
    over = trainer.finished(job_deadline(0, time.monotonic()))
    trainer.close(over[0] if over is not None else "signal SIGTERM")
    return trainer.progress.jobs[-1].reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"target_total_steps": 2 * LENGTH}, "target_total_steps reached"),
        ({"total_episodes": 2}, "total_episodes reached"),
    ],
)
def test_a_complete_run_that_is_started_again_is_not_said_to_learn_nothing(
    tmp_path: Path, changes: dict[str, int], reason: str
) -> None:
    trainer = open_trainer(tmp_path, changed(**changes))
    builder = make_builder(BLOCK)
    told = summary_of(LENGTH, reason="truncated")
    ingest(trainer, [part for episode in range(2) for part in play(builder, episode, LENGTH, summary=told)])
    assert reason_of(trainer) == f"{reason}; nothing was learned: collecting 36 of 40 env steps before learning"
    again = Trainer(changed(**changes), trainer.run_dir, OBSERVATION, BLOCK, MILESTONES, "next")
    assert reason_of(again) == reason


@pytest.mark.parametrize("connected", [None, 1])
def test_a_job_that_ends_when_it_would_begin_to_learn(tmp_path: Path, connected: int | None) -> None:
    """What it does then is no reason for having learned nothing."""
    trainer = open_trainer(tmp_path, changed(samples_per_insert=4.0))
    trainer.connected_actors = connected
    ingest(trainer, episodes(0, 3))
    assert trainer.may_sample()
    assert reason_of(trainer) == "signal SIGTERM; nothing was learned"


def test_the_last_checkpoint_is_told_of_before_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = open_trainer(tmp_path)
    told = []

    def checkpoint() -> None:
        progress = read_progress(trainer.run_dir.progress)
        assert progress is not None
        told.append(progress.activity)

    monkeypatch.setattr(trainer, "checkpoint", checkpoint)
    trainer.close("time is over")
    assert told == ["writing the last checkpoint"]
    assert trainer.progress.jobs[-1].reason == (
        f"time is over; nothing was learned: collecting 0 of {trainer.limiter.min_size} env steps before learning"
    )
