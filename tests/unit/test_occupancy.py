"""Map memory: visits, what is known of cells, the crop around the player, and its bounds.

What may be known at all, a cell that was on the screen, is in `test_sight.py`.
"""

from __future__ import annotations

import numpy as np
from cartridge_fixtures import new_env, play, state_with

from cluster_rl.game import ram
from cluster_rl.game.buttons import BUTTONS
from cluster_rl.game.state import GameState
from cluster_rl.occupancy_memory import NOTHING_KNOWN, OUTSIDE, PERSON, SIGN, WALL, WARP, OccupancyMemory

RADIUS = 2
MIDDLE = (RADIUS, RADIUS)
FACING = {"down": 0, "up": 4, "left": 8, "right": 12}
RIGHT, B = BUTTONS.index("right"), BUTTONS.index("b")


def at(x: int, y: int, *fields: tuple[int, bytes | int], map_id: int = 1, facing: str = "right") -> GameState:
    return state_with(
        *((ram.wCurMap, map_id), (ram.wXCoord, x), (ram.wYCoord, y), (ram.wSpriteStateData1 + 9, FACING[facing])),
        *fields,
    )


def begun(state: GameState) -> OccupancyMemory:
    memory = OccupancyMemory(RADIUS)
    memory.start(state)
    return memory


def test_visits_count_arrivals_and_saturate() -> None:
    memory = begun(at(5, 5))
    memory.step(B, at(5, 5))
    assert memory.crop(at(5, 5))[0][MIDDLE] == 128  # standing still is one visit
    for visits in range(1, 12):
        assert memory.visits(1, 5, 5) == min(8, visits)
        memory.step(RIGHT, at(6, 5))
        memory.step(RIGHT, at(5, 5))
    crop = memory.crop(at(5, 5))
    assert crop[0][MIDDLE] == crop[0][2, 3] == 255
    assert (crop[0] > 0).sum() == 2
    assert memory.visits(1, 5, 5) == 8
    assert memory.visits(1, 7, 5) == memory.visits(2, 5, 5) == 0


def test_in_the_dark_nothing_is_shown_and_nothing_is_learned() -> None:
    dark = (ram.wMapPalOffset, 6)
    memory = begun(at(5, 5))
    before = memory.crop(at(5, 5))
    assert before.any()
    assert not memory.crop(at(5, 5, dark)).any()
    memory.step(RIGHT, at(6, 5, dark))
    assert not memory.crop(at(6, 5, dark)).any()
    memory.step(RIGHT, at(6, 5, dark))  # bumps into something
    memory.step(RIGHT, at(6, 5, dark))
    assert memory.visits(1, 6, 5) == 0
    memory.step(RIGHT, at(6, 5))  # a light
    assert memory.visits(1, 6, 5) == 1
    assert (memory.crop(at(6, 5))[1] != WALL).all()
    assert (memory.crop(at(5, 5))[0][MIDDLE]) == before[0][MIDDLE]


def test_a_map_entered_in_the_dark_is_unknown() -> None:
    memory = begun(at(5, 5, (ram.wMapPalOffset, 6)))
    assert not memory.crop(at(5, 5, (ram.wMapPalOffset, 6))).any()
    assert not memory.crop(at(5, 5)).any()


def test_crop_moves_with_the_player_and_shows_what_is_outside() -> None:
    memory = begun(at(0, 0))
    crop = memory.crop(at(0, 0))
    assert crop.shape == (2, 5, 5)
    assert (crop[1] == OUTSIDE).sum() == 25 - 9
    assert crop[1, 2, 2] == NOTHING_KNOWN
    assert memory.crop(at(1, 2))[0][0, 1] == 128  # (0, 0) seen from (1, 2)
    memory.step(RIGHT, at(19, 17))
    corner = memory.crop(at(19, 17))
    assert (corner[1] == OUTSIDE).sum() == 25 - 9
    assert corner[1, 1, 1] == NOTHING_KNOWN


def test_warps_signs_and_people_are_marked() -> None:
    person = ram.wSpriteStateData1 + ram.SPRITE_RECORD_BYTES
    state = at(
        *(5, 5),
        *((ram.wNumberOfWarps, 1), (ram.wWarpEntries, bytes((4, 5, 0, 2)))),
        *((ram.wNumSigns, 1), (ram.wSignCoords, bytes((5, 4)))),
        *((ram.wNumSprites, 1), (person, bytes((3, 0, 0, 0, 60, 0, 64 + 16)))),
    )
    crop = begun(state).crop(state)[1]
    assert crop[1, 2] == WARP
    assert crop[2, 1] == SIGN
    assert crop[2, 3] == PERSON
    assert np.count_nonzero(crop) == 3


def test_bumps_make_walls_and_only_bumps_do() -> None:
    memory = begun(at(5, 5))
    memory.step(RIGHT, at(5, 5, facing="down"))
    memory.step(RIGHT, at(5, 5))  # so far the press may only have turned the player
    assert not memory.crop(at(5, 5))[1].any()
    memory.step(B, at(5, 5))
    assert not memory.crop(at(5, 5))[1].any()
    memory.step(RIGHT, at(5, 5))
    assert memory.crop(at(5, 5))[1][2, 3] == WALL
    for x in (12, 5):  # out of sight and back
        memory.step(RIGHT, at(x, 12, facing="down"))
        memory.step(RIGHT, at(x, 5, facing="down"))
    assert memory.crop(at(5, 5))[1][2, 3] == WALL
    memory.step(RIGHT, at(6, 5))  # the wall is gone
    assert memory.crop(at(6, 5))[1][MIDDLE] == NOTHING_KNOWN


def test_no_wall_where_a_person_stands_or_text_is_up() -> None:
    person = ram.wSpriteStateData1 + ram.SPRITE_RECORD_BYTES
    blocked = at(5, 5, (ram.wNumSprites, 1), (person, bytes((3, 0, 0, 0, 60, 0, 64 + 16))))
    for state in (blocked, at(5, 5, (ram.wFontLoaded, 1)), at(5, 5, (ram.wJoyIgnore, 0xFF))):
        memory = begun(state)
        for _ in range(3):
            memory.step(RIGHT, state)
        assert not (memory.crop(at(5, 5))[1] == WALL).any()


def test_each_map_has_its_own_memory_and_an_episode_forgets_all() -> None:
    memory = begun(at(5, 5))
    memory.step(RIGHT, at(5, 5, map_id=2))
    assert memory.visits(1, 5, 5) == memory.visits(2, 5, 5) == 1
    memory.start(at(9, 9))
    assert memory.visits(1, 5, 5) == memory.visits(2, 5, 5) == 0


def test_positions_between_cells_and_off_the_map() -> None:
    memory = begun(at(5, 5))
    memory.step(RIGHT, at(7, 7, (ram.wWalkCounter, 3)))
    assert memory.visits(1, 7, 7) == 0
    assert not memory.crop(at(255, 5)).any()
    memory.step(RIGHT, at(255, 5))
    assert memory.crop(state_with(in_game=False)).shape == (2, 5, 5)


def test_number_of_maps_is_bounded() -> None:
    memory = begun(at(5, 5, map_id=0))
    for map_id in range(1, 200):
        memory.step(RIGHT, at(5, 5, map_id=map_id))
    assert len(memory._maps) == 64
    assert memory.visits(199, 5, 5) == 1
    assert memory.visits(0, 5, 5) == 0


def test_on_the_cartridge() -> None:
    env = new_env(start_idle_frames_max=0)
    env.start()
    play(env, "uuuuu")
    crop = env.observation.crop
    assert crop[1, 3, 4] == WALL  # the house's wall, above the player
    play(env, "dd")
    crop = env.observation.crop
    assert crop[0, 4, 4] > 0
    assert (crop[0] > 0).sum() >= 3
    assert (crop[1] == PERSON).sum() >= 1  # the villager
    assert (crop[1] == WARP).sum() + (crop[1] == OUTSIDE).sum() > 0
    env.close()
