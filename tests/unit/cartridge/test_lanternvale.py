"""Lanternvale as it is shipped: the solver's plan is played on the ROM, and the world holds its promises."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from plan_player import play_game
from plan_way import gift_distances
from whole_worlds import check_lesson, check_needs_guard, check_pace

from cluster_rl.cartridge.closure import Closure
from cluster_rl.cartridge.compile_content import read_world
from cluster_rl.cartridge.solver import all_secrets, check_gates, few_secrets, plan
from cluster_rl.cartridge.story import Cell, Story

WORLD = "lanternvale"
GAME_STEPS = (1500, 2500)
"""Of a good player, for the whole game."""


@functools.cache
def story() -> Story:
    return Story(read_world(WORLD))


def gates() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = story().world["gate"]
    return found


# ---------------------------------------------------------------- played on the ROM


def test_plan_is_played_from_a_new_game_to_the_great_lantern() -> None:
    secrets = all_secrets(story())[17]
    came = play_game(WORLD, secrets)
    check_pace(gates(), came, GAME_STEPS)
    assert came["FOREST"] - came["on FIREFLY WOOD"] >= 150
    assert came["CAVE"] - came["on DEEP UPPER"] >= 150


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", range(96))
def test_plan_is_played_for_all_that_can_be_drawn(number: int) -> None:
    play_game(WORLD, all_secrets(story())[number])


# ---------------------------------------------------------------- what the solver proves of it


def test_gates_open_in_order_for_all_that_can_be_drawn_and_no_act_is_a_dead_end() -> None:
    check_gates(story().world)
    assert len(all_secrets(story())) == 96


@pytest.mark.parametrize(
    ("guard", "gate", "earlier"),
    [
        ("WATCH", "PARCEL", "FIRST_FRIEND"),
        ("RANGER", "FOREST", "PARCEL"),
        ("THICKET", "BADGE_0", "FOREST"),
        ("GUARDMAN", "CAVE", "BADGE_0"),
        ("BOULDER", "BADGE_1", "CAVE"),
        ("TOLL", "LEVERS", "BADGE_1"),
        ("KEEPER", "PASSWORD_DOOR", "BADGE_2"),
    ],
)
def test_a_guard_taken_away_opens_a_gate_early(guard: str, gate: str, earlier: str) -> None:
    check_needs_guard(story().world, guard, gate, earlier)


def test_locked_chests_need_what_a_late_gate_gives() -> None:
    late = [gate["event"] for gate in gates()][8:]
    locked = [entry["event"] for entry in story().world["milestone"] if entry.get("impossible")]
    assert len(locked) == 4
    whole = Closure(story(), story().start())
    for event in locked:
        assert whole.flag(event)
        assert any(not Closure(story(), story().start(), forbidden=gate).flag(event) for gate in late), event


def test_luck_falls_either_way_once() -> None:
    lucky = [entry["event"] for entry in story().world["milestone"] if entry.get("luck")]
    assert len(lucky) == 2
    for event in lucky:
        thing = next(t for t in story().things for way in t.ways if ("set", event) in way.effects)
        tries = [way for way in thing.ways if way.by_chance]
        assert {("set", event) in way.effects for way in tries} == {True, False}
        asked = {effect for way in tries for effect in way.effects if effect[0] == "set"} - {("set", event)}
        assert len(asked) == 1  # both set it, and what has it set does not try again
        assert all(asked <= set(way.effects) for way in tries)


@pytest.mark.parametrize("ends", [("FIREFLY WOOD",), ("DEEP UPPER", "DEEP LOWER")])
def test_wood_and_caves_hold_nothing_on_the_way(ends: tuple[str, ...]) -> None:
    """No door, sign or person within 60 cells of walking between the way in and the way out, floors taken together."""
    for name in ends:
        entry = story().maps[name]
        assert not entry.get("signs")
        way_in, way_out = (tuple(warp["at"]) for warp in (entry["warps"][0], entry["warps"][-1]))
        distance = distances((name, *way_in))
        assert distance[(name, *way_out)] >= 60
        for person in entry.get("object", []):
            beside = [distance[cell] for _, cell in story().beside((name, *person["at"])) if cell in distance]
            assert min(beside) >= 60


def distances(start: Cell) -> dict[Cell, int]:
    """Cells to walk on one map, whoever stands in the way."""
    found, todo = {start: 0}, [start]
    for cell in todo:
        for _, beside in story().beside(cell):
            if beside in story().walkable and beside not in found:
                found[beside] = found[cell] + 1
                todo.append(beside)
    return found


def test_gifts_lie_beside_the_way() -> None:
    for secrets in few_secrets(story()):
        distances = gift_distances(story(), secrets)
        assert set(distances) == {"CHARM", "HONEY"}
        assert all(10 <= cells <= 30 for cells in distances.values()), distances


def test_flint_is_far_down_the_list_and_costs_a_prize() -> None:
    keeper = next(thing for thing in story().things if thing.place.map == "SHOP")
    listed = [c.removeprefix("BUY ") for way in keeper.ways for c in way.choices if c.startswith("BUY ")]
    assert listed.index("FLINT") >= 4
    assert story().prices["FLINT"] > story().start().money


def test_more_kinds_than_a_bag_holds() -> None:
    common = [item for item in story().prices if item not in story().key_items]
    assert len(story().prices) > 20
    assert len(common) >= 12


def test_world_has_the_size_that_it_should() -> None:
    kinds = [entry["category"] for entry in story().world["map"]]
    assert len(kinds) >= 18
    assert (kinds.count("town"), kinds.count("route"), kinds.count("gym")) == (5, 3, 3)
    assert len(story().world["species"]) == 12
    assert len(story().world["badges"]) == 3
    assert len(story().world["milestone"]) <= 40
    required = [entry.get("event") for entry in story().world["milestone"] if entry["required"]]
    assert all(required.count(gate["event"]) == 1 for gate in gates())
    bits = [story().world["flags"][gate["event"]] for gate in gates()]
    assert bits == list(range(8, 20))


@pytest.mark.parametrize(("school", "gate"), [("miller", "LEVERS"), ("bells", "PASSWORD_DOOR")])
def test_what_is_told_counts_much_later(school: str, gate: str) -> None:
    check_lesson(story(), school, gate)


@pytest.mark.parametrize("number", range(1, 12))
def test_every_school_leads_on_to_the_end(number: int) -> None:
    """The state that a school's script makes is one from which the plan goes on, and its own gate is not open yet."""
    gate = gates()[number]
    entry = next(e for e in story().world["school"] if e["name"] == gate["school"])
    state = story().school(entry)
    assert gate["event"] not in state.flags
    assert all(earlier["event"] in state.flags for earlier in gates()[:number])
    _, after = plan(story(), state, all_secrets(story())[5], gates()[-1]["event"])
    assert "HALL" in after.flags
