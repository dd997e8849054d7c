"""The ground under the visits: as a ROM draws it, and as the screens of episodes showed it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from cartridge_fixtures import HOME, TO_ROUTE, TO_TOWN, TO_VILLAGER, new_env, play

from cluster_rl.errors import UserError
from cluster_rl.game.world import World
from cluster_rl.report.ground import GROUND_FILE, PIXELS, Glimpse, Mark, add_to_ground, glimpse_of, ground_of
from cluster_rl.report.path import SeenMap

WORLD, RED = World.cartridge(), World.red()
PALLET_TOWN, OUT = 0, 0xFF


def cell(picture: npt.NDArray[np.uint8], x: int, y: int) -> npt.NDArray[np.uint8]:
    return picture[y * PIXELS : (y + 1) * PIXELS, x * PIXELS : (x + 1) * PIXELS]


def test_what_a_walk_saw_is_what_the_rom_draws(tmp_path: Path) -> None:
    """Out of the house, through the town and to the route: each cell that was seen, but where somebody walks."""
    env = new_env(start_idle_frames_max=0)
    env.start()
    seen = SeenMap(WORLD)
    for letter in TO_VILLAGER + TO_TOWN + TO_ROUTE:
        play(env, letter)
        if not env.state.joy_ignore:
            seen.look(env.state, env.console.rgb())
    env.close()
    glimpse, drawn = glimpse_of(seen), ground_of(WORLD, tmp_path)
    assert drawn is not None
    # The emulator's greys are not evenly spaced, so a few steps apart.
    apart = [
        np.abs(look.astype(int) - cell(drawn.picture, x, y).astype(int)).max() for (x, y), look in glimpse.looks.items()
    ]
    assert len(apart) > 200
    assert np.count_nonzero(np.array(apart) > 16) <= 6
    doors = {(mark.x, mark.y): mark.name for mark in drawn.doors}
    assert len(glimpse.doors) >= 4
    for place, target in glimpse.doors.items():
        assert doors[place] == f"door to {WORLD.map_name(target)}"
    at_start = {(mark.x, mark.y) for mark in drawn.people}
    assert len(glimpse.people) == 2
    assert set(glimpse.people.values()) <= at_start


def test_doors_and_people_of_a_world_in_the_package(tmp_path: Path) -> None:
    ground = ground_of(WORLD, tmp_path)
    assert ground is not None
    home = WORLD.global_position(HOME, 0, 0)
    assert home is not None
    left, top = home
    here = [door for door in ground.doors if left <= door.x < left + 8 and top <= door.y < top + 8]
    assert {door.name for door in here} == {"door to HOLLOW"}
    assert len(np.unique(cell(ground.picture, *here[0][:2]))) > 1  # and something is drawn there


def test_another_game_has_what_its_videos_saw_and_the_newer_look_stays(tmp_path: Path) -> None:
    assert ground_of(RED, tmp_path) is None
    dark, light = np.full((PIXELS, PIXELS), 140, np.uint8), np.full((PIXELS, PIXELS), 240, np.uint8)
    people = {(PALLET_TOWN, 1): (72, 321), (PALLET_TOWN, 2): (73, 321)}
    add_to_ground(tmp_path, RED, Glimpse({(70, 320): dark, (71, 320): dark}, {(70, 320): 37}, people))
    add_to_ground(tmp_path, RED, Glimpse({(71, 320): light}, {(9, 9): OUT}, {(PALLET_TOWN, 2): (74, 321)}))
    ground = ground_of(RED, tmp_path)
    assert ground is not None
    assert (cell(ground.picture, 70, 320) == 140).all()
    assert (cell(ground.picture, 71, 320) == 240).all()
    assert (cell(ground.picture, 72, 320) == 255).all()
    name = RED.map_name(37)
    assert ground.doors == [Mark(9, 9, "door to the way out"), Mark(70, 320, f"door to {name}")]
    somebody = f"somebody of {RED.map_name(PALLET_TOWN)}"
    assert ground.people == [Mark(72, 321, somebody), Mark(74, 321, somebody)]


def test_a_file_of_an_older_program_has_no_people(tmp_path: Path) -> None:
    add_to_ground(tmp_path, RED, Glimpse({}, {(9, 9): OUT}, {(PALLET_TOWN, 1): (72, 321)}))
    with np.load(tmp_path / GROUND_FILE) as parts:
        older = {name: parts[name] for name in ("picture", "doors")}
    np.savez(tmp_path / GROUND_FILE, **older)
    ground = ground_of(RED, tmp_path)
    assert ground is not None
    assert (len(ground.doors), ground.people) == (1, [])
    np.savez(tmp_path / GROUND_FILE, **older, people=np.zeros((2, 3), np.int16))
    with pytest.raises(UserError, match="not the ground of this game"):
        ground_of(RED, tmp_path)


@pytest.mark.parametrize("content", [b"", b"nothing of the kind", b"PK\x03\x04 cut short"])
def test_a_damaged_file_is_told_and_made_anew_by_the_next_videos(tmp_path: Path, content: bytes) -> None:
    (tmp_path / GROUND_FILE).write_bytes(content)
    with pytest.raises(UserError, match=rf"{GROUND_FILE}: not the ground of this game; remove it"):
        ground_of(RED, tmp_path)
    add_to_ground(tmp_path, RED, Glimpse({(0, 0): np.zeros((PIXELS, PIXELS), np.uint8)}, {}, {}))
    assert ground_of(RED, tmp_path) is not None


def test_the_ground_of_another_game_is_no_ground(tmp_path: Path) -> None:
    add_to_ground(tmp_path, WORLD, Glimpse({}, {}, {}))
    with pytest.raises(UserError, match="not the ground of this game"):
        ground_of(RED, tmp_path)
