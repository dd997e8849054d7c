"""Masks: what made-up states allow, what is learned and forgotten, and the START menu of the real cartridge."""

from __future__ import annotations

import random

import numpy as np
import pytest
from cartridge_fixtures import meet_trainer, menu_fields, new_env, play, state_with
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster_rl.affordances import Affordances, game_actions, situation_of
from cluster_rl.game import ram
from cluster_rl.game.buttons import BUTTONS
from cluster_rl.game.state import GameState

BLANK = np.zeros((72, 80), np.uint8)
RIGHT, A = BUTTONS.index("right"), BUTTONS.index("a")
KEY = ram.JOYPAD_BITS


def names(state: GameState) -> set[str]:
    bits = game_actions(state)
    return {name for action, name in enumerate(BUTTONS) if bits >> action & 1}


def affordances(**changes: float) -> Affordances:
    settings: dict[str, float] = {"threshold": 2, "expiry": 100, "retry": 0.0, "most": 50} | changes
    return Affordances(
        int(settings["threshold"]), int(settings["expiry"]), settings["retry"], int(settings["most"]), seed=7
    )


def in_front_of(wall: int) -> GameState:
    """A state at cell (wall, 1), facing right."""
    return state_with((ram.wXCoord, wall), (ram.wYCoord, 1), (ram.wSpriteStateData1 + 9, 12))


def bump(memory: Affordances, state: GameState, times: int = 1, action: int = RIGHT) -> np.ndarray:
    memory.start(state, BLANK)
    mask = np.ones(7, bool)
    for _ in range(times):
        mask = memory.step(action, state, BLANK)
    return mask


# The game itself


def test_free_play_allows_everything() -> None:
    assert names(state_with()) == set(BUTTONS)
    assert names(state_with(in_game=False)) == set(BUTTONS)


@pytest.mark.parametrize("button", BUTTONS)
def test_ignored_buttons_are_masked(button: str) -> None:
    assert names(state_with((ram.wJoyIgnore, KEY[button]))) == set(BUTTONS) - {button}


def test_start_menu_answers_to_all_but_left_and_right() -> None:
    for item in range(6):
        state = state_with(*menu_fields((2, 11), 0xCB, item=item, last=6))
        assert names(state) == {"up", "down", "a", "b", "start"}
        assert situation_of(state) is None  # nothing is ever learned away in it


def test_battle_menu_and_move_list() -> None:
    assert names(state_with(*menu_fields((14, 9), KEY["a"] | KEY["right"], battle=1))) == {"up", "down", "a", "right"}
    assert names(state_with(*menu_fields((14, 15), KEY["a"] | KEY["left"], battle=2))) == {"up", "down", "a", "left"}
    assert names(state_with(*menu_fields((12, 5), 0xC7, item=1, last=3, battle=1))) == {"up", "down", "a", "b"}


def test_text_answers_to_a_and_b_whether_or_not_its_arrow_shows() -> None:
    box = ((ram.wTileMap + 12 * 20, 0x79), (ram.wTileMap + 17 * 20, 0x7D), (ram.wFontLoaded, 1))
    assert names(state_with(*box)) == {"a", "b"}
    assert names(state_with(*box, (ram.wTileMap + 16 * 20 + 18, 0xEE))) == {"a", "b"}
    assert names(state_with((ram.wIsInBattle, 1))) == {"a", "b"}


def test_a_picked_list_entry_may_ask_for_a_quantity() -> None:
    hollow = ram.wTileMap + 4 * 20 + 5
    fields = (
        *((ram.wFontLoaded, 1), (ram.wTextBoxID, 0x0D), (hollow, 0xEC)),
        (ram.wMenuCursorLocation, hollow.to_bytes(2, "little")),
    )
    assert names(state_with(*fields)) == {"a", "b", "up", "down"}


def test_scripts_that_walk_the_player_leave_a_and_b() -> None:
    assert names(state_with((ram.wSimulatedJoypadStatesIndex, 3))) == {"a", "b"}
    assert names(state_with((ram.wIgnoreInputCounter, 30))) == {"a", "b"}
    assert names(state_with((ram.wIgnoreInputCounter, 4))) == set(BUTTONS)  # over before the button is let go
    assert names(state_with((ram.wJoyIgnore, 0xFF))) == {"a", "b"}


@given(st.integers(0, 2**32), st.integers(0, 6))
@settings(max_examples=60, deadline=None)
def test_masks_are_never_empty(seed: int, action: int) -> None:
    noise = GameState(random.Random(seed).randbytes(ram.IMAGE_BYTES))
    free = in_front_of(seed % 20)
    memory = affordances(threshold=1)
    for state in (noise, free):
        assert memory.start(state, BLANK).any()
        for _ in range(8):
            mask = memory.step(action, state, BLANK)
            assert mask.any()
            action = int(np.flatnonzero(mask)[0])


def test_keys_ignored_for_a_moment_are_not_masked_and_lasting_ones_are() -> None:
    memory = affordances()
    loading, elsewhere = state_with((ram.wJoyIgnore, 0xFF)), state_with((ram.wJoyIgnore, 0xFF), (ram.wCurMap, 9))
    a_b = [name in ("a", "b") for name in BUTTONS]
    assert memory.start(loading, BLANK).tolist() == a_b  # nothing is known of before
    memory.start(state_with(), BLANK)
    assert memory.start(loading, BLANK).tolist() == a_b  # and an episode's end is not before the next one's start
    memory.start(state_with(), BLANK)
    assert memory.step(A, loading, BLANK).all()
    assert memory.step(A, loading, BLANK).tolist() == a_b
    assert memory.step(A, elsewhere, BLANK).all()


# The memory


def test_what_changed_nothing_often_enough_is_masked_in_that_situation_only() -> None:
    memory = affordances()
    assert bump(memory, in_front_of(5)).all()
    mask = bump(memory, in_front_of(5))
    assert list(np.flatnonzero(~mask)) == [RIGHT]
    assert memory.start(in_front_of(6), BLANK).all()
    assert list(np.flatnonzero(~memory.start(in_front_of(5), BLANK))) == [RIGHT]


def test_success_clears() -> None:
    memory = affordances()
    bump(memory, in_front_of(5), 2)
    moved = in_front_of(6)
    memory.start(in_front_of(5), BLANK)
    memory.step(RIGHT, moved, BLANK)  # pressed all the same, and it worked
    assert memory.start(in_front_of(5), BLANK).all()
    assert len(memory) == 0


def test_a_new_picture_is_a_change_and_the_clock_is_none() -> None:
    memory = affordances(threshold=1)
    memory.start(in_front_of(5), BLANK)
    assert memory.step(RIGHT, in_front_of(5), BLANK + np.uint8(1)).all()
    clock = bytearray(in_front_of(5).image)
    clock[ram.image_index(ram.wPlayTimeSeconds)] = 9
    memory.start(in_front_of(5), BLANK)
    assert not memory.step(RIGHT, GameState(bytes(clock)), BLANK)[RIGHT]


def test_expiry() -> None:
    memory = affordances(expiry=10)
    bump(memory, in_front_of(5), 2)
    for _ in range(10):
        memory.step(A, in_front_of(50), BLANK + np.uint8(1))
    assert not memory.start(in_front_of(5), BLANK)[RIGHT]
    memory.step(A, in_front_of(50), BLANK)
    assert memory.start(in_front_of(5), BLANK)[RIGHT]


def test_retry_lifts_now_and_then_and_reproducibly() -> None:
    def lifted(seed: int) -> list[bool]:
        memory = affordances(retry=0.25)
        memory.forget(seed)
        bump(memory, in_front_of(5), 2)
        return [bool(memory.start(in_front_of(5), BLANK)[RIGHT]) for _ in range(1000)]

    first = lifted(3)
    assert 180 < sum(first) < 320
    assert lifted(3) == first
    assert lifted(4) != first


def test_memory_is_bounded_and_drops_the_oldest() -> None:
    memory = affordances(threshold=1, most=5)
    for wall in range(20):
        bump(memory, in_front_of(wall))
        assert len(memory) <= 5
    assert memory.start(in_front_of(14), BLANK)[RIGHT]
    assert not memory.start(in_front_of(15), BLANK)[RIGHT]


@pytest.mark.parametrize(
    "field",
    [
        *((ram.wWalkCounter, 4), (ram.wJoyIgnore, 1), (ram.wSimulatedJoypadStatesIndex, 1), (ram.wFontLoaded, 1)),
        (ram.wMapPalOffset, 6),
    ],
)
def test_nothing_is_learned_where_it_cannot_be_put_down_to_the_button(field: tuple[int, int]) -> None:
    memory = affordances(threshold=1)
    bump(memory, state_with(field), 5)
    memory.start(state_with(), BLANK)
    for _ in range(5):
        memory.step(RIGHT, state_with(field), BLANK)
    assert len(memory) == 0


def test_in_menus_only_moving_the_cursor_is_learned() -> None:
    memory = affordances(threshold=1)
    top = state_with(*menu_fields((12, 5), 0xC7, item=1, last=3, battle=1))
    up = BUTTONS.index("up")
    assert bump(memory, top, 5, action=A)[A]
    assert not bump(memory, top, 1, action=up)[up]


# The cartridge


def test_start_menu_of_the_cartridge() -> None:
    env = new_env(affordance_fail_threshold=1, affordance_retry_probability=0.0)
    env.start()
    play(env, "S")
    for letter in "ddddddduuuuuuuud":
        mask = dict(zip(BUTTONS, env.observation.mask.tolist(), strict=True))
        assert env.state.menu is not None
        assert env.state.menu.is_start_menu
        assert mask == {name: name not in ("left", "right") for name in BUTTONS}
        play(env, letter)
    env.close()


def test_walls_are_learned_and_battle_menus_allow_up_and_down() -> None:
    env = new_env(affordance_retry_probability=0.0, start_idle_frames_max=0)
    env.start()
    play(env, "uuuuuu")  # into the wall of the house, until nothing changes any more
    mask = dict(zip(BUTTONS, env.observation.mask.tolist(), strict=True))
    assert not mask["up"]
    assert mask["down"]
    meet_trainer(env)
    for _ in range(20):
        play(env, "A")
        if env.state.menu is not None:
            break
    assert env.state.menu is not None
    assert env.state.menu.is_battle_menu
    mask = dict(zip(BUTTONS, env.observation.mask.tolist(), strict=True))
    assert mask == {"down": True, "left": False, "right": True, "up": True, "a": True, "b": False, "start": False}
    env.close()
