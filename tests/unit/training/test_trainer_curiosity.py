"""Curiosity within the trainer: what it trains on, what it tells, and that 0 leaves all as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from trainer_fixtures import CONFIG, OBSERVATION, changed, episodes, ingest, open_trainer, train

from cluster_rl.exploration.rnd import Rnd
from cluster_rl.learning.batch import Batch
from cluster_rl.learning.r2d2 import R2D2, UpdateResult
from cluster_rl.training.metrics import read_metrics


def test_without_a_weight_updates_are_those_of_the_learner_alone_to_the_bit(tmp_path: Path) -> None:
    trainer = open_trainer(tmp_path)
    assert trainer.rnd is None
    ingest(trainer, episodes(0, 4))
    alone, rng = R2D2(CONFIG, OBSERVATION, "cpu", CONFIG.base_seed), np.random.default_rng([CONFIG.base_seed, 1])
    for _ in range(4):
        arrays = {name: array.copy() for name, array in trainer.replay.sample(rng, CONFIG.batch_size).items()}
        expected = alone.update(Batch.from_numpy(arrays, torch.device("cpu")))
        train(trainer, 1)
        assert trainer._newest_update is not None
        assert trainer._newest_update.result.metrics == expected.metrics
    trainer.write_metrics()
    tensors = alone.state_dict()["tensors"]
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in trainer.r2d2.state_dict()["tensors"].items())
    trainer.close("test")
    assert not [name for name in read_metrics(trainer.run_dir.metrics)[-1] if name.startswith("rnd/")]


def test_the_learner_trains_on_rewards_with_the_bonus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = changed(w_rnd=0.5)
    trainer = open_trainer(tmp_path, config)
    ingest(trainer, episodes(0, 4))
    same = Rnd(config, OBSERVATION, "cpu", config.base_seed + 1)
    given: list[Batch] = []

    def spied(batch: Batch) -> UpdateResult:
        given.append(batch)
        return update(batch)

    update = trainer.r2d2.update
    monkeypatch.setattr(trainer.r2d2, "update", spied)
    for _ in range(3):
        sampled = trainer.sample()
        expected = same.update(sampled.batch, 0.5).curiosity
        trainer.update(sampled)
        assert torch.equal(given[-1].curiosity, expected)
        assert given[-1].curiosity.any()
    trainer.write_metrics()
    trainer.close("test")
    row = read_metrics(trainer.run_dir.metrics)[-1]
    found = {name.removeprefix("rnd/"): value for name, value in row.items() if name.startswith("rnd/")}
    assert found == same.metrics()
    assert set(found) == {"error_mean", "error_std", "bonus_mean", "bonus_std", "reward_share", "skipped_steps"}
