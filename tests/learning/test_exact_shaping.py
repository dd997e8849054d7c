"""Shaping by quests against a slow oracle, and that no target prefers another action for it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from learner_fixtures import CONFIG, CPU, random_arrays
from torch import Tensor

from cluster_rl.exploration.bayes_quests import Quest, QuestRecord, QuestRules
from cluster_rl.exploration.shaping import potential_weights, potentials, shaped
from cluster_rl.learning import targets
from cluster_rl.learning.batch import Batch

B, GAMMA = CONFIG.burn_in, CONFIG.gamma
SLOTS = torch.tensor([4, 1, 2])
WEIGHTS = torch.tensor([0.5, 2.0, 0.25])


def batch_of(seed: int, size: int = 12) -> Batch:
    """Random items whose context's slots are reached or not, row by row."""
    arrays = random_arrays(CONFIG, size, seed)
    arrays["context"] = np.random.default_rng(seed).integers(0, 2, arrays["context"].shape, np.uint8) * 255
    return Batch.from_numpy(arrays, CPU)


def phi(batch: Batch, row: int, item: int) -> float:
    """Row counted from the first trained one."""
    if batch.terminated[item] and row == batch.last[item]:
        return 0.0
    reached = batch.context[B + row, item].tolist()
    return sum(w for slot, w in zip(SLOTS.tolist(), WEIGHTS.tolist(), strict=True) if reached[slot] == 255)


@pytest.mark.parametrize("seed", range(4))
def test_rewards_are_the_oracles(seed: int) -> None:
    batch = batch_of(seed)
    found = shaped(batch, SLOTS, WEIGHTS, B, GAMMA)
    for item in range(batch.size):
        for row in range(int(batch.last[item])):
            expected = float(batch.reward[B + row, item])
            expected += GAMMA * phi(batch, row + 1, item) - phi(batch, row, item)
            assert found.reward[B + row, item].item() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(found.reward[:B], batch.reward[:B])
    others = [field.name for field in dataclasses.fields(Batch) if field.name != "reward"]
    assert all(getattr(found, name) is getattr(batch, name) for name in others)


@pytest.mark.parametrize("seed", range(4))
def test_sums_telescope_to_both_ends_whatever_is_between(seed: int) -> None:
    """To gamma^m Phi(s_m) - Phi(s); at a truncated end with the final observation's Phi, at a terminated one with 0."""
    batch = batch_of(seed)
    found = shaped(batch, SLOTS, WEIGHTS, B, GAMMA)
    for item in range(batch.size):
        last = int(batch.last[item])
        for row in range(last):
            gained = (found.reward - batch.reward)[B + row : B + last, item]
            total = sum(GAMMA**i * value for i, value in enumerate(gained.tolist()))
            steps = last - row
            assert total == pytest.approx(GAMMA**steps * phi(batch, last, item) - phi(batch, row, item), abs=1e-5)


def quantile_targets(batch: Batch, values: Tensor, goes_on: Tensor | None) -> Tensor:
    """[T, N, K], values [R, N, A, K] being those of both networks."""
    return targets.quantile_targets(
        values,
        values,
        batch.mask[B:],
        batch.reward[B:].unsqueeze(0),
        batch.last,
        batch.terminated,
        n_step=CONFIG.n_step,
        gammas=(GAMMA,),
        weights=(1.0,),
        rescaling=False,
        goes_on=goes_on,
    )


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_values_less_their_potential_have_targets_less_their_potential(seed: int, cut: bool) -> None:
    """So what is learned differs by Phi(s), the same for every action of s: none becomes better than another."""
    batch = batch_of(seed)
    goes_on = batch.greedy[B:] if cut else None
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(len(batch.reward) - B, batch.size, 3, 2, generator=generator)
    table = potentials(batch, SLOTS, WEIGHTS, B)
    expected = quantile_targets(batch, values, goes_on) - table[: CONFIG.unroll_length].unsqueeze(-1)
    found = quantile_targets(
        shaped(batch, SLOTS, WEIGHTS, B, GAMMA), values - table.unsqueeze(-1).unsqueeze(-1), goes_on
    )
    trained = targets.loss_mask(batch.train_length, CONFIG.unroll_length)
    torch.testing.assert_close(found[trained], expected[trained], rtol=0, atol=1e-5)
    assert table.abs().max() > 1


def test_a_milestone_weighs_what_is_missing_to_certainty() -> None:
    rules = QuestRules(tuple(Quest(name, True, 0) for name in "abc"), 1, 1.0, 0.0, 1)
    records = {"a": QuestRecord(successes=8.0), "c": QuestRecord(failures=2.0)}
    weights = potential_weights(records, rules, 3.0)
    torch.testing.assert_close(weights, torch.tensor([0.3, 1.5, 2.25]))  # means 0.9, 0.5 (untried), 0.25
