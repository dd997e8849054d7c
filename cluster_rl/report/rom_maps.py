"""Maps of an embedded world as its ROM draws them, with whoever stands on them.

`world_map` uses it. In: a ROM's bytes, and the world file that it was built from, which numbers what lies in it. Out: a
picture of shades for each map. Nothing is run: tiles, cells, sprites and maps are read where the engine's `res_load`
finds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cluster_rl.cartridge.compile_content import compile_world
from cluster_rl.cartridge.graphics import sheets_used
from cluster_rl.cartridge.maps import MAX_CELLS, map_rows
from cluster_rl.cartridge.resources import BANK_BYTES, FIRST_DATA_BANK
from cluster_rl.cartridge.tables import CELL_TABLE_PAGE

CELL_PIXELS: Final = 16
_TILE_PIXELS, _TILE_BYTES, _DIRECTORY_BYTES = 8, 16, 5
_HERO_PICTURES, _SIDES = 6, ("down", "up", "left")
_SPRITE_TILES = 4

Shades = npt.NDArray[np.uint8]
"""A picture, 0 the lightest to 3."""


class RomMaps:
    """The maps of one ROM."""

    def __init__(self, rom: bytes, world: Mapping[str, Any]) -> None:
        """`rom` must be what `world` was built to: raises ValueError where a map has another size in it."""
        self._rom, self._world = rom, world
        self._numbers = compile_world(world).resources.names
        self._tiles = _tiles(self._piece(self._numbers["RES_TILES"]))  # [n, 8, 8]
        self._sprites = _tiles(self._piece(self._numbers["RES_SPRITES"]))
        self._sheets = sheets_used(world)
        table = rom[CELL_TABLE_PAGE << 8 : (CELL_TABLE_PAGE << 8) + 4 * MAX_CELLS]
        self._cell_tiles = np.frombuffer(table, np.uint8).reshape(4, MAX_CELLS)

    def picture(self, name: str) -> Shades:
        """A map of that name, uint8 [16 h, 16 w], people and all. Raises ValueError as above."""
        number = next(i for i, entry in enumerate(self._world["map"]) if entry["name"] == name)
        entry = self._world["map"][number]
        rows = map_rows(entry)
        width, height = len(rows[0]), len(rows)
        record = self._piece(self._numbers["RES_MAPS"] + number)
        if (record[0], record[1]) != (width, height):
            raise ValueError(
                f"{name}: {record[0]} x {record[1]} cells in the ROM, {width} x {height} in the world file"
            )
        cells = np.frombuffer(record[-width * height :], np.uint8).reshape(height, width)
        corners = self._tiles[self._cell_tiles[:, cells]]  # [4, h, w, 8, 8]: top left, top right, bottom left, right
        quarters = corners.reshape(2, 2, height, width, _TILE_PIXELS, _TILE_PIXELS)
        picture = quarters.transpose(2, 0, 4, 3, 1, 5).reshape(height * CELL_PIXELS, width * CELL_PIXELS).copy()
        for person in entry.get("object", []):
            x, y = (CELL_PIXELS * place for place in person["at"])
            under = picture[y : y + CELL_PIXELS, x : x + CELL_PIXELS]
            sprite = self._sprite(person["sprite"], person["facing"])
            np.copyto(under, sprite, where=sprite != 0)
        return picture

    def _piece(self, number: int) -> bytes:
        entry = FIRST_DATA_BANK * BANK_BYTES + _DIRECTORY_BYTES * number
        bank, *words = self._rom[entry : entry + _DIRECTORY_BYTES]
        address, length = words[0] | words[1] << 8, words[2] | words[3] << 8
        start = (bank - 1) * BANK_BYTES + address  # the bank is seen from BANK_BYTES on
        return self._rom[start : start + length]

    def _sprite(self, sheet: str, facing: str) -> Shades:
        """uint8 [16, 16]; 0 lets the map through. Who looks right is who looks left, mirrored."""
        side = _SIDES.index("left" if facing == "right" else facing)
        number = _HERO_PICTURES + len(_SIDES) * (self._sheets.index(sheet) - 1) + side
        tiles = self._sprites[_SPRITE_TILES * number : _SPRITE_TILES * (number + 1)].reshape(2, 2, 8, 8)
        sprite = tiles.transpose(0, 2, 1, 3).reshape(CELL_PIXELS, CELL_PIXELS)
        return sprite[:, ::-1] if facing == "right" else sprite


def _tiles(data: bytes) -> Shades:
    """Tiles of two bits a pixel to uint8 [n, 8, 8]."""
    planes = np.unpackbits(np.frombuffer(data, np.uint8).reshape(-1, _TILE_PIXELS, 2, 1), axis=3)
    return planes[:, :, 0] + 2 * planes[:, :, 1]
