"""A made-up game that shows what Pokémon Red shows from power-on to its first room, and takes buttons as it does.

Written from the public disassembly's facts of title, main menu, speech, names and the screen of letters. There is no
ROM in it and no picture: only the tile map, and the RAM that `GameState` reads.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

from cluster_rl.game import ram
from cluster_rl.game.buttons import BUTTONS
from cluster_rl.game.text import TEXT_END, TILE_ARROW, TILE_CURSOR

ROOM, ROOM_PLACE = 38, (3, 6)
ALPHABET = ("ABCDEFGHI", "JKLMNOPQR", "STUVWXYZ ")
_TILES = {" ": 0x7F, "?": 0xE6, "▼": TILE_ARROW, "▶": TILE_CURSOR, "'": 0xE0} | {
    chr(ord(first) + i): tile + i for first, tile in (("A", 0x80), ("a", 0xA0)) for i in range(26)
}
_MOVES = {"down": (0, 1), "up": (0, -1), "left": (-1, 0), "right": (1, 0)}


class FakeRed:
    """`drops` and `doubles` tell of a press's number whether the game misses it, or takes it twice."""

    def __init__(
        self,
        drops: Callable[[int], bool] = lambda number: False,
        doubles: Callable[[int], bool] = lambda number: False,
    ) -> None:
        self._drops, self._doubles = drops, doubles
        self._presses = 0
        self.ram = bytearray(ram.IMAGE_BYTES)
        self.stages = ["start up", "intro", "logo falls", "title", "cry", "menu", "fade", "text", "text", "text"]
        self.stages += ["slide", "player", "text", "fade", "text", "slide", "rival", "text", "fade", "last text"]
        self.stages += ["shrink", "fade in", "room"]
        self._enter()

    # What `start_state` asks of a console.

    def step(self, button: int | None) -> None:
        self._steps += 1
        pressed = None if button is None else BUTTONS[button]
        if pressed is not None:
            self._presses += 1
            times = 0 if self._drops(self._presses) else 2 if self._doubles(self._presses) else 1
            for _ in range(times):
                self._take(pressed)
        if self.stage in ("start up", "logo falls", "cry", "fade", "slide", "shrink", "fade in", "last text"):
            if self._steps >= 4:
                self._next()
        elif self.stage == "intro" and self._steps >= 40:
            self._next()
        elif self.stage == "text" and self._steps == 3:
            self._write(16, 18, "▼")

    def image(self) -> bytes:
        return bytes(self.ram)

    def save(self) -> bytes:
        self._saved = copy.deepcopy({name: value for name, value in vars(self).items() if name != "_saved"})
        return b"saved"

    def load(self, data: bytes) -> None:
        assert data == b"saved"
        vars(self).update(copy.deepcopy(self._saved))

    # The game.

    @property
    def stage(self) -> str:
        return self.stages[0]

    def _next(self) -> None:
        del self.stages[0]
        self._enter()

    def _enter(self) -> None:
        self._steps = 0
        self._facing = "up"
        if self.stage in ("fade", "intro", "shrink", "fade in", "cry", "letters"):
            self._clear()
        elif self.stage == "text":
            self._put(0, 0, b"\x7f" * 12 * ram.TILE_COLUMNS)  # what names or letters were there
        if self.stage in ("logo falls", "title"):
            for row in range(1, 7):
                self._put(row, 2, bytes(range(0x80 + 16 * (row - 1), 0x90 + 16 * (row - 1))))
        elif self.stage == "menu":
            self._set(ram.wPlayerName, self._tiles("NINTEN") + bytes([TEXT_END]))
            self._menu(["NEW GAME", "OPTION"])
        elif self.stage in ("text", "last text"):
            self._put(12, 0, b"\x79" + b"\x7a" * 18 + b"\x7b")
            self._put(17, 0, b"\x7d" + b"\x7a" * 18 + b"\x7e")
            self._write(16, 18, " ")
            self._write(14, 1, "Hello there")
        elif self.stage in ("player", "rival"):
            self._write(0, 3, "NAME")
            self._menu(["NEW NAME", *(("RED", "ASH", "JACK") if self.stage == "player" else ("BLUE", "GARY", "JOHN"))])
        elif self.stage == "letters":
            self._typed = ""
            self._write(1, 0, "YOUR NAME?")
            for number, letters in enumerate(ALPHABET):
                self._write(5 + 2 * number, 2, " ".join(letters))
            self._write(15, 2, "lower case")
            self._cell = [0, 0]
            self._draw_letters()
        elif self.stage == "room":
            self._clear()
            self._set(ram.wCurMap, bytes([ROOM]))
            self._set(ram.wCurMapHeight, b"\4\4")
            self._set(ram.wYCoord, bytes([ROOM_PLACE[1], ROOM_PLACE[0]]))

    def _take(self, button: str) -> None:
        stage = self.stage
        if (stage in ("intro", "title") and button in ("a", "start")) or (
            stage == "text" and self._steps > 3 and button in ("a", "b")
        ):
            self._next()
        elif stage in ("menu", "player", "rival"):
            self._take_in_menu(button)
        elif stage == "letters":
            self._take_letter(button)
        elif stage == "room" and self._steps > 3 and button in _MOVES:
            if self._facing == button:
                dx, dy = _MOVES[button]
                self.ram[ram.image_index(ram.wXCoord)] += dx
                self.ram[ram.image_index(ram.wYCoord)] += dy
            self._facing = button

    def _take_in_menu(self, button: str) -> None:
        self._write(2 + 2 * self._item, 1, " ")
        if button in ("up", "down"):
            self._item = max(0, min(self._item + (1 if button == "down" else -1), len(self._items) - 1))
        elif self.stage == "menu" and button == "b":
            self.stages[:1] = ["logo falls", "title", "cry", "menu"]
            return self._enter()
        elif button == "a" or (button == "start" and self.stage == "menu"):
            choice = self._items[self._item]
            assert choice != "OPTION"
            if choice == "NEW NAME":
                self.stages[:1] = ["fade", "letters"]
                return self._enter()
            if self.stage == "player":
                self._set(ram.wPlayerName, self._tiles(choice) + bytes([TEXT_END]))
            return self._next()
        self._write(2 + 2 * self._item, 1, "▶")
        return None

    def _take_letter(self, button: str) -> None:
        row, column = self._cell
        if button == "start" or (button == "a" and (row, column) == (4, 8)):
            if not self._typed:
                return self._enter()
            self._set(ram.wPlayerName, self._tiles(self._typed) + bytes([TEXT_END]))
            return self._next()
        if button == "b":
            self._typed = self._typed[:-1]
        elif button == "a" and row < len(ALPHABET) and len(self._typed) < 7:
            self._typed += ALPHABET[row][column]
            if len(self._typed) == 7:
                self._cell = [4, 8]
        elif button in ("up", "down"):
            row = (row + (1 if button == "down" else -1)) % 6
            self._cell = [row, 0 if row == 5 else column]
        elif button in ("left", "right") and row != 5:
            self._cell[1] = (column + (1 if button == "right" else -1)) % 9
        return self._draw_letters()

    def _draw_letters(self) -> None:
        for number in range(6):
            for column in range(9):
                self._write(5 + 2 * number, 1 + 2 * column, " ") if number < 5 or column == 0 else None
        self._write(5 + 2 * self._cell[0], 1 + 2 * self._cell[1], "▶")
        self._write(2, 10, f"{self._typed:10}")

    # Its screen.

    def _menu(self, items: list[str]) -> None:
        self._items, self._item = items, 0
        for number, item in enumerate(items):
            self._write(2 + 2 * number, 2, f"{item:9}")
        self._write(2, 1, "▶")

    def _clear(self) -> None:
        self._put(0, 0, b"\x7f" * ram.TILE_MAP_BYTES)

    def _tiles(self, text: str) -> bytes:
        return bytes(_TILES[character] for character in text)

    def _write(self, row: int, column: int, text: str) -> None:
        self._put(row, column, self._tiles(text))

    def _put(self, row: int, column: int, tiles: bytes) -> None:
        self._set(ram.wTileMap + row * ram.TILE_COLUMNS + column, tiles)

    def _set(self, address: int, data: bytes) -> None:
        at = ram.image_index(address)
        self.ram[at : at + len(data)] = data
