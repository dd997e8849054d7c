"""The embedded cartridge plays as it should, and in the same way every time."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise

import pytest
from cartridge_player import HOME, ROUTE, TOWN, Player, random_buttons

from cluster_rl.game import ram

BALM = 0x14
FENNO = 1


@pytest.fixture
def player() -> Iterator[Player]:
    with Player() as player:
        yield player


def test_boots_into_a_new_game(player: Player) -> None:
    state = player.state()
    assert player.place() == (HOME, 3, 3)
    assert state.player_name == "WREN"
    assert [(mon.species, mon.level, mon.experience) for mon in state.party] == [(FENNO, 5, 125)]
    assert (state.money, state.bag, state.badges) == (500, ((BALM, 2),), 0)
    assert player.memory[ram.wPartyCount + 2] == 0xFF  # the species list ends
    assert state.joy_ignore == 0


def test_first_button_counts_soon_after_boot() -> None:
    with Player(boot_frames=81) as player:
        player.tap("left", 8, 30)
        assert player.place() == (HOME, 2, 3)


def test_step_takes_sixteen_frames(player: Player) -> None:
    player.pyboy.button_press("left")
    arrivals, counters = [], []
    for frame in range(60):
        place = player.place()
        player.run(1)
        counters.append(player.memory[ram.wWalkCounter])
        if player.place() != place:
            arrivals.append(frame)
    player.pyboy.button_release("left")
    assert player.place() == (HOME, 0, 3)
    assert [later - earlier for earlier, later in pairwise(arrivals)] == [16, 16]
    changes = [after for before, after in pairwise([0, *counters[: arrivals[0] + 1]]) if before != after]
    assert changes[-8:] == [7, 6, 5, 4, 3, 2, 1, 0]


def test_walls_and_people_block(player: Player) -> None:
    player.walk("rrr")
    assert player.place() == (HOME, 4, 3)  # the villager stands at (5, 3)
    player.walk("uuuu")
    assert player.place() == (HOME, 4, 1)  # the wall is row 0


def test_villager_talks_and_rests(player: Player) -> None:
    player.memory[ram.wPartyMons + 2] = 1
    player.to_villager()
    player.tap("a", 4, 30)
    state = player.state()
    assert state.text_open
    assert state.menu is None
    assert player.read_text() == "Good morning, WREN! Rest if you are tired."
    state = player.state()
    assert state.events_set() == [8]
    assert state.party[0].hp == state.party[0].max_hp
    assert not state.text_open


def test_start_menu_and_bag(player: Player) -> None:
    player.tap("start")
    player.run(10)
    menu = player.state().menu
    assert menu is not None
    # The real game's quirk is kept: the last index that is announced is the count.
    assert (menu.top_y, menu.top_x, menu.max_item, menu.watched_keys) == (2, 11, 6, 0xCB)
    for button, item in (("right", 0), ("left", 0), ("down", 1), ("down", 2), ("up", 1), ("up", 0), ("up", 5)):
        player.tap(button)
        menu = player.state().menu
        assert menu is not None
        assert (menu.choice, menu.kind) == (item, "start"), button
    player.tap("down")
    player.tap("down")
    player.tap("a", 8, 20)
    menu = player.state().menu
    assert menu is not None
    assert (menu.kind, menu.choice, menu.max_item, menu.watched_keys, menu.list_menu_id) == ("list", 0, 1, 7, 3)
    player.tap("b")
    player.run(20)
    menu = player.state().menu
    assert menu is not None
    assert (menu.kind, menu.choice) == ("start", 1)
    player.tap("b")
    player.run(20)
    state = player.state()
    assert state.menu is None
    assert not state.font_loaded


def test_balm_from_the_bag_heals(player: Player) -> None:
    max_hp = player.state().party[0].max_hp
    player.memory[ram.wPartyMons + 2] = max_hp - 5
    player.tap("start")
    player.tap("down")
    player.tap("a", 8, 20)
    player.tap("a", 8, 20)
    assert player.read_text() == "FENNO recovered."
    state = player.state()
    assert state.party[0].hp == max_hp
    assert state.bag == ((BALM, 1),)


def test_sign_gift_and_route(player: Player) -> None:
    player.to_villager()
    player.to_town()
    assert player.place() == (TOWN, 4, 4)
    player.to_sign()
    player.tap("a", 4, 30)
    assert player.read_text() == "HOLLOW: a quiet vale. Fern Trail lies north."
    player.walk("rrrrrr")
    player.tap("a", 4, 30)
    assert "Take this balm with you." in player.read_text()
    assert player.state().bag == ((BALM, 3),)
    assert player.state().events_set() == [9, 11]
    player.walk("ll" + "uuuuuu")
    player.run(30)
    assert player.place()[0] == ROUTE


def test_losing_leads_home(player: Player) -> None:
    player.go_to_trainer()
    assert player.place() == (ROUTE, 10, 5)
    player.memory[ram.wPartyMons + 1] = 0
    player.memory[ram.wPartyMons + 2] = 1
    player.tap("a", 4, 4)
    for _ in range(30):
        player.read_text()
        if not player.memory[ram.wIsInBattle]:
            break
        player.tap("a")
    player.run(60)
    state = player.state()
    assert player.place() == (HOME, 3, 3)
    assert (state.badges, state.battle_result, state.money) == (0, 1, 200)
    assert state.party[0].hp == state.party[0].max_hp


def test_winning_gives_the_badge(player: Player) -> None:
    player.go_to_trainer()
    player.tap("a", 4, 4)
    player.read_text()
    state = player.state()
    assert state.in_battle == 2
    assert state.menu is not None
    assert state.menu.is_battle_menu
    player.fight()
    player.read_text()
    state = player.state()
    assert (state.badges, state.money) == (1, 700)
    assert state.has_event(10)
    assert state.party[0].experience > 125
    player.run(30)
    player.walk("ldd")
    assert player.place() == (ROUTE, 9, 7)


def test_picture_and_records_hold_under_random_play(player: Player) -> None:
    for number, button in enumerate(random_buttons(seed=5, steps=400)):
        player.tap(button, 5, 3)
        assert player.picture_holds(), (number, player.place())
        state = player.state()
        assert [mon.hp <= mon.max_hp for mon in state.party] == [True]
        assert state.in_battle in (-1, 0, 1, 2)


def test_picture_check_can_fail(player: Player) -> None:
    assert player.picture_holds()
    player.memory[ram.wTileMap + 100] ^= 1
    assert not player.picture_holds()


def test_two_processes_play_the_same_game() -> None:
    """From power-on, 200 random steps: equal hashes of RAM, video memory, sprites and picture after every step."""
    processes = [
        subprocess.Popen(
            [sys.executable, __file__],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": seed},
        )
        for seed in ("1", "2")
    ]
    chains = [process.communicate(timeout=120)[0] for process in processes]
    assert chains[0] == chains[1]
    assert len(chains[0].split()) == 200
    assert len(set(chains[0].split())) == 200


def print_hash_chain(steps: int) -> None:
    """What `test_two_processes_play_the_same_game` runs: a chained hash a line."""
    digest = b""
    with Player() as player:
        for button in random_buttons(seed=3, steps=steps):
            player.tap(button, 5, 2)
            player.pyboy.tick(1, True, False)
            video = bytes(player.memory[0x8000:0xA000]) + bytes(player.memory[0xFE00:0xFEA0])
            picture = player.pyboy.screen.ndarray.tobytes()
            digest = hashlib.sha256(digest + player.image() + video + picture).digest()
            print(digest.hex())


if __name__ == "__main__":
    print_hash_chain(200)
