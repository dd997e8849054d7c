"""Rescaling, expected values and n-step double-Q targets against hand-worked numbers and a slow oracle."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cluster_rl.learning import targets

NUM_ACTIONS = 3
NUM_QUANTILES = 2


def textbook_h_inv(x: Tensor) -> Tensor:
    eps = targets.RESCALING_EPSILON
    return torch.sign(x) * (((torch.sqrt(1 + 4 * eps * (x.abs() + 1 + eps)) - 1) / (2 * eps)) ** 2 - 1)


def h_float(x: float) -> float:
    return math.copysign(math.sqrt(abs(x) + 1) - 1, x) + targets.RESCALING_EPSILON * x


def h_inv_float(x: float) -> float:
    eps = targets.RESCALING_EPSILON
    return math.copysign(((math.sqrt(1 + 4 * eps * (abs(x) + 1 + eps)) - 1) / (2 * eps)) ** 2 - 1, x)


def test_h_follows_its_definition() -> None:
    x = torch.tensor([0.0, 3.0, -8.0, 99.0])
    expected = torch.tensor([0.0, 1.003, -2.008, 9.099])  # sqrt(|x| + 1) - 1 is 0, 1, 2, 9; plus 0.001 x
    torch.testing.assert_close(targets.h(x), expected)
    assert targets.h_inv(torch.zeros(1)).item() == 0


def test_h_inv_keeps_float32_digits_where_the_textbook_form_loses_them() -> None:
    x = torch.logspace(-3, 4, 200)
    x = torch.cat([x, -x])
    errors = (targets.h_inv(targets.h(x)) / x - 1).abs()
    assert errors.max() < 2e-6
    assert (textbook_h_inv(targets.h(x)) / x - 1).abs().max() > 1e-2


def test_half_precision_loses_the_value_altogether() -> None:
    """Why h and its inverse refuse it: in bfloat16 the textbook form is wrong by 200% at 1 and by 40% at 100."""
    x = torch.tensor([1.0, 100.0], dtype=torch.bfloat16)
    scaled = torch.sign(x) * (torch.sqrt(x.abs() + 1) - 1) + targets.RESCALING_EPSILON * x
    errors = (textbook_h_inv(scaled) / x - 1).abs()
    assert errors[0] > 1.0
    assert errors[1] > 0.2


def test_h_inv_agrees_with_the_textbook_form_in_float64() -> None:
    x = torch.linspace(-50, 50, 101)
    torch.testing.assert_close(targets.h_inv(x), textbook_h_inv(x.double()).float())


def test_h_refuses_half_precision() -> None:
    with pytest.raises(AssertionError):
        targets.h_inv(torch.ones(1, dtype=torch.bfloat16))


def test_risk_is_ranked_by_the_mean_after_inversion() -> None:
    """A pays 3 for sure; B pays 100 with probability 5/51, 9.8 on average: B is better, its mean in h-space is not."""
    returns = torch.stack([torch.full((51,), 3.0), torch.tensor([100.0] * 5 + [0.0] * 46)])
    quantiles = targets.h(returns)
    values = targets.expected_values(quantiles, rescaling=True, weights=(1.0,))
    torch.testing.assert_close(values, torch.tensor([3.0, 500 / 51]))
    valid = torch.ones(2, dtype=torch.bool)
    assert targets.greedy_actions(values, valid) == 1
    assert targets.greedy_actions(targets.expected_values(quantiles, rescaling=False, weights=(1.0,)), valid) == 0


def test_the_bootstrap_action_is_chosen_after_inversion() -> None:
    """The same two actions through the targets: one step of reward 0, gamma 1, bootstrapping from B's quantiles."""
    returns = torch.stack([torch.full((51,), 3.0), torch.tensor([100.0] * 5 + [0.0] * 46)])
    quantiles = targets.h(returns).expand(2, 1, -1, -1).contiguous()
    samples = targets.quantile_targets(
        quantiles,
        quantiles,
        torch.ones(2, 1, 2, dtype=torch.bool),
        torch.zeros(1, 2, 1),
        torch.tensor([1]),
        torch.tensor([False]),
        n_step=1,
        gammas=(1.0,),
        weights=(1.0,),
        rescaling=True,
    )
    torch.testing.assert_close(samples[0, 0], quantiles[1, 0, 1])
    # The ablation, a mean in h-space, would bootstrap from A.
    assert quantiles[1, 0].mean(-1).argmax() == 0


def test_quantile_regression_in_h_space_is_consistent() -> None:
    """Element-wise h keeps the quantiles of a stochastic return; the inverse of a mean in h-space is not the mean."""
    generator = torch.Generator().manual_seed(0)
    returns = torch.rand(101, generator=generator).mul(6).exp().sort().values
    torch.testing.assert_close(targets.h(returns).median(), targets.h(returns.median()))
    values = targets.expected_values(targets.h(returns), rescaling=True, weights=(1.0,))
    torch.testing.assert_close(values, returns.mean(), rtol=1e-4, atol=0.0)
    assert targets.h_inv(targets.h(returns).mean()) < 0.8 * returns.mean()


def test_bootstrap_steps_shrink_at_the_end() -> None:
    steps = targets.bootstrap_steps(torch.tensor([7, 5, 2]), unroll_length=5, n_step=3)
    assert steps.T.tolist() == [[3, 3, 3, 3, 3], [3, 3, 3, 2, 1], [2, 1, 0, 0, 0]]


def constant_quantiles(values: list[list[float]]) -> Tensor:
    """Quantiles [R, 1, A, K] whose samples all equal the value of row and action."""
    return torch.tensor(values).unsqueeze(1).unsqueeze(-1).expand(-1, -1, -1, NUM_QUANTILES).contiguous()


def hand_targets(rewards: list[float], last: int, terminated: bool, n_step: int, masks: Tensor | None = None) -> Tensor:
    """Targets [T] at gamma 1/2 where action 1 is best by the online net everywhere and worth 8 r + 16 at row r."""
    rows = len(rewards)
    online = constant_quantiles([[0.0, 1.0, 0.5]] * rows)
    target = constant_quantiles([[1000.0, 16.0 + 8 * row, 64.0] for row in range(rows)])
    return targets.quantile_targets(
        online,
        target,
        torch.ones(rows, 1, NUM_ACTIONS, dtype=torch.bool) if masks is None else masks,
        torch.tensor(rewards).view(1, -1, 1),
        torch.tensor([last]),
        torch.tensor([terminated]),
        n_step=n_step,
        gammas=(0.5,),
        weights=(1.0,),
        rescaling=False,
    )[:, 0, 0]


@pytest.mark.parametrize(
    ("n_step", "expected"),
    [
        # r_t + V(t + 1) / 2, V(r) = 16 + 8 r
        (1, [1 + 12, 2 + 16, 4 + 20, 8 + 24]),
        # r_t + r_{t+1} / 2 + V(t + 2) / 4
        (2, [1 + 1 + 8, 2 + 2 + 10, 4 + 4 + 12, 8 + 8 + 14]),
        # r_t + r_{t+1} / 2 + r_{t+2} / 4 + V(t + 3) / 8
        (3, [1 + 1 + 1 + 5, 2 + 2 + 2 + 6, 4 + 4 + 4 + 7, 8 + 8 + 8 + 8]),
    ],
)
def test_n_step_table(n_step: int, expected: list[float]) -> None:
    rewards = [float(2**row) for row in range(4 + n_step)]
    assert hand_targets(rewards, last=3 + n_step, terminated=False, n_step=n_step).tolist() == expected


# Rows 0..3 recorded with n = 3: three steps of reward 1, 2, 4, then the segment's last observation.
ENDED = [1.0, 2.0, 4.0, math.nan, math.inf, -math.inf]


def test_truncation_bootstraps_from_the_last_observation() -> None:
    # V(3) = 40: 1 + 1 + 1 + 40/8, 2 + 2 + 40/4, 4 + 40/2; nothing behind row 3 is read, though it is not finite.
    assert hand_targets(ENDED, last=3, terminated=False, n_step=3).tolist() == [8.0, 14.0, 24.0]


def test_termination_is_worth_nothing_at_its_row_only() -> None:
    assert hand_targets(ENDED, last=3, terminated=True, n_step=3).tolist() == [3.0, 4.0, 4.0]
    # With n = 1 the first two positions bootstrap before the end, V(1) = 24 and V(2) = 32, and must keep that.
    rewards = [1.0, 2.0, 4.0, math.nan]
    assert hand_targets(rewards, last=3, terminated=True, n_step=1).tolist() == [13.0, 18.0, 4.0]


def test_bootstrap_action_obeys_the_mask_recorded_at_the_bootstrap_row() -> None:
    masks = torch.ones(4, 1, NUM_ACTIONS, dtype=torch.bool)
    masks[1, 0, 1] = False  # then action 2 is best: worth 64
    # With n = 2, row 2 decides for t = 0 and row 3 for t = 1; row 1 decides nothing.
    assert hand_targets([0.0] * 4, last=3, terminated=False, n_step=2, masks=masks).tolist() == [8.0, 10.0]
    masks[2, 0, 1] = False
    assert hand_targets([0.0] * 4, last=3, terminated=False, n_step=2, masks=masks).tolist() == [16.0, 10.0]
    # The target net's favourite, action 0, is never chosen: the online net ranks it last (double Q).


def learned_ring_values(n_step: int, terminated: bool, rescaling: bool) -> Tensor:
    """Values [20] learned by sweeps of targets on a ring of 20 states, reward 1 a step, recorded in laps of 20 steps.

    The game goes on for ever: after a lap comes the first state again, and the time limit is the recording's alone.
    """
    values = torch.zeros(20)
    for _ in range(400):
        rows = torch.cat([values, values[:1], torch.full((n_step - 1,), math.nan)]).view(-1, 1, 1, 1)
        rows = targets.h(rows) if rescaling else rows
        swept = targets.quantile_targets(
            rows,
            rows,
            torch.ones(20 + n_step, 1, 1, dtype=torch.bool),
            torch.ones(1, 20 + n_step, 1),
            torch.tensor([20]),
            torch.tensor([terminated]),
            n_step=n_step,
            gammas=(0.9,),
            weights=(1.0,),
            rescaling=rescaling,
        )
        values = targets.expected_values(swept, rescaling, (1.0,))[:, 0]
    return values


@pytest.mark.parametrize("rescaling", [False, True])
@pytest.mark.parametrize("n_step", [1, 5])
def test_a_time_limit_does_not_change_what_is_learned(n_step: int, rescaling: bool) -> None:
    torch.testing.assert_close(
        learned_ring_values(n_step, False, rescaling), torch.full((20,), 10.0), rtol=1e-4, atol=0.0
    )
    # Cut as if the game were over, the first state is worth (1 - 0.9^20) / 0.1 and the last one its reward.
    cut = learned_ring_values(n_step, True, rescaling)
    torch.testing.assert_close(cut[[0, -1]], torch.tensor([8.784, 1.0]), rtol=1e-3, atol=0.0)


def test_n_step_targets_carry_a_reward_n_states_a_sweep() -> None:
    """A chain of 20 states, one action, reward 1 at its end: k sweeps of n-step targets set n k states right."""
    for n_step, correct_after_four in ((5, 20), (1, 4)):
        values = torch.zeros(21)
        for _ in range(4):
            rows = torch.cat([values, torch.zeros(n_step - 1)]).view(-1, 1, 1, 1)  # [20 + n, 1, 1, 1]
            rewards = torch.zeros(1, 20 + n_step, 1)
            rewards[0, 19] = 1.0
            swept = targets.quantile_targets(
                rows,
                rows,
                torch.ones(20 + n_step, 1, 1, dtype=torch.bool),
                rewards,
                torch.tensor([20]),
                torch.tensor([True]),
                n_step=n_step,
                gammas=(1.0,),
                weights=(1.0,),
                rescaling=False,
            )
            values[:20] = swept[:, 0, 0]
        assert values.sum().item() == correct_after_four


def slow_targets(
    online: list, target: list, masks: list, rewards: list, last: int, terminated: bool, n_step: int, gamma: float
) -> list[list[float]]:
    """One sequence, rescaling on, in plain Python: what the text of the specification says, position by position."""
    table = []
    for t in range(last):
        m = min(n_step, last - t)
        total, discount = 0.0, 1.0
        for j in range(m):
            total += discount * rewards[t + j]
            discount *= gamma
        row = t + m
        valid = [action for action in range(NUM_ACTIONS) if masks[row][action]]
        best = max(valid, key=lambda a: sum(h_inv_float(q) for q in online[row][a]) / NUM_QUANTILES)
        if terminated and row == last:
            discount = 0.0
        table.append([h_float(total + discount * h_inv_float(q)) for q in target[row][best]])
    return table


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n_step=st.integers(1, 5),
    unroll_length=st.integers(1, 6),
    batch_size=st.integers(1, 3),
    gamma=st.sampled_from([1.0, 0.997, 0.5]),
    data=st.data(),
)
def test_targets_equal_the_slow_oracle(
    seed: int, n_step: int, unroll_length: int, batch_size: int, gamma: float, data: st.DataObject
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = unroll_length + n_step
    shape = (rows, batch_size, NUM_ACTIONS, NUM_QUANTILES)
    online, target = (torch.randn(shape, generator=generator) * 3 for _ in range(2))
    masks = torch.rand(shape[:3], generator=generator) < 0.6
    masks[..., 0] |= ~masks.any(-1)
    rewards = torch.randn(shape[:2], generator=generator) * 2
    last = data.draw(st.lists(st.integers(1, rows - 1), min_size=batch_size, max_size=batch_size))
    terminated = data.draw(st.lists(st.booleans(), min_size=batch_size, max_size=batch_size))
    for item, end in enumerate(last):
        rewards[end:, item] = math.nan
        masks[end + 1 :, item] = False

    result = targets.quantile_targets(
        online,
        target,
        masks,
        rewards.unsqueeze(0),
        torch.tensor(last),
        torch.tensor(terminated),
        n_step=n_step,
        gammas=(gamma,),
        weights=(1.0,),
        rescaling=True,
    )
    for item, end in enumerate(last):
        table = slow_targets(
            online[:, item].tolist(),
            target[:, item].tolist(),
            masks[:, item].tolist(),
            rewards[:, item].tolist(),
            end,
            terminated[item],
            n_step,
            gamma,
        )
        trained = min(unroll_length, end)
        torch.testing.assert_close(result[:trained, item], torch.tensor(table[:trained]), rtol=1e-4, atol=1e-4)


def test_loss_mask_and_taken_quantiles() -> None:
    assert targets.loss_mask(torch.tensor([1, 3]), 3).T.tolist() == [[True, False, False], [True, True, True]]
    quantiles = torch.arange(12.0).view(2, 1, 3, 2)
    taken = targets.taken_quantiles(quantiles, torch.tensor([[2], [0]]))
    assert taken[:, 0].tolist() == [[4.0, 5.0], [6.0, 7.0]]
