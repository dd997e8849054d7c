"""How tests play the embedded cartridge: letters for buttons, and the way from home to the first trainer."""

from __future__ import annotations

from cluster_rl.config import Config
from cluster_rl.emulator.env import Env, Step, make_env
from cluster_rl.game import ram
from cluster_rl.game.buttons import BUTTONS
from cluster_rl.game.state import GameState
from cluster_rl.game.text import TILE_CURSOR

_BUTTON_OF = {"d": "down", "l": "left", "r": "right", "u": "up", "A": "a", "B": "b", "S": "start"}
A = BUTTONS.index("a")

HOME, TOWN, ROUTE = 37, 0, 12
TO_VILLAGER = "r"  # she stands at the right of (4, 3)
TO_TOWN = "dddld"  # from there
TO_ROUTE = "dd" + "rrrrr" + "uuuuuuu"
TO_TRAINER = "uuuuuuuuuu" + "r" + "uu"


def new_env(**overrides: object) -> Env:
    """An environment of the embedded cartridge, with some config keys changed."""
    return make_env(Config(**overrides), 0)  # type: ignore[arg-type]


def play(env: Env, letters: str) -> list[Step]:
    """Presses one button a step: d l r u for the arrows, A B S for the others."""
    return [env.advance(BUTTONS.index(_BUTTON_OF[letter])) for letter in letters]


def poke(env: Env, address: int, *values: int) -> None:
    """Writes into the running game's RAM."""
    for offset, value in enumerate(values):
        env.console._memory[address + offset] = value


def meet_trainer(env: Env) -> None:
    """From a fresh start to the first text of the trainer's battle."""
    env.start()
    for way, map_id in ((TO_VILLAGER, HOME), (TO_TOWN, TOWN), (TO_ROUTE, ROUTE)):
        play(env, way)
        assert env.state.map_id == map_id, (env.state.map_id, env.state.x, env.state.y)
    play(env, TO_TRAINER)
    for _ in range(40):
        play(env, "A")
        if env.state.in_battle:
            return
    raise AssertionError("no battle began")


def state_with(*fields: tuple[int, bytes | int], in_game: bool = True) -> GameState:
    """A made-up state: zeros, a map of 20 x 18 cells if `in_game`, and the given (address, byte or bytes)."""
    image = bytearray(ram.IMAGE_BYTES)
    size: tuple[tuple[int, bytes | int], ...] = ((ram.wCurMapHeight, 9), (ram.wCurMapWidth, 10)) if in_game else ()
    for address, value in (*size, *fields):
        data = bytes([value]) if isinstance(value, int) else value
        at = ram.image_index(address)
        image[at : at + len(data)] = data
    return GameState(bytes(image))


def menu_fields(
    top: tuple[int, int], keys: int, item: int = 0, last: int = 1, battle: int = 0, scroll: int = 0
) -> tuple[tuple[int, bytes | int], ...]:
    """RAM of an open menu whose cursor is drawn at its item; `top` is (row, column)."""
    row, column = top
    cursor = ram.wTileMap + (row + 2 * item) * ram.TILE_COLUMNS + column
    return (
        *((ram.wFontLoaded, 1), (ram.wIsInBattle, battle)),
        *(
            (ram.wTopMenuItemY, row),
            (ram.wTopMenuItemX, column),
            (ram.wCurrentMenuItem, item),
            (ram.wMaxMenuItem, last),
        ),
        *((ram.wMenuWatchedKeys, keys), (ram.wListScrollOffset, scroll)),
        *((ram.wMenuCursorLocation, cursor.to_bytes(2, "little")), (cursor, TILE_CURSOR)),
    )
