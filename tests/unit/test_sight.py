"""What an agent may know of a map: cells that were on the screen in this episode, and people while they are on it."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from cartridge_fixtures import ROUTE, TO_ROUTE, TO_TOWN, TO_VILLAGER, TOWN, new_env, play, state_with
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster_rl.acting.wandering import wander_weights
from cluster_rl.emulator.env import Env
from cluster_rl.game import ram
from cluster_rl.game.buttons import BUTTONS
from cluster_rl.game.state import GameState
from cluster_rl.game.whereabouts import Whereabouts
from cluster_rl.occupancy_memory import NOTHING_KNOWN, OUTSIDE, PERSON, SIGN, WALL, WARP, OccupancyMemory

RADIUS = 8
B = BUTTONS.index("b")
HOME_DOOR, SIGN_BY_IT, VILLAGER, GATE = (4, 4), (5, 5), (12, 6), (9, 0)  # cells of the town
OAM = 0xC300  # the cartridge's sprites as they are drawn, four to a person: y + 16, x + 8, picture, attributes


def on_screen(cell: tuple[int, int], player: tuple[int, int]) -> bool:
    """By pixels: the screen has 160 x 144, a cell 16 x 16, and the player's begins at (64, 64)."""
    x, y = (64 + 16 * (to - at) for to, at in zip(cell, player, strict=True))
    return 0 <= x <= 160 - 16 and 0 <= y <= 144 - 16


class SlowSight:
    """The rule, cell by cell: a set of cells that were seen of each map. Walls are not its business."""

    def __init__(self, radius: int) -> None:
        self._radius = radius
        self._seen: defaultdict[int, set[tuple[int, int]]] = defaultdict(set)
        self._whereabouts = Whereabouts()

    def look(self, state: GameState) -> npt.NDArray[np.uint8]:
        """Plane 1 around the player: uint8 [S, S]."""
        player, reach = (state.x, state.y), self._radius
        if self._whereabouts.known(state) and not state.interface_up:
            around = [(state.x + right, state.y + down) for right in range(-12, 13) for down in range(-12, 13)]
            self._seen[state.map_id].update(cell for cell in around if on_screen(cell, player))
        plane = np.full((2 * reach + 1, 2 * reach + 1), NOTHING_KNOWN, np.uint8)
        people = [sprite.cell for sprite in state.sprites if sprite.cell is not None and not state.in_battle]
        doors = [(warp.x, warp.y) for warp in state.warps]
        for row, column in np.ndindex(*plane.shape):
            x, y = cell = state.x + column - reach, state.y + row - reach
            if cell in self._seen[state.map_id]:
                inside = 0 <= x < state.map_size[0] and 0 <= y < state.map_size[1]
                known = WARP if cell in doors else SIGN if cell in state.signs else NOTHING_KNOWN
                plane[row, column] = known if inside else OUTSIDE
            if cell in people and on_screen(cell, player):
                plane[row, column] = PERSON
        return plane


class Look(NamedTuple):
    """One look of a made-up walk; what hinders is a RAM field of a state that is no free play."""

    map_id: int
    x: int
    y: int
    person: tuple[int, int]  # right and down of the player
    hinders: tuple[int, int] | None


PLACES = {
    map_id: (
        *((ram.wNumberOfWarps, 2), (ram.wWarpEntries, bytes((3, 2, 0, 2, 14 - map_id, 17, 0, 2)))),
        *((ram.wNumSigns, 2), (ram.wSignCoords, bytes((9, 9 + map_id, 0, 19)))),
    )
    for map_id in (1, 2, 3)
}
LOOKS = st.builds(
    Look,
    st.sampled_from(sorted(PLACES)),
    st.integers(0, 19),
    st.integers(0, 17),
    st.tuples(st.integers(-7, 7), st.integers(-6, 6)),
    st.sampled_from(
        [None, None, None, (ram.wFontLoaded, 1), (ram.wJoyIgnore, 1), (ram.wWalkCounter, 8), (ram.wIsInBattle, 1)]
    ),
)


def state_at(look: Look) -> GameState:
    right, down = look.person
    record = bytes((3, 0, 0, 0, 60 + 16 * down & 0xFF, 0, 64 + 16 * right & 0xFF))
    return state_with(
        *((ram.wCurMap, look.map_id), (ram.wXCoord, look.x), (ram.wYCoord, look.y), *PLACES[look.map_id]),
        *((ram.wNumSprites, 1), (ram.wSpriteStateData1 + ram.SPRITE_RECORD_BYTES, record)),
        *([look.hinders] if look.hinders else []),
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(LOOKS, min_size=1, max_size=12), st.sampled_from([1, 3, 4, 5, 6, 9, 16]))
def test_only_what_was_on_the_screen_is_known(looks: list[Look], radius: int) -> None:
    memory, slow, arrived = OccupancyMemory(radius), SlowSight(radius), -1
    for number, look in enumerate(looks):
        state = state_at(look)
        memory.start(state) if number == 0 else memory.step(B, state)
        expected = slow.look(state)
        arrived = look.map_id if look.hinders is None else arrived
        if look.map_id == arrived:  # else it was not free on this map yet, and the crop is empty
            np.testing.assert_array_equal(memory.crop(state)[1], expected)


@pytest.mark.parametrize("radius", [4, 8, 16])
def test_random_play_knows_no_more_than_it_saw(radius: int) -> None:
    env = new_env(occupancy_crop_radius=radius, start_idle_frames_max=0)
    rng, seen_later = np.random.default_rng(radius), 0
    for way in (TO_VILLAGER + TO_TOWN + TO_ROUTE, TO_VILLAGER + TO_TOWN + "dd"):
        env.start()
        slow = SlowSight(radius)
        slow.look(env.state)
        for button in way:
            play(env, button)
            slow.look(env.state)
        for _ in range(150):
            found = env.advance(int(rng.choice(np.flatnonzero(env.observation.mask[:5])))).observation.crop[1]
            expected = slow.look(env.state)
            if found.any():  # else it has not arrived
                np.testing.assert_array_equal(np.where(found == WALL, NOTHING_KNOWN, found), expected)
                seen_later += np.count_nonzero(expected)
    env.close()
    assert seen_later > 1000


def known_at(env: Env, cell: tuple[int, int]) -> int:
    """The code of a cell of the map; it must lie in the crop."""
    right, down = cell[0] - env.state.x, cell[1] - env.state.y
    assert max(abs(right), abs(down)) <= RADIUS
    return int(env.observation.crop[1, RADIUS + down, RADIUS + right])


def in_town() -> Env:
    """Two steps south of the door of home, in (4, 6)."""
    env = new_env(occupancy_crop_radius=RADIUS, start_idle_frames_max=0)
    env.start()
    play(env, TO_VILLAGER + TO_TOWN + "dd")
    assert (env.state.map_id, env.state.x, env.state.y) == (TOWN, 4, 6)
    return env


def test_a_door_is_known_once_it_was_on_the_screen_and_until_the_episode_ends() -> None:
    env = in_town()
    assert (known_at(env, HOME_DOOR), known_at(env, SIGN_BY_IT), known_at(env, GATE)) == (WARP, SIGN, NOTHING_KNOWN)
    play(env, "rrrrru")
    assert (env.state.x, env.state.y) == (9, 5)
    assert known_at(env, GATE) == NOTHING_KNOWN  # five rows up: the screen shows four
    play(env, "u")
    assert known_at(env, GATE) == WARP
    assert known_at(env, HOME_DOOR) == WARP  # five columns to the left: the screen shows four
    play(env, "dd")
    assert (env.state.x, env.state.y) == (9, 6)
    assert known_at(env, GATE) == WARP
    play(env, "uuuuuu" + "u")
    assert env.state.map_id == ROUTE
    play(env, "ud" + "d")  # and back through the gate
    assert env.state.map_id == TOWN
    play(env, "dd")
    assert known_at(env, HOME_DOOR) == WARP
    env.start()
    play(env, TO_VILLAGER + TO_TOWN + "dd")
    assert (known_at(env, HOME_DOOR), known_at(env, GATE)) == (WARP, NOTHING_KNOWN)
    env.close()


def test_a_person_is_shown_while_on_the_screen() -> None:
    env = in_town()
    for button, x, shown in (("", 4, False), ("r", 5, False), ("r", 6, False), ("r", 7, True), ("l", 6, False)):
        play(env, button)
        assert (env.state.x, env.state.y) == (x, 6)
        # The game gives the villager a place one column before the screen: RAM says more than the picture.
        assert (VILLAGER in [sprite.cell for sprite in env.state.sprites]) == (x > 5)
        assert (known_at(env, VILLAGER) == PERSON) == shown
        assert (env.observation.crop[1] == PERSON).any() == shown
    env.close()


def test_the_edge_of_the_map_is_known_where_it_was_on_the_screen() -> None:
    env = in_town()
    here = [known_at(env, (-1, y)) for y in range(-2, 15)]
    assert here == [NOTHING_KNOWN] * 17  # the screen ends at the map's first column
    play(env, "l")
    assert (env.state.x, env.state.y) == (3, 6)
    assert [known_at(env, (-1, y)) == OUTSIDE for y in range(-2, 15)] == [2 <= y <= 10 for y in range(-2, 15)]
    play(env, "r")
    assert [known_at(env, (-1, y)) == OUTSIDE for y in range(-2, 15)] == [2 <= y <= 10 for y in range(-2, 15)]
    assert known_at(env, (-2, 6)) == NOTHING_KNOWN
    env.close()


def test_the_cells_of_the_screen_are_those_that_the_game_draws_people_on() -> None:
    """On the way along the villager, most of his picture is on the screen where the crop shows him."""
    env, shown = in_town(), set()
    for button in "rrrr" + "ddddd" + "rrrrrrrr" + "uuuuuu" + "d" + "rr" + "lll":
        play(env, button)
        assert not env.state.walk_counter
        places = np.array([env.console._memory[OAM + 16 : OAM + 32 : 4], env.console._memory[OAM + 17 : OAM + 33 : 4]])
        top, left = (int(first) - offset for first, offset in zip(places.min(1), (16, 8), strict=True))
        pixels = max(0, min(top + 16, 144) - max(top, 0)) * max(0, min(left + 16, 160) - max(left, 0))
        drawn = bool(places.any()) and pixels >= 128
        assert (env.observation.crop[1] == PERSON).any() == drawn, (env.state.x, env.state.y)
        shown.add(drawn)
    assert shown == {True, False}
    env.close()


def test_random_actions_are_drawn_by_nothing_that_was_never_on_the_screen() -> None:
    env = in_town()
    observation = env.observation

    def weights(crop: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        masks = np.ones((1, len(BUTTONS)), np.bool_)
        return wander_weights(masks, crop[np.newaxis], observation.context[np.newaxis])[0]

    def on_screen_only(crop: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        kept = np.zeros_like(crop)
        screen = slice(RADIUS - 4, RADIUS + 5), slice(RADIUS - 4, RADIUS + 6)
        kept[0], kept[1][screen] = crop[0], crop[1][screen]
        return kept

    # All that was on the screen so far in the town still is, in (4, 6): so nothing else may draw.
    np.testing.assert_array_equal(weights(observation.crop), weights(on_screen_only(observation.crop)))
    play(env, "rrr")
    alone = env.observation.crop.copy()
    assert (alone[1] == PERSON).sum() == 1
    alone[1][alone[1] == PERSON] = NOTHING_KNOWN
    right = BUTTONS.index("right")
    assert weights(env.observation.crop)[right] > weights(alone)[right]
    env.close()
