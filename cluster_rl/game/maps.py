"""Maps: names, kinds, sizes, and where each lies on one common canvas.

Any process uses it. In: the `maps` part of a game table. Out: look-ups by map id, and global cells for heat maps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class MapInfo:
    """One map. Sizes and places are in cells of 16 pixels; a map without a place has None there."""

    id: int
    name: str
    category: str
    outdoor: bool
    width: int | None = None
    height: int | None = None
    global_x: int | None = None
    global_y: int | None = None
    lesson: str = ""  # which lesson it belongs to, empty for the game itself


class MapTable:
    """All maps of a game, and the canvas that they lie on.

    Some maps of the real game share cells on the canvas; drawing outdoor maps first keeps those readable.
    """

    def __init__(self, maps: Iterable[Mapping[str, Any]], canvas: tuple[int, int]) -> None:
        self.by_id = {entry["id"]: MapInfo(**entry) for entry in maps}
        self.canvas_size = canvas
        self.categories = tuple(sorted({info.category for info in self.by_id.values()}))

    def name(self, map_id: int) -> str:
        """The map's name; ids without a map have one too, so that odd RAM can be shown."""
        info = self.by_id.get(map_id)
        return info.name if info else f"MAP_{map_id}"

    def category(self, map_id: int) -> str:
        """`town`, `route`, `interior`, ...; `unused` for ids without a map."""
        info = self.by_id.get(map_id)
        return info.category if info else "unused"

    def lesson(self, map_id: int) -> str:
        """The lesson that the map belongs to, empty for the game itself."""
        info = self.by_id.get(map_id)
        return info.lesson if info else ""

    def is_outdoor(self, map_id: int) -> bool:
        """Whether it is a town, a route or another map under the sky."""
        info = self.by_id.get(map_id)
        return info.outdoor if info else False

    def size(self, map_id: int) -> tuple[int, int] | None:
        """(width, height) in cells, None where unknown."""
        info = self.by_id.get(map_id)
        return (info.width, info.height) if info and info.width is not None and info.height is not None else None

    def global_position(self, map_id: int, x: int, y: int) -> tuple[int, int] | None:
        """The canvas cell of cell (x, y) of a map; None for maps without a place and cells off the canvas."""
        info = self.by_id.get(map_id)
        if info is None or info.global_x is None or info.global_y is None:
            return None
        column, row = info.global_x + x, info.global_y + y
        width, height = self.canvas_size
        return (column, row) if 0 <= column < width and 0 <= row < height else None
