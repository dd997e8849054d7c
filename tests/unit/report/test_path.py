"""Paths on the map as it was seen: squares where they belong, and lines where the agent went."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from cartridge_fixtures import HOME, TO_TOWN, TO_VILLAGER, TOWN, new_env, play, state_with
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from cluster_rl.errors import UserError
from cluster_rl.game import ram
from cluster_rl.game.state import GameState
from cluster_rl.game.world import World
from cluster_rl.report.path import BLACKOUT_COLOUR, SeenMap, draw_path, path_places

WORLD = World.cartridge()
CELL = 16


def standing(x: int, y: int, *more: tuple[int, bytes | int], map_id: int = TOWN) -> GameState:
    return state_with((ram.wCurMap, map_id), (ram.wXCoord, x), (ram.wYCoord, y), *more)


def numbered_screen(x: int, y: int) -> npt.NDArray[np.uint8]:
    """What a player at (x, y) sees of a map whose cell (column, row) is all of colour (column, row, 7)."""
    screen = np.zeros((9, CELL, 10, CELL, 3), np.uint8)
    for row in range(9):
        for column in range(10):
            screen[row, :, column] = (x + column - 4) % 256, (y + row - 4) % 256, 7
    return screen.reshape(144, 160, 3)


def colour_at(seen: SeenMap, x: int, y: int, map_id: int = TOWN) -> tuple[int, int, int] | None:
    """The colour of a cell's middle in the picture; None where it is outside of the picture."""
    found, place = seen.picture(), WORLD.global_position(map_id, x, y)
    assert found is not None
    assert place is not None
    picture, (left, top) = found
    row, column = (place[1] - top) * CELL + 8, (place[0] - left) * CELL + 8
    if not (0 <= row < picture.shape[0] and 0 <= column < picture.shape[1]):
        return None
    red, green, blue = picture[row, column].tolist()
    return red, green, blue


def test_squares_lie_where_they_were_seen_and_the_players_own_does_not_count() -> None:
    seen = SeenMap(WORLD)
    seen.look(standing(9, 9), numbered_screen(9, 9))
    assert colour_at(seen, 5, 5) == (5, 5, 7)
    assert colour_at(seen, 14, 13) == (14, 13, 7)
    assert colour_at(seen, 15, 13) is None
    blank = colour_at(seen, 9, 9)
    assert blank == colour_at(seen, 9, 8) != (9, 9, 7)  # the player, and the square that its head is in
    seen.look(standing(10, 9), numbered_screen(10, 9))
    assert colour_at(seen, 9, 9) == (9, 9, 7)


def test_the_most_frequent_look_of_a_cell_counts() -> None:
    seen = SeenMap(WORLD)
    passer_by = numbered_screen(9, 9)
    passer_by[:CELL, :CELL] = 99
    for screen in (passer_by, numbered_screen(9, 9), numbered_screen(9, 9)):
        seen.look(standing(9, 9), screen)
    assert colour_at(seen, 5, 5) == (5, 5, 7)


@pytest.mark.parametrize("field", [(ram.wWalkCounter, 3), (ram.wFontLoaded, 1), (ram.wIsInBattle, 1)])
def test_screens_between_cells_or_with_boxes_or_battles_do_not_count(field: tuple[int, int]) -> None:
    seen = SeenMap(WORLD)
    seen.look(standing(9, 9, field), numbered_screen(9, 9))
    assert seen.picture() is None


def test_what_lies_beyond_the_edge_of_a_map_is_not_of_this_map() -> None:
    seen = SeenMap(WORLD)
    seen.look(standing(0, 0, map_id=HOME), numbered_screen(0, 0))
    found = seen.picture()
    assert found is not None
    assert found[0].shape == (5 * CELL, 6 * CELL, 3)
    assert found[1] == WORLD.global_position(HOME, 0, 0)


def test_a_real_walk_gives_the_map_that_is_on_the_screen() -> None:
    """The map put together on the way out of the house and back, compared with a screen that was no part of it."""
    env = new_env()
    env.start()
    seen = SeenMap(WORLD)

    def walk(letters: str) -> None:
        for letter in letters:
            play(env, letter)
            seen.look(env.state, env.console.rgb())

    walk(TO_VILLAGER + TO_TOWN + "drlrl")
    assert env.state.map_id == TOWN
    play(env, "d")
    screen, state = env.console.rgb(), env.state
    assert not state.walk_counter
    found = seen.picture()
    assert found is not None
    picture, (left, top) = found
    squares = screen.reshape(9, CELL, 10, CELL, 3).swapaxes(1, 2)
    compared = equal = 0
    for row in range(8):  # the lowest row is new
        for column in range(10):
            x, y = state.x + column - 4, state.y + row - 4
            place = WORLD.global_position(TOWN, x, y)
            if place is None or x < 0 or y < 0 or (column == 4 and row in (3, 4)):
                continue
            down, across = (place[1] - top) * CELL, (place[0] - left) * CELL
            compared += 1
            equal += np.array_equal(picture[down : down + CELL, across : across + CELL], squares[row, column])
    env.close()
    assert compared > 60
    assert equal >= compared - 2  # a person may stand somewhere else by now


def test_a_world_that_is_too_large_to_see_is_drawn_with_fewer_pixels(tmp_path: Path) -> None:
    """Pallet Town and Cinnabar's other end of the real map, seen in one episode."""
    red = World.red()
    seen = SeenMap(red)
    for map_id in range(37):
        seen.look(standing(5, 5, map_id=map_id), numbered_screen(5, 5))
    width, height = seen.size()
    assert max(width, height) > 250
    found = seen.picture()
    assert found is not None
    assert found[0].shape[:2] == (height * 4, width * 4) or max(found[0].shape) <= 2048
    assert max(found[0].shape) <= 2048
    assert draw_path(seen, np.array([(0, 5, 5), (1, 5, 5)], np.uint8), [], red, "title", tmp_path / "a.png")


def test_places_of_a_path() -> None:
    width, _ = WORLD.maps.size(TOWN) or (0, 0)
    positions = np.array([(TOWN, 3, 4), (TOWN, width, 4), (TOWN, 4, 4), (200, 1, 1)], np.uint8)
    here, there = WORLD.global_position(TOWN, 3, 4), WORLD.global_position(TOWN, 4, 4)
    assert path_places(positions, WORLD) == [here, here, there, None]  # outside of its map: as the step before


def test_the_picture_is_there_and_the_same_for_the_same_episode(tmp_path: Path) -> None:
    seen = SeenMap(WORLD)
    positions = np.array([(TOWN, x, 9) for x in range(5, 12)] + [(HOME, 3, 3)], np.uint8)
    for map_id, x, y in positions.tolist():
        seen.look(standing(x, y, map_id=map_id), numbered_screen(x, y))
    for name in ("a.png", "b.png"):
        assert draw_path(seen, positions, [("LEFT_HOME", 1), ("READ_SIGN", 5)], WORLD, "title", tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    other = positions.copy()
    other[:, 2] = 10
    assert draw_path(seen, other, [], WORLD, "title", tmp_path / "c.png")
    assert imread(tmp_path / "c.png").ndim == 3
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "c.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "c.png"]


def test_a_cross_is_where_the_party_fainted(tmp_path: Path) -> None:
    seen = SeenMap(WORLD)
    seen.look(standing(9, 9), np.full((144, 160, 3), 255, np.uint8))
    positions = np.array([(TOWN, 8, 9), (TOWN, 8, 9), (TOWN, 7, 9), (TOWN, 12, 12)], np.uint8)

    def crosses(name: str, *blackouts: int) -> npt.NDArray[np.int64]:
        """Rows and columns of the pixels of their colour, int64 [n, 2]."""
        assert draw_path(seen, positions, [], WORLD, "title", tmp_path / name, blackouts)
        apart = imread(tmp_path / name)[..., :3] - np.array(to_rgb(BLACKOUT_COLOUR))
        return np.argwhere(np.abs(apart).max(axis=2) < 0.02)

    assert not len(crosses("none.png"))
    first, last = crosses("first.png", 1), crosses("last.png", 4)
    assert min(len(first), len(last)) > 10
    assert (last.mean(axis=0) > first.mean(axis=0) + 20).all()  # four cells to the right and three down
    assert len(crosses("both.png", 1, 4)) == len(first) + len(last)
    assert len(crosses("beyond.png", 1, 5)) == len(first)  # of a step that the log does not have


def test_a_place_that_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    seen = SeenMap(WORLD)
    seen.look(standing(9, 9), numbered_screen(9, 9))
    (tmp_path / "a.png").mkdir()
    with pytest.raises(UserError, match=r"a\.png: cannot be written"):
        draw_path(seen, np.array([(TOWN, 9, 9)], np.uint8), [], WORLD, "title", tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_an_episode_that_saw_no_map_has_no_picture(tmp_path: Path) -> None:
    positions = np.array([(TOWN, 3, 4)], np.uint8)
    assert not draw_path(SeenMap(WORLD), positions, [], WORLD, "title", tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
