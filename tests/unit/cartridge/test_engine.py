"""Each thing that the cartridge's engine can do, compiled and played in a world made for it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from cartridge_player import random_buttons
from engine_world import (
    BALM,
    CAVE,
    CHARM,
    DEN,
    FIRST_KIND,
    LAMP,
    ROOM,
    SECRET_COMBINATIONS,
    SIGNS,
    YARD,
    EnginePlayer,
    has_compiler,
)

from cluster_rl.game import ram

pytestmark = pytest.mark.skipif(not has_compiler(), reason="compiles a world of its own, and sdcc is not installed")

HALL_OF_FAME_TEAMS, ITEM_LIST, ENEMY_PARTY_COUNT, BATTLE_MON, MEMBER = 0xD5A2, 0xCF7B, 0xD89C, 0xD014, 0xCC2F
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


def choose(player: EnginePlayer, *buttons: str) -> None:
    for button in buttons:
        player.tap(button, 6, 18)


def give_friend(player: EnginePlayer) -> None:
    assert player.read("friend") == "One."


def set_hp(player: EnginePlayer, member: int, hp: int) -> None:
    at = ram.wPartyMons + 44 * member + 1
    player.memory[at], player.memory[at + 1] = hp >> 8, hp & 255


def shades(player: EnginePlayer) -> np.ndarray:
    """The picture, uint8 [144, 160], 255 for the lightest shade."""
    player.pyboy.tick(1, True, False)
    return player.pyboy.screen.ndarray[:, :, 0].copy()


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
    choose(player, *({"d": "down", "u": "up"}.get(letter, letter) for letter in buttons))
    assert player.read_text() == answer
    assert not player.state().interface_up
    assert player.picture_holds()


def test_six_friends_and_no_seventh(player: EnginePlayer) -> None:
    assert player.state().party == ()
    give_friend(player)
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
    go_to_yard(player)
    player.walk("rrrruu" + "u")
    assert player.place() == (YARD, 5, 3)  # the ghost stands in the way
    player.tap("a", 4, 20)
    assert player.read_text() == "Boo."


def test_who_is_hidden_is_no_obstacle_and_says_nothing(player: EnginePlayer) -> None:
    go_to_yard(player)
    assert player.state().people == ()
    player.walk("rrrruuuu")
    assert player.place() == (YARD, 5, 1)


def go_to_yard(player: EnginePlayer) -> None:
    """From anywhere in the room to the yard's door, the welcome read."""
    _, x, y = player.place()
    player.walk("u" * (y - 1) + "l" * (x - 3) + "r" * (3 - x) + "dddd")
    player.run(30)
    assert player.place() == (YARD, 1, 5)
    player.read_text()


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
    go_to_yard(player)
    player.walk("rrrrrrr" + "uuu")
    assert not player.state().has_event(302)
    player.walk("u")
    assert player.state().has_event(302)


def test_shared_scripts_and_the_end_of_the_game(player: EnginePlayer) -> None:
    assert player.memory[HALL_OF_FAME_TEAMS] == 0
    assert player.read("rest") == "Rested."
    assert player.memory[HALL_OF_FAME_TEAMS] == 1


# Battles


def test_without_a_friend_nothing_comes_of_battles(player: EnginePlayer) -> None:
    assert player.read("battle") == "You have no friend who could fight."
    go_to_yard(player)
    player.walk("rrr" + "uu" + "udrl" * 10)
    state = player.state()
    assert (state.in_battle, state.interface_up, state.map_id) == (0, False, YARD)
    choose(player, "start", "a")
    assert player.read_text() == "Nobody is with you yet."
    choose(player, "b")
    assert not player.state().interface_up


def test_a_team_comes_one_after_another(player: EnginePlayer) -> None:
    give_friend(player)
    player.memory[ram.wPartyMons + 36 + 1] = 200  # attack
    player.at_sign("battle")
    player.tap("a", 4, 10)
    said = player.read_text()
    assert "TRIO wants a match!" in said
    state = player.state()
    assert state.in_battle == 2
    assert (state.enemy.species, state.enemy.level) == (3, 3)  # type: ignore[union-attr]
    assert bytes(player.memory[ENEMY_PARTY_COUNT : ENEMY_PARTY_COUNT + 5]) == bytes((3, 3, 2, 3, 0xFF))
    for _ in range(60):
        if not player.state().in_battle:
            break
        choose(player, "a")
        said += " " + player.read_text()
    assert said.count("is next!") == 2
    assert "GRUBBO is next!" in said
    assert "You won 12345 coins." in said
    state = player.state()
    assert (state.money, state.has_event(5), state.battle_result) == (50 + 12345, True, 0)
    assert state.dex_seen == {1, 2, 3}
    assert player.picture_holds()


def test_friends_change_places_and_the_next_one_comes_for_the_fallen(player: EnginePlayer) -> None:
    give_friend(player)
    player.read("friend")
    player.read("friend")
    set_hp(player, 1, 0)
    player.at_sign("battle")
    player.tap("a", 4, 10)
    player.read_text()
    choose(player, "right", "a")  # PAL
    menu = player.state().menu
    assert menu is not None
    assert (menu.kind, menu.choice, menu.max_item, menu.watched_keys) == ("other", 0, 2, 3)
    choose(player, "a")
    assert player.read_text() == "FENNO is out there already."
    choose(player, "a", "down", "a")
    assert player.read_text() == "TUMBLO is too tired."
    choose(player, "a", "b")
    assert player.state().menu.is_battle_menu  # type: ignore[union-attr]
    choose(player, "a", "down", "down", "a")
    said = player.read_text()
    assert said.startswith("Go! TUMBLO!")
    assert "TUMBLO used NIP!" in said  # the enemy's, of the same name: changing costs the turn
    assert player.memory[MEMBER] == 2
    # The one out there falls: whoever stands comes next, the first in order.
    player.memory[BATTLE_MON + 1] = 0
    player.memory[BATTLE_MON + 2] = 1
    set_hp(player, 0, 20)
    choose(player, "left", "a", "a")
    for _ in range(12):
        said = player.read_text()
        if "can't go on" in said:
            break
        choose(player, "a", "a")
    assert "Go! FENNO!" in said
    assert player.state().in_battle == 2
    assert player.memory[MEMBER] == 0


@pytest.mark.parametrize("rested", [False, True])
def test_blackout_leads_to_the_last_place_of_rest(player: EnginePlayer, rested: bool) -> None:
    give_friend(player)
    if rested:
        player.read("rest")
    set_hp(player, 0, 1)
    player.memory[ram.wPartyMons + 36 + 5] = 0  # speed
    player.at_sign("battle")
    player.tap("a", 4, 4)
    said = ""
    for _ in range(30):
        said += player.read_text()
        if not player.memory[ram.wIsInBattle]:
            break
        choose(player, "a")
    assert "blacked out" in said
    player.run(60)
    assert player.place() == ((ROOM, list(SIGNS).index("rest"), 1) if rested else (ROOM, 0, 1))
    state = player.state()
    assert (state.battle_result, state.has_event(5)) == (1, False)
    assert state.party[0].hp == state.party[0].max_hp
    assert player.picture_holds()


# Menus


def test_shop(player: EnginePlayer) -> None:
    player.memory[ram.wPlayerMoney + 1] = 0x01  # 150 coins
    player.at_sign("shop")
    player.tap("a", 4, 30)
    choose(player, "a")
    menu = player.state().menu
    assert menu is not None
    assert (menu.kind, menu.choice, menu.max_item, menu.text_box_id, menu.list_menu_id) == ("prices", 0, 2, 0x0D, 2)
    assert bytes(player.memory[ITEM_LIST : ITEM_LIST + 8]) == bytes((6, BALM, 10, 11, 12, 13, CHARM, 0xFF))
    choose(player, *["down"] * 4)
    assert player.state().menu.choice == 4  # type: ignore[union-attr]
    assert player.state().menu.scroll_offset == 2  # type: ignore[union-attr]
    choose(player, "a")
    player.run(60)
    assert player.state().menu.is_yes_no  # type: ignore[union-attr]
    assert player.state().text_lines == ("KIND3? Do you", "want it?")
    choose(player, "b")
    assert player.state().menu.choice == 4  # type: ignore[union-attr]
    assert (player.state().bag, player.state().money) == ((), 150)
    choose(player, "a")
    player.run(60)
    choose(player, "a")
    assert player.read_text() == "Here you are!"
    assert (player.state().bag, player.state().money) == (((FIRST_KIND + 3, 1),), 120)
    choose(player, "down", "a")
    player.run(60)
    choose(player, "a")
    assert player.read_text() == "Too few coins."
    assert (player.state().bag, player.state().money) == (((FIRST_KIND + 3, 1),), 120)
    choose(player, "b")
    assert player.read_text() == "Bye!"
    assert not player.state().interface_up
    assert player.picture_holds()


def test_shop_sells_nothing_to_a_full_bag(player: EnginePlayer) -> None:
    player.read("kinds")
    player.at_sign("shop")
    player.tap("a", 4, 30)
    choose(player, "a", "a")
    player.run(60)
    choose(player, "a")
    assert player.read_text() == "The bag is full."
    assert player.state().money == 50
    choose(player, "down", "a")
    player.run(60)
    choose(player, "a")  # one more of a kind that is there fits
    assert player.read_text() == "Here you are!"
    assert player.state().bag[0] == (FIRST_KIND, 2)


def open_bag(player: EnginePlayer) -> None:
    choose(player, "start", "down", "a")


def test_use_and_toss(player: EnginePlayer) -> None:
    give_friend(player)
    player.memory[ram.wNumBagItems] = 3
    for offset, value in enumerate((LAMP, 1, BALM, 2, CHARM, 1, 0xFF)):
        player.memory[ram.wBagItems + offset] = value
    set_hp(player, 0, 3)
    open_bag(player)
    choose(player, "down", "a")
    menu = player.state().menu
    assert menu is not None
    assert (menu.text_box_id, menu.top_y, menu.top_x, menu.max_item, menu.choice) == (0x06, 11, 14, 1, 0)
    choose(player, "a")
    assert player.read_text() == "FENNO recovered."
    assert player.state().party[0].hp == 23
    assert player.state().bag == ((LAMP, 1), (BALM, 1), (CHARM, 1))
    choose(player, "a", "down", "a")  # the lamp cannot be thrown away
    assert player.read_text() == "LAMP is too important to throw away."
    choose(player, "down", "a", "down", "a")
    assert player.read_text() == "Threw away BALM."
    assert player.state().bag == ((LAMP, 1), (CHARM, 1))
    choose(player, "down", "a", "a")
    assert player.read_text() == "This is not the time for it."
    choose(player, "a", "b")  # out of the two
    assert player.state().menu.kind == "list"  # type: ignore[union-attr]
    choose(player, "a", "a")  # the lamp's own script closes the menu
    assert player.read_text() == "It is bright here."
    assert not player.state().interface_up
    assert player.picture_holds()


def test_a_remedy_is_for_one_of_the_team(player: EnginePlayer) -> None:
    give_friend(player)
    player.read("friend")
    player.memory[ram.wNumBagItems] = 1
    for offset, value in enumerate((BALM, 2, 0xFF)):
        player.memory[ram.wBagItems + offset] = value
    set_hp(player, 1, 3)
    open_bag(player)
    choose(player, "a", "a", "down", "a")
    assert player.read_text() == "TUMBLO recovered."
    assert player.state().party[1].hp == 23
    choose(player, "a", "a", "b")
    assert player.state().menu.kind == "list"  # type: ignore[union-attr]
    assert player.state().bag == ((BALM, 1),)


def test_team_screen_shows_all_and_lets_another_lead(player: EnginePlayer) -> None:
    give_friend(player)
    player.read("friend")
    set_hp(player, 1, 7)
    choose(player, "start", "a")
    rows = [bytes(player.state().tile_row(row)) for row in range(4)]
    assert rows[0][3:8] == bytes((0x85, 0x84, 0x8D, 0x8D, 0x8E))  # FENNO
    assert rows[0][14] == 0xF6 + 9
    assert rows[2][3:9] == bytes((0x93, 0x94, 0x8C, 0x81, 0x8B, 0x8E))
    assert rows[3][13:16] == bytes((0x7F, 0x7F, 0xF6 + 7))
    choose(player, "down", "a", "down", "a")  # BACK
    assert [mon.species for mon in player.state().party] == [1, 3]
    choose(player, "down", "a", "a")  # LEAD
    assert [(mon.species, mon.hp) for mon in player.state().party] == [(3, 7), (1, player.state().party[1].max_hp)]
    choose(player, "b", "b")
    assert not player.state().interface_up


# Secrets


def test_every_secret_is_drawn_equally_often() -> None:
    """Over the waits before the first button, of a new game and of a school; the first button alone decides."""
    for school in (None, ROOM_SCHOOL):
        with EnginePlayer(school) as player:
            start = player.save()
            at = player.symbol("secrets")
            drawn = []
            for wait in range(SECRET_COMBINATIONS):
                player.load(start)
                assert not any(player.memory[at : at + 8])
                player.run(wait)
                player.tap("left", 4, 20)
                secrets = bytes(player.memory[at : at + 8])
                assert sorted(secrets[4:]) == [0, 1, 2, 3]
                drawn.append((secrets[0], secrets[4:]))
                player.tap("right", 8, 17 + wait % 3)
                assert bytes(player.memory[at : at + 8]) == secrets
        assert len(set(drawn)) == SECRET_COMBINATIONS
        first = drawn[:61]  # as many as an episode's start waits
        assert sorted(Counter(word for word, _ in first).values())[0] >= 13
        assert set(Counter(order for _, order in first).values()) == {2, 3}


def test_secrets_are_in_private_ram_alone(player: EnginePlayer) -> None:
    """The same game with other secrets: all RAM, the picture and the sprites are the same but for that place."""
    player.tap("right", 4, 20)
    before, at = player.save(), player.symbol("secrets")
    assert 0xC000 <= at < 0xC0F0
    assert not ram.is_live(at)
    looks = []
    for secrets in ((0, 0, 0, 0, 3, 2, 1, 0), (3, 0, 0, 0, 0, 1, 2, 3)):
        player.load(before)
        for offset, value in enumerate(secrets):
            player.memory[at + offset] = value
        look = []
        for button in random_buttons(seed=8, steps=60):
            if button != "a":
                player.tap(button, 5, 3)
                player.pyboy.tick(1, True, False)
                image = player.image()
                assert image[at - 0xC000 : at - 0xC000 + 8] == bytes(secrets)
                seen = image[: at - 0xC000] + image[at - 0xC000 + 8 :] + player.pyboy.screen.ndarray.tobytes()
                look.append(hashlib.sha256(seen).digest())
        looks.append(look)
    assert looks[0] == looks[1]


def test_secrets_are_told_asked_and_done_in_order(player: EnginePlayer) -> None:
    player.tap("right", 4, 20)
    at = player.symbol("secrets")
    words, levers = ("NORTH", "SOUTH", "EAST", "WEST"), ("RED", "GREEN", "BLUE", "GOLD")
    for word, order, replies in (
        (0, (0, 1, 2, 3), ["Clack.", "All done."]),
        (1, (0, 2, 1, 3), ["Half.", "Wrong."]),
        (3, (3, 2, 1, 0), ["Wrong.", "Wrong."]),
    ):
        state = player.save()
        for offset, value in enumerate((word, 0, 0, 0, *order)):
            player.memory[at + offset] = value
        assert player.read("told") == f"{words[word]} and {' '.join(levers[value] for value in order)}."
        assert player.read("secret") == {0: "North.", 1: "South."}.get(word, "Neither.")
        assert [player.read("pull") for _ in replies] == replies
        player.load(state)


# The dark, the noise


def to_cave(player: EnginePlayer) -> None:
    _, x, y = player.place()
    player.walk("u" * (y - 1))
    player.walk("r" * (7 - x) + "l" * (x - 7) + "dddd")
    player.run(40)
    assert player.place() == (CAVE, 1, 1)


def test_in_the_dark_only_the_player_is_seen(player: EnginePlayer) -> None:
    to_cave(player)
    player.walk("d")
    state = player.state()
    assert state.is_dark
    assert player.memory[ram.wMapPalOffset] == 6
    assert len(set(state.tile_map)) > 2  # RAM holds the map as ever
    picture = shades(player)
    own = picture[60:76, 64:80].copy()
    picture[60:76, 64:80] = 0
    assert not picture.any()
    assert own.any()
    player.walk("rr")
    player.tap("up", 4, 20)
    for _ in range(20):
        player.tap("up", 2, 4)
        picture = shades(player)
        picture[60:76, 64:80] = 0
        assert not picture.any()
    player.tap("a", 4, 40)
    assert player.state().text_lines == ("Cold walls.",)
    assert player.picture_holds()
    picture = shades(player)
    assert picture[96:].any()
    picture[60:76, 64:80] = 0
    assert not picture[:96].any()
    player.read_text()
    picture = shades(player)
    picture[60:76, 64:80] = 0
    assert not picture.any()
    choose(player, "start")
    assert player.state().menu.kind == "start"  # type: ignore[union-attr]
    picture = shades(player)
    assert picture[:112, 80:].any()
    picture[60:76, 64:80] = 0
    assert not picture[:, :80].any()
    choose(player, "b")
    player.walk("lluu")
    player.run(40)
    state = player.state()
    assert (player.place()[0], state.is_dark) == (ROOM, False)
    assert shades(player).any()
    assert player.picture_holds()


def test_the_lamp_lights_until_the_dark_is_left(player: EnginePlayer) -> None:
    player.memory[ram.wNumBagItems] = 1
    for offset, value in enumerate((LAMP, 1, 0xFF)):
        player.memory[ram.wBagItems + offset] = value
    player.read("flags")
    to_cave(player)
    player.walk("d")
    open_bag(player)
    choose(player, "a", "a")
    assert player.read_text() == "The lamp glows."
    state = player.state()
    assert (state.is_dark, player.memory[ram.wMapPalOffset]) == (False, 0)
    picture = shades(player)
    assert (picture > 0).mean() > 0.3
    assert player.picture_holds()
    player.walk("rrrr")
    player.tap("down", 4, 20)
    player.walk("u")
    player.walk("uu")
    assert player.picture_holds()
    player.walk("dllllu")
    player.run(40)
    assert player.place()[0] == ROOM
    to_cave(player)
    assert player.state().is_dark


def test_noise_changes_every_four_frames_and_no_tile_map() -> None:
    with EnginePlayer() as player:
        player.walk("r" * 13 + "dddd")
        player.run(40)
        assert player.place() == (DEN, 3, 3)
        player.walk("u")
        tiles = player.state().tile_map
        start = player.save()
        runs = []
        for _ in range(2):
            player.load(start)
            shown = []
            for _ in range(64):
                picture = shades(player)
                shown.append(picture[28:44, 64:80].tobytes() + picture[:16].tobytes())
                assert player.state().tile_map == tiles
            runs.append(shown)
        assert runs[0] == runs[1]
        changes = [frame for frame in range(1, 64) if runs[0][frame] != runs[0][frame - 1]]
        assert len(changes) >= 14
        assert {later - earlier for earlier, later in pairwise(changes)} == {4}
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
