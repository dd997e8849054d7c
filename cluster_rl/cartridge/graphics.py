"""Graphics of a world: of the tiles, sprites and pictures that all worlds share, those that it names.

The build runs it. In: a world file, its cells and the art files. Out: names of what is used, and resources.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from cluster_rl.cartridge.pictures import Art, box_tiles, cut_tiles, font_tiles, read_art
from cluster_rl.cartridge.resources import Resources
from cluster_rl.errors import UserError

MAX_TILES, MAX_SHEETS = 96, 9
HERO: Final = "hero"
_HERO_PICTURES = ("hero_down", "hero_down_walk", "hero_up", "hero_up_walk", "hero_left", "hero_left_walk")
_SIDES: Final = ("down", "up", "left")
FLICKERING_TILE: Final = "static"


def tiles_used(world: Mapping[str, Any], cells: Sequence[Mapping[str, Any]], banners: set[str]) -> Art:
    """The background tiles that a world shows, in the art file's order. Raises UserError for too many."""
    names = {tile for cell in cells for tile in cell["tiles"]} | banners
    if any(entry.get("flicker") for entry in world["map"]):
        names.add(FLICKERING_TILE)
    tiles = read_art("tiles.txt")
    unknown = sorted(names - tiles.keys())
    if unknown:
        raise UserError(f"no tile {unknown[0]} in tiles.txt")
    if len(names) > MAX_TILES:
        raise UserError(f"more than {MAX_TILES} background tiles")
    return {name: rows for name, rows in tiles.items() if name in names}


def sheets_used(world: Mapping[str, Any]) -> list[str]:
    """The sprite sheets that a world shows, the player's first."""
    names = {person["sprite"] for entry in world["map"] for person in entry.get("object", [])}
    known = [name.removesuffix("_down") for name in read_art("sprites.txt") if name.endswith("_down")]
    unknown = sorted(names - set(known))
    if unknown:
        raise UserError(f"no sprite {unknown[0]} in sprites.txt")
    sheets = [HERO, *(name for name in known if name in names and name != HERO)]
    if len(sheets) > MAX_SHEETS:
        raise UserError(f"more than {MAX_SHEETS} sprite sheets")
    return sheets


def add_graphics(resources: Resources, world: Mapping[str, Any], tiles: Art, sheets: Sequence[str]) -> None:
    """Tiles, font, box parts, sprites and the creatures' pictures."""
    resources.add("RES_TILES", b"".join(map(cut_tiles, tiles.values())))
    resources.add("RES_FONT", font_tiles())
    resources.add("RES_BOX", box_tiles())
    sprites = read_art("sprites.txt")
    names = list(_HERO_PICTURES)
    for sheet in sheets[1:]:
        # What looks the same from all sides has one picture.
        names += [f"{sheet}_{side}" if f"{sheet}_{side}" in sprites else f"{sheet}_down" for side in _SIDES]
    resources.add("RES_SPRITES", b"".join(cut_tiles(sprites[name]) for name in names))
    pictures = read_art("pictures.txt")
    resources.add("RES_PICTURES", *[cut_tiles(pictures[entry["picture"]]) for entry in world["species"]])
