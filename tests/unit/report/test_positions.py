"""Places that are none: steps that end while the cartridge loads a map, at every frame that one can end at."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from cartridge_fixtures import ROUTE, TO_ROUTE, TO_TOWN, TO_VILLAGER, TOWN, new_env, play

from cluster_rl.game.buttons import BUTTONS
from cluster_rl.game.state import GameState
from cluster_rl.game.world import World
from cluster_rl.report.heatmap import VisitCounts
from cluster_rl.report.path import path_places
from cluster_rl.report.positions import known_places

WORLD = World.cartridge()
Positions = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def crossings() -> list[tuple[Positions, list[bool]]]:
    """To and fro through two doors side by side, begun at each frame of a step: positions, and which of them the game
    itself calls settled, as it ignores the buttons while a map loads."""
    found = []
    env = new_env(start_idle_frames_max=0)
    env.start()
    play(env, TO_VILLAGER + TO_TOWN + TO_ROUTE[:-1])
    console = env.console
    before = console.save()
    for frames in range(console.frame_skip):
        console.load(before)
        console.idle(frames)
        positions, settled = [console.position()], [True]
        for button in (*("right", "left") * 10, None, None):
            console.step(None if button is None else BUTTONS.index(button))
            positions.append(console.position())
            settled.append(GameState(console.image()).joy_ignore == 0)
        found.append((np.array(positions, np.uint8), settled))
    env.close()
    return found


def test_steps_that_end_in_a_load_are_told_from_arrivals(crossings: list[tuple[Positions, list[bool]]]) -> None:
    ghosts = 0
    for positions, settled in crossings:
        known = known_places(positions)
        arrived = {tuple(place) for place in positions[settled].tolist()}
        assert {tuple(place) for place in positions[known].tolist()} <= arrived
        assert known[settled].all()  # and nothing else is left out
        ghosts += int((~known).sum())
    assert ghosts > 0  # or the test has not met what it is about


def test_no_map_has_a_tile_that_nobody_stood_on(crossings: list[tuple[Positions, list[bool]]]) -> None:
    visits, stood_on = VisitCounts(), set()
    for positions, settled in crossings:
        visits.add(positions)
        stood_on |= {tuple(place) for place in positions[settled].tolist()}
        shown = set(path_places(positions, WORLD))
        assert shown <= {WORLD.global_position(*place) for place in positions[settled].tolist()}
    counted = {(map_id, int(x), int(y)) for map_id, grid in visits.maps.items() for y, x in np.argwhere(grid)}
    assert counted == stood_on
    assert {map_id for map_id, _, _ in counted} == {TOWN, ROUTE}


def rows(*positions: tuple[int, int, int]) -> Positions:
    return np.array(positions, np.uint8).reshape(-1, 3)


@pytest.mark.parametrize(
    ("positions", "unknown"),
    [
        (rows(), []),
        (rows((0, 5, 5)), []),
        (rows((0, 5, 5), (1, 5, 6), (1, 2, 7)), [1]),  # one step in the load
        (rows((0, 5, 5), (1, 5, 5), (1, 5, 7)), []),  # down a ledge
        (rows((0, 5, 5), (1, 5, 5), (1, 5, 5), (1, 5, 5), (1, 2, 7)), [1, 2, 3]),  # a slow fade
        (rows((0, 5, 5), (1, 5, 5), (1, 5, 5), (1, 5, 6)), []),  # a door that leads beside where it is
        (rows((0, 5, 5), (1, 30, 5), (1, 30, 6), (1, 9, 9)), []),  # an arrival elsewhere, then a pad
        (rows((0, 5, 5), (1, 5, 6), (0, 9, 9), (0, 5, 6)), [1, 2]),  # through the next door in the step after the load
        (rows((0, 5, 5), (1, 5, 6), (0, 9, 9), (0, 9, 9)), []),  # an arrival at once tells nothing of the step before
        (rows((0, 5, 5), (1, 5, 5)), []),  # nothing follows that could tell
        (rows((0, 5, 5), (0, 9, 9)), []),  # a pad within the map
        (rows((0, 5, 5), (1, 255, 5), (1, 0, 5)), [1]),  # bytes do not wrap
    ],
)
def test_rules(positions: Positions, unknown: list[int]) -> None:
    assert np.flatnonzero(~known_places(positions)).tolist() == unknown
