"""Advantage learning keeps what is best and what that is worth, and sets everything else further below it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cluster_rl.learning import targets

# Three states in a row: action 0 stays, action 1 goes on (the last state goes back to the first), action 2 is not valid
# anywhere and would pay most. Going on from the last pays 8, staying there 6.
STATES, ACTIONS, GAMMA = 3, 3, 0.5
REWARDS = torch.tensor([[1.0, 0.0, 100.0], [0.0, 2.0, 100.0], [6.0, 8.0, 100.0]])
NEXT = torch.tensor([[0, 1, 0], [1, 2, 0], [2, 0, 0]])
VALID = torch.tensor([True, True, False])


def backup(values: Tensor, alpha: float, rescaling: bool) -> Tensor:
    """One-step targets of every valid pair of state and action, as sequences of two rows: [STATES, ACTIONS]."""
    states = torch.arange(STATES).repeat_interleave(ACTIONS)  # N = 9 sequences
    actions = torch.arange(ACTIONS).repeat(STATES)
    rows = torch.stack([states, NEXT[states, actions]])  # [R = 2, N]
    quantiles = values[rows].unsqueeze(-1)  # [2, N, A, K = 1]
    quantiles = targets.h(quantiles) if rescaling else quantiles
    masks = VALID.expand(2, len(states), ACTIONS)
    taken = torch.stack([actions, torch.zeros_like(actions)])
    samples = targets.quantile_targets(
        *(quantiles, quantiles, masks),
        torch.stack([REWARDS[states, actions], torch.zeros(len(states))]).unsqueeze(0),
        torch.ones(len(states), dtype=torch.int64),
        torch.zeros(len(states), dtype=torch.bool),
        n_step=1,
        gammas=(GAMMA,),
        weights=(1.0,),
        rescaling=rescaling,
        penalties=targets.advantage_penalties(alpha, quantiles, taken, masks, rescaling, (1.0,)),
    )[0, :, 0]
    return (targets.h_inv(samples) if rescaling else samples).view(STATES, ACTIONS)


def fixed_point(alpha: float, rescaling: bool = False) -> Tensor:
    values = torch.zeros(STATES, ACTIONS)
    for _ in range(400):
        values = backup(values, alpha, rescaling)
    return values[:, :2]


@pytest.mark.parametrize("rescaling", [False, True])
@pytest.mark.parametrize("alpha", [0.3, 0.7, 0.9])
def test_the_best_keeps_its_value_and_the_rest_falls_behind(alpha: float, rescaling: bool) -> None:
    plain = fixed_point(0.0)
    best = plain.amax(1, keepdim=True)
    assert (best - plain).amax(1).min() > 0.1  # no state is indifferent
    found = fixed_point(alpha, rescaling)
    torch.testing.assert_close(found, best - (best - plain) / (1 - alpha), rtol=2e-3, atol=2e-3)


def test_by_hand() -> None:
    """Values in reward units 4, 9 and, masked, 50; the second row is unused: nothing is valid there."""
    quantiles = torch.tensor([[3.0, 5.0], [9.0, 9.0], [50.0, 50.0]]).expand(2, 2, 3, 2)
    masks = torch.tensor([[True, True, False], [False, False, False]]).unsqueeze(1).expand(2, 2, 3)
    actions = torch.tensor([[0, 1], [0, 1]])
    found = targets.advantage_penalties(0.5, quantiles, actions, masks, False, (1.0,))
    assert found is not None
    assert found[:, 0].tolist() == [[2.5, 0.0]]
    assert found.isfinite().all()
    assert targets.advantage_penalties(0.0, quantiles, actions, masks, False, (1.0,)) is None
