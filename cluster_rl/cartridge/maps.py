"""Maps of the cartridge: cells of 16 x 16 pixels, and what stands on them, to the bytes that the engine loads.

The build runs it. In: the cells and the maps of a world file. Out: the table of cells, the tiles that let pass or
carry, and one record a map. What breaks a limit of the engine is a `UserError`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from cluster_rl.cartridge.ids import FACINGS, Ids
from cluster_rl.cartridge.scripts import Scripts
from cluster_rl.errors import UserError

MAX_CELLS, MAP_BUFFER_BYTES = 64, 1300
# Of each kind, most on one map; the first three by the places that the real game has for them, sprites by the console.
MAX_THINGS: Final = {"warps": 32, "signs": 16, "object": 9, "spot": 8}
ARROW_KEYS = {"down": 0x80, "up": 0x40, "left": 0x20, "right": 0x10}
# Tileset numbers by kind of map, as in the real game; the engine itself has one tileset.
TILESETS: Final = {"outdoors": 0, "shop": 2, "forest": 3, "clinic": 6, "gym": 7, "house": 8, "gate": 12, "cave": 17}
NOTHING = 0xFF
_DARK, _FLICKER = 1, 2


def cells_used(world: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The cells that a world's maps are drawn with, in their own order. Raises UserError for an unknown key."""
    keys = {key for entry in world["map"] for key in entry["cells"] + entry.get("border", " ")} - {"\n"}
    unknown = sorted(keys - {cell["key"] for cell in cells})
    if unknown:
        raise UserError(f"no cell {unknown[0]!r} in cells.toml")
    if len(keys) > MAX_CELLS:
        raise UserError(f"more than {MAX_CELLS} cell kinds")
    return [cell for cell in cells if cell["key"] in keys]


def compile_cells(cells: Sequence[Mapping[str, Any]], tile_ids: Mapping[str, int]) -> tuple[bytes, list[int], int]:
    """(cell table: 4 tiles of each cell, a quarter of the page each; walkable tile numbers; tall grass's tile)."""
    table = bytearray(4 * MAX_CELLS)
    walkable: dict[int, bool] = {}
    for number, cell in enumerate(cells):
        for corner, tile in enumerate(cell["tiles"]):
            table[corner * MAX_CELLS + number] = tile_ids[tile]
        # Collision looks at the lower left tile alone, so it must not block in one cell and let pass in another.
        feet, walk = tile_ids[cell["tiles"][2]], cell.get("walk", False)
        if walkable.setdefault(feet, walk) != walk:
            raise UserError(f"tile {cell['tiles'][2]} both blocks and does not")
    grass = next((tile_ids[cell["tiles"][2]] for cell in cells if cell.get("grass")), NOTHING)
    return bytes(table), sorted(tile for tile, walk in walkable.items() if walk), grass


def carrying_tiles(cells: Sequence[Mapping[str, Any]], tile_ids: Mapping[str, int]) -> list[int]:
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


def sign_script(sign: Mapping[str, Any]) -> str:
    """The script of a sign, which may be given as what it says and the flag that reading it sets."""
    if "script" in sign:
        return str(sign["script"])
    return f'say "{sign["say"]}"' + (f"\nset {sign['set']}" if "set" in sign else "")


def compile_map(entry: Mapping[str, Any], world: Mapping[str, Any], ids: Ids, scripts: Scripts) -> bytes:
    """Header, wild slots, warps, signs, people, spots (cells with a script for who steps on them), cells.

    The scripts of a map are numbered from its own first, as texts are in the real game.
    """
    rows, name = map_rows(entry), entry["name"]
    for kind, most in MAX_THINGS.items():
        if len(entry.get(kind, [])) > most:
            raise UserError(f"map {name}: more than {most} {kind.rstrip('s')}s")
    base = len(scripts.codes)

    def script(source: str) -> int:
        number = scripts.compile(source, name) - base
        if number >= NOTHING:
            raise UserError(f"map {name}: more than {NOTHING} scripts")
        return number

    wild = entry.get("wild", {"rate": 0, "list": []})
    tileset = TILESETS[entry.get("tileset", "outdoors")]
    head = bytearray([len(rows[0]), len(rows), tileset, ids.cells[entry.get("border", " ")], wild["rate"]])
    slots = [(level, ids.species[name]) for name, level in wild["list"]] or [(0, 0)]
    for slot in (slots * 10)[:10]:
        head += bytes(slot)
    head.append(_DARK * bool(entry.get("dark")) | _FLICKER * bool(entry.get("flicker")))
    head += base.to_bytes(2, "little")
    head.append(script(entry["enter"]) if "enter" in entry else NOTHING)
    data = bytearray([len(entry.get("warps", []))])
    for warp in entry.get("warps", []):
        data += bytes([warp["at"][1], warp["at"][0], warp["warp"], ids.maps[warp["to"]]])
    data.append(len(entry.get("signs", [])))
    for sign in entry.get("signs", []):
        data += bytes([sign["at"][1], sign["at"][0], script(sign_script(sign))])
    data.append(len(entry.get("object", [])))
    for person in entry.get("object", []):
        sheet, facing = ids.sheets[person["sprite"]], FACINGS[person["facing"]]
        missable = ids.missables.get(person.get("name", ""), NOTHING)
        data += bytes([person["at"][1], person["at"][0], sheet, facing, script(person["script"]), missable])
    data.append(len(entry.get("spot", [])))
    for spot in entry.get("spot", []):
        data += bytes([spot["at"][1], spot["at"][0], script(spot["script"])])
    for row in rows:
        data += bytes(ids.cells[cell] for cell in row)
    return bytes(head + data)
