"""What every whole world promises, as the tests of each ask it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from cluster_rl.cartridge.solver import check_order
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
