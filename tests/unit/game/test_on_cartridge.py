"""Every RAM reader on states that were really played, on the embedded cartridge."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from cartridge_player import HOME, ROUTE, TOWN, Player, random_buttons

from cluster_rl.game import ram
from cluster_rl.game.flags import ProgressLatch
from cluster_rl.game.map_objects import Warp
from cluster_rl.game.state import GameState
from cluster_rl.game.world import World

SPRITE_DATA_2 = 0xC200
BALM = 0x14


@pytest.fixture(scope="module")
def before_trainer() -> bytes:
    """A savestate of the scripted path's end, before Rook."""
    with Player() as player:
        player.go_to_trainer()
        return player.save()


@pytest.fixture
def player() -> Iterator[Player]:
    with Player() as player:
        yield player


def cells_in_ram(player: Player) -> dict[int, tuple[int, int]]:
    """Where the game itself keeps its people, by slot; the readers do without these bytes."""
    memory = player.memory
    return {
        slot: (memory[SPRITE_DATA_2 + 16 * slot + 5] - 4, memory[SPRITE_DATA_2 + 16 * slot + 4] - 4)
        for slot in range(1, memory[ram.wNumSprites] + 1)
    }


def test_home(player: Player) -> None:
    state = player.state()
    assert (state.map_id, state.x, state.y, state.map_size) == (HOME, 3, 3, (8, 8))
    assert state.warps == (Warp(3, 7, 0, TOWN),)
    assert state.signs == ()
    assert [(sprite.cell, sprite.facing) for sprite in state.sprites] == [((5, 3), "left")]
    assert (list(state.dex_owned), list(state.dex_seen), state.last_blackout_map) == ([1], [1], HOME)
    assert state.enemy is None
    player.tap("right", 4, 30)
    assert player.state().facing == "right"


def test_live_image_decodes_like_the_whole(before_trainer: bytes) -> None:
    """On the map, in a menu and in battle: what the console copies each step is all that a state needs."""
    worlds = (World.cartridge(), World.red())
    with Player() as player:
        player.load(before_trainer)
        for button in ("start", "down", "a", "b", "b", "up", "a", "a", "a", "a", "a", "a"):
            player.tap(button, 8, 16)
            whole, live = player.state(), GameState(player.live_image())
            for world in worlds:
                assert world.describe(live) == world.describe(whole)
            for name in ("sprites", "warps", "signs", "tile_map", "menu", "enemy", "joy_ignore", "facing"):
                assert getattr(live, name) == getattr(whole, name)


def test_sprite_cells_agree_with_the_games_own() -> None:
    """While walking about, at whatever moment of a step."""
    seen = 0
    with Player() as player:
        player.to_villager()
        player.to_town()
        for number, button in enumerate(["down", "down", "right"] * 8 + random_buttons(seed=11, steps=120)):
            if button not in ("up", "down", "left", "right"):
                continue
            player.tap(button, 5, number % 5)
            own = cells_in_ram(player)
            for sprite in player.state().sprites:
                if sprite.cell is not None:
                    assert sprite.cell == own[sprite.slot]
                    seen += 1
    assert seen > 20


def test_trainer_battle_from_first_to_last(before_trainer: bytes) -> None:
    world = World.cartridge()
    with Player() as player:
        player.load(before_trainer)
        latch = ProgressLatch(world.milestones)
        latch.start(player.state())
        assert latch.reached == ("LEFT_HOME", "REACHED_ROUTE")
        player.tap("a", 4, 4)
        assert player.read_text().endswith("Go! FENNO!")
        state = player.state()
        assert (state.in_battle, state.cur_opponent, state.battle_type) == (2, 234, 0)
        assert state.enemy is not None
        assert (world.species_name(state.enemy.species), state.enemy.level, state.enemy.hp_ratio) == ("TUMBLO", 4, 1.0)
        assert latch.update(state) == ["FIRST_BATTLE"]
        assert state.menu is not None
        assert (state.menu.kind, state.menu.choice) == ("battle", 0)
        choices = []
        for button in ("right", "down", "left", "up"):
            player.tap(button)
            menu = player.state().menu
            assert menu is not None
            choices.append(menu.choice)
        assert choices == [2, 3, 1, 0]
        player.tap("a", 8, 16)
        menu = player.state().menu
        assert menu is not None
        assert (menu.kind, menu.choice) == ("moves", 0)
        player.tap("down")
        menu = player.state().menu
        assert menu is not None
        assert (menu.kind, menu.choice) == ("moves", 1)
        player.tap("b")
        player.fight()
        player.read_text()
        player.run(40)
        state = player.state()
        assert latch.update(state) == ["FIRST_EXPERIENCE", "BEAT_ROOK", "FERN_BADGE"]
        assert latch.new_events == 1
        assert world.task_ended(state)
        assert (state.in_battle, state.enemy, state.battle_result, state.menu) == (0, None, 0, None)
        assert state.party[0].pp != (35, 20, 0, 0)


def test_milestones_come_in_order_on_the_scripted_path(player: Player) -> None:
    world = World.cartridge()
    latch = ProgressLatch(world.milestones)
    latch.start(player.state())
    assert latch.reached == ()
    reached: list[str] = []

    def look() -> None:
        reached.extend(latch.update(player.state()))

    player.to_villager()
    player.tap("a", 4, 30)
    player.read_text()
    look()
    player.to_town()
    look()
    player.to_sign()
    player.tap("a", 4, 30)
    player.read_text()
    look()
    player.walk("rrrrrr")
    player.tap("a", 4, 30)
    player.read_text()
    look()
    player.walk("ll" + "uuuuuu")
    player.run(30)
    look()
    assert reached == ["TALKED_ELDER", "LEFT_HOME", "READ_SIGN", "GOT_BALM", "REACHED_ROUTE"]
    assert not world.task_ended(player.state())
    position = world.global_position(*player.place())
    assert player.place() == (ROUTE, 9, 17)
    above = world.global_position(TOWN, 9, 0)
    assert position is not None
    assert above == (position[0], position[1] + 1)  # the route lies north of the town


def test_describe_is_plain_data_with_names(before_trainer: bytes) -> None:
    with Player() as player:
        player.load(before_trainer)
        player.tap("a", 4, 4)
        player.read_text()
        facts = json.loads(json.dumps(World.cartridge().describe(player.state())))
    assert facts["map"] == {"id": ROUTE, "name": "FERN_TRAIL", "x": 10, "y": 5}
    assert facts["player"] == "WREN"
    assert facts["party"][0]["species"] == "FENNO"
    assert [move["name"] for move in facts["party"][0]["moves"]] == ["NIP", "KINDLE"]
    assert facts["bag"] == [{"item": "BALM", "count": 2}]
    assert facts["battle"]["kind"] == "trainer"
    assert facts["battle"]["enemy"]["species"] == "TUMBLO"
    assert facts["menu"] == {"choice": 0, "kind": "battle"}
    assert facts["milestones"] == ["LEFT_HOME", "REACHED_ROUTE", "FIRST_BATTLE"]
    assert facts["money"] == 500
    assert facts["dex"] == {"owned": 1, "seen": 2}
    assert facts["task_ended"] is False


def test_clock_runs(player: Player) -> None:
    before = player.state().play_time
    player.run(180)
    hours, minutes, seconds = player.state().play_time
    assert (hours * 60 + minutes) * 60 + seconds - ((before[0] * 60 + before[1]) * 60 + before[2]) == 3
