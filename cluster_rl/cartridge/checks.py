"""Checks of a world as a whole: what no single record can tell.

The build runs it before it compiles. In: a world file. Out: nothing, or a `UserError` that says in one line what is
wrong: a door that leads nowhere, somebody whom nobody can reach, a name that is never used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from cluster_rl.cartridge.maps import map_rows
from cluster_rl.cartridge.scripts import Word, secret_place, successors
from cluster_rl.cartridge.sources import Place, all_scripts
from cluster_rl.errors import UserError

MAX_MILESTONES, MAX_KEY_ITEMS, MAX_BAG_KINDS, MAX_PARTY = 72, 24, 20, 6
MOST_OF_A_KIND: Final = 99
MAX_LEVEL, MAX_HEAL, TITLE_LETTERS, PLAYER_LETTERS = 40, 255, 11, 7
WAITING_WORDS: Final = frozenset(("say", "ask", "shop", "battle"))
MAP_IDS: Final = {"town": range(11), "route": range(12, 37)}
INTERIOR_IDS: Final = range(37, 0xFF)

_SECRET_SLOT: Final = re.compile(r"\{(?:secret|order):([^:}]*)")

Cell = tuple[str, int, int]
STEPS: Final = {"up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0)}


def check_world(world: Mapping[str, Any]) -> None:
    """Raises UserError for the first thing that is wrong, and KeyError for a name that there is not."""
    scripts = list(all_scripts(world))
    _check_numbers(world)
    _check_doors(world, scripts)
    _check_uses(world, scripts)
    _check_circles(scripts)
    _check_schools(world, scripts)
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
    game = world["game"]
    if len(game["title"]) > TITLE_LETTERS or not game["title"].isascii():
        raise UserError(f"title {game['title']!r} has more than {TITLE_LETTERS} letters, or others than ASCII has")
    if len(game["player"]) > PLAYER_LETTERS:
        raise UserError(f"player {game['player']} has more than {PLAYER_LETTERS} letters")
    levels = [("starter", game["starter"]["level"])] if "starter" in game else []
    for entry in world.get("trainer", []):
        levels += [(f"trainer {entry['name']}", level) for _, level in entry["team"]]
    for entry in world["map"]:
        levels += [(f"map {entry['name']}: wild one", level) for _, level in entry.get("wild", {"list": []})["list"]]
    for who, level in levels:
        if not 1 <= level <= MAX_LEVEL:
            raise UserError(f"{who} of level {level}: expected 1 to {MAX_LEVEL}")
    for entry in world["item"]:
        if not 0 <= entry.get("heal", 0) <= MAX_HEAL:
            raise UserError(f"item {entry['name']}: heals {entry['heal']}, expected at most {MAX_HEAL}")


def _unique(what: str, values: Iterable[object]) -> None:
    seen: set[object] = set()
    for value in values:
        if value in seen:
            raise UserError(f"{what} {value} is there twice")
        seen.add(value)


def _check_doors(world: Mapping[str, Any], scripts: list[tuple[Place, tuple[Word, ...]]]) -> None:
    maps = {entry["name"]: entry for entry in world["map"]}
    walkable = walkable_cells(world)
    for name, entry in maps.items():
        for warp in entry.get("warps", []):
            target = maps[warp["to"]]
            if warp["warp"] >= len(target.get("warps", [])):
                raise UserError(f"map {name}: warp {warp} leads nowhere")
            x, y = target["warps"][warp["warp"]]["at"]
            if (warp["to"], x, y) not in walkable:
                raise UserError(f"map {name}: the warp to {warp['to']} leads into a wall at {x}, {y}")
    for place, words in scripts:
        for word in words:
            if word.name == "warp" and warp_cell(word.operands) not in walkable:
                raise UserError(f"script on map {place.map or place.name}: warp {' '.join(word.operands)} is a wall")
    start = world["game"]["start"]
    if (start["map"], *start["at"]) not in walkable:
        raise UserError(f"game: starts in a wall at {start['at'][0]}, {start['at'][1]} on {start['map']}")
    for school in world.get("school", []):
        if (school["map"], *school["at"]) not in walkable:
            raise UserError(f"school {school['name']}: stands in a wall")
    _check_exits(world, scripts, walkable)


def _check_exits(
    world: Mapping[str, Any], scripts: list[tuple[Place, tuple[Word, ...]]], walkable: Mapping[Cell, str]
) -> None:
    """Wherever a door, a script or a start leads, a door or a script that can be got to leads away."""
    named = {place.name: words for place, words in scripts if place.kind == "script"}
    doors = door_ends(world)
    exits = set(doors)
    starts: set[Cell] = {(p["map"], *p["at"]) for p in (world["game"]["start"], *world.get("school", []))}
    arrivals = starts | set(doors.values())
    for place, words in scripts:
        warps = [word for word in with_chained(words, named) if word.name == "warp"]
        arrivals |= {warp_cell(word.operands) for word in warps}
        if place.at is not None and warps:
            exits.add((place.map, *place.at))
    people = {(entry["name"], *p["at"]) for entry in world["map"] for p in entry.get("object", []) if "name" not in p}
    for name, x, y in sorted(arrivals):
        beside: set[Cell] = set()
        todo = [(name, x, y)]
        while todo:
            _, here_x, here_y = todo.pop()
            near = {(name, here_x + dx, here_y + dy) for dx, dy in STEPS.values()} - beside
            beside |= near
            todo += [cell for cell in near if cell in walkable and cell not in people]
        if not beside & exits:
            raise UserError(f"map {name}: has no exit for who comes to {x}, {y}")


def with_chained(words: tuple[Word, ...], named: Mapping[str, tuple[Word, ...]]) -> list[Word]:
    """The words of a script and of those that it goes on to."""
    found, todo = list(words), {word.operands[0] for word in words if word.name == "chain"}
    done: set[str] = set()
    while todo - done:
        name = min(todo - done)
        done.add(name)
        found += named[name]
        todo |= {word.operands[0] for word in named[name] if word.name == "chain"}
    return found


def _check_circles(scripts: list[tuple[Place, tuple[Word, ...]]]) -> None:
    """No script goes round and round without a word that waits for a button."""
    numbers = {place.name: number for number, (place, _) in enumerate(scripts) if place.kind == "script"}
    after: dict[tuple[int, int], set[tuple[int, int]]] = {}
    for number, (_, words) in enumerate(scripts):
        for at, word in enumerate(words):
            if word.name == "chain":
                after[number, at] = {(numbers[word.operands[0]], 0)}
            elif word.name not in WAITING_WORDS:
                after[number, at] = {(number, other) for other in successors(words, at)}
    while ends := [spot for spot, others in after.items() if not others & after.keys()]:
        for spot in ends:
            del after[spot]
    for number, _ in after:
        place = scripts[number][0]
        raise UserError(f"script of {place.name or place.kind} {place.map}: goes in a circle in which nothing waits")


def _check_schools(world: Mapping[str, Any], scripts: list[tuple[Place, tuple[Word, ...]]]) -> None:
    """What a school's script gives must fit: nobody is there to read that it does not."""
    for place, words in scripts:
        if place.kind != "school":
            continue
        bag, party = dict(world["game"].get("bag", [])), int("starter" in world["game"])
        for word in words:
            if word.name in ("give", "take"):
                name, count = word.operands[0], int(word.operands[1])
                bag[name] = bag.get(name, 0) + (count if word.name == "give" else -count)
                if bag[name] <= 0:
                    del bag[name]
            party += word.name == "friend"
            if len(bag) > MAX_BAG_KINDS or any(n > MOST_OF_A_KIND for n in bag.values()) or party > MAX_PARTY:
                raise UserError(f"school {place.name}: {word.name} {word.operands[0]} does not fit the bag or team")


def _check_uses(world: Mapping[str, Any], scripts: list[tuple[Place, tuple[Word, ...]]]) -> None:
    """Each flag is set and read, each item given or sold, each trainer fought, each secret asked for or told."""
    said: dict[str, set[str]] = {}
    for _, words in scripts:
        for word in words:
            said.setdefault(word.name, set()).update(word.operands)
    flags = said.get("set", set())
    items = said.get("give", set()) | said.get("shop", set()) | {name for name, _ in world["game"].get("bag", [])}
    read = said.get("ifset", set()) | set(_events(world))
    told = {part for words in said.get("say", ()) for part in _SECRET_SLOT.findall(words)}
    secrets = {secret_place(name)[0] for word in ("ifsecret", "pull", "ifpulled") for name in said.get(word, ())} | told
    for what, names, used in (
        ("flag", world["flags"], flags),
        ("flag", world["flags"], read),
        ("secret", (entry["name"] for entry in world.get("secret", [])), secrets),
        ("item", (entry["name"] for entry in world["item"]), items),
        ("trainer", (entry["name"] for entry in world.get("trainer", [])), said.get("battle", set())),
    ):
        for name in names:
            if name not in used:
                raise UserError(f"{what} {name} is never {'read' if used is read else 'used'}")


def _events(world: Mapping[str, Any]) -> Iterator[str]:
    """The flags that milestones, the task's end and gates name."""
    todo = [*world["milestone"], world["task_end"]]
    for entry in todo:
        todo += entry.get("or", [])
        if "event" in entry:
            yield entry["event"]
    for gate in world.get("gate", []):
        yield from (gate[key] for key in ("event", "wrong", "told") if key in gate)


def door_ends(world: Mapping[str, Any]) -> dict[Cell, Cell]:
    """The cell of each door, and the one that it leads to."""
    maps = {entry["name"]: entry for entry in world["map"]}
    return {
        (name, *warp["at"]): (warp["to"], *maps[warp["to"]]["warps"][warp["warp"]]["at"])
        for name, entry in maps.items()
        for warp in entry.get("warps", [])
    }


def warp_cell(operands: Sequence[str]) -> Cell:
    """Where the script word `warp` with these operands leads."""
    name, x, y = operands
    return name, int(x), int(y)


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
    carry = {cell["key"]: cell["carry"] for cell in world["cells"] if "carry" in cell}
    doors = door_ends(world)
    blocked = {
        (entry["name"], *thing["at"])
        for entry in world["map"]
        for thing in entry.get("object", [])
        if thing.get("name") not in hidden
    }
    game = world["game"]["start"]
    todo = [(game["map"], *game["at"]), *((entry["map"], *entry["at"]) for entry in world.get("school", []))]
    todo += [warp_cell(word.operands) for _, words in scripts for word in words if word.name == "warp"]
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
