"""Numbers of what a world file names: tiles, cells, species, moves, items, trainers, flags, maps, people, secrets.

The build makes them once and hands them to all that turns names into bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cluster_rl.errors import UserError

FACINGS: Final = {"down": 0, "up": 4, "left": 8, "right": 12}
MAX_SECRETS: Final = 4
MAX_MISSABLES: Final = 255


@dataclass(frozen=True)
class Secret:
    """Something drawn anew for each game: one of `count` values, or their order. `words` say the values."""

    index: int
    kind: str
    count: int
    words: tuple[str, ...]
    first_word: int

    def value(self, text: str) -> int:
        """A value, given as a number or by its word. Raises UserError for one that it cannot have."""
        if text in self.words:
            return self.words.index(text)
        if not text.isdecimal() or int(text) >= self.count:
            raise UserError(f"secret value {text}: expected one of {', '.join(self.words)} or 0 to {self.count - 1}")
        return int(text)

    @property
    def code(self) -> bytes:
        """Its number and how many values it has."""
        return bytes([self.index, self.count])


@dataclass(frozen=True)
class Ids:
    """The numbers that names of the world stand for. `objects` are (map, slot); `missables` those that can vanish."""

    tiles: dict[str, int]
    cells: dict[str, int]
    sheets: dict[str, int]
    species: dict[str, int]
    moves: dict[str, int]
    items: dict[str, int]
    trainers: dict[str, int]
    flags: dict[str, int]
    maps: dict[str, int]
    scripts: dict[str, int]
    objects: dict[str, tuple[str, int]]
    missables: dict[str, int]
    secrets: dict[str, Secret]

    @classmethod
    def of(
        cls, world: Mapping[str, Any], tiles: Iterable[str], cells: Iterable[Mapping[str, Any]], sheets: Iterable[str]
    ) -> Ids:
        """Those of a world file; species, moves and trainers count from 1. Raises UserError for a name given twice."""
        objects: dict[str, tuple[str, int]] = {}
        missables: dict[str, int] = {}
        for entry in world["map"]:
            for slot, person in enumerate(entry.get("object", []), 1):
                name = person.get("name")
                if name is None:
                    if person.get("hidden"):
                        raise UserError(f"map {entry['name']}: who is hidden needs a name")
                    continue
                if name in objects or name == "PLAYER":
                    raise UserError(f"object name {name} is taken")
                objects[name] = entry["name"], slot
                missables[name] = len(missables)
        if len(missables) > MAX_MISSABLES:
            raise UserError(f"more than {MAX_MISSABLES} named objects")
        return cls(
            tiles={name: i for i, name in enumerate(tiles)},
            cells={cell["key"]: i for i, cell in enumerate(cells)},
            sheets={name: i for i, name in enumerate(sheets)},
            species=_numbered(world, "species"),
            moves=_numbered(world, "move"),
            items={entry["name"]: entry["id"] for entry in world["item"]},
            trainers=_numbered(world, "trainer"),
            flags=dict(world["flags"]),
            maps={entry["name"]: entry["id"] for entry in world["map"]},
            scripts={entry["name"]: i for i, entry in enumerate(world.get("script", []))},
            objects=objects,
            missables=missables,
            secrets=_secrets(world),
        )

    def secret(self, name: str, kind: str) -> Secret:
        """A secret by name. Raises UserError where it is of the other kind."""
        secret = self.secrets[name]
        if secret.kind != kind:
            raise UserError(f"secret {name}: is no {kind}")
        return secret


def _numbered(world: Mapping[str, Any], kind: str) -> dict[str, int]:
    return {entry["name"]: i + 1 for i, entry in enumerate(world.get(kind, []))}


def _secrets(world: Mapping[str, Any]) -> dict[str, Secret]:
    secrets: dict[str, Secret] = {}
    first_word = 0
    for index, entry in enumerate(world.get("secret", [])):
        kind, count, words = entry.get("kind", "value"), entry["values"], tuple(entry.get("words", ()))
        if kind not in ("value", "order") or not 2 <= count <= (4 if kind == "order" else 255):
            raise UserError(f"secret {entry['name']}: no such kind or number of values")
        if words and len(words) != count:
            raise UserError(f"secret {entry['name']}: {len(words)} words for {count} values")
        secrets[entry["name"]] = Secret(index, kind, count, words, first_word)
        first_word += len(words)
    if len(secrets) > MAX_SECRETS:
        raise UserError(f"more than {MAX_SECRETS} secrets")
    return secrets
