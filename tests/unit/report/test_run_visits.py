"""The map of a page: which logs are read, what is counted in which slice, and the ways of episodes."""

from __future__ import annotations

import base64
import dataclasses
import io
import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from made_logs import write_log
from made_runs import episode, make_run, metrics_row, set_keys
from PIL import Image

from cluster_rl.game.world import World
from cluster_rl.report import visits
from cluster_rl.report.curves import slice_edges
from cluster_rl.report.ground import GROUND_FILE, PIXELS, Glimpse, add_to_ground
from cluster_rl.report.page import page_of
from cluster_rl.report.run_facts import read_run
from cluster_rl.report.visits import chosen_logs, chosen_ways, first_entered, path_data, visit_picture, world_map

HOLLOW = 0  # 20 x 18 cells of the canvas at (10, 18)
HOME = 37


def pixels(uri: str) -> npt.NDArray[np.uint8]:
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))


def test_visits_lie_in_their_slice_and_on_their_tile(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, episodes=[episode(number) for number in range(24)], env_steps=2400)
    write_log(run_dir, 0, (HOLLOW, 4, 5), (HOLLOW, 4, 5), (HOLLOW, 5, 5))
    write_log(run_dir, 23, (HOLLOW, 19, 17))
    found = world_map(read_run(run_dir))
    assert found is not None
    assert (found.box, found.logs, found.most_visits) == ((10, 18, 20, 18), 2, 2)
    assert len(found.layers) == 14
    shown = [np.argwhere(pixels(layer.picture)[..., 3]).tolist() for layer in found.layers]
    assert shown[0] == [[5, 4], [5, 5], [17, 19]]  # row, column
    assert shown[1] == shown[0]
    assert shown[2] == [[5, 4], [5, 5]]
    assert shown[13] == [[17, 19]]
    assert not any(shown[3:13])
    assert found.layers[0].words == "4 steps on 3 tiles of 1 map; HOLLOW 100%"
    assert found.layers[1].words == "the newest in env steps 2,200 to 2,400: 1 tile of HOLLOW; of the logs read"
    assert found.layers[13].label == "env steps 2,200 to 2,400"
    assert found.layers[13].words == "1 step on 1 tile of 1 map; HOLLOW 100%; 1 tile new"
    assert found.layers[6].words == "no log of an episode; 0 tiles new"
    assert [place.name for place in found.maps] == ["HOLLOW"]
    assert pixels(found.base).shape == (18 * PIXELS, 20 * PIXELS, 4)
    assert len(np.unique(pixels(found.base))) > 4


def test_blackouts_lie_where_they_were_in_their_slice(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, episodes=[episode(number) for number in range(24)], env_steps=2400)
    write_log(run_dir, 0, (HOLLOW, 4, 5), (HOLLOW, 5, 5), (HOLLOW, 9, 9), blackouts=[2])
    write_log(run_dir, 22, (HOLLOW, 5, 5), blackouts=[1])
    write_log(run_dir, 23, (HOLLOW, 7, 6), blackouts=[])
    found = world_map(read_run(run_dir))
    assert found is not None
    assert found.layers[0].blackouts == [(15, 23, 2)]  # HOLLOW lies at (10, 18)
    assert [layer.blackouts for layer in (found.layers[2], found.layers[3], found.layers[13])] == [
        [(15, 23, 1)],
        [],
        [(15, 23, 1)],
    ]
    assert found.layers[0].words.endswith("; 2 blackouts: HOLLOW 2")
    assert (found.notes_blackouts, found.blackouts) == (True, 2)
    page = page_of([read_run(run_dir)], tmp_path / "report.html")
    assert page.count('class="fell"') == 4  # two slices, all of training, and the key
    assert "2 in these logs" in page
    assert page.count('class="door"') == len(found.doors) + 1


def test_logs_of_older_programs_tell_of_no_blackout(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, episodes=[episode(0)], env_steps=100)
    write_log(run_dir, 0, (HOLLOW, 4, 5))
    run = read_run(run_dir)
    found = world_map(run)
    assert found is not None
    assert not found.notes_blackouts
    assert "Blackouts are not known" in page_of([run], tmp_path / "report.html")
    write_log(run_dir, 0, (HOLLOW, 4, 5), blackouts=[])
    assert "No blackout in these logs" in page_of([run], tmp_path / "report.html")


def test_marks_are_of_maps_that_were_entered(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, episodes=[episode(0)], env_steps=100)
    write_log(run_dir, 0, (HOLLOW, 4, 5))
    found = world_map(read_run(run_dir))
    assert found is not None
    left, top, width, height = found.box
    assert found.doors
    assert found.people
    for mark in (*found.doors, *found.people):
        assert left <= mark.x < left + width
        assert top <= mark.y < top + height


def test_nothing_is_drawn_between_the_maps(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, episodes=[episode(0)], env_steps=100)
    write_log(run_dir, 0, (HOME, 2, 2), (HOLLOW, 4, 5))
    found = world_map(read_run(run_dir))
    assert found is not None
    alpha = pixels(found.base)[..., 3]
    assert alpha.shape == (PIXELS * found.box[3], PIXELS * found.box[2])
    there = np.zeros((found.box[3], found.box[2]), bool)
    for place in found.maps:
        left, top = place.box[0] - found.box[0], place.box[1] - found.box[1]
        there[top : top + place.box[3], left : left + place.box[2]] = True
    assert 0 < there.mean() < 1
    assert (alpha[::PIXELS, ::PIXELS] == np.where(there, 255, 0)).all()


def test_of_another_game_the_page_shows_what_its_videos_saw(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, episodes=[episode(0)], env_steps=100)
    set_keys(run_dir.identity, {"rom_sha1": "0" * 40, "rom_title": "POKEMON RED"})
    pallet_town = 0
    write_log(run_dir, 0, (pallet_town, 10, 0))
    dark = np.full((PIXELS, PIXELS), 140, np.uint8)
    add_to_ground(
        run_dir.videos / "maps", World.red(), Glimpse({(66, 320): dark}, {(66, 320): 37}, {(0, 2): (67, 320)})
    )  # it is at (64, 318)
    found = world_map(read_run(run_dir))
    assert found is not None
    shown = pixels(found.base)[..., 0]
    assert (shown[2 * PIXELS : 3 * PIXELS, 2 * PIXELS : 3 * PIXELS] == 140).all()
    assert (shown == 255).sum() == shown.size - PIXELS**2
    assert [(mark.x, mark.y) for mark in found.doors] == [(66, 320)]
    (run_dir.videos / "maps" / GROUND_FILE).write_bytes(b"nothing")
    found = world_map(read_run(run_dir))
    assert found is not None
    assert found.base == ""
    assert "ground.npz: not the ground of this game" in found.problems[0]


def test_a_damaged_log_is_told_and_the_others_are_read(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, episodes=[episode(number) for number in range(3)], env_steps=300)
    write_log(run_dir, 0, (HOLLOW, 4, 5))
    write_log(run_dir, 1, (HOLLOW, 6, 5)).write_bytes(b"nothing")
    found = world_map(read_run(run_dir))
    assert found is not None
    assert found.logs == 1
    assert found.problems[0].startswith("episode log episode_logs/a000-e00-")
    assert "not an episode log" in found.problems[0]


def test_no_map_without_logs(tmp_path: Path) -> None:
    assert world_map(read_run(make_run(tmp_path, episodes=[episode(0)]))) is None
    assert world_map(read_run(make_run(tmp_path, "none"))) is None


def test_logs_are_spread_over_each_slice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(visits, "LOGS_A_SLICE", 3)
    run = read_run(make_run(tmp_path, episodes=[episode(number) for number in range(100)], env_steps=10_000))
    chosen = chosen_logs([*run.episodes.spread, *run.episodes.newest], slice_edges(10_000, 2))
    assert [[row.episode for row in rows] for rows in chosen] == [[0, 24, 49], [50, 74, 99]]


def test_which_ways_are_drawn(tmp_path: Path) -> None:
    changes = {4: {"episode_return": 500.0}, 7: {"milestones": {"BADGE": 3}}, 2: {"milestones": {"HOME": 3}}}
    changes[19] = {"reason": "stopped"}
    run = read_run(make_run(tmp_path, episodes=[episode(number, **changes.get(number, {})) for number in range(20)]))
    assert [(row.episode, why) for row, why in chosen_ways(run)] == [
        (4, "best return"),
        (18, "newest"),
        (17, "newest"),
        (7, "first to reach BADGE"),
        (2, "first to reach HOME"),
    ]


def test_a_way_is_drawn_once_over_each_edge_and_jumps_are_gaps() -> None:
    walked = [(0, 0), (1, 0), (1, 0), (0, 0), (1, 0), (1, 1), None, (9, 9), (9, 8), (3, 3)]
    assert path_data(walked) == "M0.5 0.5h1v1M9.5 9.5v-1"
    assert path_data([]) == path_data([(1, 1)]) == ""


def test_a_long_way_is_no_longer_than_its_world() -> None:
    square = [(x, 0) for x in range(10)] + [(9, 1)] + [(x, 1) for x in range(8, -1, -1)]
    once = path_data([*square, square[0]])
    assert path_data(list(itertools.islice(itertools.cycle(square), 50_000))) == once


def test_a_way_lies_on_the_canvas(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, episodes=[episode(0)], env_steps=100)
    write_log(run_dir, 0, (HOLLOW, 4, 5), (HOLLOW, 5, 5), (HOLLOW, 5, 6))
    found = world_map(read_run(run_dir))
    assert found is not None
    (way,) = found.ways
    assert World.cartridge().global_position(HOLLOW, 4, 5) == way.start == (14, 23)
    assert (way.data, way.end) == ("M14.5 23.5h1v1", (15, 24))


def test_more_visits_are_brighter() -> None:
    shown = pixels(visit_picture(np.array([[0, 1, 10, 100]]), 100))[0]
    assert shown[0].tolist() == [0, 0, 0, 0]
    light = shown[1:, :3].astype(int).sum(axis=1)
    assert light[0] < light[1] < light[2]


def test_new_ground_is_where_nobody_was_before() -> None:
    slices = np.array([[[1, 0, 0]], [[4, 2, 0]], [[0, 9, 0]]])
    assert first_entered(list(slices)).tolist() == [[1, 2, 0]]


def test_where_it_is_still_curious(tmp_path: Path) -> None:
    """By map, on the tiles that were entered; the brightest is the map with the largest bonus."""
    row = metrics_row(0, **{"rnd/map_bonus/0": 0.5, "rnd/map_bonus/99": 4.0})
    run_dir = make_run(tmp_path, episodes=[episode(0)], metrics=[row], env_steps=100)
    write_log(run_dir, 0, (HOLLOW, 4, 5), (HOLLOW, 5, 5))
    run = read_run(run_dir)
    found = world_map(run)
    assert found is not None
    assert found.is_curious
    layer = found.layers[2]
    assert layer.words.endswith("newest rows of metrics: HOLLOW 0.5")
    shown = pixels(layer.picture)
    assert np.argwhere(shown[..., 3]).tolist() == [[5, 4], [5, 5]]
    assert shown[5, 4, :3].tolist() == [253, 231, 36]
    silent = world_map(dataclasses.replace(run, map_bonus={}))
    assert silent is not None
    assert (len(silent.layers), silent.is_curious) == (14, False)


def test_of_a_game_without_pictures_there_are_outlines(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, episodes=[episode(0)], env_steps=100)
    set_keys(run_dir.identity, {"rom_sha1": "0" * 40, "rom_title": "POKEMON RED"})
    pallet_town, route_1, viridian = 0, 12, 1
    write_log(run_dir, 0, (pallet_town, 10, 0), (route_1, 10, 35), (route_1, 10, 34), (viridian, 20, 35))
    found = world_map(read_run(run_dir))
    assert found is not None
    assert found.base == ""
    assert [place.name for place in found.maps] == ["PALLET_TOWN", "VIRIDIAN_CITY", "ROUTE_1"]
    assert found.box == (54, 246, 40, 90)
    assert found.letter == 1.29
    assert [layer.words for layer in found.layers[2:]].count("no log of an episode; 0 tiles new") == 11
