"""Compiles `content/` (world, art, texts) into data banks, C tables and the names table of the embedded cartridge.

The build runs it. In: `content/world.toml` and the ASCII-art files. Out: `Compiled`, which `build.py` hands to the C
compiler and the linker. Everything depends on the files alone, in their own order: equal files give equal bytes.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster_rl.cartridge import CONTENT_DIR
from cluster_rl.cartridge.ids import Ids
from cluster_rl.cartridge.maps import carrying_tiles, compile_cells, compile_map
from cluster_rl.cartridge.pictures import Art, box_tiles, cut_tiles, font_tiles, read_art
from cluster_rl.cartridge.resources import Resources
from cluster_rl.cartridge.scripts import Scripts
from cluster_rl.cartridge.tables import c_header, c_tables, names_table
from cluster_rl.cartridge.text import message, name_bytes
from cluster_rl.errors import UserError

MAX_TILES = 96
START_MENU = ("TEAM", "BAG", "", "SAVE", "OPTION", "EXIT")


@dataclass(frozen=True)
class Compiled:
    """What the compiler and the linker need, and the table that RAM readers use."""

    title: str
    resources: Resources
    c_header: str
    c_tables: str
    cell_table: bytes
    table: dict[str, Any]


def compile_world() -> Compiled:
    """Reads `content/` and compiles it. Raises UserError where the content breaks a limit of the engine."""
    try:
        return _compile(tomllib.loads((CONTENT_DIR / "world.toml").read_text(encoding="utf-8")))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"world.toml: {error}") from None
    except KeyError as error:
        raise UserError(f"content: unknown name {error}") from None


def _compile(world: Mapping[str, Any]) -> Compiled:
    tiles = read_art("tiles.txt")
    if len(tiles) > MAX_TILES:
        raise UserError(f"more than {MAX_TILES} background tiles")
    ids = Ids.of(world, tiles)
    cell_table, walkable, grass_tile = compile_cells(world["tileset"]["cells"], ids.tiles)
    resources = Resources()
    add_graphics(resources, world, tiles)
    add_records(resources, world, ids)
    add_names(resources, world, ids)
    scripts = Scripts(ids)
    resources.add("RES_MAPS", *[compile_map(entry, world, ids, scripts) for entry in world["map"]])
    resources.add("RES_SCRIPTS", *scripts.codes)
    resources.add("RES_TEXTS", *scripts.texts)
    return Compiled(
        title=world["game"]["title"],
        resources=resources,
        c_header=c_header(world, ids, resources, grass_tile),
        c_tables=c_tables(world, ids, walkable, carrying_tiles(world["tileset"]["cells"], ids.tiles)),
        cell_table=cell_table,
        table=names_table(world, ids),
    )


def add_graphics(resources: Resources, world: Mapping[str, Any], tiles: Art) -> None:
    """Tiles, font, box parts and sprites."""
    resources.add("RES_TILES", b"".join(map(cut_tiles, tiles.values())))
    resources.add("RES_FONT", font_tiles())
    resources.add("RES_BOX", box_tiles())
    resources.add("RES_SPRITES", b"".join(map(cut_tiles, read_art("sprites.txt").values())))
    pictures = read_art("pictures.txt")
    resources.add("RES_PICTURES", *[cut_tiles(pictures[entry["picture"]]) for entry in world["species"]])


def add_records(resources: Resources, world: Mapping[str, Any], ids: Ids) -> None:
    """Numbers of species, moves and trainers."""
    species = bytearray()
    for entry in world["species"]:
        moves = [ids.moves[move] for move in entry["moves"]]
        species += bytes([*entry["base"], *[*moves, 0][:2], entry["catch"], entry["exp"]])
    resources.add("RES_SPECIES", species)
    resources.add(
        "RES_MOVES", b"".join(bytes([entry["power"], entry["accuracy"], entry["pp"]]) for entry in world["move"])
    )
    trainers = bytearray()
    for entry in world["trainer"]:
        (name, level), *_ = entry["team"]
        trainers += bytes([entry["class"], ids.species[name], level, 0, binary_coded(entry["prize"] // 100)])
    resources.add("RES_TRAINERS", trainers)


def add_names(resources: Resources, world: Mapping[str, Any], ids: Ids) -> None:
    """Names, menu entries and the engine's own texts."""
    item_names = {number: name for name, number in ids.items.items()}
    resources.add("TXT_SPECIES_NAMES", *map(name_bytes, ids.species))
    resources.add("TXT_MOVE_NAMES", *map(name_bytes, ids.moves))
    resources.add("TXT_ITEM_NAMES", *[name_bytes(item_names.get(i + 1, "")) for i in range(max(item_names))])
    resources.add("TXT_TRAINER_NAMES", *map(name_bytes, ids.trainers))
    resources.add("TXT_START_ITEMS", *map(name_bytes, START_MENU))
    resources.add("TXT_CANCEL", name_bytes("CANCEL"))
    resources.add("TXT_BATTLE_MENU", name_bytes("FIGHT PAL"), name_bytes("BAG   RUN"))
    for key, text in world["texts"].items():
        resources.add(f"TXT_{key.upper()}", message(text))


def binary_coded(number: int) -> int:
    """A number of two digits as binary-coded decimal."""
    return int(str(number), 16)
