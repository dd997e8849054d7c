"""All scripts of a world file, with where each one is.

The checks and the solver use it. In: a world file. Out: scripts in words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cluster_rl.cartridge.maps import sign_script
from cluster_rl.cartridge.scripts import Word, parse_script

Kind = Literal["sign", "object", "spot", "enter", "script", "item", "school"]


@dataclass(frozen=True)
class Place:
    """Where a script is: on a map, at a cell unless it is run on arriving; or under the name of what runs it."""

    kind: Kind
    map: str = ""
    at: tuple[int, int] | None = None
    name: str = ""


def all_scripts(world: Mapping[str, Any]) -> Iterator[tuple[Place, tuple[Word, ...]]]:
    """Each script of a world with its place: maps in order, then named ones, items and schools."""
    for place, source in _sources(world):
        yield place, parse_script(source)


def _sources(world: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    for entry in world["map"]:
        name = entry["name"]
        if "enter" in entry:
            yield Place("enter", name), entry["enter"]
        for sign in entry.get("signs", []):
            yield Place("sign", name, _cell(sign)), sign_script(sign)
        for person in entry.get("object", []):
            yield Place("object", name, _cell(person), person.get("name", "")), person["script"]
        for spot in entry.get("spot", []):
            yield Place("spot", name, _cell(spot)), spot["script"]
    for kind, key, word in _NAMED:
        for entry in world.get(key, []):
            if word in entry:
                yield Place(kind, name=entry["name"]), entry[word]


_NAMED: tuple[tuple[Kind, str, str], ...] = (
    *(("script", "script", "script"), ("item", "item", "use"), ("school", "school", "script")),
)


def _cell(entry: Mapping[str, Any]) -> tuple[int, int]:
    return entry["at"][0], entry["at"][1]
