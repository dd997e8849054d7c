"""The solver finds what is wrong with a world: gates that open early or never, answers that cost nothing, dead ends."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from cluster_rl.cartridge import solver
from cluster_rl.cartridge.closure import Closure
from cluster_rl.cartridge.compile_content import read_world
from cluster_rl.cartridge.solver import all_secrets, check_gates, goals, plan
from cluster_rl.cartridge.story import Story, after_blackout
from cluster_rl.errors import UserError

World = dict[str, Any]
GIVER = """
  ifitem LAMP has
  give LAMP 1
  end
has:
  say "You have it."
"""


def tiny_world() -> World:
    """Two rooms: somebody gives a lamp for a promise, a watchman lets by whoever has it, a lever and a bell behind."""
    world = read_world("small")
    room = "iiiiiiii\nbbbbbbbb\nbbbbbbbb\nbbbbbbbm"
    field = "iiiiiiii\nbbbibbbb\nbbbbbbbb\nmbbibbbb"

    def person(name: str, at: list[int], script: str) -> World:
        return {"name": name, "sprite": "folk", "at": at, "facing": "down", "script": script}

    watch = "ifitem LAMP pass\nend\npass:\ntake LAMP 1\nset PASSED\nhide WATCH"
    lever = "ifset WRONG stuck\npull levers {} else wrong\nifpulled levers all\nend\nwrong:\nset WRONG\nstuck:\nend\n"
    lever += "all:\nset DONE"
    return {
        "cells": world["cells"],
        "game": {"title": "TINY", "player": "ANN", "start": {"map": "ROOM", "at": [0, 3]}, "money": 0},
        "flags": {"PROMISED": 1, "PASSED": 2, "DONE": 3, "WRONG": 4},
        "gate": [
            {"name": "PROMISED", "event": "PROMISED"},
            {"name": "PASSED", "event": "PASSED"},
            {"name": "DONE", "event": "DONE", "wrong": "WRONG"},
        ],
        "secret": [{"name": "levers", "kind": "order", "values": 2}],
        "item": [{"name": "LAMP", "id": 1}, {"name": "STONE", "id": 2}],
        "map": [
            {
                "name": "ROOM",
                "cells": room,
                "warps": [{"at": [7, 3], "to": "FIELD", "warp": 0}],
                "object": [
                    person(
                        "GIVER", [4, 1], f"ifset PROMISED go\nask Promise? else no\nset PROMISED\ngo:\n{GIVER}no:\nend"
                    ),
                    person("STONES", [6, 1], "give STONE 1"),
                ],
            },
            {
                "name": "FIELD",
                "cells": field,
                "warps": [{"at": [0, 3], "to": "ROOM", "warp": 0}],
                "object": [person("WATCH", [3, 2], watch)],
                "signs": [{"at": [5, 0], "script": lever.format(0)}, {"at": [6, 0], "script": lever.format(1)}],
            },
        ],
    }


def change(world: World, old: str, new: str) -> None:
    """Replaces a piece of the one or more scripts that have it."""
    found = 0
    for entry in world["map"]:
        for thing in (*entry.get("object", []), *entry.get("signs", [])):
            found += old in thing["script"]
            thing["script"] = thing["script"].replace(old, new)
    assert found, old


def without_watchman(world: World) -> None:
    world["map"][1]["object"] = []


def with_second_door(world: World) -> None:
    """A door from the room to behind the watchman, and back."""
    room, field = world["map"]
    room["warps"].append({"at": [0, 1], "to": "FIELD", "warp": 1})
    field["warps"].append({"at": [7, 1], "to": "ROOM", "warp": 1})


def with_lax_watchman(world: World) -> None:
    change(world, "ifitem LAMP pass\nend\npass:\ntake LAMP 1\n", "")


def with_forgiving_levers(world: World) -> None:
    change(world, "ifset WRONG stuck\n", "")


def with_lamp_given_once(world: World) -> None:
    """So that it can be thrown away for good."""
    change(world, "ifitem LAMP has\n  give", "ifset WARNED has\n  set WARNED\n  give")


def with_watchman_back(world: World) -> None:
    """A stone calls the watchman back, when his lamp is spent and nobody gives another."""
    change(world, "set PASSED\nhide WATCH", "set PASSED\nhide WATCH\nset WARNED")
    change(world, "ifitem LAMP has\n  give", "ifset WARNED has\n  give")
    change(world, "give STONE 1", "show WATCH")


def with_no_lamp(world: World) -> None:
    change(world, "give LAMP 1", "give STONE 1")


def person(script: str, at: tuple[int, int] = (0, 1)) -> World:
    return {"sprite": "folk", "at": list(at), "facing": "down", "script": script}


def with_one_lever_that_ignores_the_wrong_one(world: World) -> None:
    sign = world["map"][1]["signs"][1]
    sign["script"] = sign["script"].replace("ifset WRONG stuck\n", "")


def with_one_lever_that_costs_nothing(world: World) -> None:
    sign = world["map"][1]["signs"][0]
    sign["script"] = sign["script"].replace("wrong:\nset WRONG\n", "wrong:\n")


def with_a_secret_and_no_wrong_answer(world: World) -> None:
    del world["gate"][2]["wrong"]


def with_a_promise_that_cannot_be_given(world: World) -> None:
    """A jump to a script's first word, which is no jump to the next one."""
    giver = world["map"][0]["object"][0]
    giver["script"] = "a:\nifbadge 0 never\nask Q? else stop\ngoto a\nnever:\nset PROMISED\ngive LAMP 1\nstop:"


def with_a_second_round(world: World) -> None:
    script = "say hi\ntop:\nifset A y\nset A\ngoto top\ny:\nhide WATCH"
    world["map"][1]["object"].append(person(script))


def with_scripts_in_a_circle(world: World) -> None:
    world["script"] = [{"name": "ONE", "script": "say hi\ngoto script ONE"}]


def with_a_guard_on_a_spot(world: World) -> None:
    """Instead of the watchman: whoever steps there without leave is sent back."""
    field = world["map"][1]
    leave = "ifset PASSED done\nifitem LAMP pass\nend\npass:\ntake LAMP 1\nset PASSED\ndone:"
    field["object"] = [person(leave, (1, 1))]
    field["spot"] = [{"at": [3, 2], "script": "ifset PASSED go\nwarp FIELD 1 2\ngo:"}]


def with_a_walk_over_the_spot(world: World) -> None:
    with_a_guard_on_a_spot(world)
    world["map"][1]["object"].append(person("warp FIELD 2 2\nwalk right 2"))


def with_a_walk_onto_the_spot(world: World) -> None:
    with_a_guard_on_a_spot(world)
    world["map"][1]["object"].append(person("warp FIELD 2 2\nwalk right 1"))


def with_two_walks(world: World) -> None:
    with_a_guard_on_a_spot(world)
    world["map"][1]["object"].append(person("walk down 1\nwalk right 6", (0, 1)))


def with_a_door_onto_the_spot(world: World) -> None:
    with_a_guard_on_a_spot(world)
    room, field = world["map"]
    room["warps"].append({"at": [0, 1], "to": "FIELD", "warp": 1})
    field["warps"].append({"at": [3, 2], "to": "ROOM", "warp": 1})


def with_a_warp_onto_the_spot(world: World) -> None:
    with_a_guard_on_a_spot(world)
    world["map"][1]["object"].append(person("warp FIELD 3 2"))


def with_a_start_on_a_spot(world: World) -> None:
    with_a_guard_on_a_spot(world)
    world["school"] = [{"name": "late", "map": "FIELD", "at": [3, 2]}]


def with_an_item_that_walks(world: World) -> None:
    world["item"][1]["use"] = "walk right 3"


def with_a_fare_that_a_blackout_eats(world: World) -> None:
    world["game"] |= {"money": 400, "starter": {"species": "FENNO", "level": 5}}
    world["trainer"] = [{"name": "BRUTE", "prize": 0, "class": 1, "team": []}]
    world["item"][0]["key"] = True
    change(world, "give LAMP 1\n", "pay 400 else has\n give LAMP 1\n")
    change(world, "give STONE 1", "battle BRUTE")


def test_world_without_a_flaw_passes() -> None:
    check_gates(tiny_world())


@pytest.mark.parametrize(
    ("flaw", "complaint"),
    [
        (without_watchman, "gate DONE can be opened without PROMISED"),
        (with_second_door, "gate DONE can be opened without PROMISED"),
        (with_lax_watchman, "gate PASSED can be opened without PROMISED"),
        (with_forgiving_levers, "gate DONE can be opened after WRONG"),
        (with_lamp_given_once, "dead end after toss LAMP"),
        (with_watchman_back, "dead end"),
        (with_no_lamp, "no way to PASSED"),
        (with_one_lever_that_ignores_the_wrong_one, "gate DONE can be opened after WRONG"),
        (with_one_lever_that_costs_nothing, "gate DONE: a wrong answer does not set WRONG at 5, 0 on FIELD"),
        (with_a_secret_and_no_wrong_answer, "gate DONE: reads the secret levers and has no `wrong`"),
        (with_a_promise_that_cannot_be_given, "with a jump back"),
        (with_a_second_round, "with a jump back"),
        (with_scripts_in_a_circle, "script ONE: gates cannot be proved with a jump back, or to an earlier script"),
        (with_a_walk_over_the_spot, "gate DONE can be opened without P"),
        (with_a_walk_onto_the_spot, "gate DONE can be opened without P"),
        (with_two_walks, "gate DONE can be opened without P"),
        (with_a_door_onto_the_spot, "map FIELD: gates cannot be proved with a door"),
        (with_a_warp_onto_the_spot, "on map FIELD: gates cannot be proved with a warp onto a spot"),
        (with_a_start_on_a_spot, "map FIELD: gates cannot be proved with a door, start or carrying floor at a spot"),
        (with_an_item_that_walks, "script STONE: gates cannot be proved with walk in the script of an item"),
        (with_a_fare_that_a_blackout_eats, "dead end after talk LOSE BRUTE"),
    ],
)
def test_flaws_are_found(flaw: Callable[[World], None], complaint: str) -> None:
    world = copy.deepcopy(tiny_world())
    flaw(world)
    with pytest.raises(UserError, match=complaint):
        check_gates(world)


@pytest.mark.parametrize(
    ("event", "required", "complaint"),
    [
        ("PASSED", True, ""),
        ("DONE", True, ""),
        ("WRONG", False, ""),
        ("PASSED", False, "milestone IT: no way leads round it, so required = true"),
        ("WRONG", True, "milestone IT: a way leads round it, so required = false"),
    ],
)
def test_milestones_are_required_where_no_way_leads_round_them(event: str, required: bool, complaint: str) -> None:
    world = copy.deepcopy(tiny_world())
    room = {"name": "THERE", "kind": "map", "map": "FIELD", "required": False}  # not looked at
    world["milestone"] = [room, {"name": "IT", "kind": "event", "event": event, "required": required}]
    if complaint:
        with pytest.raises(UserError, match=complaint):
            check_gates(world)
    else:
        check_gates(world)


def test_a_guard_on_a_spot_lets_nobody_by() -> None:
    world = tiny_world()
    with_a_guard_on_a_spot(world)
    check_gates(world)


def test_a_blackout_takes_half_of_the_hundreds_and_thousands() -> None:
    assert [after_blackout(money) for money in (0, 99, 500, 3065, 123_450)] == [0, 99, 200, 1565, 121_750]


def test_a_bag_holds_99_of_a_kind() -> None:
    story = Story(tiny_world())
    state = story.carrying(story.start(), "STONE", 120)
    assert state.count("STONE") == 99
    assert not story.holds(("room", "STONE", True), state, {})
    assert story.holds(("room", "LAMP", True), state, {})


def test_scripts_on_arriving_are_refused_and_not_left_out() -> None:
    world = tiny_world()
    world["map"][1]["enter"] = "set DONE"
    with pytest.raises(UserError, match="map FIELD: gates cannot be proved"):
        check_gates(world)


def test_random_plays_find_a_dead_end_of_several_acts() -> None:
    """Four coins and a lamp for three: whoever buys two stones at one has too few, but not at once."""
    world = tiny_world()
    world["game"]["money"] = 4
    world["item"][1]["price"] = 1
    change(world, "give LAMP 1\n", "pay 3 else has\n give LAMP 1\n")
    world["item"][0]["key"] = True
    change(world, "give STONE 1", "shop STONE")
    story = Story(world)
    with pytest.raises(UserError, match="dead end"):
        solver.check_no_dead_end(story, world["gate"])


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("harm", ["hide GIVER", "set WARNED"])
def test_dead_ends_of_some_draws_alone_are_found(first: int, harm: str) -> None:
    """Somebody who shuts the way to the lamp if one lever is the first: by an act that takes away, or one that does
    not, which only random plays find."""
    world = tiny_world()
    change(world, "ifitem LAMP has\n  give", "ifset WARNED has\n  ifitem LAMP has\n  give")
    change(world, "give STONE 1", f"ifsecret levers:1 {first} harm\nend\nharm:\n{harm}")
    with pytest.raises(UserError, match="dead end"):
        check_gates(world)


def test_few_draws_have_each_value_of_each_secret_and_each_lever_at_each_place() -> None:
    drawn = solver.few_secrets(Story(read_world("lanternvale")))
    assert len(drawn) == 4
    for place in range(4):
        assert {secrets["levers"][place] for secrets in drawn} == {0, 1, 2, 3}
    assert {secrets["password"] for secrets in drawn} == {(0,), (1,), (2,), (3,)}
    assert all(sorted(secrets["levers"]) == [0, 1, 2, 3] for secrets in drawn)


def test_a_world_without_secrets_is_one_draw() -> None:
    world = tiny_world() | {"secret": []}
    world["map"][1]["signs"] = []
    assert solver.few_secrets(Story(world)) == [{}]


def test_plan_pulls_the_levers_as_they_were_drawn() -> None:
    world = tiny_world()
    story = Story(world)
    for secrets in all_secrets(story):
        acts, state = plan(story, story.start(), secrets, "DONE")
        pulled = [act.cell[1] - 5 for act in acts if act.cell[0] == "FIELD" and act.facing == "up"]
        assert tuple(pulled) == secrets["levers"]
        assert "WRONG" not in state.flags


def test_plan_throws_something_away_when_the_bag_is_full() -> None:
    world = tiny_world()
    story = Story(world)
    full = story.start()
    for number in range(20):
        full = story.carrying(full, f"STONE{number}", 1)
    acts, state = plan(story, full, all_secrets(story)[0], "PASSED")
    assert [act.kind for act in acts] == ["toss", "talk", "talk"]
    assert "PASSED" in state.flags


def test_what_is_told_comes_as_soon_as_it_can() -> None:
    world = tiny_world()
    world["flags"]["TOLD"] = 5
    change(world, "give STONE 1", "set TOLD")
    world["gate"][2]["told"] = "TOLD"
    assert goals(Story(world), world["gate"]) == ["TOLD", "PROMISED", "PASSED", "DONE"]


def test_a_closure_takes_what_can_be_lost_as_kept() -> None:
    world = tiny_world()
    story = Story(world)
    closure = Closure(story, story.start())
    assert ("item", "LAMP", True) in closure
    assert ("item", "LAMP", False) in closure
    assert not Closure(story, story.start(), forbidden="PROMISED").flag("PASSED")


def test_carrying_floor_and_dark_are_walked_as_in_the_game() -> None:
    """Whoever steps on a carrying cell is carried on; a lamp goes out where it is not dark."""
    world = tiny_world()
    world["map"][0]["cells"] = "iiiiiiii\nbbbbbbbb\n>>vbbbbb\nbbbbbbbm"
    world["map"][1]["dark"] = True
    world["item"][0]["use"] = "light"
    story = Story(world)
    state = story.start()
    assert story.slide(("ROOM", 0, 2), state) == ("ROOM", 2, 3)
    assert story.routes(state, {})["ROOM", 2, 3] in ("u", "rr")
    lit = story.run(story.carrying(state, "LAMP", 1), story.things[-1].ways[0], {})
    assert lit is not None
    assert not lit.lit
