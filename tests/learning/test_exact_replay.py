"""Prioritised replay as the learner meets it: how fast a rare reward is learned, unbiased weights, resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from learner_fixtures import CPU, gradients, make, random_batch
from numpy.typing import NDArray
from sequence_fixtures import make_builder, play
from torch import Tensor
from torch.nn import functional

from cluster_rl.config import Config, ModelConfig
from cluster_rl.learning import losses, priorities
from cluster_rl.learning.batch import Batch
from cluster_rl.learning.priorities import importance_weights
from cluster_rl.learning.r2d2 import R2D2
from cluster_rl.learning.sequences import BlockSpec
from cluster_rl.model import ObservationSpec
from cluster_rl.replay.sum_tree import SumTree
from cluster_rl.replay_buffer import Replay
from cluster_rl.wire.codec import encode_block

SEQUENCES, STEPS, QUANTILES, DRAWN = 2048, 4, 2, 32
REWARDED = 1234
ALPHA, BETA, ETA = 0.9, 0.6, 0.9  # the paper's


def updates_until_fitted(prioritised: bool, initial: str, seed: int = 0) -> int:
    """Updates until the value of the one rewarded sequence of 2,048 is right to a tenth.

    A table of quantiles, every sequence with its own: only how often the rewarded one is drawn, and with what weight,
    tells. All others return the 0 that they begin with. `initial` priorities: "true" or "constant".
    """
    rng = np.random.default_rng(seed)
    returns = torch.zeros(STEPS, SEQUENCES, QUANTILES)
    returns[-1, REWARDED] = 1.0
    table = torch.zeros(STEPS, SEQUENCES, QUANTILES)
    everything = torch.ones(STEPS, SEQUENCES, dtype=torch.bool)
    tree = SumTree(SEQUENCES)
    first = np.ones(SEQUENCES)
    if initial == "true":
        errors = priorities.td_errors(table, returns, (1.0,))
        first = priorities.sequence_priorities(errors, everything, ETA).numpy().astype(np.float64)
    tree.set(np.arange(SEQUENCES), first**ALPHA if prioritised else np.ones(SEQUENCES))
    for update in range(1, 20_000):
        drawn = tree.sample(rng, DRAWN)
        taken = table[:, drawn].requires_grad_()
        step_losses = losses.quantile_huber_loss(taken, returns[:, drawn], 1.0)
        weights = torch.from_numpy(importance_weights(tree.leaves[drawn] / tree.total, BETA))
        total = losses.weighted_step_mean(step_losses, everything[:, drawn], weights)
        (gradient,) = torch.autograd.grad(total, taken)
        # Undoes the mean over the batch: a step goes a fifth of the way, times the sequence's weight.
        table.index_add_(1, torch.from_numpy(drawn), -0.4 * STEPS * DRAWN * gradient)
        if (table[-1, REWARDED].mean() - 1.0).abs() < 0.1:
            return update
        if prioritised:
            errors = priorities.td_errors(taken.detach(), returns[:, drawn], (1.0,))
            learned = priorities.sequence_priorities(errors, everything[:, drawn], ETA)
            tree.set(drawn, learned.numpy().astype(np.float64) ** ALPHA)
    raise AssertionError("never fitted")


def test_a_rare_reward_is_learned_sooner_with_priorities() -> None:
    """The ablations are a uniform draw, and initial priorities that say nothing."""
    true = np.mean([updates_until_fitted(True, "true", seed) for seed in range(3)])
    constant = np.mean([updates_until_fitted(True, "constant", seed) for seed in range(3)])
    uniform = updates_until_fitted(False, "constant")
    assert uniform >= 2 * constant
    assert uniform >= 2 * true
    assert true < 0.95 * constant  # a constant must be drawn once before it says anything


def expected_gradient(beta: float, probabilities: NDArray[np.float64]) -> Tensor:
    """The learner's gradient of one drawn sequence, its expectation over the draw enumerated, as a unit vector."""
    learner, batch = make(), random_batch(len(probabilities))
    weights = probabilities * importance_weights(probabilities, beta)
    weighted = Batch(**{**vars(batch), "weights": torch.from_numpy(weights.astype(np.float32))})
    flat = torch.cat([gradient.flatten() for gradient in gradients(learner, weighted)])
    return functional.normalize(flat, dim=0)


def test_importance_weights_make_the_learners_gradient_unbiased_at_beta_one() -> None:
    probabilities = np.array([0.35, 0.02, 0.25, 0.08, 0.05, 0.25])
    uniform = expected_gradient(1.0, np.full(6, 1 / 6))
    torch.testing.assert_close(expected_gradient(1.0, probabilities), uniform, rtol=1e-4, atol=1e-6)
    assert torch.dot(expected_gradient(0.0, probabilities), uniform) < 0.99


SPEC = ObservationSpec(context_size=6, crop_size=3, num_actions=7)
BLOCK = BlockSpec(unroll_length=4, burn_in=3, n_step=2, num_actions=7, context_size=6, crop_side=3, hidden_size=8)
SMALL = Config(
    unroll_length=4,
    burn_in=3,
    n_step=2,
    lstm_hidden_size=8,
    num_quantiles=4,
    target_update_interval=3,
    learning_rate=1e-2,
    aux_loss_weight=0.0,
    model=ModelConfig(kind="slim", conv_channels=[2], context_width=8, trunk_width=8),
)


class Run:
    """A replay of one episode and a learner that trains from it, as the trainer does."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.replay = Replay(SMALL, BLOCK, folder, "a run", frozenset())
        self.learner = R2D2(SMALL, SPEC, CPU, seed)
        self.rng = np.random.default_rng(seed)

    def fill(self) -> None:
        for number, sequence in enumerate(play(make_builder(BLOCK), episode=2, length=60)):
            assert (
                self.replay.append(sequence.actor, sequence.incarnation, number, encode_block(sequence)).id is not None
            )

    def train(self, updates: int) -> list[Any]:
        trail = []
        for _ in range(updates):
            arrays = self.replay.sample(self.rng, 4)
            result = self.learner.update(Batch.from_numpy(arrays, CPU))
            self.replay.update_priorities(arrays["ids"], result.priorities)
            trail.append((arrays["ids"].tolist(), result.priorities.tolist(), result.metrics))
        return trail

    def state(self) -> dict[str, Any]:
        rng = self.rng.bit_generator.state
        return {"learner": self.learner.state_dict(), "replay": self.replay.state_dict(), "rng": rng}

    def load(self, state: dict[str, Any]) -> None:
        self.learner.load_state_dict(state["learner"])
        self.replay.load_state_dict(state["replay"])
        self.rng.bit_generator.state = state["rng"]

    def close(self) -> None:
        self.replay.close()


def test_resuming_learner_and_replay_is_equal_bit_by_bit(tmp_path: Path) -> None:
    run = Run(tmp_path, seed=3)
    run.fill()
    run.train(6)
    saved = run.state()
    expected = run.train(6)
    weights = run.learner.params_bytes()
    run.close()

    resumed = Run(tmp_path, seed=9)
    try:
        fresh = resumed.state()
        resumed.load(saved)
        assert resumed.train(6) == expected
        assert resumed.learner.params_bytes() == weights
        for part in saved:
            resumed.load({**saved, part: fresh[part]})
            assert resumed.train(6) != expected, part
    finally:
        resumed.close()


def test_a_priority_learned_for_an_evicted_sequence_is_dropped(tmp_path: Path) -> None:
    """Its slot may hold another sequence by now, whose priority it must not become."""
    config = msgspec.structs.replace(SMALL, replay_capacity_transitions=100, min_replay_transitions=10)
    replay = Replay(config, BLOCK, tmp_path, "a run", frozenset())
    try:
        for number, sequence in enumerate(play(make_builder(BLOCK), episode=2, length=800)):
            sequence.initial_priority = 0.5
            replay.append(sequence.actor, sequence.incarnation, number, encode_block(sequence))
        before = replay.state_dict()
        oldest, kept = int(before["ids"][0]), len(before["ids"])
        assert oldest > 64  # the index holds 64 slots: old ids share them with live ones
        replay.update_priorities(np.arange(oldest - 64, oldest), np.full(64, 9.0))
        after = replay.state_dict()
        np.testing.assert_array_equal(after["priorities"], np.full(kept, 0.5, np.float32))
        assert replay.stale_updates == 64
        replay.update_priorities(before["ids"][:1], np.array([9.0]))
        assert replay.state_dict()["priorities"][0] == pytest.approx(9.0)
    finally:
        replay.close()
