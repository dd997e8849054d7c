"""Returns that end before an action that was not the policy's: by hand, against a slow oracle, and what for."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cluster_rl.config import ReturnCut
from cluster_rl.learning import targets

CUTS: tuple[ReturnCut, ...] = ("watkins", "soft_watkins")
NUM_ACTIONS, NUM_QUANTILES = 3, 2


def bits(row: str) -> Tensor:
    """[R, 1] bool of a word of 0 and 1."""
    return torch.tensor([[letter == "1"] for letter in row])


@pytest.mark.parametrize(
    ("n_step", "goes_on", "last", "steps"),
    [
        (3, "1111111", 6, [3, 3, 3, 3]),  # nowhere
        (3, "0000000", 6, [1, 1, 1, 1]),  # everywhere: one-step returns
        (3, "1011011", 6, [1, 3, 2, 1]),  # the action at t itself cuts nothing: row 1 goes on to row 4
        (3, "1110111", 5, [3, 2, 1, 2]),  # the end of what is recorded comes first for the last one
        (1, "00000", 4, [1, 1, 1, 1]),
        (3, "0001000", 2, [1, 1, 0, 0]),  # padding behind the last row stays without steps
    ],
)
def test_steps_to_the_bootstrap_row_by_hand(n_step: int, goes_on: str, last: int, steps: list[int]) -> None:
    assert targets.bootstrap_steps(torch.tensor([last]), 4, n_step, bits(goes_on))[:, 0].tolist() == steps


def test_a_cut_return_bootstraps_where_it_ends() -> None:
    """Gamma 1/2, row r is worth 16 + 8 r: the return of row 0 ends at row 2, whose action was another one."""
    rows = 6
    quantiles = (16.0 + 8.0 * torch.arange(rows)).view(rows, 1, 1, 1)
    found = targets.quantile_targets(
        quantiles,
        quantiles,
        torch.ones(rows, 1, 1, dtype=torch.bool),
        torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0]).view(1, rows, 1),
        torch.tensor([3]),
        torch.tensor([True]),
        n_step=3,
        gammas=(0.5,),
        weights=(1.0,),
        rescaling=False,
        goes_on=bits("010111"),
    )
    # 1 + 2/2 + 32/4; 2 + 32/2; and row 2 goes on to the end, which is worth nothing.
    assert found[:, 0, 0].tolist() == [10.0, 18.0, 4.0]


def test_nearly_the_best_is_within_a_hundredth_of_its_size_in_reward_units() -> None:
    """One row an entry; action 0 was taken, action 2 is forbidden and would be better by far."""
    pairs = [(99.01, 100.0), (98.99, 100.0), (-101.0, -100.0), (-101.01, -100.0), (5.0, 5.0), (0.0, 0.0), (-1e-6, 0.0)]
    values = torch.tensor([[taken, other, 1000.0] for taken, other in pairs]).view(-1, 1, 3, 1)
    masks = torch.tensor([True, True, False]).expand(len(pairs), 1, 3)
    actions, unread = torch.zeros(len(pairs), 1, dtype=torch.int64), torch.zeros(len(pairs), 1, dtype=torch.bool)
    expected = [True, False, True, False, True, True, False]
    for rescaling, quantiles in ((False, values), (True, targets.h(values))):
        found = targets.return_goes_on("soft_watkins", unread, actions, quantiles, masks, rescaling, (1.0,))
        assert found is not None
        assert found[:, 0].tolist() == expected
    # In h-space, where 99 and 100 lie nearer to each other, the second would pass too.
    assert targets.return_goes_on("soft_watkins", unread, actions, targets.h(values), masks, False, (1.0,))[1, 0]  # type: ignore[index]


def h_float(x: float) -> float:
    return math.copysign(math.sqrt(abs(x) + 1) - 1, x) + 1e-3 * x


def h_inv_float(x: float) -> float:
    return math.copysign(((math.sqrt(1 + 4e-3 * (abs(x) + 1 + 1e-3)) - 1) / 2e-3) ** 2 - 1, x)


def slow_targets(cut: str, item: dict[str, Any], n_step: int, gamma: float) -> list[list[float]]:
    """One sequence, rescaling on, in plain Python, a step of the return at a time."""
    last, online = item["last"], item["online"]

    def value(row: int, action: int) -> float:
        return sum(h_inv_float(q) for q in online[row][action]) / NUM_QUANTILES

    def best(row: int) -> int:
        return max((a for a in range(NUM_ACTIONS) if item["masks"][row][a]), key=lambda a: value(row, a))

    def is_the_policys(row: int) -> bool:
        if cut == "watkins":
            return bool(item["greedy"][row])
        top = value(row, best(row))
        return value(row, item["actions"][row]) >= top - 0.01 * abs(top)

    table = []
    for t in range(last):
        total, discount, row = item["rewards"][t], gamma, t + 1
        while row < last and row < t + n_step and is_the_policys(row):
            total += discount * item["rewards"][row]
            discount *= gamma
            row += 1
        if item["terminated"] and row == last:
            discount = 0.0
        table.append([h_float(total + discount * h_inv_float(q)) for q in item["target"][row][best(row)]])
    return table


def random_items(seed: int, rows: int, last: list[int], terminated: list[bool]) -> dict[str, Tensor]:
    generator, size = torch.Generator().manual_seed(seed), len(last)
    online, target = (torch.randn(rows, size, NUM_ACTIONS, NUM_QUANTILES, generator=generator) * 3 for _ in range(2))
    # Half of all actions are worth nearly the same, so that a tolerance has work to do.
    near = 1.0 + 0.02 * torch.rand(rows, size, NUM_ACTIONS, 1, generator=generator)
    online = torch.where(torch.rand(rows, size, 1, 1, generator=generator) < 0.5, online[:, :, :1] * near, online)
    masks = torch.rand(rows, size, NUM_ACTIONS, generator=generator) < 0.7
    masks[..., 0] |= ~masks.any(-1)
    rewards = torch.randn(rows, size, generator=generator) * 2
    for item, end in enumerate(last):
        rewards[end:, item] = math.nan
        masks[end + 1 :, item] = False
    return {
        "online": online,
        "target": target,
        "masks": masks,
        "actions": torch.randint(0, NUM_ACTIONS, (rows, size), generator=generator),
        "greedy": torch.rand(rows, size, generator=generator) < 0.6,
        "rewards": rewards,
        "last": torch.tensor(last),
        "terminated": torch.tensor(terminated),
    }


def cut_targets(cut: ReturnCut, given: dict[str, Tensor], n_step: int, gamma: float) -> Tensor:
    goes_on = targets.return_goes_on(
        cut, given["greedy"], given["actions"], given["online"], given["masks"], rescaling=True, weights=(1.0,)
    )
    plain = ("online", "target", "masks", "rewards", "last", "terminated")
    arguments = [given[name].unsqueeze(0) if name == "rewards" else given[name] for name in plain]
    return targets.quantile_targets(
        *arguments, n_step=n_step, gammas=(gamma,), weights=(1.0,), rescaling=True, goes_on=goes_on
    )


def differs_from_the_oracle(found: Tensor, cut: str, given: dict[str, Tensor], n_step: int, gamma: float) -> bool:
    """Whether some trained row of some sequence is another one."""
    differs = False
    for item in range(found.shape[1]):
        plain = {name: (x[item] if x.dim() == 1 else x[:, item]).tolist() for name, x in given.items()}
        table = torch.tensor(slow_targets(cut, plain, n_step, gamma))
        trained = min(len(found), len(table))
        differs |= not torch.allclose(found[:trained, item], table[:trained], rtol=1e-4, atol=1e-4)
    return differs


@settings(max_examples=80, deadline=None)
@given(
    cut=st.sampled_from(CUTS),
    seed=st.integers(0, 2**31),
    n_step=st.integers(1, 6),
    unroll_length=st.integers(1, 6),
    gamma=st.sampled_from([1.0, 0.997, 0.5]),
    ends=st.lists(st.tuples(st.integers(1, 12), st.booleans()), min_size=1, max_size=3),
)
def test_cut_targets_equal_the_slow_oracle(
    cut: ReturnCut, seed: int, n_step: int, unroll_length: int, gamma: float, ends: list[tuple[int, bool]]
) -> None:
    rows = unroll_length + n_step
    given_items = random_items(seed, rows, [min(end, rows - 1) for end, _ in ends], [ended for _, ended in ends])
    found = cut_targets(cut, given_items, n_step, gamma)
    assert not differs_from_the_oracle(found, cut, given_items, n_step, gamma)


@pytest.mark.parametrize("cut", CUTS)
def test_without_the_cut_or_with_the_other_one_the_oracle_disagrees(cut: ReturnCut) -> None:
    given_items = random_items(1, 12, [11, 11, 8], [False, True, True])
    assert not differs_from_the_oracle(cut_targets(cut, given_items, 5, 0.9), cut, given_items, 5, 0.9)
    for other in {"none", *CUTS} - {cut}:
        assert differs_from_the_oracle(cut_targets(other, given_items, 5, 0.9), cut, given_items, 5, 0.9)


def learned_values(cut: ReturnCut) -> Tensor:
    """What five-step returns learn of an agent that stays where it is in half of its steps, on the way to a reward.

    Five states in a row; action 1 goes on, action 0 stays; the last state's action 1 is worth 1 and ends it all.
    Values [5] of action 1 at gamma 0.9, by sweeps over recorded episodes of random actions.
    """
    generator, n_step, rows = torch.Generator().manual_seed(0), 5, 45
    actions = torch.randint(0, 2, (rows, 60), generator=generator)
    states = torch.cat([torch.zeros(1, 60, dtype=torch.int64), actions.cumsum(0)[:-1]])  # [rows, episodes]
    last = (states < 5).sum(0)
    assert int(last.max()) < rows - n_step
    states = states.clamp(max=4)
    rewards = ((states == 4) & (actions == 1)).float()
    values = torch.zeros(5, 2)
    trained = torch.arange(rows - n_step).unsqueeze(1) < last
    for _ in range(60):
        quantiles = values[states].unsqueeze(-1)  # [rows, episodes, 2, 1]
        masks, ended = torch.ones(rows, 60, 2, dtype=torch.bool), torch.ones(60, dtype=torch.bool)
        found = targets.quantile_targets(
            *(quantiles, quantiles, masks, rewards.unsqueeze(0), last, ended),
            n_step=n_step,
            gammas=(0.9,),
            weights=(1.0,),
            rescaling=False,
            goes_on=targets.return_goes_on(
                cut, actions == 1, actions, quantiles, masks, rescaling=False, weights=(1.0,)
            ),
        )[..., 0]
        for state in range(5):
            for action in range(2):
                taken = trained & ((states == state) & (actions == action))[: rows - n_step]
                values[state, action] = found[taken].mean()
    return values[:, 1]


def test_random_actions_do_not_lower_what_is_learned_of_the_way() -> None:
    true = 0.9 ** torch.arange(4.0, -1.0, -1.0)
    for cut in CUTS:
        torch.testing.assert_close(learned_values(cut), true, rtol=1e-4, atol=0.0)
    biased = learned_values("none")
    assert (biased[:3] < 0.9 * true[:3]).all()
    assert biased[4] == 1.0
