"""Checks of a world as a whole: what no single record can tell.

The build runs it before it compiles. In: a world file. Out: nothing, or a `UserError` that says in one line what is
wrong: a door that leads nowhere, somebody whom nobody can reach, a name that is never used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from cluster_rl.cartridge.maps import map_rows
from cluster_rl.cartridge.scripts import Word
from cluster_rl.cartridge.sources import Place, all_scripts
from cluster_rl.errors import UserError

MAX_MILESTONES, MAX_KEY_ITEMS, MAX_BAG_KINDS, MAX_PARTY = 72, 24, 20, 6
MOST_OF_A_KIND: Final = 99
MAP_IDS: Final = {"town": range(11), "route": range(12, 37)}
INTERIOR_IDS: Final = range(37, 0xFF)

Cell = tuple[str, int, int]
STEPS: Final = {"up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0)}


def check_world(world: Mapping[str, Any]) -> None:
    """Raises UserError for the first thing that is wrong, and KeyError for a name that there is not."""
    scripts = list(all_scripts(world))
    _check_numbers(world)
    _check_doors(world, scripts)
    _check_uses(world, scripts)
    reached = reachable_cells(world, scripts)
    for entry in world["map"]:
        for kind in ("signs", "object", "spot"):
            for thing in entry.get(kind, []):
                x, y = thing["at"]
                near = [(x, y), *((x + dx, y + dy) for dx, dy in STEPS.values())] if kind != "spot" else [(x, y)]
                if not any((entry["name"], *cell) in reached for cell in near):
                    raise UserError(f"map {entry['name']}: nobody gets to the {kind.rstrip('s')} at {x}, {y}")


def _check_numbers(world: Mapping[str, Any]) -> None:
    _unique("map", (entry["name"] for entry in world["map"]))
    _unique("map id", (entry["id"] for entry in world["map"]))
    _unique("item", (entry["name"] for entry in world["item"]))
    _unique("item id", (entry["id"] for entry in world["item"]))
    _unique("flag bit", world["flags"].values())
    for kind in ("species", "move", "trainer", "school", "script", "secret"):
        _unique(kind, (entry["name"] for entry in world.get(kind, [])))
    for entry in world["map"]:
        if entry["id"] not in MAP_IDS.get(entry["category"], INTERIOR_IDS):
            raise UserError(f"map {entry['name']}: id {entry['id']} is not one of a {entry['category']}")
    counts = {
        "milestones": (len(world["milestone"]), MAX_MILESTONES),
        "key items": (sum(bool(entry.get("key")) for entry in world["item"]), MAX_KEY_ITEMS),
        "kinds of items in the bag at the start": (len(world["game"].get("bag", [])), MAX_BAG_KINDS),
    }
    for what, (count, most) in counts.items():
        if count > most:
            raise UserError(f"more than {most} {what}")


def _unique(what: str, values: Iterable[object]) -> None:
    seen: set[object] = set()
    for value in values:
        if value in seen:
            raise UserError(f"{what} {value} is there twice")
        seen.add(value)


def _check_doors(world: Mapping[str, Any], scripts: list[tuple[Place, tuple[Word, ...]]]) -> None:
    maps = {entry["name"]: entry for entry in world["map"]}
    walkable = walkable_cells(world)
    leads_by_script = {place.map for place, words in scripts for word in words if word.name in ("warp", "chain")}
    for name, entry in maps.items():
        if not entry.get("warps") and name not in leads_by_script:
            raise UserError(f"map {name}: has no exit")
        for warp in entry.get("warps", []):
            target = maps[warp["to"]]
            if warp["warp"] >= len(target.get("warps", [])):
                raise UserError(f"map {name}: warp {warp} leads nowhere")
            x, y = target["warps"][warp["warp"]]["at"]
            if (warp["to"], x, y) not in walkable:
                raise UserError(f"map {name}: the warp to {warp['to']} leads into a wall at {x}, {y}")
    for place, words in scripts:
        for word in words:
            if word.name == "warp" and (word.operands[0], int(word.operands[1]), int(word.operands[2])) not in walkable:
                raise UserError(f"script on map {place.map or place.name}: warp {' '.join(word.operands)} is a wall")
    for school in world.get("school", []):
        if (school["map"], *school["at"]) not in walkable:
            raise UserError(f"school {school['name']}: stands in a wall")


def _check_uses(world: Mapping[str, Any], scripts: list[tuple[Place, tuple[Word, ...]]]) -> None:
    """Each flag is set, each item given or sold, each trainer fought."""
    said: dict[str, set[str]] = {}
    for _, words in scripts:
        for word in words:
            said.setdefault(word.name, set()).update(word.operands)
    flags = said.get("set", set())
    items = said.get("give", set()) | said.get("shop", set()) | {name for name, _ in world["game"].get("bag", [])}
    for what, names, used in (
        ("flag", world["flags"], flags),
        ("item", (entry["name"] for entry in world["item"]), items),
        ("trainer", (entry["name"] for entry in world.get("trainer", [])), said.get("battle", set())),
    ):
        for name in names:
            if name not in used:
                raise UserError(f"{what} {name} is never used")


def walkable_cells(world: Mapping[str, Any]) -> dict[Cell, str]:
    """(map, x, y) of all cells that let pass, with their keys. Whoever stands there is left out of account."""
    walk = {cell["key"] for cell in world["cells"] if cell.get("walk")}
    return {
        (entry["name"], x, y): key
        for entry in world["map"]
        for y, row in enumerate(map_rows(entry))
        for x, key in enumerate(row)
        if key in walk
    }


def reachable_cells(world: Mapping[str, Any], scripts: list[tuple[Place, tuple[Word, ...]]]) -> set[Cell]:
    """The cells that can be had from the start or a school if every script does all it could, and whoever can be
    hidden is away."""
    walkable = walkable_cells(world)
    hidden = {word.operands[0] for _, words in scripts for word in words if word.name in ("hide", "show")}
    blocked, doors = set(), {}
    maps = {entry["name"]: entry for entry in world["map"]}
    carry = {cell["key"]: cell["carry"] for cell in world["cells"] if "carry" in cell}
    for name, entry in maps.items():
        blocked |= {(name, *thing["at"]) for thing in entry.get("object", []) if thing.get("name") not in hidden}
        for warp in entry.get("warps", []):
            doors[name, *warp["at"]] = (warp["to"], *maps[warp["to"]]["warps"][warp["warp"]]["at"])
    game = world["game"]["start"]
    todo = [(game["map"], *game["at"]), *((entry["map"], *entry["at"]) for entry in world.get("school", []))]
    todo += [
        (word.operands[0], int(word.operands[1]), int(word.operands[2]))
        for _, words in scripts
        for word in words
        if word.name == "warp"
    ]
    reached = set(todo)
    while todo:
        cell = todo.pop()
        name, x, y = cell
        steps = [STEPS[carry[walkable[cell]]]] if carry.get(walkable.get(cell, "")) else list(STEPS.values())
        after = [(name, x + dx, y + dy) for dx, dy in steps]
        # Onto a door is through it, and out of the other end.
        for other in after + [door for door in [doors.get(cell)] if door is not None]:
            if other in walkable and other not in blocked and other not in reached:
                reached.add(other)
                todo.append(other)
    return reached
