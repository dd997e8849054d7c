"""Two streams of reward, each with a discount and quantiles of its own: rewards taken apart, values put together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cluster_rl.acting.exploration import acting_values
from cluster_rl.config import Config, RewardWeights
from cluster_rl.learning import priorities, targets


def test_the_config_says_what_streams_there_are() -> None:
    apart = Config(gamma=0.99, intrinsic_gamma=0.9, rewards=RewardWeights(novelty=0.04), w_rnd=0.01, num_quantiles=4)
    assert apart.stream_gammas == (0.99, 0.9)
    assert apart.stream_weights == (1.0, pytest.approx(0.5))
    assert (apart.intrinsic_stream, apart.head_outputs) == (True, 8)
    together = Config(gamma=0.99, rewards=RewardWeights(novelty=0.04), w_rnd=0.01, num_quantiles=4)
    incurious = Config(gamma=0.99, intrinsic_gamma=0.9, rewards=RewardWeights(novelty=0.0), num_quantiles=4)
    for config in (together, incurious):
        assert (config.stream_gammas, config.stream_weights) == ((0.99,), (1.0,))
        assert (config.intrinsic_stream, config.head_outputs) == (False, 4)


def test_rewards_are_taken_apart() -> None:
    """0.4 a new tile, half of it a tile entered twice; RND pays on top. A unit of the stream is 0.8 of reward."""
    rewards = torch.tensor([[3.4], [0.2], [5.0], [0.0]])
    visits = torch.tensor([[1], [2], [0], [0]], dtype=torch.uint8)
    curiosity = torch.tensor([[0.4], [0.0], [0.8], [0.0]])
    found = targets.stream_rewards(rewards, visits, curiosity, 0.4, (1.0, 0.8))
    torch.testing.assert_close(found[0], torch.tensor([[3.0], [0.0], [5.0], [0.0]]))
    torch.testing.assert_close(found[1], torch.tensor([[1.0], [0.25], [1.0], [0.0]]))
    worth = found[0] + 0.8 * found[1]
    torch.testing.assert_close(worth, rewards + curiosity)  # nothing is lost or paid twice
    assert torch.equal(targets.stream_rewards(rewards, visits, curiosity, 0.4, (1.0,))[0], rewards + curiosity)
    assert torch.equal(targets.stream_rewards(rewards, visits, None, 0.4, (1.0,))[0], rewards)
    without = targets.stream_rewards(rewards, visits, None, 0.4, (1.0, 0.8))
    torch.testing.assert_close(without[1], torch.tensor([[0.5], [0.25], [0.0], [0.0]]))


@pytest.mark.parametrize("rescaling", [True, False])
def test_actors_value_two_streams_as_the_learner_does(rescaling: bool) -> None:
    quantiles = np.random.default_rng(1).normal(0.0, 3.0, (5, 7, 16)).astype(np.float32)
    weights = (1.0, 0.05)
    found = acting_values(quantiles, rescaling, weights)
    expected = targets.expected_values(torch.from_numpy(quantiles), rescaling, weights)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-6)
    invert = targets.h_inv if rescaling else torch.clone
    game, intrinsic = (invert(part).mean(-1) for part in torch.from_numpy(quantiles).chunk(2, -1))
    torch.testing.assert_close(expected, game + 0.05 * intrinsic)


@pytest.mark.parametrize("rescaling", [True, False])
def test_each_stream_has_its_discount_and_both_the_action_that_is_best_by_their_sum(rescaling: bool) -> None:
    """One step; then action 0 is worth 4 and 0 units, action 1 2 and 100: at 0.05 of reward a unit, 1 is the better."""
    by_hand = torch.tensor([[4.0, 0.0], [2.0, 100.0]])  # [A, S]
    quantiles = targets.h(by_hand) if rescaling else by_hand
    rows = quantiles.expand(2, 1, 2, 2)
    found = targets.quantile_targets(
        rows,
        rows,
        torch.ones(2, 1, 2, dtype=torch.bool),
        torch.tensor([[[1.0], [0.0]], [[0.5], [0.0]]]),
        torch.tensor([1]),
        torch.tensor([False]),
        n_step=1,
        gammas=(0.5, 0.25),
        weights=(1.0, 0.05),
        rescaling=rescaling,
    )
    values = targets.h_inv(found) if rescaling else found
    torch.testing.assert_close(values[0, 0], torch.tensor([1.0 + 0.5 * 2.0, 0.5 + 0.25 * 100.0]), rtol=1e-4, atol=1e-4)


def test_a_penalty_is_taken_off_each_stream_and_their_sum_is_never_paid() -> None:
    quantiles = torch.tensor([[4.0, 0.0], [2.0, 100.0]]).expand(1, 2, 2, 2)
    masks, actions = torch.ones(1, 2, 2, dtype=torch.bool), torch.tensor([[0, 1]])
    found = targets.advantage_penalties(0.5, quantiles, actions, masks, False, (1.0, 0.05))
    assert found is not None
    # Action 1 is the best by 2 + 5 to 4: by the game alone it is the worse, so action 0 gains there.
    assert found.tolist() == [[[-1.0, 0.0]], [[50.0, 0.0]]]
    assert (found[0] + 0.05 * found[1]).min() >= 0


def test_a_td_error_is_what_the_value_that_actions_are_chosen_by_is_off() -> None:
    taken = torch.tensor([[[1.0, 3.0, 10.0, 30.0]]])
    samples = torch.tensor([[[2.0, 4.0, 0.0, 0.0]]])
    assert priorities.td_errors(taken, samples, (1.0, 0.05)).item() == pytest.approx(1.0 - 0.05 * 20.0)
