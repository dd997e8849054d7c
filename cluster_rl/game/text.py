"""The game's characters: tile numbers to text. Any process reads it; bytes in, str out."""

from __future__ import annotations

from typing import Final

TEXT_END: Final = 0x50
TILE_SPACE: Final = 0x7F
TILE_CURSOR: Final = 0xED
TILE_ARROW: Final = 0xEE
UNKNOWN: Final = "~"

CHARACTERS: Final[dict[int, str]] = {
    TILE_SPACE: " ",
    **{0x80 + i: chr(ord("A") + i) for i in range(26)},
    **{0x9A + i: c for i, c in enumerate("():;[]")},
    **{0xA0 + i: chr(ord("a") + i) for i in range(26)},
    **{0xBA + i: c for i, c in enumerate(("é", "'d", "'l", "'s", "'t", "'v"))},
    **{0xE0 + i: c for i, c in enumerate(("'", "PK", "MN", "-", "'r", "'m", "?", "!", "."))},
    **{0xEC + i: c for i, c in enumerate("▷▶▼♂")},
    **{0xF1 + i: c for i, c in enumerate("×./,♀")},
    **{0xF6 + i: str(i) for i in range(10)},
}


def decode(tiles: bytes) -> str:
    """Tile numbers to text, up to the end mark; other tiles than letters become `~`."""
    end = tiles.find(TEXT_END)
    return "".join(CHARACTERS.get(tile, UNKNOWN) for tile in (tiles if end < 0 else tiles[:end]))
