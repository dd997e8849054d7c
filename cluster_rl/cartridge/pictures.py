"""Pictures of the cartridge: ASCII art of `content/` to the console's tiles, two bits a pixel.

The build runs it. In: art files of `content/`, and the font. Out: tile bytes, 16 a tile of 8 x 8 pixels.
"""

from __future__ import annotations

from cluster_rl.cartridge import CONTENT_DIR
from cluster_rl.cartridge.text import CHARACTERS

SHADES = {".": 0, "-": 1, "+": 2, "#": 3}
SPECIAL_GLYPHS = {"cursor": 0xED, "cursor_off": 0xEC, "more": 0xEE, "x2": 0xF1}

Art = dict[str, list[str]]


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
    tiles[0x60] = ["#" * 8] * 8  # what is seen of a dark map
    blank = ["." * 8] * 8
    return b"".join(tile_bytes(tiles.get(0x60 + i, blank)) for i in range(32))
