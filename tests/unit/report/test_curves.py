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


@pytest.mark.parametrize(("env_steps", "number"), [(0, 0), (100, 0), (101, 1), (1200, 11), (5000, 11)])
def test_slices_are_equal_and_the_last_takes_what_is_beyond(env_steps: float, number: int) -> None:
    assert slice_of(slice_edges(1200, 12), env_steps) == number


def test_seeds_of_one_setting_are_put_together() -> None:
    configs = {
        "a": ("red", {"base_seed": 1, "gamma": 0.9, "rom": "/here/red.gb"}),
        "b": ("red", {"base_seed": 1, "gamma": 0.99}),
        "a2": ("red", {"base_seed": 2, "gamma": 0.9, "replay_dir": "x", "rom": "/there/red.gb"}),
        "none": ("red", {}),
        "none2": ("red", {}),
    }
    assert groups_of(configs) == [["a", "a2"], ["b"], ["none"], ["none2"]]


def test_runs_of_two_games_are_no_seeds_of_one_thing() -> None:
    config = {"gamma": 0.9, "rom": "game.gb"}
    assert groups_of({"red": ("aa", config), "blue": ("bb", config), "red2": ("aa", config)}) == [
        ["red", "red2"],
        ["blue"],
    ]
    assert groups_of({"one": ("", config), "two": ("", config)}) == [["one"], ["two"]]  # who knows of which game


def test_a_band_is_the_median_and_the_edges_of_those_that_are_so_far() -> None:
    seeds = [curve("a", (0, 0), (10, 10)), curve("b", (0, 2), (20, 22)), curve("c", (0, 8), (10, 8))]
    found = banded("all", seeds, points=5)
    assert found.x.tolist() == [0, 5, 10, 15, 20]
    assert found.y.tolist() == [2, 7, 10, 17, 22]
    assert found.low is not None
    assert found.high is not None
    assert (found.low.tolist(), found.high.tolist()) == ([0, 5, 8, 17, 22], [8, 8, 12, 17, 22])
    assert found.runs is not None
    assert found.runs.tolist() == [3, 3, 3, 1, 1]
    assert found.label == "all (3 runs, all up to 10)"
    assert words_of(found).startswith("all (3 runs, all up to 10), median: from 2 to 22")


def test_a_label_counts_the_runs_that_have_values() -> None:
    found = banded("all", [curve("a", (0, 3), (1, 4)), curve("b"), curve("c", (0, 1), (1, 1))])
    assert (found.of, found.out_of, found.label) == (2, 3, "all (2 of 3 runs)")
    assert banded("all", [curve("a", (0, 3), (1, 4)), curve("b")]).label == "all (1 of 2 runs)"
    assert banded("all", [curve("a", (0, 3), (1, 4))]).label == "all"


@pytest.mark.parametrize(
    ("seeds", "label"),
    [
        ([((0, 1), (100, 1)), ((1, 1), (99, 1))], "all (2 runs)"),  # as seeds of one length end
        ([((0, 1), (100, 1)), ((40, 1), (100, 1))], "all (2 runs, all from 40 on)"),
        ([((0, 1), (60, 1)), ((40, 1), (100, 1))], "all (2 runs, all from 40 to 60)"),
        ([((0, 1), (40, 1)), ((60, 1), (100, 1))], "all (2 runs, never all at once)"),
    ],
)
def test_a_label_says_where_all_runs_are(seeds: list[tuple[tuple[float, float], ...]], label: str) -> None:
    assert banded("all", [curve("seed", *points) for points in seeds]).label == label


def test_a_band_of_counts_does_not_slope() -> None:
    seeds = [counted("a", [4], 10), counted("b", [6], 10)]
    found = banded("all", seeds, points=2)
    assert found.x.tolist() == [0, 4, 6, 10]
    assert found.y.tolist() == [0, 0.5, 1, 1]
    assert found.low is not None
    assert found.low.tolist() == [0, 0, 1, 1]


def test_nothing_is_drawn_where_no_seed_is() -> None:
    found = banded("all", [curve("a", (0, 0), (1, 1)), curve("b", (5, 0), (6, 1))], points=7)
    assert found.x.tolist() == [0, 1, 5, 6]
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
