"""Curves against points worked out by hand: thinning, counting, hours, slices and seeds."""

from __future__ import annotations

import numpy as np
import pytest

from cluster_rl.report.curves import (
    Curve,
    banded,
    counted,
    groups_of,
    hours_trained,
    number_words,
    slice_edges,
    slice_of,
    thinned,
    words_of,
)

NAN = float("nan")


def column(*values: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array(values, np.float64)


def curve(name: str, *points: tuple[float, float], steps: bool = False) -> Curve:
    return Curve(name, column(*(x for x, _ in points)), column(*(y for _, y in points)), steps=steps)


def test_few_points_stay_and_unknown_ones_go() -> None:
    found = thinned("a", column(1, 2, 3, NAN), column(5, NAN, 7, 8), most=10)
    assert (found.x.tolist(), found.y.tolist()) == ([1, 3], [5, 7])


def test_many_points_become_means_of_equal_stretches() -> None:
    found = thinned("a", column(0, 1, 2, 3, 4, 5, 6, 8), column(0, 2, 4, 6, 10, 20, 30, 40), most=2)
    assert found.x.tolist() == [1.5, 5.75]  # [0, 4) and [4, 8]
    assert found.y.tolist() == [3.0, 25.0]


def test_a_stretch_without_points_has_none() -> None:
    found = thinned("a", column(0, 1, 2, 97, 98, 99), column(1, 1, 1, 5, 5, 5), most=4)
    assert found.y.tolist() == [1.0, 5.0]


def test_rows_that_go_back_are_put_in_order() -> None:
    found = thinned("a", column(1, 3, 2), column(1, 3, 2))
    assert found.y.tolist() == [1, 2, 3]


def test_as_many_points_as_may_be_at_most() -> None:
    x = np.arange(20_000.0)
    found = thinned("a", x, np.sin(x / 500))
    assert len(found.x) == 400
    assert np.abs(found.y).max() == pytest.approx(1, abs=0.01)


def test_counts_rise_where_something_happens() -> None:
    found = counted("a", [30, 10, NAN], 100)
    assert found.x.tolist() == [0, 10, 30, 100]
    assert found.y.tolist() == [0, 1, 2, 2]
    assert found.steps


def test_hours_leave_out_the_waits_between_jobs() -> None:
    jobs = [(1000.0, 4600.0), (100_000.0, 107_200.0)]
    times = column(1000, 2800, 4600, 50_000, 103_600, 200_000)
    assert hours_trained(times, jobs).tolist() == [0, 0.5, 1, 1, 2, 3]


def test_hours_without_jobs_begin_with_the_first_row() -> None:
    assert hours_trained(column(7200, 10_800), []).tolist() == [0, 1]


@pytest.mark.parametrize(("env_steps", "number"), [(0, 0), (100, 0), (101, 1), (1200, 11), (5000, 11)])
def test_slices_are_equal_and_the_last_takes_what_is_beyond(env_steps: float, number: int) -> None:
    assert slice_of(slice_edges(1200, 12), env_steps) == number


def test_seeds_of_one_setting_are_put_together() -> None:
    configs = {
        "a": {"base_seed": 1, "gamma": 0.9},
        "b": {"base_seed": 1, "gamma": 0.99},
        "a2": {"base_seed": 2, "gamma": 0.9, "replay_dir": "x"},
        "none": {},
        "none2": {},
    }
    assert groups_of(configs) == {"a (2 seeds)": ["a", "a2"], "b": ["b"], "none": ["none"], "none2": ["none2"]}


def test_a_band_is_the_median_and_the_edges_where_all_seeds_are() -> None:
    seeds = [curve("a", (0, 0), (10, 10)), curve("b", (0, 2), (20, 22)), curve("c", (0, 8), (10, 8))]
    found = banded("all", seeds, points=3)
    assert found.x.tolist() == [0, 5, 10]
    assert found.y.tolist() == [2, 7, 10]
    assert found.low is not None
    assert found.high is not None
    assert (found.low.tolist(), found.high.tolist()) == ([0, 5, 8], [8, 8, 12])
    assert found.of == 3


def test_a_band_of_counts_does_not_slope() -> None:
    seeds = [counted("a", [4], 10), counted("b", [6], 10)]
    found = banded("all", seeds, points=2)
    assert found.x.tolist() == [0, 4, 6, 10]
    assert found.y.tolist() == [0, 0.5, 1, 1]
    assert found.low is not None
    assert found.low.tolist() == [0, 0, 1, 1]


def test_seeds_that_have_no_point_in_common_make_no_curve() -> None:
    assert len(banded("all", [curve("a", (0, 0), (1, 1)), curve("b", (5, 0), (6, 1))]).x) == 0
    assert len(banded("all", []).x) == 0


def test_one_seed_with_values_is_itself() -> None:
    found = banded("all", [curve("a", (0, 3), (1, 4)), curve("b")])
    assert (found.y.tolist(), found.low, found.of) == ([3, 4], None, 1)


def test_words_say_what_a_curve_shows() -> None:
    assert words_of(curve("return", (0, 1), (1, -2), (2, 12.345))) == "return: from 1 to 12.3, least -2, most 12.3"
    assert words_of(curve("nothing")) == "nothing: no values"


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.0, "0"), (-0.0, "0"), (0.001234, "0.00123"), (12.0, "12"), (1234567.8, "1,234,568"), (NAN, "unknown")],
)
def test_numbers_have_three_digits(value: float, words: str) -> None:
    assert number_words(value) == words
