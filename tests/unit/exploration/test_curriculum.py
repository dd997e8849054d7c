"""What a start state is worth, by hand, and that actors draw in proportion to it."""

from __future__ import annotations

import itertools

import msgspec
import numpy as np
import pytest

from cluster_rl.exploration.curriculum import CELL_TILES, Entry, cell_key, draw, third_of, weights_of


def entry(key: str, *milestones: str, **changes: float) -> Entry:
    made = Entry(key=key, tag="archive", milestones=list(milestones), map_id=1, steps=10, size_bytes=100)
    return msgspec.structs.replace(made, **changes)


def test_a_cell_is_map_milestones_and_coarse_place() -> None:
    here = cell_key(3, 0, 0, ["a", "b"])
    assert here == cell_key(3, CELL_TILES - 1, CELL_TILES - 1, ["b", "a"])
    others = [
        cell_key(4, 0, 0, ["a", "b"]),
        cell_key(3, CELL_TILES, 0, ["a", "b"]),
        cell_key(3, 0, CELL_TILES, ["a", "b"]),
        cell_key(3, 0, 0, ["a"]),
        cell_key(3, 0, 0, ["a", "b", "c"]),
    ]
    assert len({here, *others}) == 6
    assert all(len(key) == 16 for key in others)


def test_weights_never_fall_to_nothing() -> None:
    hopeless = [entry("one", episodes=49.0), entry("other", episodes=1e6), entry("third", "a", episodes=49.0)]
    for quests in ({}, {"a": 0.0}):
        assert min(weights_of(hopeless, "frontier", quests)) > 1e-6


def test_a_stage_with_many_states_counts_as_much_as_one_with_few() -> None:
    many = [entry(f"town {number}") for number in range(50)]
    weights = weights_of([*many, entry("cave", "a")], "frontier", {"a": 1.0, "b": 1.0})
    assert sum(weights[:50]) == pytest.approx(weights[50])


def test_optional_milestones_make_no_stage_of_their_own() -> None:
    """Else the part of the game with the most to do beside the way would count the most."""
    by_the_way = [entry("luck", "luck"), entry("chest", "chest"), entry("both", "chest", "luck"), entry("neither")]
    weights = weights_of([*by_the_way, entry("cave", "luck", "a")], "frontier", {"a": 1.0, "b": 1.0})
    assert sum(weights[:4]) == pytest.approx(weights[4])


def test_without_quests_all_states_are_one_stage() -> None:
    weights = weights_of([entry("a", "x"), entry("b"), entry("c", "y", "z")], "frontier")
    assert weights == pytest.approx([1 / 3] * 3)


def test_within_a_stage_seldom_tried_and_fruitful_states_count_more() -> None:
    fresh, tried, fruitful, barren = weights_of(
        [
            entry("fresh"),
            entry("tried", episodes=8.0, followed=8.0),
            entry("fruitful", episodes=24.0, followed=24.0),
            entry("barren", episodes=24.0),
        ],
        "frontier",
    )
    # (1 + followed) / (1 + episodes), at least 0.1, over the root of 1 + episodes
    assert [fresh / tried, tried / fruitful, fruitful / barren] == pytest.approx([3.0, 5 / 3, 10.0])


def test_quests_say_what_the_next_milestone_is_worth() -> None:
    quests = {"a": 0.2, "b": 0.9, "c": 0.0}
    entries = [entry("start"), entry("after a", "a"), entry("after b", "a", "b"), entry("end", "a", "b", "c")]
    assert weights_of(entries, "frontier", quests) == pytest.approx([0.2, 0.9, 0.05, 0.05])


def test_uniform_is_all_alike() -> None:
    entries = [entry("a", episodes=40.0), entry("b", "x"), entry("c")]
    assert weights_of(entries, "uniform", {"x": 0.1}) == [1.0, 1.0, 1.0]


def test_counts_fade_and_what_was_drawn_does_not() -> None:
    one = entry("a")
    for number in range(1000):
        one = one.after(followed=number % 2 == 0)
    assert one.drawn == 1000
    assert one.episodes == pytest.approx(50, rel=1e-3)
    assert one.followed == pytest.approx(25, rel=0.02)
    for _ in range(200):
        one = one.after(followed=False)
    assert one.followed < 0.5


def test_draws_are_in_proportion_by_chi_square() -> None:
    weights = [0.5, 0.25, 0.05, 0.01, 1.0, 0.19]
    entries = [entry(str(number), weight=weight) for number, weight in enumerate(weights)]
    rng, draws = np.random.default_rng(5), 20_000
    counts = np.zeros(len(entries))
    for _ in range(draws):
        counts[int(draw(entries, rng).key)] += 1
    expected = draws * np.array(weights) / sum(weights)
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 20.5  # of 5 degrees of freedom exceeded once in 1,000
    assert counts.min() > 0
    shifted = np.roll(expected, 1)
    assert ((counts - shifted) ** 2 / shifted).sum() > 1000  # so that it can tell


def test_nothing_to_draw_from() -> None:
    with pytest.raises(ValueError, match="no state"):
        draw([], np.random.default_rng(0))


def test_thirds_of_the_way() -> None:
    thirds = [third_of(number, 9) for number in range(11)]
    assert [(name, len(list(group))) for name, group in itertools.groupby(thirds)] == [
        ("early", 3),
        ("middle", 3),
        ("late", 5),
    ]
    assert third_of(0, 0) == "early"
