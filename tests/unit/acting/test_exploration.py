"""The ladder's ends, its split over actors, epsilon-greedy choice inside the mask, and how long it is held."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cluster_rl.acting.exploration import (
    EntropySums,
    Exploration,
    acting_epsilons,
    acting_values,
    actor_epsilons,
    epsilon_ladder,
    select_actions,
    softmax_entropy,
)
from cluster_rl.config import Config
from cluster_rl.game.buttons import NUM_BUTTONS
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


def test_actor_jobs_share_the_same_ladder() -> None:
    config = Config(num_actors=3, envs_per_actor=4, actor_jobs=2)
    assert config.total_actors == 9
    together = np.sort(np.concatenate([actor_epsilons(config, index) for index in range(9)]))[::-1]
    np.testing.assert_array_equal(together, epsilon_ladder(36, config.epsilon_base, config.epsilon_alpha))
    with pytest.raises(ValueError, match=r"0\.\.8, not 9"):
        actor_epsilons(config, 9)


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
    expected = expected_values(torch.from_numpy(quantiles), rescaling, (1.0,)).numpy()
    values = acting_values(quantiles, rescaling, (1.0,))
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-9)


def test_random_actions_are_drawn_by_weight() -> None:
    exploration, rng = Exploration(20_000, 1, 0, 1), np.random.default_rng(0)
    masks = np.tile(np.array([True, True, False, True]), (20_000, 1))
    weights = np.tile(np.array([1.0, 3.0, 9.0, 0.5]), (20_000, 1))
    drawn = exploration.select(np.zeros(masks.shape, np.float32), masks, weights.__getitem__, np.ones(20_000), rng)
    shares = np.bincount(drawn, minlength=4) / 20_000
    np.testing.assert_allclose(shares, np.array([1.0, 3.0, 0.0, 0.5]) / 4.5, atol=0.02)


def held_runs(max_steps: int, epsilon: float, steps: int = 4000) -> tuple[list[int], float]:
    """Lengths of the runs of one random action after another, and the share of steps that were not greedy."""
    exploration, rng = Exploration(1, max_steps, 0, 1), np.random.default_rng(3)
    values, masks = np.zeros((1, 200), np.float32), np.ones((1, 200), np.bool_)
    values[0, 0] = 1.0
    taken = [
        int(exploration.select(values, masks, np.ones((1, 200)).__getitem__, np.array([epsilon]), rng)[0])
        for _ in range(steps)
    ]
    runs = [len(list(group)) for action, group in itertools.groupby(taken) if action]
    return runs, float(np.mean(np.array(taken) > 0))


def test_random_actions_are_held_for_zeta_distributed_times() -> None:
    runs, share = held_runs(20, 0.05, steps=40_000)
    counts = np.bincount(runs, minlength=21) / len(runs)
    zeta_2 = np.pi**2 / 6
    for length in (1, 2, 3):
        assert counts[length] == pytest.approx(1 / (zeta_2 * length**2), abs=0.03)
    assert max(runs) == 20
    assert counts[20] == pytest.approx(1 - sum(1 / (zeta_2 * k**2) for k in range(1, 20)), abs=0.015)
    assert share == pytest.approx(0.05 * np.mean(runs) / (1 + 0.05 * (np.mean(runs) - 1)), rel=0.1)


def test_held_for_one_step_at_most_is_plain_epsilon_greedy() -> None:
    runs, share = held_runs(1, 0.3)
    assert max(runs) <= 2  # two of them alike, by chance
    assert share == pytest.approx(0.3, abs=0.03)


def test_a_held_action_ends_where_it_is_masked_and_with_the_episode() -> None:
    values = np.tile(np.eye(1, NUM_BUTTONS, dtype=np.float32), (400, 1))
    only = np.tile(np.eye(1, NUM_BUTTONS, 1, dtype=np.bool_), (400, 1))
    anything, rng = np.ones((400, NUM_BUTTONS), np.bool_), np.random.default_rng(0)
    never, always = np.zeros(400), np.ones(400)

    def holding() -> tuple[Exploration, NDArray[np.int64]]:
        exploration = Exploration(400, 20, 0, 1)
        assert (exploration.select(values, only, np.ones(values.shape).__getitem__, always, rng) == 1).all()
        return exploration, np.flatnonzero(
            exploration.select(values, anything, np.ones(values.shape).__getitem__, never, rng) == 1
        )

    _, held = holding()
    assert 100 < len(held) < 220  # 1 - 1 / zeta(2) of 400
    exploration, held = holding()
    masked = anything.copy()
    masked[:, 1] = False
    assert (exploration.select(values, masked, np.ones(values.shape).__getitem__, never, rng) == 0).all()
    assert (
        exploration.select(values, anything, np.ones(values.shape).__getitem__, never, rng) == 0
    ).all()  # it does not come back
    exploration, held = holding()
    for row in held[: len(held) // 2].tolist():
        exploration.release(row)
    later = exploration.select(values, anything, np.ones(values.shape).__getitem__, never, rng)
    assert (later[held[: len(held) // 2]] == 0).all()
    assert (later[held[len(held) // 2 :]] == 1).any()
    with pytest.raises(ValueError, match="no valid action"):
        exploration.select(values, np.zeros_like(anything), np.ones(values.shape).__getitem__, never, rng)


def test_random_stretches_come_and_go_by_chance_and_end_with_the_episode() -> None:
    """Greedy is action 0 of 1,000. Runs of either kind have geometric lengths with the means that were asked for."""
    count, steps = 500, 400
    exploration, rng = Exploration(count, 1, 30, 10), np.random.default_rng(0)
    values, masks = np.tile(np.eye(1, 1000, dtype=np.float32), (count, 1)), np.ones((count, 1000), np.bool_)
    played = np.zeros((steps, count), np.bool_)
    for step in range(steps):
        played[step] = exploration.select(values, masks, np.ones(values.shape).__getitem__, np.zeros(count), rng) > 0
    assert played[0].mean() == pytest.approx(1 / 30, abs=0.03)
    ended = [[(kind, len(list(run))) for kind, run in itertools.groupby(row)][:-1] for row in played.T]
    for kind, mean in ((False, 30), (True, 10)):
        lengths = np.array([length for row in ended for found, length in row if found == kind])
        assert lengths.mean() == pytest.approx(mean, rel=0.1)  # a little short: the longest are cut off at the end
        assert (lengths <= mean).mean() == pytest.approx(1 - (1 - 1 / mean) ** mean, abs=0.03)

    wandering = np.flatnonzero(played[-1])
    assert len(wandering) > 80
    for row in wandering.tolist():
        exploration.release(row)
    still = exploration.select(values, masks, np.ones(values.shape).__getitem__, np.zeros(count), rng)[wandering] > 0
    assert still.mean() < 0.15


def test_entropy_of_the_valid_actions() -> None:
    values = np.array([[0.0, 0.0, 5.0], [1.0, 1.0, 1.0], [0.0, np.log(3.0), 9.0], [1e4, 0.0, 0.0]], np.float32)
    masks = np.array([[1, 1, 0], [1, 1, 1], [1, 1, 0], [1, 1, 1]], np.bool_)
    quarters = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    np.testing.assert_allclose(softmax_entropy(values, masks), [np.log(2), np.log(3), quarters, 0.0], atol=1e-6)
    alone = softmax_entropy(values, np.array([[0, 0, 1]] * 4, np.bool_))
    assert alone.tolist() == [0.0] * 4


@pytest.mark.parametrize("kept_steps", [1, 5, 80])
def test_entropies_of_an_episode_add_up_wherever_it_begins_and_ends(kept_steps: int) -> None:
    rng = np.random.default_rng(kept_steps)
    sums, plain = EntropySums(3, 7, kept_steps), np.zeros(3)
    for _ in range(400):
        values = rng.normal(0, 3, (3, 7)).astype(np.float32)
        masks = rng.random((3, 7)) < 0.7
        masks[np.arange(3), rng.integers(7, size=3)] = True
        sums.add(values, masks)
        plain += softmax_entropy(values, masks)
        for row in range(3):
            if rng.random() < 0.3:
                assert sums.of(row) == pytest.approx(plain[row], rel=1e-12, abs=1e-12)
            if rng.random() < 0.1:
                sums.begin(row)
                plain[row] = 0.0
                assert sums.of(row) == 0.0
