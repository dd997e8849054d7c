"""The way from power-on into a new game: which button the screen asks for, told from the screen's tiles alone.

`start_state` uses it. In: a `GameState` a step. Out: the button to press, and what was seen, in words. The screens are
those of Pokémon Red as its public disassembly tells of them: a title that waits for START, the main menu, a
professor's speech, a list of names or letters to choose one from, and the player's room. A game that has only some of
them (the embedded cartridge begins in its room) is brought through by the same rules.
"""

from __future__ import annotations

import re
from typing import Final

from cluster_rl.errors import UserError
from cluster_rl.game import ram
from cluster_rl.game.state import GameState
from cluster_rl.game.text import CHARACTERS, TILE_ARROW, TILE_CURSOR

NAME_LETTERS_MAX: Final = 7

_TILE_A = 0x80
_BOX_CORNER = (12, 0, 0x79)
_ARROW = (16, 18)
_MENU_COLUMN = 2  # of what a menu offers; its cursor is one to the left
_OWN_NAME_ROW, _FIRST_PRESET_ROW = 2, 4
_LETTER_ROWS, _LETTER_COLUMNS = range(5, 10, 2), range(2, 20, 2)
_TYPED_ROW, _TYPED_COLUMN = 2, 10
_START_EVERY = 3  # looks: a game that is shown START all the time sees it pressed once


def check_name(name: str) -> str:
    """The name itself. Raises `UserError` for one that Red's naming screen does not take: 1 to 7 letters, A to Z."""
    if re.fullmatch(f"[A-Z]{{1,{NAME_LETTERS_MAX}}}", name) is None:
        raise UserError(f"--name {name!r}: give 1 to {NAME_LETTERS_MAX} letters, A to Z, no small ones")
    return name


class NewGame:
    """Goes through the screens of a new game. `name` is the player's; empty takes the first that the game offers.

    `room` is the map in which the game begins. `seen` says in words what the last look showed.
    """

    def __init__(self, name: str, room: int) -> None:
        self._name = name
        self._room = room
        self._looks = 0
        self._past_title = False
        self._naming = False
        self._player_named = False
        self.seen = "nothing yet"

    def in_room(self, state: GameState) -> bool:
        """Whether the player stands in the first room, and nothing else has the screen or the buttons."""
        return (
            state.in_game
            and state.map_id == self._room
            and not (state.interface_up or _text_waits(state))
            and not (state.joy_ignore or state.walk_counter or state.simulated_joypad_index)
        )

    def next_button(self, state: GameState) -> str | None:
        """The button that brings the game on from this screen; None to wait."""
        self._looks += 1
        rows = screen_text(state)
        cursor = _cursor(state)
        if rows[1].rstrip().endswith("NAME?"):
            self._saw("the screen of letters", naming=True)
            return self._type(state, rows, cursor)
        if rows[0][3:7] == "NAME" and rows[2][_MENU_COLUMN:].startswith("NEW NAME"):
            self._saw("the rival's names" if self._player_named else "the player's names", naming=True)
            own = self._name and not self._player_named
            return _choose(cursor, _OWN_NAME_ROW if own else _FIRST_PRESET_ROW)
        new_game = next((row for row in (2, 4) if rows[row][_MENU_COLUMN:].startswith("NEW GAME")), None)
        if new_game is not None:
            self._saw("the main menu")
            return _choose(cursor, new_game)
        if _text_waits(state):
            self._player_named |= self._naming
            self._saw("a text")
            return "a"
        if state.in_game:
            self._saw("the room" if state.map_id == self._room else f"map {state.map_id}")
            return None
        if self._past_title:
            self.seen = "the speech"
            return None
        self.seen = "the title"
        return "start" if self._looks % _START_EVERY == 0 else None

    def _saw(self, what: str, naming: bool = False) -> None:
        self.seen = what
        self._past_title = True
        self._naming = naming

    def _type(self, state: GameState, rows: list[str], cursor: tuple[int, int] | None) -> str | None:
        """The next press on the screen of letters, where the cursor stands to the left of a letter."""
        name = self._name or "RED"
        typed = rows[_TYPED_ROW][_TYPED_COLUMN : _TYPED_COLUMN + NAME_LETTERS_MAX].rstrip()
        if typed == name:
            return "start"
        if not name.startswith(typed):
            return "b"
        letter = _TILE_A + ord(name[len(typed)]) - ord("A")
        places = [(row, column) for row in _LETTER_ROWS for column in _LETTER_COLUMNS]
        place = next((at for at in places if _tile(state, *at) == letter), None)
        if place is None or cursor is None:
            return None
        # Rows first: in the lowest one, which changes between large and small letters, no column can be left.
        if cursor[0] != place[0]:
            return "down" if cursor[0] < place[0] else "up"
        if cursor[1] != place[1] - 1:
            return "right" if cursor[1] < place[1] - 1 else "left"
        return "a"


def screen_text(state: GameState) -> list[str]:
    """The 18 rows of the screen, a character a tile: a space where a tile is no single character."""
    shown = (CHARACTERS.get(tile, " ") for tile in state.tile_map)
    text = "".join(characters if len(characters) == 1 else " " for characters in shown)
    return [text[row * ram.TILE_COLUMNS : (row + 1) * ram.TILE_COLUMNS] for row in range(ram.TILE_ROWS)]


def _choose(cursor: tuple[int, int] | None, row: int) -> str | None:
    """The press that brings a menu's cursor to a row, and A there; None while no cursor is drawn."""
    if cursor is None:
        return None
    if cursor[0] != row:
        return "down" if cursor[0] < row else "up"
    return "a"


def _cursor(state: GameState) -> tuple[int, int] | None:
    """(row, column) of the first cursor on the screen."""
    at = state.tile_map.find(TILE_CURSOR)
    return None if at < 0 else divmod(at, ram.TILE_COLUMNS)


def _text_waits(state: GameState) -> bool:
    """As `GameState.text_waiting`, and before a game has begun too, where nothing says that a box is up."""
    row, column, corner = _BOX_CORNER
    return _tile(state, row, column) == corner and _tile(state, *_ARROW) == TILE_ARROW


def _tile(state: GameState, row: int, column: int) -> int:
    return state.tile_map[row * ram.TILE_COLUMNS + column]
