"""The priority mix, initial priorities by the actor, and importance weights."""

from __future__ import annotations

from typing import get_args

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from cluster_rl.config import Config, ReturnCut
from cluster_rl.learning import priorities, targets


def test_one_spike_outranks_a_flat_sequence() -> None:
    spike = torch.full((80,), 0.05)
    spike[17] = 5.0
    errors = torch.stack([spike, torch.full((80,), 0.12)], dim=1)
    mask = torch.ones(80, 2, dtype=torch.bool)
    mixed = priorities.sequence_priorities(errors, mask, 0.9)
    mean = (5.0 + 79 * 0.05) / 80
    torch.testing.assert_close(mixed, torch.tensor([0.9 * 5.0 + 0.1 * mean, 0.12]))
    only_mean = priorities.sequence_priorities(errors, mask, 0.0)
    assert only_mean[0] < only_mean[1]


def test_padding_takes_no_part_in_the_mix() -> None:
    errors = torch.tensor([[2.0, -2.0], [-4.0, 4.0], [100.0, float("nan")]])
    mask = torch.tensor([[True, True], [True, True], [False, False]])
    assert priorities.sequence_priorities(errors, mask, 0.5).tolist() == [3.5, 3.5]


def test_floor() -> None:
    perfect = torch.zeros(3, 1)
    mask = torch.ones(3, 1, dtype=torch.bool)
    assert priorities.sequence_priorities(perfect, mask, 0.9).item() == pytest.approx(1e-4)


def test_td_error_is_between_means() -> None:
    taken = torch.tensor([[[0.0, 2.0]]])
    returns = torch.tensor([[[5.0, -1.0]]])
    assert priorities.td_errors(taken, returns, (1.0,)).item() == 1.0
    assert priorities.td_errors(returns, taken, (1.0,)).item() == -1.0


def test_actor_priority_by_hand_and_with_padding() -> None:
    """Two trained steps, then termination: with h off, n = 2, gamma 1/2, all quantiles alike."""
    config = Config(unroll_length=3, n_step=2, gamma=0.5, value_rescaling=False, priority_eta=0.5)
    values = torch.tensor([[1.0, 3.0], [2.0, 0.0], [9.0, 9.0], [0.0, 0.0], [0.0, 0.0]])  # [R, A]
    quantiles = values.view(5, 1, 2, 1).expand(-1, -1, -1, 4).contiguous()
    masks = torch.ones(5, 1, 2, dtype=torch.bool)
    actions = torch.tensor([[1], [0], [0], [0], [0]])
    greedy = torch.tensor([[False], [True], [False], [False], [False]])
    rewards = torch.tensor([[1.0], [4.0], [50.0], [60.0], [70.0]])

    def compute(terminated: bool, train_length: int = 2, last: int = 2) -> float:
        result = priorities.actor_priorities(
            quantiles,
            masks,
            actions,
            greedy,
            rewards,
            torch.zeros_like(rewards, dtype=torch.uint8),
            torch.tensor([train_length]),
            torch.tensor([last]),
            torch.tensor([terminated]),
            config,
        )
        return result.item()

    # Terminated at row 2: targets 1 + 4/2 = 3 and 4 against 3 and 2: errors 0, 2.
    assert compute(terminated=True) == pytest.approx(0.5 * 2 + 0.5 * 1)
    # Truncated: targets 3 + 9/4 and 4 + 9/2: errors 2.25, 6.5.
    assert compute(terminated=False) == pytest.approx(0.5 * 6.5 + 0.5 * 4.375)
    # Counting the unused row as trained would change it.
    assert compute(terminated=True, train_length=3, last=3) != pytest.approx(compute(terminated=True))


@pytest.mark.parametrize("rescaling", [True, False])
@pytest.mark.parametrize("cut", ["none", "watkins", "soft_watkins"])
@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_actor_priorities_equal_the_learners_formula(alpha: float, cut: ReturnCut, rescaling: bool) -> None:
    config = Config(unroll_length=6, n_step=3, value_rescaling=rescaling, return_cut=cut, advantage_alpha=alpha)
    generator = torch.Generator().manual_seed(3)
    quantiles = torch.randn(9, 4, 7, 8, generator=generator)
    masks = torch.rand(9, 4, 7, generator=generator) < 0.5
    masks[..., 2] = True
    actions = torch.randint(0, 7, (9, 4), generator=generator)
    rewards, visits = torch.randn(9, 4, generator=generator), torch.zeros(9, 4, dtype=torch.uint8)
    train_length, last = torch.tensor([6, 6, 2, 4]), torch.tensor([8, 7, 3, 4])
    terminated = torch.tensor([False, True, True, False])

    greedy = torch.rand(9, 4, generator=generator) < 0.5

    def priority(changed: Config) -> Tensor:
        given = (quantiles, masks, actions, greedy, rewards, visits, train_length, last, terminated)
        return priorities.actor_priorities(*given, changed)

    result = priority(config)
    others = [msgspec.structs.replace(config, return_cut=other) for other in get_args(ReturnCut) if other != cut]
    others.append(msgspec.structs.replace(config, advantage_alpha=0.3))
    assert not any(torch.allclose(result, priority(other)) for other in others)
    samples = targets.quantile_targets(
        *(quantiles, quantiles, masks, rewards.unsqueeze(0), last, terminated),
        n_step=3,
        gammas=(config.gamma,),
        weights=(1.0,),
        rescaling=rescaling,
        goes_on=targets.return_goes_on(cut, greedy, actions, quantiles, masks, rescaling, (1.0,)),
        penalties=targets.advantage_penalties(alpha, quantiles, actions, masks, rescaling, (1.0,)),
    )
    for item in range(4):
        length = int(train_length[item])
        taken = torch.stack([quantiles[t, item, actions[t, item]].mean() for t in range(length)])
        errors = (samples[:length, item].mean(-1) - taken).abs()
        assert result[item].item() == pytest.approx((0.9 * errors.max() + 0.1 * errors.mean()).item(), rel=1e-5)


def test_importance_weights_undo_the_draw_at_beta_one() -> None:
    """Enumerated: the expected weighted gradient is parallel to the uniform one with beta 1, and not with beta 0."""
    rng = np.random.default_rng(0)
    probabilities = rng.random(16) ** 3 + 0.01
    probabilities /= probabilities.sum()
    gradients = rng.normal(size=(16, 3))

    def expected_direction(beta: float) -> np.ndarray:
        expected = (probabilities * priorities.importance_weights(probabilities, beta)) @ gradients
        return expected / np.linalg.norm(expected)

    uniform = gradients.mean(0) / np.linalg.norm(gradients.mean(0))
    np.testing.assert_allclose(expected_direction(1.0), uniform, rtol=1e-5)
    assert np.abs(expected_direction(0.0) - uniform).max() > 0.05


def test_importance_weights_by_hand() -> None:
    weights = priorities.importance_weights(np.array([0.1, 0.4]), 0.5)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, [1.0, 0.5])
