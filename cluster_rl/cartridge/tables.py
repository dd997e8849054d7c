"""What others than the engine's data banks know of the cartridge: constants for its C code, names for RAM readers.

The build runs it. In: the compiled world's numbers. Out: `res.h` and `tables.c` for the C compiler, and the names table
that becomes one of `game/tables/`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cluster_rl.cartridge.graphics import FLICKERING_TILE
from cluster_rl.cartridge.ids import Ids
from cluster_rl.cartridge.maps import NOTHING, TILESETS, map_rows
from cluster_rl.cartridge.resources import Resources
from cluster_rl.cartridge.scripts import WORDS
from cluster_rl.cartridge.text import END_CODE, name_bytes
from cluster_rl.errors import UserError

CELL_TABLE_PAGE = 0x7F


def c_array(name: str, values: Iterable[int]) -> str:
    """A constant byte array in C."""
    return f"const uint8_t {name}[] = {{{','.join(map(str, values))}}};\n"


def c_header(world: Mapping[str, Any], ids: Ids, resources: Resources, grass_tile: int) -> str:
    """`res.h`: numbers of resources and script words, and how a new game begins."""
    game = world["game"]
    starter = game.get("starter")
    numbers: dict[str, int | str] = dict(resources.names)
    numbers |= {f"OP_{word.upper()}": i for i, word in enumerate(WORDS)}
    numbers |= {
        "META_PAGE": CELL_TABLE_PAGE,
        "GRASS_TILE": grass_tile,
        "STATIC_TILE": ids.tiles.get(FLICKERING_TILE, NOTHING),
        "START_MAP": ids.maps[game["start"]["map"]],
        "START_X": game["start"]["at"][0],
        "START_Y": game["start"]["at"][1],
        "START_SPECIES": ids.species[starter["species"]] if starter else 0,
        "START_LEVEL": starter["level"] if starter else 0,
        "START_MONEY": f"0x{game['money']:06d}UL",
        "SECRETS": len(ids.secrets),
        "SCHOOLS": len(world.get("school", [])),
    }
    header = "".join(f"#define {name} {value}\n" for name, value in sorted(numbers.items()))
    arrays = ("map_ids", "item_ids", "hidden_at_first", "passable_tiles", "carrying_tiles", "start_name", "start_bag")
    return header + "".join(f"extern const uint8_t {name}[];\n" for name in arrays)


def c_tables(world: Mapping[str, Any], ids: Ids, walkable: list[int], carrying: list[int]) -> str:
    """`tables.c`: small constants that stay in the code banks."""
    game = world["game"]
    player = (name_bytes(game["player"]) + bytes([END_CODE] * 11))[:11]
    bag = [value for name, count in game.get("bag", []) for value in (ids.items[name], count)]
    people = [person for entry in world["map"] for person in entry.get("object", [])]
    hidden = [ids.missables[person["name"]] for person in people if person.get("hidden")]
    return (
        '#include <stdint.h>\n#include "res.h"\n'
        + c_array("map_ids", ids.maps.values())
        + c_array("item_ids", [*ids.items.values(), 0])
        + c_array("hidden_at_first", [*hidden, NOTHING])
        + c_array("passable_tiles", [*walkable, 0xFF])
        + c_array("carrying_tiles", [*carrying, 0xFF])
        + c_array("start_name", player)
        + c_array("start_bag", [*bag, 0])
    )


def names_table(world: Mapping[str, Any], ids: Ids) -> dict[str, Any]:
    """The table of `cluster_rl/game/tables/`, all but the ROM's hash: names, map places, milestones, the end."""
    maps = []
    for entry in world["map"]:
        rows = map_rows(entry)
        maps.append(
            {"id": entry["id"], "name": entry["name"].replace(" ", "_"), "category": entry["category"]}
            | {"outdoor": entry["category"] in ("town", "route"), "width": len(rows[0]), "height": len(rows)}
            | {"global_x": entry["place"][0], "global_y": entry["place"][1]}
            | ({"lesson": entry["lesson"]} if "lesson" in entry else {})
        )
    _check_places(maps)
    return {
        "title": world["game"]["title"],
        "canvas": [max(m["global_x"] + m["width"] for m in maps), max(m["global_y"] + m["height"] for m in maps)],
        "first_map": ids.maps[world["game"]["start"]["map"]],
        "task_end": _condition(world["task_end"], ids),
        "badges": world["badges"],
        "key_items": sorted(entry["id"] for entry in world["item"] if entry.get("key")),
        "milestones": [_condition(entry, ids) for entry in world["milestone"]],
        "maps": maps,
        "schools": [
            {"name": entry["name"], "map": ids.maps[entry["map"]], "x": entry["at"][0], "y": entry["at"][1]}
            for entry in world.get("school", [])
        ],
        "items": {str(number): name for name, number in ids.items.items()},
        "species": {str(number): name for name, number in ids.species.items()},
        "moves": {"0": "NO_MOVE"} | {str(number): name for name, number in ids.moves.items()},
        "tilesets": {str(number): name.upper() for name, number in TILESETS.items()},
        "events": {str(number): name for name, number in ids.flags.items()},
    }


def _condition(entry: Mapping[str, Any], ids: Ids) -> dict[str, Any]:
    """A milestone or another condition, with the names of its flag or map replaced by their numbers."""
    out = dict(entry)
    if "event" in entry:
        out["event"] = ids.flags[entry["event"]]
    if "map" in entry:
        out["map"] = ids.maps[entry["map"]]
    if "or" in entry:
        out["or"] = [_condition(other, ids) for other in entry["or"]]
    return out


def _check_places(maps: list[dict[str, Any]]) -> None:
    taken: dict[tuple[int, int], str] = {}
    for entry in maps:
        for y in range(entry["global_y"], entry["global_y"] + entry["height"]):
            for x in range(entry["global_x"], entry["global_x"] + entry["width"]):
                if taken.setdefault((x, y), entry["name"]) != entry["name"]:
                    raise UserError(f"maps {entry['name']} and {taken[x, y]} overlap on the canvas")
