"""World B as it is shipped: its gates hold, and the solver's plan is played on its ROM."""

from __future__ import annotations

import functools

import pytest
from plan_player import play_game
from plan_way import gift_distances
from whole_worlds import check_lesson, check_needs_guard, check_pace

from cluster_rl.cartridge.compile_content import read_world
from cluster_rl.cartridge.solver import all_secrets, check_gates, few_secrets, plan
from cluster_rl.cartridge.story import Story

WORLD = "world_b"
GATES = 12
GAME_STEPS = (1600, 2500)
"""Of a good player, for the whole game."""


@functools.cache
def story() -> Story:
    return Story(read_world(WORLD))


def test_gates_open_in_order_for_all_that_can_be_drawn_and_no_act_is_a_dead_end() -> None:
    check_gates(story().world)
    assert len(story().world["gate"]) == GATES
    assert len(story().world["map"]) >= 18
    assert len(all_secrets(story())) == 96


def test_plan_is_played_from_a_new_game_to_the_bowl_of_dawn() -> None:
    came = play_game(WORLD, all_secrets(story())[42])
    check_pace(story().world["gate"], came, GAME_STEPS)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", range(96))
def test_plan_is_played_for_all_that_can_be_drawn(number: int) -> None:
    play_game(WORLD, all_secrets(story())[number])


@pytest.mark.parametrize(
    ("guard", "gate", "earlier"),
    [
        ("ROOTS", "BADGE_0", "TUNNEL"),
        ("DIGGER", "SCROLL", "BADGE_0"),
        ("WARDEN", "ARCHIVE", "BADGE_0"),
        ("TOLLMAN", "ALDERS", "TOLL"),
        ("BRIARS", "BADGE_1", "ALDERS"),
    ],
)
def test_a_guard_taken_away_opens_a_gate_early(guard: str, gate: str, earlier: str) -> None:
    check_needs_guard(story().world, guard, gate, earlier)


@pytest.mark.parametrize(("school", "gate"), [("word", "ARCHIVE"), ("order", "LOCK")])
def test_what_is_told_counts_much_later(school: str, gate: str) -> None:
    check_lesson(story(), school, gate)


@pytest.mark.parametrize("number", range(1, GATES))
def test_every_school_leads_on_to_the_end(number: int) -> None:
    """The state that a school's script makes is one from which the plan goes on, and its own gate is not open yet."""
    gates = story().world["gate"]
    entry = next(e for e in story().world["school"] if e["name"] == gates[number]["school"])
    state = story().school(entry)
    assert gates[number]["event"] not in state.flags
    assert all(earlier["event"] in state.flags for earlier in gates[:number])
    _, after = plan(story(), state, all_secrets(story())[5], "DAWN")
    assert "DAWN" in after.flags


def test_its_gift_lies_beside_the_way() -> None:
    for secrets in few_secrets(story()):
        distances = gift_distances(story(), secrets)
        assert set(distances) == {"PLUME"}
        assert 10 <= distances["PLUME"] <= 30


def test_it_is_another_world_than_lanternvale() -> None:
    """Maps are drawn anew, and the two worlds' gates have names in common for badges."""
    worlds = [story().world, read_world("lanternvale")]
    drawn = [{entry["cells"] for entry in world["map"]} for world in worlds]
    assert not drawn[0] & drawn[1]
    names = [{gate["name"] for gate in world["gate"]} for world in worlds]
    assert names[0] & names[1] == {"BADGE_0", "BADGE_1"}
