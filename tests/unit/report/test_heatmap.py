"""Heat maps: counts against counts made by hand, and pictures that are what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.image import imread

from cluster_rl.game.world import World
from cluster_rl.report.ground import ground_of
from cluster_rl.report.heatmap import VisitCounts, canvas_grid, draw_maps, map_grid

PALLET_TOWN, ROUTE_1, UNUSED = 0, 12, 11


def positions(*rows: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    return np.array(rows, np.uint8).reshape(-1, 3)


@pytest.fixture
def visits() -> VisitCounts:
    counts = VisitCounts()
    counts.add(positions((PALLET_TOWN, 5, 6), (PALLET_TOWN, 5, 6), (PALLET_TOWN, 6, 6), (ROUTE_1, 10, 35)))
    counts.add(positions((PALLET_TOWN, 5, 6)))
    return counts


def test_steps_are_counted_by_tile_over_episodes(visits: VisitCounts) -> None:
    assert visits.steps == 5
    assert set(visits.maps) == {PALLET_TOWN, ROUTE_1}
    assert visits.maps[PALLET_TOWN][6, 5] == 3  # row y, column x
    assert visits.maps[PALLET_TOWN][6, 6] == 1
    assert visits.maps[PALLET_TOWN].sum() == 4


def test_coordinates_up_to_a_byte_are_counted() -> None:
    counts = VisitCounts()
    counts.add(positions((255, 255, 0), (255, 0, 255)))
    assert counts.maps[255][0, 255] == counts.maps[255][255, 0] == 1


def test_a_map_is_cut_to_its_size_and_strays_do_not_count(visits: VisitCounts) -> None:
    world = World.red()
    size = world.maps.size(PALLET_TOWN)
    assert size is not None
    visits.add(positions((PALLET_TOWN, size[0], 0)))  # the old map's coordinates, one column outside
    grid = map_grid(visits.maps[PALLET_TOWN], world, PALLET_TOWN)
    assert grid.shape == (size[1], size[0])
    assert grid.sum() == 4


def test_neighbouring_maps_lie_as_in_the_world(visits: VisitCounts) -> None:
    world = World.red()
    grid = canvas_grid(visits, world)
    assert grid.sum() == 5
    town, route = world.global_position(PALLET_TOWN, 5, 6), world.global_position(ROUTE_1, 10, 35)
    assert town is not None
    assert route is not None
    ys, xs = np.nonzero(grid)
    rows = {int(grid[y, x]): (x, y) for y, x in zip(ys, xs, strict=True) if grid[y, x] == 3}
    route_tile = min(zip(ys, xs, strict=True))  # Route 1 is north of Pallet Town, so its tile comes first
    assert (route_tile[1] - rows[3][0], route_tile[0] - rows[3][1]) == (route[0] - town[0], route[1] - town[1])
    assert route_tile[0] < rows[3][1]


def test_pictures_are_named_by_map_and_readable(visits: VisitCounts, tmp_path: Path) -> None:
    paths = draw_maps(visits, World.red(), tmp_path / "maps")
    assert [path.name for path in paths] == ["000-pallet-town.png", "012-route-1.png", "world.png"]
    assert sorted(paths) == sorted((tmp_path / "maps").iterdir())
    for path in paths:
        picture = imread(path)
        assert picture.ndim == 3
        assert len(np.unique(picture[:, :, 0])) > 10  # a colour bar at least


def test_equal_visits_give_equal_bytes_and_others_do_not(visits: VisitCounts, tmp_path: Path) -> None:
    first = draw_maps(visits, World.red(), tmp_path / "a")
    second = draw_maps(visits, World.red(), tmp_path / "b")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    visits.add(positions((PALLET_TOWN, 9, 9)))
    third = draw_maps(visits, World.red(), tmp_path / "c")
    changed = [a.name for a, c in zip(first, third, strict=True) if a.read_bytes() != c.read_bytes()]
    assert changed == ["000-pallet-town.png", "world.png"]


def test_a_map_of_unknown_size_and_place_is_drawn_too(tmp_path: Path) -> None:
    world = World.red()
    assert world.maps.size(UNUSED) is None
    counts = VisitCounts()
    counts.add(positions((UNUSED, 3, 2)))
    assert map_grid(counts.maps[UNUSED], world, UNUSED).shape == (3, 4)
    names = [path.name for path in draw_maps(counts, world, tmp_path)]
    assert names == ["011-" + names[0].removeprefix("011-")]  # and no world.png


def test_a_blackout_is_a_cross_on_its_tile_and_when_first_is_a_picture_of_its_own(tmp_path: Path) -> None:
    world, walk = World.red(), positions((PALLET_TOWN, 3, 3), (PALLET_TOWN, 6, 8), (PALLET_TOWN, 4, 3))
    counts = VisitCounts()
    counts.add(walk, [2], began=1000.0)
    plain, _ = draw_maps(counts, world, tmp_path / "plain")
    other = VisitCounts()
    other.add(walk[:1], [], began=8200.0)
    other.add(positions((PALLET_TOWN, 12, 12)), [], began=8200.0)
    counts.merge(other)
    both, _ = draw_maps(counts, world, tmp_path / "both")
    assert (counts.first[PALLET_TOWN][3, 3], counts.first[PALLET_TOWN][12, 12]) == (1000.0, 8200.0)
    assert np.isinf(counts.first[PALLET_TOWN][0, 0])
    one, two = imread(plain), imread(both)
    assert two.shape[1] == 2 * one.shape[1]  # beside each other
    panel = one.shape[1]
    at = [(round(45 + 25 * 8.5), round(60 + 25 * 6.5 + left)) for left in (0, panel)]  # a tile is 25 pixels
    cross = [0xD1 / 255, 0x10 / 255, 0x6B / 255]
    assert np.allclose(one[at[0]][:3], cross, atol=0.02)
    assert all(np.allclose(two[place][:3], cross, atol=0.02) for place in at)
    # The first that was stood on is dark, the newest is bright.
    early, late = (two[round(45 + 25 * (y + 0.5)), round(60 + 25 * (x + 0.5)) + panel] for x, y in ((3, 3), (12, 12)))
    assert early[:3].sum() < late[:3].sum()


def test_the_map_itself_lies_under_the_visits(tmp_path: Path) -> None:
    world = World.cartridge()
    counts = VisitCounts()
    counts.add(positions((PALLET_TOWN, 3, 3), (PALLET_TOWN, 19, 17)), [])
    ground = ground_of(world, tmp_path)
    with_ground, _ = draw_maps(counts, world, tmp_path / "a", ground)
    without, _ = draw_maps(counts, world, tmp_path / "b")
    shown, bare = imread(with_ground), imread(without)
    assert shown.shape == bare.shape
    inside = np.s_[45 : 45 + 25 * 18, 60 : 60 + 25 * 20]
    assert (
        len(np.unique(shown[inside].reshape(-1, 4), axis=0)) > len(np.unique(bare[inside].reshape(-1, 4), axis=0)) + 8
    )
