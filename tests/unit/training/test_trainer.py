"""What the trainer tells the rate limiter, and what it lets sampler and actors do."""

from __future__ import annotations

import shutil
from pathlib import Path

from trainer_fixtures import BLOCK, CONFIG, OBSERVATION, changed, episodes, ingest, open_trainer

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


def test_actors_share_the_positions_that_may_come(tmp_path: Path) -> None:
    trainer = open_trainer(tmp_path, changed(credit_sequences=10_000, min_replay_transitions=4000))
    for actors in (1, 3):
        assert trainer.sequences_wanted(actors) == trainer.limiter.room() // (actors * CONFIG.unroll_length) > 0
    assert trainer.sequences_wanted(0) == trainer.sequences_wanted(1)  # before the first has joined
    trainer.close("test")
    few = open_trainer(tmp_path / "few", changed(credit_sequences=5, min_replay_transitions=4000))
    assert few.sequences_wanted(1) == 5
    few.close("test")


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
    trainer = Trainer(CONFIG, moved, OBSERVATION, BLOCK, "next")
    trainer.close("test")
    progress = read_progress(moved.progress)
    assert progress is not None
    assert (progress.run_name, len(progress.jobs)) == ("moved", 2)
