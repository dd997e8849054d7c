"""Compiles one world of `content/` into data banks, C tables and the names table of its ROM.

The build runs it. In: `content/WORLD.toml`, `content/cells.toml` and the ASCII-art files. Out: `Compiled`, which
`build.py` hands to the C compiler and the linker. Everything depends on the files alone, in their own order: equal
files give equal bytes.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster_rl.cartridge import CONTENT_DIR
from cluster_rl.cartridge.checks import check_world
from cluster_rl.cartridge.graphics import add_graphics, sheets_used, tiles_used
from cluster_rl.cartridge.ids import Ids
from cluster_rl.cartridge.maps import carrying_tiles, cells_used, compile_cells, compile_map
from cluster_rl.cartridge.records import add_names, add_records
from cluster_rl.cartridge.resources import Resources
from cluster_rl.cartridge.scripts import Scripts
from cluster_rl.cartridge.sources import all_scripts
from cluster_rl.cartridge.tables import c_header, c_tables, names_table
from cluster_rl.cartridge.text import Texts
from cluster_rl.errors import UserError


@dataclass(frozen=True)
class Compiled:
    """What the compiler and the linker need, and the table that RAM readers use."""

    title: str
    resources: Resources
    c_header: str
    c_tables: str
    cell_table: bytes
    table: dict[str, Any]


def read_world(name: str) -> dict[str, Any]:
    """A world file of `content/`, with the cells that all worlds share under `cells`. Raises UserError."""
    world: dict[str, Any] = {}
    for file in ("cells.toml", f"{name}.toml"):
        try:
            world |= tomllib.loads((CONTENT_DIR / file).read_text(encoding="utf-8"))
        except tomllib.TOMLDecodeError as error:
            raise UserError(f"{file}: {error}") from None
    return world


def compile_world(world: Mapping[str, Any]) -> Compiled:
    """Compiles what `read_world` gave. Raises UserError where the content breaks a limit of the engine."""
    try:
        check_world(world)
        return _compile(world)
    except KeyError as error:
        raise UserError(f"content: unknown name {error}") from None


def _compile(world: Mapping[str, Any]) -> Compiled:
    cells = cells_used(world, world["cells"])
    banners = {word.operands[0] for _, words in all_scripts(world) for word in words if word.name == "banner"}
    tiles, sheets = tiles_used(world, cells, banners), sheets_used(world)
    ids = Ids.of(world, tiles, cells, sheets)
    cell_table, walkable, grass_tile = compile_cells(cells, ids.tiles)
    resources, texts = Resources(), Texts(ids.secrets)
    scripts = Scripts(ids, texts)
    for entry in world.get("script", []):
        scripts.compile(entry["script"])
    add_graphics(resources, world, tiles, sheets)
    add_records(resources, world, ids, scripts)
    add_names(resources, world, ids)
    resources.add("RES_MAPS", *[compile_map(entry, world, ids, scripts) for entry in world["map"]])
    resources.add("RES_SCRIPTS", *scripts.codes)
    resources.add("RES_TEXTS", *texts.messages)
    return Compiled(
        title=world["game"]["title"],
        resources=resources,
        c_header=c_header(world, ids, resources, grass_tile),
        c_tables=c_tables(world, ids, walkable, carrying_tiles(cells, ids.tiles)),
        cell_table=cell_table,
        table=names_table(world, ids),
    )
