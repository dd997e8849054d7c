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
from cluster_rl.cartridge.story import Story
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
    ],
)
def test_flaws_are_found(flaw: Callable[[World], None], complaint: str) -> None:
    world = copy.deepcopy(tiny_world())
    flaw(world)
    with pytest.raises(UserError, match=complaint):
        check_gates(world)


def test_scripts_on_arriving_are_refused_and_not_left_out() -> None:
    world = tiny_world()
    world["map"][1]["enter"] = "set DONE"
    with pytest.raises(UserError, match="map FIELD: gates cannot be proved"):
        check_gates(world)


def test_random_plays_find_a_dead_end_of_several_acts() -> None:
    """Three coins and a lamp for three: whoever spends one on a stone has too few, but not at once."""
    world = tiny_world()
    world["game"]["money"] = 4
    world["item"][1]["price"] = 1
    change(world, "give LAMP 1\n", "pay 3 else has\n give LAMP 1\n")
    world["item"][0]["key"] = True
    change(world, "give STONE 1", "shop STONE")
    story = Story(world)
    with pytest.raises(UserError, match="dead end"):
        solver.check_no_dead_end(story, world["gate"])


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
