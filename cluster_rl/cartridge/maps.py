"""Maps of the cartridge: cells of 16 x 16 pixels, and what stands on them, to the bytes that the engine loads.

The build runs it. In: the tileset's cells and the maps of `content/world.toml`. Out: the table of cells, the tiles that
let pass or carry, and one record a map. What breaks a limit of the engine is a `UserError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster_rl.cartridge.ids import Ids
from cluster_rl.cartridge.scripts import Scripts
from cluster_rl.errors import UserError

MAX_CELLS, MAP_BUFFER_BYTES, MAX_SPOTS = 64, 1300, 4
SPRITE_SHEETS = {"hero": 0, "folk": 1}
FACINGS = {"down": 0, "up": 4, "left": 8, "right": 12}
ARROW_KEYS = {"down": 0x80, "up": 0x40, "left": 0x20, "right": 0x10}


def compile_cells(cells: list[dict[str, Any]], tile_ids: Mapping[str, int]) -> tuple[bytes, list[int], int]:
    """(cell table: 4 tiles of each cell, a quarter of the page each; walkable tile numbers; tall grass's tile)."""
    if len(cells) > MAX_CELLS:
        raise UserError(f"more than {MAX_CELLS} cell kinds")
    table = bytearray(4 * MAX_CELLS)
    walkable: dict[int, bool] = {}
    for number, cell in enumerate(cells):
        for corner, tile in enumerate(cell["tiles"]):
            table[corner * MAX_CELLS + number] = tile_ids[tile]
        # Collision looks at the lower left tile alone, so it must not block in one cell and let pass in another.
        feet, walk = tile_ids[cell["tiles"][2]], cell.get("walk", False)
        if walkable.setdefault(feet, walk) != walk:
            raise UserError(f"tile {cell['tiles'][2]} both blocks and does not")
    grass = next(tile_ids[cell["tiles"][2]] for cell in cells if cell.get("grass"))
    return bytes(table), sorted(tile for tile, walk in walkable.items() if walk), grass


def carrying_tiles(cells: list[dict[str, Any]], tile_ids: Mapping[str, int]) -> list[int]:
    """(tile, arrow key) pairs of the cells that carry whoever stands on them; as for walls, the lower left tile counts.

    Raises UserError where such a tile is also one of a cell that carries elsewhere, or nowhere.
    """
    keys: dict[int, int] = {}
    for cell in cells:
        feet, key = tile_ids[cell["tiles"][2]], ARROW_KEYS[cell["carry"]] if "carry" in cell else 0
        if keys.setdefault(feet, key) != key:
            raise UserError(f"tile {cell['tiles'][2]} carries in one cell and not in another")
    return [value for tile, key in keys.items() if key for value in (tile, key)]


def map_rows(entry: Mapping[str, Any]) -> list[str]:
    """The rows of a map's cells."""
    rows = entry["cells"].strip("\n").split("\n")
    width, height = len(rows[0]), len(rows)
    if any(len(row) != width for row in rows) or width % 2 or height % 2:
        raise UserError(f"map {entry['name']}: rows differ in length or a side is odd")
    if (width + 9) * (height + 8) > MAP_BUFFER_BYTES:
        raise UserError(f"map {entry['name']}: too large for the map buffer")
    return list(rows)


def compile_map(entry: Mapping[str, Any], world: Mapping[str, Any], ids: Ids, scripts: Scripts) -> bytes:
    """Header, wild slots, warps, signs, people, spots (cells with a script for who steps on them), cells."""
    rows = map_rows(entry)
    wild = entry.get("wild", {"rate": 0, "list": []})
    data = bytearray([len(rows[0]), len(rows), 0, ids.cells[entry.get("border", " ")], wild["rate"]])
    slots = [(level, ids.species[name]) for name, level in wild["list"]] or [(0, 0)]
    for slot in (slots * 10)[:10]:
        data += bytes(slot)
    warps = entry.get("warps", [])
    data.append(len(warps))
    for warp in warps:
        target = next(other for other in world["map"] if other["name"] == warp["to"])
        if warp["warp"] >= len(target["warps"]):
            raise UserError(f"map {entry['name']}: warp {warp} leads nowhere")
        data += bytes([warp["at"][1], warp["at"][0], warp["warp"], ids.maps[warp["to"]]])
    signs = entry.get("signs", [])
    data.append(len(signs))
    for sign in signs:
        source = f'say "{sign["say"]}"' + (f"\nset {sign['set']}" if "set" in sign else "")
        data += bytes([sign["at"][1], sign["at"][0], scripts.compile(source)])
    people = entry.get("object", [])
    data.append(len(people))
    for person in people:
        sheet, facing = SPRITE_SHEETS[person["sprite"]], FACINGS[person["facing"]]
        data += bytes([person["at"][1], person["at"][0], sheet, facing, scripts.compile(person["script"])])
    spots = entry.get("spot", [])
    if len(spots) > MAX_SPOTS:
        raise UserError(f"map {entry['name']}: more than {MAX_SPOTS} spots")
    data.append(len(spots))
    for spot in spots:
        data += bytes([spot["at"][1], spot["at"][0], scripts.compile(spot["script"])])
    for row in rows:
        data += bytes(ids.cells[cell] for cell in row)
    return bytes(data)
