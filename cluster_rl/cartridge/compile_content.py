"""Compiles `content/` (world, art, texts) into data banks, C tables and the names table of the embedded cartridge.

The build runs it. In: `content/world.toml` and the ASCII-art files. Out: `Compiled`, which `build.py` hands to the C
compiler and the linker. Everything depends on the files alone, in their own order: equal files give equal bytes.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster_rl.errors import UserError

CONTENT_DIR = Path(__file__).resolve().parent / "content"

BANK_BYTES = 0x4000
FIRST_DATA_BANK = 2
CELL_TABLE_PAGE = 0x7F
MAX_TILES, MAX_CELLS, MAP_BUFFER_BYTES = 96, 64, 1300
SCRIPT_BYTES, MESSAGE_BYTES, NAME_LETTERS, LINE_LETTERS = 120, 350, 10, 18
MAX_SPOTS = 4

SHADES = {".": 0, "-": 1, "+": 2, "#": 3}
CHARACTERS = {
    **dict(zip(" ():'-?!./,", bytes.fromhex("7f9a9b9ce0e3e6e7e8f3f4"), strict=True)),
    **{chr(ord("A") + i): 0x80 + i for i in range(26)},
    **{chr(ord("a") + i): 0xA0 + i for i in range(26)},
    **{chr(ord("0") + i): 0xF6 + i for i in range(10)},
}
SPECIAL_GLYPHS = {"cursor": 0xED, "cursor_off": 0xEC, "more": 0xEE, "x2": 0xF1}
# A slot in a text: its code, and the letters to keep free for it.
SLOTS = {"{player}": (0x52, 7), "{a}": (0x01, 10), "{b}": (0x02, 5)}
END_CODE, LINE_CODE, PAGE_CODE = 0x50, 0x4F, 0x51
SCRIPT_WORDS = ("end", "say", "ifset", "goto", "set", "battle", "badge", "give", "heal", "draw", "iflot", "banner")
SPRITE_SHEETS = {"hero": 0, "folk": 1}
FACINGS = {"down": 0, "up": 4, "left": 8, "right": 12}
ARROW_KEYS = {"down": 0x80, "up": 0x40, "left": 0x20, "right": 0x10}
START_MENU = ("TEAM", "BAG", "", "SAVE", "OPTION", "EXIT")
# Tileset numbers by kind of map, as in the real game; the engine has only the outdoor one so far.
TILESET_NAMES = {"0": "OUTDOORS"}

Art = dict[str, list[str]]


# ---------------------------------------------------------------- pictures


def tile_bytes(rows: list[str]) -> bytes:
    """Eight rows of eight shade characters to 16 bytes, two bits a pixel."""
    out = bytearray()
    for row in rows:
        values = [SHADES[character] for character in row]
        out.append(sum((values[i] & 1) << (7 - i) for i in range(8)))
        out.append(sum((values[i] >> 1) << (7 - i) for i in range(8)))
    return bytes(out)


def read_art(name: str) -> Art:
    """Named pictures of an art file, in its order. `= name mirror` doubles each row to the right."""
    art: Art = {}
    key, mirror = "", False
    for line in (CONTENT_DIR / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("# ") or not line:
            continue
        if line.startswith("= "):
            key, *options = line[2:].split()
            art[key] = []
            mirror = "mirror" in options
        else:
            art[key].append(line + line[::-1] if mirror else line)
    return art


def cut_tiles(rows: list[str]) -> bytes:
    """A picture whose sides are multiples of 8 to tile bytes, row by row."""
    return b"".join(
        tile_bytes([row[x : x + 8] for row in rows[y : y + 8]])
        for y in range(0, len(rows), 8)
        for x in range(0, len(rows[0]), 8)
    )


def font_tiles() -> bytes:
    """128 tiles for the letters, 0x80-0xFF."""
    tiles = [bytes(16)] * 128
    for line in (CONTENT_DIR / "font.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("# 5"):
            continue
        key, *rows = line.split()
        code = SPECIAL_GLYPHS[key] if key in SPECIAL_GLYPHS else CHARACTERS[key]
        tiles[code - 0x80] = tile_bytes(["." + row + ".." for row in rows] + ["." * 8])
    return b"".join(tiles)


def box_tiles() -> bytes:
    """32 tiles for 0x60-0x7F: parts of the HP bar, the level mark, box borders, blank."""
    tiles: dict[int, list[str]] = {}
    for fill in range(9):
        middle = "#" * fill + "." * (8 - fill)
        tiles[0x63 + fill] = ["." * 8, "#" * 8, "." * 8, middle, middle, "." * 8, "#" * 8, "." * 8]
    bar_end = ".....#.."
    tiles[0x62] = ["........", "......##", bar_end, bar_end, bar_end, bar_end, "......##", "........"]
    tiles[0x6C] = [row[::-1] for row in tiles[0x62]]
    tiles[0x71] = ["........", "#.#.##..", "#.#.#.#.", "###.##..", "#.#.#...", "#.#.#...", "........", "........"]
    tiles[0x6E] = ["........", "#.......", "#.......", "#....#..", "#.......", "###..#..", "........", "........"]
    tiles[0x7A] = ["........", "........", "........", "########", "........", "########", "........", "........"]
    tiles[0x7C] = ["...#.#.."] * 8
    tiles[0x79] = ["........"] * 3 + ["...#####", "...#....", "...#.###", "...#.#..", "...#.#.."]
    tiles[0x7B] = ["........"] * 3 + ["######..", ".....#..", "####.#..", "...#.#..", "...#.#.."]
    tiles[0x7D] = ["...#.#..", "...#.#..", "...#.#..", "...#.###", "...#....", "...#####", "........", "........"]
    tiles[0x7E] = ["...#.#..", "...#.#..", "...#.#..", "####.#..", ".....#..", "######..", "........", "........"]
    blank = ["." * 8] * 8
    return b"".join(tile_bytes(tiles.get(0x60 + i, blank)) for i in range(32))


# ---------------------------------------------------------------- text


def encode(text: str) -> bytes:
    """Letters and `{slots}` to character codes."""
    out = bytearray()
    for part in re.split(r"(\{\w+\})", text):
        if part in SLOTS:
            out.append(SLOTS[part][0])
            continue
        for character in part:
            if character not in CHARACTERS:
                raise UserError(f"no glyph for {character!r} in {text!r}")
            out.append(CHARACTERS[character])
    return bytes(out)


def name_bytes(text: str) -> bytes:
    """A name with its end mark."""
    if len(text) > NAME_LETTERS:
        raise UserError(f"name {text!r} has more than {NAME_LETTERS} letters")
    return encode(text) + bytes([END_CODE])


def text_width(words: str) -> int:
    """Letters that a piece of text takes at most, slots filled."""
    for slot, (_, letters) in SLOTS.items():
        words = words.replace(slot, "x" * letters)
    return len(words)


def message(text: str) -> bytes:
    """A text wrapped to the message box, two lines a page, with its codes."""
    lines, line = [], ""
    for word in text.split():
        if line and text_width(f"{line} {word}") > LINE_LETTERS:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    lines.append(line)
    out = b""
    for number, content in enumerate(lines):
        if number:
            out += bytes([LINE_CODE if number % 2 else PAGE_CODE])
        out += encode(content)
    if len(out) > MESSAGE_BYTES:
        raise UserError(f"message too long: {text}")
    return out + bytes([END_CODE])


# ---------------------------------------------------------------- resources


class Resources:
    """Pieces of data, numbered in the order of adding; C code finds them by their names."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.names: dict[str, int] = {}

    def add(self, name: str, *pieces: bytes | bytearray) -> None:
        """Adds pieces; the name stands for the first."""
        self.names[name] = len(self.pieces)
        self.pieces += map(bytes, pieces)

    def pack(self) -> list[bytes]:
        """Data banks: a directory of (bank, address, length) first, and no piece across a bank's end."""
        directory = bytearray()
        banks = [bytearray(5 * len(self.pieces))]
        for piece in self.pieces:
            if all(len(bank) + len(piece) > BANK_BYTES for bank in banks):
                banks.append(bytearray())
            number = next(i for i, bank in enumerate(banks) if len(bank) + len(piece) <= BANK_BYTES)
            directory.append(FIRST_DATA_BANK + number)
            directory += (BANK_BYTES + len(banks[number])).to_bytes(2, "little") + len(piece).to_bytes(2, "little")
            banks[number] += piece
        banks[0][: len(directory)] = directory
        return [bytes(bank) for bank in banks]


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


class Scripts:
    """Scripts of signs and people, and the texts they say."""

    def __init__(self, ids: Ids) -> None:
        self.ids = ids
        self.codes: list[bytes] = []
        self.texts: list[bytes] = []

    def compile(self, source: str) -> int:
        """Adds a script, one byte code per line; returns its number."""
        code = bytearray()
        labels: dict[str, int] = {}
        jumps: list[tuple[int, str]] = []
        for line in filter(None, map(str.strip, source.splitlines())):
            if line.endswith(":"):
                labels[line[:-1]] = len(code)
                continue
            word, *arguments = shlex.split(line)
            if word not in SCRIPT_WORDS:
                raise UserError(f"unknown script line: {line}")
            code.append(SCRIPT_WORDS.index(word))
            code += self._operands(word, arguments)
            if word in ("ifset", "iflot", "goto"):
                jumps.append((len(code), arguments[-1]))
                code.append(0)
        code.append(0)
        for at, label in jumps:
            code[at] = labels[label]
        if len(code) > SCRIPT_BYTES:
            raise UserError(f"script too long: {source.strip().splitlines()[0]} ...")
        self.codes.append(bytes(code))
        return len(self.codes) - 1

    def _operands(self, word: str, arguments: list[str]) -> bytes:
        """What follows a word's code, jump targets left out."""
        match word:
            case "say":
                self.texts.append(message(arguments[0]))
                return (len(self.texts) - 1).to_bytes(2, "little")
            case "ifset" | "set":
                return self.ids.flags[arguments[0]].to_bytes(2, "little")
            case "battle":
                return bytes([self.ids.trainers[arguments[0]]])
            case "badge" | "iflot":
                return bytes([int(arguments[0])])
            case "banner":
                return bytes([self.ids.tiles[arguments[0]], *map(int, arguments[1:5])])
            case "give":
                return bytes([self.ids.items[arguments[0]], int(arguments[1])])
        return b""


# ---------------------------------------------------------------- the world


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


# ---------------------------------------------------------------- what the C code and the RAM readers see


def binary_coded(number: int) -> int:
    """A number of two digits as binary-coded decimal."""
    return int(str(number), 16)


def c_array(name: str, values: Iterable[int]) -> str:
    """A constant byte array in C."""
    return f"const uint8_t {name}[] = {{{','.join(map(str, values))}}};\n"


def c_header(world: Mapping[str, Any], ids: Ids, resources: Resources, grass_tile: int) -> str:
    """`res.h`: numbers of resources and script words, and how a new game begins."""
    game = world["game"]
    numbers: dict[str, int | str] = dict(resources.names)
    numbers |= {f"OP_{word.upper()}": i for i, word in enumerate(SCRIPT_WORDS)}
    numbers |= {
        "META_PAGE": CELL_TABLE_PAGE,
        "GRASS_TILE": grass_tile,
        "START_MAP": ids.maps[game["start"]["map"]],
        "START_X": game["start"]["at"][0],
        "START_Y": game["start"]["at"][1],
        "SCHOOL_MAP": ids.maps[game["school"]],
        "START_SPECIES": ids.species[game["starter"]["species"]],
        "START_LEVEL": game["starter"]["level"],
        "START_MONEY": f"0x{game['money']:06d}UL",
        "ITEM_BALM_HEAL": world["item"][0]["heal"],
    }
    header = "".join(f"#define {name} {value}\n" for name, value in sorted(numbers.items()))
    arrays = ("map_ids", "passable_tiles", "carrying_tiles", "start_name", "start_bag")
    return header + "".join(f"extern const uint8_t {name}[];\n" for name in arrays)


def c_tables(world: Mapping[str, Any], ids: Ids, walkable: list[int], carrying: list[int]) -> str:
    """`tables.c`: small constants that stay in the code banks."""
    game = world["game"]
    player = (name_bytes(game["player"]) + bytes([END_CODE] * 11))[:11]
    bag = [value for name, count in game["bag"] for value in (ids.items[name], count)]
    return (
        '#include <stdint.h>\n#include "res.h"\n'
        + c_array("map_ids", ids.maps.values())
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
        "task_end": _condition(world["task_end"], ids),
        "badges": world["badges"],
        "key_items": [],
        "milestones": [_condition(entry, ids) for entry in world["milestone"]],
        "maps": maps,
        "items": {str(number): name for name, number in ids.items.items()},
        "species": {str(number): name for name, number in ids.species.items()},
        "moves": {"0": "NO_MOVE"} | {str(number): name for name, number in ids.moves.items()},
        "tilesets": TILESET_NAMES,
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
