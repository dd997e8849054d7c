"""Which buttons do something here: a mask over `BUTTONS`, stored with the step and used in acting and in learning.

The environment of an actor uses it. In: each look at the game and the button that led to it. Out: bool [7], never all
false. There are two sources:

- the game itself: buttons it ignores (wJoyIgnore, scripts that walk the player), the keys its open menu watches, and
  that running or waiting text answers to A and B only;
- a memory of what was tried in this very situation and changed nothing: neither the picture nor the RAM that
  `GameState` reads, but for the clock. It expires, is lifted at random now and then, and is bounded.

A masked button is meant to do just what no button does; a test presses masked buttons and compares. One button
is masked for another reason, and elsewhere: where the config's `start_button` is false, `Env` takes START out.
"""

from __future__ import annotations

import random
from operator import itemgetter
from typing import Final

import numpy as np
import numpy.typing as npt

from cluster_rl.game import ram
from cluster_rl.game.buttons import BUTTONS, NUM_BUTTONS
from cluster_rl.game.state import GameState

Mask = npt.NDArray[np.bool_]
Situation = tuple[object, ...]

_ALL: Final = (1 << NUM_BUTTONS) - 1


def _action_bits(*names: str) -> int:
    return sum(1 << BUTTONS.index(name) for name in names)


_A_B: Final = _action_bits("a", "b")
_UP_DOWN: Final = _action_bits("up", "down")
_ARROWS: Final = _action_bits("up", "down", "left", "right")

# Joypad mask, as the game has it, to a bit set of actions.
_ACTIONS_OF_KEYS: Final = tuple(
    sum(1 << action for action, name in enumerate(BUTTONS) if keys & ram.JOYPAD_BITS[name]) for keys in range(256)
)
_MASKS: Final = np.array([[bits >> action & 1 for action in range(NUM_BUTTONS)] for bits in range(_ALL + 1)], np.bool_)

_TEXT_BOX_LIST: Final = 0x0D
_TILE_CURSOR_HOLLOW: Final = 0xEC
_HELD_FRAMES: Final = 8

# The lower left tile of each cell beside the player: the one that decides whether it can be walked on.
_TILE_BESIDE: Final = tuple(
    ram.image_index(ram.wTileMap) + row * ram.TILE_COLUMNS + column
    for column, row in ((8, 11), (6, 9), (10, 9), (8, 7))
)
_tiles_beside: Final = itemgetter(*_TILE_BESIDE)
_BESIDE: Final = ((0, 1), (-1, 0), (1, 0), (0, -1))
_NOBODY: Final = (False,) * len(_BESIDE)

# Bytes that move by themselves, so that their change is nobody's doing: the play-time clock. The random bytes and the
# joypad's own bytes are in no live image.
_TILES_STOP: Final = ram.image_index(ram.wTileMap) + ram.TILE_MAP_BYTES
_CLOCK: Final = slice(ram.image_index(ram.wPlayTimeHours), ram.image_index(ram.wPlayTimeSeconds) + 1)


def game_actions(state: GameState, ignored_keys: int | None = None) -> int:
    """The actions the game may answer to in this state, as a bit set (bit i is `BUTTONS[i]`); never 0.

    `ignored_keys` is the joypad mask to take for ignored, the state's own wJoyIgnore by default.
    """
    ignored = state.joy_ignore if ignored_keys is None else ignored_keys
    return _game_actions(state, ignored) or _A_B  # whatever goes on, it ends in play or in text


def _game_actions(state: GameState, ignored_keys: int) -> int:
    if not state.in_game:
        return _ALL  # title and intro: RAM says nothing about them
    heard = _ACTIONS_OF_KEYS[~ignored_keys & 0xFF]
    menu = state.menu
    if menu is not None:
        return heard & (_ACTIONS_OF_KEYS[menu.watched_keys] | _UP_DOWN)
    if state.interface_up:
        return heard & (_A_B | _UP_DOWN if _quantity_is_asked(state) else _A_B)
    if state.simulated_joypad_index or state.ignore_input_frames > _HELD_FRAMES:
        return 0
    return heard


def _quantity_is_asked(state: GameState) -> bool:
    """A list whose entry was picked: shops then ask how many, with UP and DOWN and no cursor."""
    if state.u8(ram.wTextBoxID) != _TEXT_BOX_LIST:
        return False
    at = int.from_bytes(state.slice(ram.wMenuCursorLocation, 2), "little") - ram.wTileMap
    return 0 <= at < ram.TILE_MAP_BYTES and state.tile_map[at] == _TILE_CURSOR_HOLLOW


def situation_of(state: GameState) -> tuple[Situation, int] | None:
    """What decides what a button does now, with the actions that may be learned about in it; None where a change or
    its absence could not be put down to the button (walking, scripts, text under way, before the game, the dark)."""
    if not state.in_game or state.joy_ignore:
        return None
    menu = state.menu
    if menu is not None:
        if menu.is_start_menu:
            return None  # its cursor wraps: every key it watches does something
        # A and B depend on more than the cursor (a move without PP, a full bag): only moving it is learned.
        return (*menu, state.u8(ram.wNumBagItems)), _ARROWS
    if state.interface_up or state.walk_counter or state.simulated_joypad_index or state.ignore_input_frames:
        return None
    if state.is_dark:
        return None  # what is learned is learned of a place, and nobody sees which one this is
    x, y, people = state.x, state.y, state.people
    beside = tuple([(x + dx, y + dy) in people for dx, dy in _BESIDE]) if people else _NOBODY
    return (state.map_id, x, y, state.facing, state.tile_in_front, _tiles_beside(state.image), beside), _ALL


def same_but_clock(before: bytes, after: bytes) -> bool:
    """Whether two live images hold the same, the play-time clock apart."""
    if before == after:
        return True
    # Sprites and the screen's tiles, of which most changes are, are soon copied and compared.
    if before[:_TILES_STOP] != after[:_TILES_STOP]:
        return False
    return before[: _CLOCK.start] == after[: _CLOCK.start] and before[_CLOCK.stop :] == after[_CLOCK.stop :]


class Affordances:
    """The mask of one emulator, with its memory. `start` at an episode's first look, then `step` after each action.

    The memory lasts over episodes, until `forget`. Equal seeds and inputs give equal masks.
    """

    def __init__(
        self, fail_threshold: int, expiry_steps: int, retry_probability: float, max_situations: int, seed: int
    ) -> None:
        self._fail_threshold = fail_threshold
        self._expiry_steps = expiry_steps
        self._retry_probability = retry_probability
        self._max_situations = max_situations
        self.forget(seed)

    def forget(self, seed: int) -> None:
        """Empties the memory and starts its random numbers anew."""
        self._random = random.Random(seed)
        self._steps = 0
        # Situation to (fails, step of the last fail) by action, the one touched longest ago first.
        self._tried: dict[Situation, dict[int, tuple[int, int]]] = {}
        self._situation: Situation | None = None
        self._learnable = 0
        self._ignored: tuple[int, int] | None = None  # map id and wJoyIgnore of the last look
        self._image = b""
        self._screen: npt.NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        """Situations remembered."""
        return len(self._tried)

    def start(self, state: GameState, screen: npt.NDArray[np.uint8]) -> Mask:
        """The mask of an episode's first state; nothing is learned from how it came about."""
        self._ignored = None
        return self._look(state, screen)

    def step(self, action: int, state: GameState, screen: npt.NDArray[np.uint8]) -> Mask:
        """Learns from what the action led to, and gives the mask, bool [7], of the state after it."""
        self._steps += 1
        if self._situation is not None and self._learnable >> action & 1:
            assert self._screen is not None
            changed = not (same_but_clock(self._image, state.image) and (self._screen == screen).all())
            self._record(self._situation, action, changed)
        return self._look(state, screen)

    def _look(self, state: GameState, screen: npt.NDArray[np.uint8]) -> Mask:
        self._image, self._screen = state.image, screen
        found = situation_of(state)
        self._situation, self._learnable = found if found is not None else (None, 0)
        allowed = game_actions(state, self._lastingly_ignored(state))
        learned = self._learned(self._situation)
        if learned and self._random.random() >= self._retry_probability:
            allowed = allowed & ~learned or allowed
        mask: Mask = _MASKS[allowed].copy()
        return mask

    def _lastingly_ignored(self, state: GameState) -> int:
        """Keys ignored now and at the last look on the same map: while a map loads, all keys are ignored for a few
        frames, and a key pressed then is heard before it is let go."""
        before, self._ignored = self._ignored, (state.map_id, state.joy_ignore)
        if before is None:
            return state.joy_ignore
        return state.joy_ignore & before[1] if before[0] == state.map_id else 0

    def _learned(self, situation: Situation | None) -> int:
        tried = self._tried.get(situation) if situation is not None else None
        if not tried:
            return 0
        bits = 0
        for action, (fails, step) in list(tried.items()):
            if self._steps - step > self._expiry_steps:
                del tried[action]
            elif fails >= self._fail_threshold:
                bits |= 1 << action
        return bits

    def _record(self, situation: Situation, action: int, changed: bool) -> None:
        tried = self._tried.pop(situation, None)
        if changed:
            if tried is not None:
                tried.pop(action, None)
                if tried:
                    self._tried[situation] = tried
            return
        tried = tried if tried is not None else {}
        tried[action] = (tried.get(action, (0, 0))[0] + 1, self._steps)
        self._tried[situation] = tried
        if len(self._tried) > self._max_situations:
            del self._tried[next(iter(self._tried))]
