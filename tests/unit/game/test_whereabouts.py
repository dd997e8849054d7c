"""Looks that fall into the load of a map, as the real game and the cartridge give them: nobody arrives by them."""

from __future__ import annotations

import pytest
from cartridge_fixtures import ROUTE, TO_ROUTE, TO_TOWN, TO_VILLAGER, TOWN, new_env, play, state_with

from cluster_rl.config import RewardWeights
from cluster_rl.game import ram
from cluster_rl.game.buttons import BUTTONS
from cluster_rl.game.state import GameState
from cluster_rl.game.whereabouts import Whereabouts
from cluster_rl.occupancy_memory import OccupancyMemory
from cluster_rl.rewards import RewardCalculator

DOWN = BUTTONS.index("down")
PALLET, HOUSE = 0, 37
TOWN_HEADER = ((ram.wNumberOfWarps, 1), (ram.wWarpEntries, bytes((5, 5, 0, HOUSE))))
HOUSE_HEADER = (
    *((ram.wNumberOfWarps, 1), (ram.wWarpEntries, bytes((7, 3, 0, 255)))),
    *((ram.wCurMapHeight, 4), (ram.wCurMapWidth, 4)),
)


def look(map_id: int, x: int, y: int, *fields: tuple[int, bytes | int]) -> GameState:
    return state_with((ram.wCurMap, map_id), (ram.wXCoord, x), (ram.wYCoord, y), *fields)


# Red's door: onto it, the fade, the load, and in the house. In the fade nothing but the id tells.
BEFORE = look(PALLET, 5, 6, *TOWN_HEADER)
FADE = look(HOUSE, 5, 5, *TOWN_HEADER)
LOAD = look(HOUSE, 5, 5, *HOUSE_HEADER, (ram.wJoyIgnore, 0xFF))
INSIDE = look(HOUSE, 3, 7, *HOUSE_HEADER)
OUTSIDE = look(PALLET, 5, 5, *TOWN_HEADER)


def test_a_place_is_known_once_the_map_is_loaded() -> None:
    whereabouts = Whereabouts()
    looks = (BEFORE, FADE, FADE, LOAD, INSIDE, INSIDE)
    # Each is asked about twice, as two terms do.
    assert [(whereabouts.known(state), whereabouts.known(state)) for state in looks] == [
        *[(True, True)],
        *[(False, False)] * 3,
        *[(True, True)] * 2,
    ]
    back = look(PALLET, 3, 7, *HOUSE_HEADER)  # the fade on the way out: the house's header
    assert [whereabouts.known(state) for state in (back, OUTSIDE)] == [False, True]


def test_maps_without_doors_may_be_alike() -> None:
    whereabouts = Whereabouts()
    assert all(whereabouts.known(look(map_id, 5, 5)) for map_id in (1, 2, 1))


def test_nothing_is_paid_or_remembered_for_a_place_that_is_not_known() -> None:
    weights = RewardWeights(new_map=1.0, novelty=1.0, step=0.0)
    rewards, memory = RewardCalculator(weights), OccupancyMemory(2)
    rewards.start(BEFORE)
    memory.start(BEFORE)
    paid, before = [], BEFORE
    for state in (FADE, FADE, LOAD, INSIDE, OUTSIDE, FADE):
        paid.append(rewards.step(before, state, 0, []))
        memory.step(DOWN, state)
        before = state
    assert paid == pytest.approx([0, 0, 0, 2, 1, 0])  # a new map and a tile, then a tile of the map that began
    assert memory.visits(HOUSE, 5, 5) == 0
    assert (memory.visits(HOUSE, 3, 7), memory.visits(PALLET, 5, 5)) == (1, 1)
    assert not memory.crop(FADE).any()  # though the house is remembered
    assert memory.crop(OUTSIDE).any()


def test_the_cartridge_shows_no_crop_of_another_place() -> None:
    """To and fro through two doors side by side, so that loads end at any frame of a step."""
    env = new_env(start_idle_frames_max=0)
    env.start()
    play(env, TO_VILLAGER + TO_TOWN + TO_ROUTE[:-1] + "rl")
    arrived, loading = env.state.map_id, 0
    for button in ("right", "left") * 15:
        observation = env.advance(BUTTONS.index(button)).observation
        state = env.state
        assert state.map_id in (TOWN, ROUTE)
        if not (state.joy_ignore or state.walk_counter):
            arrived = state.map_id
        loading += state.map_id != arrived
        assert observation.crop.any() == (state.map_id == arrived)
    assert loading > 3
    env.close()
