"""Battles and menus of the cartridge's engine, played in a world made for them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from engine_world import (
    BALM,
    CHARM,
    FIRST_KIND,
    LAMP,
    ROOM,
    SIGNS,
    YARD,
    EnginePlayer,
    has_compiler,
)

from cluster_rl.game import ram

pytestmark = pytest.mark.skipif(not has_compiler(), reason="compiles a world of its own, and sdcc is not installed")

ITEM_LIST, ENEMY_PARTY_COUNT, BATTLE_MON, MEMBER = 0xCF7B, 0xD89C, 0xD014, 0xCC2F
ENEMY_MON, TEXT_BOX_ID = 0xCFE5, 0xD125


@pytest.fixture
def player() -> Iterator[EnginePlayer]:
    with EnginePlayer() as player:
        yield player


# Battles


def test_without_a_friend_nothing_comes_of_battles(player: EnginePlayer) -> None:
    assert player.read("battle") == "You have no friend who could fight."
    player.go_to_yard()
    player.walk("rrr" + "uu" + "udrl" * 10)
    state = player.state()
    assert (state.in_battle, state.interface_up, state.map_id) == (0, False, YARD)
    player.choose("start", "a")
    assert player.read_text() == "Nobody is with you yet."
    player.choose("b")
    assert not player.state().interface_up


def test_a_team_comes_one_after_another(player: EnginePlayer) -> None:
    player.give_friend()
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
        player.choose("a")
        said += " " + player.read_text()
    assert said.count("is next!") == 2
    assert "GRUBBO is next!" in said
    assert "You won 12345 coins." in said
    state = player.state()
    assert (state.money, state.has_event(5), state.battle_result) == (50 + 12345, True, 0)
    assert state.dex_seen == {1, 2, 3}
    assert player.picture_holds()


def test_friends_change_places_and_the_next_one_comes_for_the_fallen(player: EnginePlayer) -> None:
    player.give_friend()
    player.read("friend")
    player.read("friend")
    player.set_hp(1, 0)
    player.at_sign("battle")
    player.tap("a", 4, 10)
    player.read_text()
    player.choose("right", "a")  # PAL
    menu = player.state().menu
    assert menu is not None
    assert (menu.kind, menu.choice, menu.max_item, menu.watched_keys) == ("other", 0, 2, 3)
    player.choose("a")
    assert player.read_text() == "FENNO is out there already."
    player.choose("a", "down", "a")
    assert player.read_text() == "TUMBLO is too tired."
    player.choose("a", "b")
    assert player.state().menu.is_battle_menu  # type: ignore[union-attr]
    player.choose("a", "down", "down", "a")
    said = player.read_text()
    assert said.startswith("Go! TUMBLO!")
    assert "TUMBLO used NIP!" in said  # the enemy's, of the same name: changing costs the turn
    assert player.memory[MEMBER] == 2
    # The one out there falls: whoever stands comes next, the first in order.
    player.memory[BATTLE_MON + 1] = 0
    player.memory[BATTLE_MON + 2] = 1
    player.set_hp(0, 20)
    player.choose("left", "a", "a")
    for _ in range(12):
        said = player.read_text()
        if "can't go on" in said:
            break
        player.choose("a", "a")
    assert "Go! FENNO!" in said
    assert player.state().in_battle == 2
    assert player.memory[MEMBER] == 0


def test_a_battle_ends_without_points_and_rest_gives_them_back(player: EnginePlayer) -> None:
    player.give_friend()
    points = ram.wPartyMons + 29
    assert player.memory[points] == 35
    player.memory[points] = 0
    player.memory[ram.wPartyMons + 36 + 1] = 200  # attack
    player.at_sign("battle")
    player.tap("a", 4, 10)
    for _ in range(60):
        player.read_text()
        if not player.state().in_battle:
            break
        player.choose("a")
    assert player.state().has_event(5)
    assert player.memory[points] == 0
    player.read("rest")
    assert player.memory[points] == 35


@pytest.mark.parametrize("rested", [False, True])
def test_blackout_leads_to_the_last_place_of_rest(player: EnginePlayer, rested: bool) -> None:
    player.give_friend()
    if rested:
        player.read("rest")
    player.set_hp(0, 1)
    for place, digits in enumerate((0x00, 0x30, 0x65)):
        player.memory[ram.wPlayerMoney + place] = digits
    player.memory[ram.wPartyMons + 36 + 5] = 0  # speed
    player.at_sign("battle")
    player.tap("a", 4, 4)
    said = ""
    for _ in range(30):
        said += player.read_text()
        if not player.memory[ram.wIsInBattle]:
            break
        player.choose("a")
    assert "blacked out" in said
    player.run(60)
    assert player.place() == ((ROOM, list(SIGNS).index("rest"), 1) if rested else (ROOM, 0, 1))
    state = player.state()
    assert (state.battle_result, state.has_event(5)) == (1, False)
    assert state.party[0].hp == state.party[0].max_hp
    assert (state.money, player.memory[TEXT_BOX_ID]) == (1565, 0)
    assert player.picture_holds()


def test_experience_and_damage_stay_at_their_most(player: EnginePlayer) -> None:
    player.give_friend()
    member = ram.wPartyMons
    player.memory[member + 3] = player.memory[member + 0x21] = 40
    player.memory[member + 15] = player.memory[member + 16] = 0xFF
    player.memory[member + 36 + 1] = 200  # attack
    player.at_sign("battle")
    player.tap("a", 4, 10)
    player.read_text()
    for _ in range(60):
        if not player.state().in_battle:
            break
        player.memory[ENEMY_MON + 1] = 600 >> 8
        player.memory[ENEMY_MON + 2] = 600 & 255
        player.memory[ENEMY_MON + 20] = 1  # defense
        player.choose("a", "a")
        said = player.read_text()
        if "missed" not in said:
            assert "dropped out" in said
    assert player.state().has_event(5)
    assert bytes(player.memory[member + 15 : member + 17]) == b"\xff\xff"


# Menus


def test_shop(player: EnginePlayer) -> None:
    player.memory[ram.wPlayerMoney + 1] = 0x01  # 150 coins
    player.at_sign("shop")
    player.tap("a", 4, 30)
    player.choose("a")
    menu = player.state().menu
    assert menu is not None
    assert (menu.kind, menu.choice, menu.max_item, menu.text_box_id, menu.list_menu_id) == ("prices", 0, 2, 0x0D, 2)
    assert bytes(player.memory[ITEM_LIST : ITEM_LIST + 8]) == bytes((6, BALM, 10, 11, 12, 13, CHARM, 0xFF))
    player.choose(*["down"] * 4)
    assert player.state().menu.choice == 4  # type: ignore[union-attr]
    assert player.state().menu.scroll_offset == 2  # type: ignore[union-attr]
    player.choose("a")
    player.run(60)
    assert player.state().menu.is_yes_no  # type: ignore[union-attr]
    assert player.state().text_lines == ("KIND3? Do you", "want it?")
    player.choose("b")
    assert player.state().menu.choice == 4  # type: ignore[union-attr]
    assert (player.state().bag, player.state().money) == ((), 150)
    player.choose("a")
    player.run(60)
    player.choose("a")
    assert player.read_text() == "Here you are!"
    assert (player.state().bag, player.state().money) == (((FIRST_KIND + 3, 1),), 120)
    player.choose("down", "a")
    player.run(60)
    player.choose("a")
    assert player.read_text() == "Too few coins."
    assert (player.state().bag, player.state().money) == (((FIRST_KIND + 3, 1),), 120)
    player.choose("b")
    assert player.read_text() == "Bye!"
    assert not player.state().interface_up
    assert player.picture_holds()


def buy_the_first(player: EnginePlayer) -> None:
    """Asks for the first thing on the shelf, and says YES."""
    player.at_sign("shop")
    player.tap("a", 4, 30)
    player.choose("a", "a")
    player.run(60)
    player.choose("a")


def test_shop_sells_nothing_to_a_full_bag(player: EnginePlayer) -> None:
    player.read("kinds")
    buy_the_first(player)
    assert player.read_text() == "The bag is full."
    assert player.state().money == 50
    player.choose("down", "a")
    player.run(60)
    player.choose("a")  # one more of a kind that is there fits
    assert player.read_text() == "Here you are!"
    assert player.state().bag[0] == (FIRST_KIND, 2)


def test_a_hundredth_piece_is_not_sold(player: EnginePlayer) -> None:
    player.fill_bag(BALM, 99)
    player.memory[ram.wPlayerMoney + 1] = 0x50
    money = player.state().money
    buy_the_first(player)
    assert player.read_text() == "The bag is full."
    assert (player.state().bag, player.state().money) == (((BALM, 99),), money)


def open_bag(player: EnginePlayer) -> None:
    player.choose("start", "down", "a")


def test_use_and_toss(player: EnginePlayer) -> None:
    player.give_friend()
    player.fill_bag(LAMP, 1, BALM, 2, CHARM, 1)
    player.set_hp(0, 3)
    open_bag(player)
    player.choose("down", "a")
    menu = player.state().menu
    assert menu is not None
    assert (menu.text_box_id, menu.top_y, menu.top_x, menu.max_item, menu.choice) == (0x06, 11, 14, 1, 0)
    player.choose("a")
    assert player.read_text() == "FENNO recovered."
    assert player.state().party[0].hp == 23
    assert player.state().bag == ((LAMP, 1), (BALM, 1), (CHARM, 1))
    player.choose("a", "down", "a")  # the lamp cannot be thrown away
    assert player.read_text() == "LAMP is too important to throw away."
    player.choose("down", "a", "down", "a")
    assert player.read_text() == "Threw away BALM."
    assert player.state().bag == ((LAMP, 1), (CHARM, 1))
    player.choose("down", "a", "a")
    assert player.read_text() == "This is not the time for it."
    player.choose("a", "b")  # out of the two
    assert player.state().menu.kind == "list"  # type: ignore[union-attr]
    player.choose("a", "a")  # the lamp's own script closes the menu
    assert player.read_text() == "It is bright here."
    assert not player.state().interface_up
    assert player.picture_holds()


def test_a_remedy_is_for_one_of_the_team(player: EnginePlayer) -> None:
    player.give_friend()
    player.read("friend")
    player.fill_bag(BALM, 2)
    player.set_hp(1, 3)
    open_bag(player)
    player.choose("a", "a", "down", "a")
    assert player.read_text() == "TUMBLO recovered."
    assert player.state().party[1].hp == 23
    player.choose("a", "a", "b")
    assert player.state().menu.kind == "list"  # type: ignore[union-attr]
    assert player.state().bag == ((BALM, 1),)


def test_team_screen_shows_all_and_lets_another_lead(player: EnginePlayer) -> None:
    player.give_friend()
    player.read("friend")
    player.set_hp(1, 7)
    player.choose("start", "a")
    rows = [bytes(player.state().tile_row(row)) for row in range(4)]
    assert rows[0][3:8] == bytes((0x85, 0x84, 0x8D, 0x8D, 0x8E))  # FENNO
    assert rows[0][14] == 0xF6 + 9
    assert rows[2][3:9] == bytes((0x93, 0x94, 0x8C, 0x81, 0x8B, 0x8E))
    assert rows[3][13:16] == bytes((0x7F, 0x7F, 0xF6 + 7))
    player.choose("down", "a", "down", "a")  # BACK
    assert [mon.species for mon in player.state().party] == [1, 3]
    player.choose("down", "a", "a")  # LEAD
    assert [(mon.species, mon.hp) for mon in player.state().party] == [(3, 7), (1, player.state().party[1].max_hp)]
    player.choose("b", "b")
    assert not player.state().interface_up
