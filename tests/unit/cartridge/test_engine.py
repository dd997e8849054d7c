"""Each thing that the cartridge's engine can do, compiled and played in a world made for it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator

import pytest
from cartridge_player import random_buttons
from engine_world import (
    CAVE,
    CHARM,
    FIRST_KIND,
    LAMP,
    ROOM,
    YARD,
    EnginePlayer,
    engine_source,
    has_compiler,
)

from cluster_rl.cartridge.text import message
from cluster_rl.game import ram

pytestmark = pytest.mark.skipif(not has_compiler(), reason="compiles a world of its own, and sdcc is not installed")

HALL_OF_FAME_TEAMS = 0xD5A2
ROOM_SCHOOL, CAVE_SCHOOL, GUARD_SCHOOL = range(3)


@pytest.fixture
def player() -> Iterator[EnginePlayer]:
    with EnginePlayer() as player:
        yield player


@pytest.fixture
def cave() -> Iterator[EnginePlayer]:
    """In the dark cave, lit by the school's script."""
    with EnginePlayer(CAVE_SCHOOL) as player:
        yield player


# Words


def test_flags_are_set_and_cleared(player: EnginePlayer) -> None:
    assert player.read("flags") == "First."
    assert player.state().events_set() == [3]
    assert player.read("flags") == "Again."
    assert player.state().events_set() == []


def test_items_are_given_and_taken(player: EnginePlayer) -> None:
    assert player.read("items") == "Here is a charm."
    assert player.state().bag == ((CHARM, 2),)
    assert player.read("items") == "It is gone."
    assert player.state().bag == ()
    assert player.memory[ram.wBagItems] == 0xFF


def test_a_full_bag_refuses(player: EnginePlayer) -> None:
    """The twenty-first kind leads to the label, and without one to the engine's own text."""
    assert player.read("kinds") == "The bag is full."
    bag = player.state().bag
    assert bag == tuple((FIRST_KIND + i, 1) for i in range(20))
    assert player.state().events_set() == [4]
    assert player.read("kinds") == "The bag is full."
    assert player.state().bag == tuple((FIRST_KIND + i, 2) for i in range(20))


def test_money_is_paid_if_there_is_enough(player: EnginePlayer) -> None:
    assert player.read("money") == "Poor."
    assert player.state().money == 50 + 999
    assert player.read("money") == "Paid."
    assert player.state().money == 50 + 2 * 999 - 2000
    for _ in range(3):
        player.memory[ram.wPlayerMoney] = player.memory[ram.wPlayerMoney + 1] = 0x99
        player.read("money")
        assert player.state().money <= 999_999 - 2000


@pytest.mark.parametrize(
    ("buttons", "answer"), [("a", "Yes."), ("da", "No."), ("b", "No."), ("dua", "Yes."), ("dda", "No.")]
)
def test_questions(player: EnginePlayer, buttons: str, answer: str) -> None:
    player.at_sign("ask")
    player.tap("a", 4, 60)
    menu = player.state().menu
    assert menu is not None
    assert (menu.kind, menu.choice, menu.text_box_id, menu.top_y, menu.top_x) == ("yes_no", 0, 0x14, 8, 15)
    assert (menu.max_item, menu.watched_keys) == (1, 0x03)
    assert player.state().text_lines == ("Do you see me?",)
    player.choose(*({"d": "down", "u": "up"}.get(letter, letter) for letter in buttons))
    assert player.read_text() == answer
    assert not player.state().interface_up
    assert player.picture_holds()


def test_six_friends_and_no_seventh(player: EnginePlayer) -> None:
    assert player.state().party == ()
    player.give_friend()
    for count in range(2, 7):
        assert player.read("friend") == "One more."
        assert player.state().party_count == count
    assert player.read("friend") == "The team is full."
    assert [(mon.species, mon.level) for mon in player.state().party] == [(1, 9), *[(3, 12)] * 5]
    assert player.memory[ram.wPartyCount + 7] == 0xFF
    assert player.state().dex_owned == {1, 3}


def test_chance_and_badges(player: EnginePlayer) -> None:
    assert player.read("chance") in ("Badge.", "Never said.")
    results = Counter()
    player.at_sign("chance")
    before = player.save()
    for wait in range(40):
        player.load(before)
        player.run(wait)
        player.tap("a", 4, 20)
        results[player.read_text()] += 1
    assert results["Badge."] >= 38
    assert player.state().badges == 4


def test_the_player_is_walked(player: EnginePlayer) -> None:
    player.at_sign("walk")
    x = player.place()[1]
    player.tap("a", 4, 30)
    player.tap("a", 4, 6)
    indices, places = [], []
    for _ in range(400):
        player.run(1)
        state = player.state()
        if state.simulated_joypad_index:
            assert state.joy_ignore == 0xFF
            assert not state.interface_up
            indices.append(state.simulated_joypad_index)
        places.append(player.place())
    assert sorted(set(indices)) == list(range(1, 10))
    # Down two cells, and right until the wall.
    assert list(dict.fromkeys(places)) == [(ROOM, x, y) for y in (1, 2, 3)] + [(ROOM, c, 3) for c in range(x + 1, 16)]
    state = player.state()
    assert (state.facing, state.simulated_joypad_index) == ("up", 0)
    assert state.sprites[0].facing == "left"
    assert player.read_text() == "There."
    assert player.state().joy_ignore == 0
    player.walk("l")
    assert player.place() == (ROOM, 14, 3)


def test_who_vanishes_is_gone_on_all_maps_until_shown(player: EnginePlayer) -> None:
    player.read("flags")
    assert player.state().has_missable(1)  # the ghost, not there at first
    assert not player.state().has_missable(0)
    assert player.read("people") == "Shown."
    assert [player.state().has_missable(index) for index in (0, 1)] == [True, False]
    # Where the guard stood, nobody is in the way.
    player.walk("r" * 15 + "ddd")
    assert player.place() == (ROOM, 15, 4)
    player.go_to_yard()
    player.walk("rrrruu" + "u")
    assert player.place() == (YARD, 5, 3)  # the ghost stands in the way
    player.tap("a", 4, 20)
    assert player.read_text() == "Boo."


def test_who_is_hidden_is_no_obstacle_and_says_nothing(player: EnginePlayer) -> None:
    player.go_to_yard()
    assert player.state().people == ()
    player.walk("rrrruuuu")
    assert player.place() == (YARD, 5, 1)


def test_a_script_that_warps_goes_on_and_the_map_greets_after_it(player: EnginePlayer) -> None:
    player.at_sign("warp")
    player.tap("a", 4, 30)
    player.tap("a", 4, 40)
    assert player.place() == (YARD, 3, 3)
    assert player.read_text() == "Fresh air!"
    assert player.state().events_set() == [7, 300]
    player.walk("l")
    assert player.place() == (YARD, 2, 3)


def test_spots(player: EnginePlayer) -> None:
    player.go_to_yard()
    player.walk("rrrrrrr" + "uuu")
    assert not player.state().has_event(302)
    player.walk("u")
    assert player.state().has_event(302)


def test_shared_scripts_and_the_end_of_the_game(player: EnginePlayer) -> None:
    assert player.memory[HALL_OF_FAME_TEAMS] == 0
    assert player.read("rest") == "Rested."
    assert player.memory[HALL_OF_FAME_TEAMS] == 1


def test_the_longest_text(player: EnginePlayer) -> None:
    """350 bytes, through its last page."""
    player.walk("r" * 13 + "dddd")
    player.run(40)
    player.walk("lll" + "uu")
    player.tap("up")
    player.tap("a", 4, 20)
    text = next(sign["say"] for entry in engine_source()["map"] if entry["name"] == "DEN" for sign in entry["signs"])
    assert len(message(text)) > 340
    assert player.read_text() == text
    assert player.picture_holds()


# Schools


def test_school_scripts_are_done_unseen(cave: EnginePlayer) -> None:
    state = cave.state()
    assert cave.place() == (CAVE, 2, 2)
    assert (state.interface_up, state.is_dark, state.joy_ignore) == (False, False, 0)
    assert [(mon.species, mon.level) for mon in state.party] == [(1, 30)]
    assert (state.bag, state.money, state.badges) == (((LAMP, 1),), 12345 + 50, 2)
    assert state.has_event(303)
    assert not state.has_event(300)  # the yard was only gone through
    assert state.last_blackout_map == YARD
    assert not state.has_missable(1)
    assert cave.picture_holds()
    cave.walk("r")
    assert cave.place() == (CAVE, 3, 2)


def test_schools_by_number() -> None:
    with EnginePlayer(ROOM_SCHOOL) as player:
        assert player.place() == (ROOM, 4, 3)
        assert player.state().facing == "left"
    with EnginePlayer(GUARD_SCHOOL) as player:
        assert player.state().text_lines == ("I guard.",)
    with EnginePlayer(7) as player:  # there is none
        assert player.place() == (ROOM, 0, 1)


# All together


@pytest.mark.parametrize("school", [None, CAVE_SCHOOL])
def test_picture_and_records_hold_under_random_play(school: int | None) -> None:
    with EnginePlayer(school) as player:
        places = set()
        for number, button in enumerate(random_buttons(seed=11, steps=700)):
            player.tap(button, 5, 3)
            assert player.picture_holds(), (number, player.place())
            state = player.state()
            places.add(player.place())
            assert all(mon.hp <= mon.max_hp for mon in state.party)
            assert len(state.bag) <= 20
            assert state.in_battle in (-1, 0, 1, 2)
            if state.is_dark:
                assert state.map_id == CAVE
        assert len(places) > 20


def test_the_same_buttons_play_the_same_game() -> None:
    chains = []
    for _ in range(2):
        with EnginePlayer(CAVE_SCHOOL) as player:
            digest = b""
            for button in random_buttons(seed=5, steps=120):
                player.tap(button, 5, 3)
                video = bytes(player.memory[0x8000:0xA000]) + bytes(player.memory[0xFE00:0xFEA0])
                digest = hashlib.sha256(digest + player.image() + video).digest()
            chains.append(digest)
    assert chains[0] == chains[1]
