"""What every whole world promises, as the tests of each ask it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from cluster_rl.cartridge.solver import all_secrets, check_order, plan
from cluster_rl.cartridge.story import Story
from cluster_rl.errors import UserError

GATE_STEPS = 280
"""Of a good player: most from one gate to the next."""
FORGET_STEPS = 240
"""Least between what is told and where it counts: three windows of 80 steps."""


def check_pace(gates: list[dict[str, Any]], came: dict[str, int], game_steps: tuple[int, int]) -> None:
    """Holds the steps at which `play_game` says that events came against the promises; `game_steps`: of it all."""
    ends = [came[gate["event"]] for gate in gates]
    steps = [later - earlier for earlier, later in zip([0, *ends], ends, strict=False)]
    assert max(steps) <= GATE_STEPS, dict(zip(came, steps, strict=False))
    assert game_steps[0] <= ends[-1] <= game_steps[1]
    for gate in gates:
        if "told" in gate:
            assert came[gate["event"]] - came[gate["told"]] >= FORGET_STEPS


def check_needs_guard(world: dict[str, Any], guard: str, gate: str, earlier: str) -> None:
    """Without the person, the solver finds that `gate` can be opened before `earlier`."""
    world = copy.deepcopy(world)
    for entry in world["map"]:
        entry["object"] = [person for person in entry.get("object", []) if person.get("name") != guard]
    with pytest.raises(UserError, match=f"gate {gate} can be opened without {earlier}"):
        check_order(Story(world), world["gate"])


def check_lesson(story: Story, school: str, gate_name: str) -> None:
    """From this start what a gate asks for is told within ten cells of walking, and asked for 150 cells later."""
    gate = next(gate for gate in story.world["gate"] if gate["name"] == gate_name)
    state = story.school(next(entry for entry in story.world["school"] if entry["name"] == school))
    assert state.flags.isdisjoint({gate["told"], gate["event"]})
    to_told, told = plan(story, state, all_secrets(story)[3], gate["told"])
    to_gate, _ = plan(story, told, all_secrets(story)[3], gate["event"])
    assert sum(len(act.route) for act in to_told) <= 10
    assert sum(len(act.route) for act in to_gate) >= 150
