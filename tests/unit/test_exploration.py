"""The ladder's ends, its split over actors, and epsilon-greedy choice inside the mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cluster_rl.config import Config
from cluster_rl.learning.exploration import (
    acting_epsilons,
    acting_values,
    actor_epsilons,
    epsilon_ladder,
    select_actions,
)
from cluster_rl.learning.targets import expected_values


def test_ladder_ends_and_the_lone_emulator() -> None:
    ladder = epsilon_ladder(256, 0.4, 7.0)
    assert ladder[0] == pytest.approx(0.4)
    assert ladder[-1] == pytest.approx(0.4**8)
    ratios = ladder[1:] / ladder[:-1]
    np.testing.assert_allclose(ratios, ratios[0])
    assert epsilon_ladder(1, 0.4, 7.0).tolist() == [0.4]
    with pytest.raises(ValueError, match="count"):
        epsilon_ladder(0, 0.4, 7.0)


def test_actors_share_out_the_whole_ladder() -> None:
    config = Config(num_actors=3, envs_per_actor=4)
    parts = [actor_epsilons(config, index) for index in range(3)]
    assert [len(part) for part in parts] == [4, 4, 4]
    together = np.sort(np.concatenate(parts))[::-1]
    np.testing.assert_array_equal(together, epsilon_ladder(12, config.epsilon_base, config.epsilon_alpha))
    assert all(part[0] / part[-1] > 50 for part in parts)  # every actor spans most of the ladder
    with pytest.raises(ValueError, match="actor_index"):
        actor_epsilons(config, 3)


@pytest.mark.parametrize(("version", "expected"), [(-1, 1.0), (0, 1.0), (1, 0.25), (900, 0.25)])
def test_untrained_parameters_are_not_followed(version: int, expected: float) -> None:
    assert acting_epsilons(np.array([0.25, 0.25]), version).tolist() == [expected, expected]


def test_greedy_and_random_actions_are_valid_ones() -> None:
    rng = np.random.default_rng(1)
    values = np.tile(np.array([9.0, 1.0, 2.0, 8.0], dtype=np.float32), (4000, 1))
    masks = np.tile(np.array([False, True, True, False]), (4000, 1))
    greedy = select_actions(values, masks, np.zeros(4000), rng)
    assert set(greedy.tolist()) == {2}
    half = select_actions(values, masks, np.full(4000, 0.5), rng)
    assert set(half.tolist()) == {1, 2}
    # Half the rows explore, evenly over two actions: a quarter takes action 1; 5 standard deviations of 4,000 draws.
    assert (half == 1).mean() == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / 4000) ** 0.5)


def test_same_generator_same_actions_whatever_the_epsilons() -> None:
    values, masks = np.zeros((5, 3), dtype=np.float32), np.ones((5, 3), dtype=np.bool_)
    first, second = np.random.default_rng(7), np.random.default_rng(7)
    select_actions(values, masks, np.zeros(5), first)
    select_actions(values, masks, np.ones(5), second)
    assert first.random() == second.random()


def test_an_empty_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="no valid action"):
        select_actions(
            np.zeros((1, 3), dtype=np.float32), np.zeros((1, 3), dtype=np.bool_), np.zeros(1), np.random.default_rng(0)
        )


@pytest.mark.parametrize("rescaling", [True, False])
def test_acting_values_are_the_learners_expected_values(rescaling: bool) -> None:
    scales = np.array([1e-4, 1.0, 30.0], np.float32).reshape(3, 1, 1)
    quantiles = np.random.default_rng(0).normal(size=(3, 7, 8)).astype(np.float32) * scales
    expected = expected_values(torch.from_numpy(quantiles), rescaling).numpy()
    values = acting_values(quantiles, rescaling)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-9)
