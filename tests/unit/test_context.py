"""The context vector: named slots, the values in them, and nothing that follows from hit points."""

from __future__ import annotations

import timeit

import numpy as np
import pytest
from cartridge_fixtures import meet_trainer, menu_fields, new_env, poke, state_with

from cluster_rl.cluster_map_features import AUX_SLOTS, CONTEXT_SIZE, MAP_CATEGORIES, SLOT_INDEX, SLOTS, encode
from cluster_rl.game import ram
from cluster_rl.game.flags import ProgressLatch
from cluster_rl.game.state import GameState
from cluster_rl.game.world import World

RED = World.red()

# Every byte in RAM that holds hit points, current or maximum: of the party, the fighting member and the enemy.
HP_ADDRESSES = [
    *(ram.wPartyMons + 44 * member + offset for member in range(6) for offset in (1, 2, 34, 35)),
    *(base + offset for base in (ram.wEnemyMon, 0xD014) for offset in (1, 2, 15, 16)),
]


def context(state: GameState, world: World = RED) -> dict[str, int]:
    latch = ProgressLatch(world.milestones)
    latch.update(state)
    values = encode(state, latch, world)
    assert (values.shape, values.dtype) == ((CONTEXT_SIZE,), np.uint8)
    return dict(zip(SLOTS, values.tolist(), strict=True))


def on(values: dict[str, int], prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name, value in values.items() if name.startswith(prefix) and value]


def test_slots_have_unique_names() -> None:
    assert len(set(SLOTS)) == CONTEXT_SIZE == len(SLOT_INDEX)
    assert len(set(AUX_SLOTS)) == len(AUX_SLOTS) <= 32
    assert all(0 <= slot < CONTEXT_SIZE for slot in AUX_SLOTS)
    assert not [name for name in SLOTS if "hp" in name.split("_") or "health" in name]


def test_every_category_of_both_worlds_has_a_slot() -> None:
    for world in (RED, World.cartridge()):
        assert set(world.maps.categories) <= set(MAP_CATEGORIES)
        assert len(world.milestones) <= 72
        assert len(world.key_items) <= 24


def test_where() -> None:
    state = state_with(
        *((ram.wCurMap, 54), (ram.wXCoord, 19), (ram.wYCoord, 0), (ram.wCurMapTileset, 7)),
        (ram.wSpriteStateData1 + 9, 8),
    )
    values = context(state)
    assert (values["x_cell"], values["y_cell"], values["x_in_map"], values["y_in_map"]) == (19, 0, 255, 0)
    assert on(values, "map_id_bit_") == ["1", "2", "4", "5"]
    assert on(values, "map_is_") == ["gym"]
    assert on(values, "tileset_bit_") == ["0", "1", "2"]
    assert on(values, "facing_") == ["left"]


@pytest.mark.parametrize("world", [RED, World.cartridge()], ids=lambda world: world.name)
def test_in_the_dark_no_slot_tells_the_place(world: World) -> None:
    """Two places on different maps of one kind give the same context, which is zero in all slots of place."""

    def there(map_id: int, x: int, dark: int) -> dict[str, int]:
        fields = ((ram.wCurMap, map_id), (ram.wXCoord, x), (ram.wYCoord, 7), (ram.wMapPalOffset, dark))
        return context(state_with(*fields), world)

    one, other = (37, 38) if world is not RED else (82, 232)  # two floors of the same cave
    assert there(one, 3, 0) != there(other, 4, 0)
    assert there(one, 3, 6) == there(other, 4, 6)
    dark = there(one, 3, 6)
    assert {name for name, value in there(one, 3, 0).items() if value != dark[name]} >= {"x_cell", "y_cell", "y_in_map"}
    assert not any(dark[f"map_id_bit_{bit}"] for bit in range(8))
    assert not any(dark[name] for name in ("x_cell", "y_cell", "x_in_map", "y_in_map"))


def test_belongings() -> None:
    state = state_with(
        *((ram.wObtainedBadges, 0b101), (ram.wPlayerMoney, bytes((0x00, 0x09, 0x99)))),
        *((ram.wNumBagItems, 3), (ram.wBagItems, bytes((5, 1, 196, 1, 4, 9, 0xFF)))),
        *((ram.wPartyCount, 2), (ram.wPartyMons + 33, 50), (ram.wPartyMons + 44 + 33, 100)),
        *((ram.wPokedexOwned, b"\x03"), (ram.wPokedexSeen, b"\xff\x01")),
    )
    values = context(state)
    assert on(values, "badge_") == ["0", "2"]
    assert on(values, "key_item_") == ["0"]  # the town map, item 5, is the first
    assert on(values, "hm_") == ["1"]
    assert values["bag_kinds"] == 3 * 255 // 20
    assert values["money_log"] == round(255 * 3 / 6)  # 999 + 1
    assert values["party_count"] == 2 * 255 // 6
    assert (values["party_level_0"], values["party_level_1"], values["party_level_2"]) == (127, 255, 0)
    assert values["party_levels_total"] == 150 * 255 // 600
    assert (values["species_owned"], values["species_seen"]) == (2 * 255 // 152, 9 * 255 // 152)


def test_control_battle_and_menus() -> None:
    assert on(context(state_with()), "menu_") == []
    values = context(state_with(*menu_fields((2, 11), 0xCB, item=3, last=6)))
    assert on(values, "menu_") == ["start", "choice", "last_choice", "top_row", "left_column"]
    assert values["menu_choice"] == 3 * 255 // 20
    values = context(state_with((ram.wIsInBattle, 2), (ram.wEnemyMon, bytes((1, *[0] * 13, 20)))))
    assert on(values, "battle_") == ["trainer"]
    assert values["enemy_level"] == 51
    assert on(context(state_with((ram.wIsInBattle, 0xFF))), "battle_") == ["lost"]
    values = context(state_with((ram.wWalkCounter, 3), (ram.wJoyIgnore, 1), (ram.wFontLoaded, 1)))
    assert [values[name] for name in ("walking", "buttons_ignored", "interface_up")] == [255] * 3


def test_milestones_are_latched() -> None:
    latch = ProgressLatch(RED.milestones)
    latch.start(state_with())
    first = RED.milestones[0].condition.arguments[0]
    flags = (1 << first).to_bytes(ram.EVENT_BYTES, "little")
    latch.update(state_with((ram.wEventFlags, flags)))
    latch.update(state_with())
    values = dict(zip(SLOTS, encode(state_with(), latch, RED).tolist(), strict=True))
    assert on(values, "milestone_") == ["count", "0"]
    assert (values["event_count"], values["milestone_count"]) == (1, 1)


def test_hit_points_change_nothing() -> None:
    env = new_env(start_idle_frames_max=0)
    meet_trainer(env)
    assert env.state.in_battle
    before = encode(env.state, env.latch, env.world)
    enemy_before = env.state.enemy
    for address in HP_ADDRESSES:
        poke(env, address, env.console._memory[address] ^ 0xFF)
    state = GameState(env.console.image())
    assert state.enemy != enemy_before  # it is read, and from the bytes that were changed
    assert state.party[0].hp != env.state.party[0].hp
    np.testing.assert_array_equal(encode(state, env.latch, env.world), before)
    # A byte that is no hit point does show.
    poke(env, ram.wPartyMons + 33, 77)
    assert (encode(GameState(env.console.image()), env.latch, env.world) != before).any()
    env.close()


@pytest.mark.parametrize("seed", range(20))
def test_any_ram_gives_a_vector(seed: int) -> None:
    context(GameState(np.random.default_rng(seed).bytes(ram.IMAGE_BYTES)))


def test_cost() -> None:
    env = new_env()
    env.start()
    image = env.state.image
    best = min(timeit.repeat(lambda: encode(GameState(image), env.latch, env.world), number=100, repeat=5)) / 100
    assert best < 500e-6  # about 60 us; the bound only catches a slip of an order of magnitude
    env.close()
