"""The sum tree against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster_rl.replay.sum_tree import SumTree


@settings(max_examples=60, deadline=None)
@given(
    exponent=st.integers(0, 7),
    seed=st.integers(0, 10_000),
    rounds=st.integers(1, 5),
)
def test_it_equals_prefix_sums(exponent: int, seed: int, rounds: int) -> None:
    rng = np.random.default_rng(seed)
    tree, expected = SumTree(2**exponent), np.zeros(2**exponent)
    for _ in range(rounds):
        indices = rng.integers(0, tree.capacity, 9)
        values = rng.exponential(size=9) * (rng.random(9) < 0.7)
        tree.set(indices, values)
        for index, value in zip(indices, values, strict=True):
            expected[index] = value  # of equal indices the last one counts
        one, value = int(rng.integers(tree.capacity)), float(rng.random())
        tree.set_one(one, value)
        expected[one] = value
    assert np.array_equal(tree.leaves, expected)
    assert tree.total == pytest.approx(expected.sum(), rel=1e-12)
    prefixes = rng.random(50) * expected.sum() * (1 - 1e-9)
    assert np.array_equal(tree.find(prefixes), np.searchsorted(np.cumsum(expected), prefixes, side="right"))


def test_draws_are_in_proportion() -> None:
    tree = SumTree(8)
    values = np.array([0.0, 1, 2, 0, 4, 0, 3, 0])
    tree.set(np.arange(8), values)
    rng = np.random.default_rng(0)
    draws = np.concatenate([tree.sample(rng, 16) for _ in range(1000)])
    share = np.bincount(draws, minlength=8) / len(draws)
    assert share == pytest.approx(values / 10, abs=0.005)
    assert not share[values == 0].any()


def test_a_stratified_draw_takes_one_from_each_slice() -> None:
    tree = SumTree(64)
    tree.set(np.arange(64), np.ones(64))
    assert np.array_equal(tree.sample(np.random.default_rng(3), 64), np.arange(64))


def test_zero_leaves_are_never_drawn_even_where_rounding_overshoots() -> None:
    rng = np.random.default_rng(1)
    tree = SumTree(1024)
    indices = rng.choice(1024, 400, replace=False)
    tree.set(indices, 10.0 ** rng.uniform(-12, 6, 400))
    edge = np.array([0.0, tree.total, np.nextafter(tree.total, 0), tree.total * (1 + 1e-12)])
    assert (tree.leaves[tree.find(edge)] > 0).all()


def test_many_updates_leave_no_drift() -> None:
    rng = np.random.default_rng(2)
    tree = SumTree(256)
    for _ in range(2000):
        tree.set(rng.integers(0, 256, 32), 10.0 ** rng.uniform(-6, 6, 32))
    tree.set(np.arange(256), np.full(256, 1e-6))
    assert tree.total == pytest.approx(256e-6, rel=1e-12)
    tree.set(np.arange(256), np.zeros(256))
    assert tree.total == 0.0
    with pytest.raises(ValueError, match="all leaves are 0"):
        tree.sample(rng, 4)


def test_capacity_must_be_a_power_of_two() -> None:
    for capacity in (0, 3, 100):
        with pytest.raises(ValueError, match="power of two"):
            SumTree(capacity)
