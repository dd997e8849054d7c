"""Numbers of what `content/world.toml` names: tiles, cells, species, moves, items, trainers, flags, maps.

The build makes them once and hands them to all that turns names into bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ids:
    """The numbers that names of the world stand for."""

    tiles: dict[str, int]
    cells: dict[str, int]
    species: dict[str, int]
    moves: dict[str, int]
    items: dict[str, int]
    trainers: dict[str, int]
    flags: dict[str, int]
    maps: dict[str, int]

    @classmethod
    def of(cls, world: Mapping[str, Any], tiles: Iterable[str]) -> Ids:
        """Those of a world file; species, moves and trainers count from 1."""
        return cls(
            tiles={name: i for i, name in enumerate(tiles)},
            cells={cell["key"]: i for i, cell in enumerate(world["tileset"]["cells"])},
            species={entry["name"]: i + 1 for i, entry in enumerate(world["species"])},
            moves={entry["name"]: i + 1 for i, entry in enumerate(world["move"])},
            items={entry["name"]: entry["id"] for entry in world["item"]},
            trainers={entry["name"]: i + 1 for i, entry in enumerate(world["trainer"])},
            flags=dict(world["flags"]),
            maps={entry["name"]: entry["id"] for entry in world["map"]},
        )
