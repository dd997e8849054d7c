"""GameState to the context vector: named slots, one byte each, 0..255 meaning 0..1.

The environment of an actor uses it. In: the state, what was ever reached in the episode, and the game's tables. Out:
uint8 [CONTEXT_SIZE], the same slots for every game. No slot holds hit points or anything that follows from them: the
agent is to read those off the screen. Nor is there anything that a player could not know: in the dark, the slots of
place are zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from cluster_rl.game import ram
from cluster_rl.game.flags import ProgressLatch
from cluster_rl.game.state import BATTLE_LOST, BATTLE_TRAINER, BATTLE_WILD, GameState
from cluster_rl.game.world import World

MAP_CATEGORIES: Final = (
    *("town", "route", "interior", "pokecenter", "mart", "gym", "gate", "dungeon", "ship", "league"),
    *("safari", "link", "unused"),
)
FACINGS: Final = ("down", "left", "right", "up")
MILESTONE_SLOTS: Final = 72
KEY_ITEM_SLOTS: Final = 24
HM_ITEMS: Final = (196, 197, 198, 199, 200)

_MAX_LEVEL: Final = 100
_MONEY_BYTES: Final = 3
_MON_LEVEL_OFFSET: Final = 33
_MENU_KINDS: Final = ("start", "battle", "moves", "list", "other")


def _slot_names() -> Iterator[str]:
    yield from ("x_cell", "y_cell", "x_in_map", "y_in_map")
    yield from (f"map_id_bit_{bit}" for bit in range(8))
    yield from (f"map_is_{name}" for name in MAP_CATEGORIES)
    yield from (f"tileset_bit_{bit}" for bit in range(5))
    yield from (f"facing_{name}" for name in FACINGS)
    yield from ("walking", "buttons_ignored", "interface_up", "text_open")
    yield from ("battle_wild", "battle_trainer", "battle_lost", "enemy_level")
    yield from (f"menu_{kind}" for kind in _MENU_KINDS)
    yield from ("menu_choice", "menu_last_choice", "menu_top_row", "menu_left_column")
    yield from (f"badge_{bit}" for bit in range(8))
    yield from ("party_count", "party_levels_total")
    yield from (f"party_level_{member}" for member in range(ram.PARTY_SLOTS))
    yield from ("species_seen", "species_owned", "bag_kinds", "money_log")
    yield from (f"key_item_{index}" for index in range(KEY_ITEM_SLOTS))
    yield from (f"hm_{number}" for number in range(1, len(HM_ITEMS) + 1))
    yield from ("event_count", "milestone_count")
    yield from (f"milestone_{index}" for index in range(MILESTONE_SLOTS))


SLOTS: Final = tuple(_slot_names())
CONTEXT_SIZE: Final = len(SLOTS)
SLOT_INDEX: Final = {name: index for index, name in enumerate(SLOTS)}

AUX_SLOTS: Final = tuple(
    SLOT_INDEX[name]
    for name in (
        *("x_in_map", "y_in_map"),
        *(f"map_id_bit_{bit}" for bit in range(8)),
        *("interface_up", "battle_wild", "battle_trainer"),
        *(f"badge_{bit}" for bit in range(8)),
        *("party_count", "party_levels_total", "species_seen", "species_owned", "bag_kinds", "money_log"),
        *("event_count", "milestone_count"),
    )
)
"""Slots worth predicting for a later position: where the agent will be, and what grows slowly."""

MAP_SLOTS: Final = tuple(SLOT_INDEX[f"map_id_bit_{bit}"] for bit in range(8))
"""Slots of the bits of the map's number, the lowest first; all 0 in the dark."""

PLACE_SLOTS: Final = (*(SLOT_INDEX[name] for name in ("x_cell", "y_cell", "x_in_map", "y_in_map")), *MAP_SLOTS)
"""Slots that tell where the player is and nothing else."""

_BITS: Final = tuple(bytes(255 if value >> bit & 1 else 0 for bit in range(8)) for value in range(256))
_NO_CELL: Final = bytes(4)
_NO_MENU: Final = bytes(len(_MENU_KINDS) + 4)
_CACHED: Final = 512
_LEVEL_ADDRESSES: Final = tuple(
    ram.image_index(ram.wPartyMons + member * ram.PARTY_MON_BYTES + _MON_LEVEL_OFFSET)
    for member in range(ram.PARTY_SLOTS)
)


def encode(state: GameState, latch: ProgressLatch, world: World) -> npt.NDArray[np.uint8]:
    """uint8 [CONTEXT_SIZE], in the order of `SLOTS`. `latch` must have been updated with `state`."""
    enemy = state.enemy if state.in_battle else None
    packed = b"".join(
        (
            # What is the same at most steps is worked out once: these keep what they gave for the same arguments.
            _NO_CELL if state.is_dark else _cell(state.x, state.y, state.map_size),
            _map(state.map_id, state.tileset, state.facing, state.is_dark, world),
            _control(
                state.walk_counter > 0,
                state.joy_ignore > 0 or state.simulated_joypad_index > 0,
                state.interface_up,
                state.interface_up and state.text_open,
                state.in_battle,
                enemy.level if enemy is not None else 0,
            ),
            _menu(state) if state.interface_up else _NO_MENU,
            _belongings(state.belongings, world),
            _progress(latch.event_count, latch.reached, world),
        )
    )
    return np.frombuffer(packed, np.uint8)


@lru_cache(maxsize=8 * _CACHED)
def _cell(x: int, y: int, map_size: tuple[int, int]) -> bytes:
    return bytes((x, y, _share(x, map_size[0] - 1), _share(y, map_size[1] - 1)))


@lru_cache(maxsize=_CACHED)
def _map(map_id: int, tileset: int, facing: str, dark: bool, world: World) -> bytes:
    category = world.map_category(map_id)
    is_of = bytes(255 if category == name else 0 for name in MAP_CATEGORIES)
    return (
        _BITS[0 if dark else map_id]
        + is_of
        + _BITS[tileset][:5]
        + bytes(255 if facing == name else 0 for name in FACINGS)
    )


@lru_cache(maxsize=_CACHED)
def _control(walking: bool, ignored: bool, interface_up: bool, text_open: bool, battle: int, enemy_level: int) -> bytes:
    kinds = (battle == kind for kind in (BATTLE_WILD, BATTLE_TRAINER, BATTLE_LOST))
    flags = (255 if flag else 0 for flag in (walking, ignored, interface_up, text_open, *kinds))
    return bytes((*flags, _share(enemy_level, _MAX_LEVEL)))


def _menu(state: GameState) -> bytes:
    menu = state.menu
    if menu is None:
        return _NO_MENU
    kinds = (menu.is_start_menu, menu.is_battle_menu, menu.is_move_menu, menu.is_list)
    return bytes(
        (
            *(255 if kind else 0 for kind in kinds),
            0 if any(kinds) else 255,
            _share(menu.choice, ram.BAG_SLOTS),
            _share(menu.max_item, ram.BAG_SLOTS),
            _share(menu.top_y, ram.TILE_ROWS),
            _share(menu.top_x, ram.TILE_COLUMNS),
        )
    )


@lru_cache(maxsize=_CACHED)
def _belongings(belongings: bytes, world: World) -> bytes:
    state = GameState.with_belongings(belongings)
    return b"".join(
        (
            _BITS[state.badges],
            # In a battle, hit points and the like change without any of these.
            _party(bytes([state.image[at] for at in _LEVEL_ADDRESSES[: state.party_count]])),
            _species(state.slice(ram.wPokedexSeen, ram.DEX_BYTES), state.slice(ram.wPokedexOwned, ram.DEX_BYTES)),
            _bag(state.bag, state.slice(ram.wPlayerMoney, _MONEY_BYTES), world),
        )
    )


@lru_cache(maxsize=_CACHED)
def _party(levels: bytes) -> bytes:
    return bytes(
        (
            _share(len(levels), ram.PARTY_SLOTS),
            _share(sum(levels), ram.PARTY_SLOTS * _MAX_LEVEL),
            *(_share(level, _MAX_LEVEL) for level in levels),
            *bytes(ram.PARTY_SLOTS - len(levels)),
        )
    )


@lru_cache(maxsize=_CACHED)
def _species(seen: bytes, owned: bytes) -> bytes:
    return bytes(_share(int.from_bytes(raw, "little").bit_count(), 8 * ram.DEX_BYTES) for raw in (seen, owned))


@lru_cache(maxsize=_CACHED)
def _bag(bag: tuple[tuple[int, int], ...], money_digits: bytes, world: World) -> bytes:
    items = {item for item, _ in bag}
    money = int("".join(str(min(nibble, 9)) for byte in money_digits for nibble in (byte >> 4, byte & 15)))
    key_items = [255 if item in items else 0 for item in sorted(world.key_items)[:KEY_ITEM_SLOTS]]
    return bytes(
        (
            _share(len(items), ram.BAG_SLOTS),
            round(math.log10(1 + money) * 255 / (2 * _MONEY_BYTES)),
            *key_items,
            *bytes(KEY_ITEM_SLOTS - len(key_items)),
            *(255 if item in items else 0 for item in HM_ITEMS),
        )
    )


@lru_cache(maxsize=_CACHED)
def _progress(event_count: int, reached: tuple[str, ...], world: World) -> bytes:
    milestones = [255 if milestone.name in reached else 0 for milestone in world.milestones[:MILESTONE_SLOTS]]
    return bytes(
        (
            min(event_count, 255),
            min(len(reached), 255),
            *milestones,
            *bytes(MILESTONE_SLOTS - len(milestones)),
        )
    )


def _share(value: int, most: int) -> int:
    """`value` of `most` as 0..255; beyond it, and of nothing, at the edge."""
    return min(255, max(0, value) * 255 // most) if most > 0 else 0
