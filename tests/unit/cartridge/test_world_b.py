"""World B as it is shipped: its gates hold, and the solver's plan is played on its ROM."""

from __future__ import annotations

from plan_player import play_game

from cluster_rl.cartridge.compile_content import read_world
from cluster_rl.cartridge.solver import all_secrets, check_gates
from cluster_rl.cartridge.story import Story

WORLD = "world_b"
FORGET_STEPS = 200
"""Least between what is told and where it counts."""


def test_gates_open_in_order_for_all_that_can_be_drawn_and_no_act_is_a_dead_end() -> None:
    story = Story(read_world(WORLD))
    check_gates(story.world)
    assert len(story.world["gate"]) >= 10
    assert len(story.world["map"]) >= 12
    assert len(all_secrets(story)) == 96


def test_plan_is_played_from_a_new_game_to_the_bowl_of_dawn() -> None:
    story = Story(read_world(WORLD))
    came = play_game(WORLD, all_secrets(story)[42])
    for gate in story.world["gate"]:
        if "told" in gate:
            assert came[gate["event"]] - came[gate["told"]] >= FORGET_STEPS


def test_it_is_another_world_than_lanternvale() -> None:
    """Maps are drawn anew but for the room of the order, and the two worlds' gates have names in common for badges."""
    worlds = [read_world(name) for name in (WORLD, "lanternvale")]
    old = {entry["cells"] for entry in worlds[1]["map"]}
    assert [entry["name"] for entry in worlds[0]["map"] if entry["cells"] in old] == ["LOCKHOUSE"]
    names = [{gate["name"] for gate in world["gate"]} for world in worlds]
    assert names[0] & names[1] == {"BADGE_0", "BADGE_1"}
