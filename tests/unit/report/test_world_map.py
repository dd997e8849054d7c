"""The picture of a whole world: every map has its place, rooms lie by their town, and gates are where they open."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest
from PIL import Image

from cluster_rl.cartridge import manifest, world_names
from cluster_rl.cartridge.compile_content import read_world
from cluster_rl.report import world_map
from cluster_rl.report.world_map import ROWS_CELLS, TITLE_CELLS, Atlas, draw_world, lay_out

PICTURES = Path(__file__).resolve().parents[3] / "results" / "pictures"


@pytest.mark.parametrize("row_cells", [ROWS_CELLS[0], ROWS_CELLS[-1]])
@pytest.mark.parametrize("world", world_names())
def test_no_two_maps_or_names_overlap_and_none_is_left_out(world: str, row_cells: int) -> None:
    atlas = Atlas(read_world(world))
    layout = lay_out(atlas, row_cells)
    assert layout.at.keys() == atlas.maps.keys()
    taken: set[tuple[int, int]] = set()
    for name, (left, top) in layout.at.items():
        width, height = atlas.sizes[name]
        cells = set(itertools.product(range(left, left + width), range(top - TITLE_CELLS, top + height)))
        assert not cells & taken, name
        taken |= cells
    assert {min(x for x, _ in taken), min(y for _, y in taken)} == {0}
    assert (max(x for x, _ in taken), max(y for _, y in taken)) < (layout.width, layout.height)
    assert layout.width <= row_cells


def test_hubs_come_in_the_order_of_play_and_have_their_rooms() -> None:
    atlas = Atlas(read_world("lanternvale"))
    first = ["LINDEN", "MOTH LANE", "FIREFLY WOOD", "BRAMBLE", "HILL PATH", "DEEP UPPER", "DEEP LOWER", "SLATE"]
    assert atlas.hubs == [*first, "LAKE ROAD", "REED ISLE", "BEACON"]
    assert atlas.rooms("LINDEN") == ["HOME", "CHANDLER", "BARN", "WEAVER"]
    assert atlas.rooms("BRAMBLE")[-1] == "GATE HOUSE"  # of the town from which one comes to it
    assert [atlas.letters()[room] for room in atlas.rooms("LINDEN")] == ["a", "b", "c", "d"]


def test_ways_are_doors_between_hubs_and_where_one_is_carried() -> None:
    ways = Atlas(read_world("lanternvale")).ways()
    doors = [(cell[0], end[0]) for cell, end, is_door in ways if is_door]
    assert ("GATE HOUSE", "HILL PATH") in doors
    assert {(cell[0], end[0]) for cell, end, is_door in ways if not is_door} == {
        ("LAKE ROAD", "REED ISLE"),
    }
    assert ("BEACON", "VAULT") in doors  # and so not drawn as one of the vault's spots


def test_gates_are_marked_where_they_open_and_where_they_are_told() -> None:
    atlas = Atlas(read_world("lanternvale"))
    assert len(atlas.goals) == 12
    title, event, told = atlas.goals[7]
    assert (title, event) == ("pulled the levers in their order", "LEVERS")
    assert [place[0] for place in atlas.places(event)] == ["SLUICE"] * 4
    assert atlas.places(told) == [("MILL", 2, 3)]  # by a script that others are chained to
    assert all(atlas.places(event) for _, event, _ in atlas.goals)


def test_a_world_without_gates_has_its_milestones_marked() -> None:
    atlas = Atlas(read_world("small"))
    assert [event for _, event, _ in atlas.goals][:2] == ["TALKED_ELDER", "READ_SIGN"]
    assert atlas.hub_of["ECHO ROOM"] == atlas.hub_of["ECHO HALL"]


def test_the_picture_is_the_same_again_and_tells_its_rom(tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        draw_world("small", tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.info["Source"] == f"small, ROM SHA-1 {manifest()['worlds']['small']['rom_sha1']}"
        colours = picture.convert("RGB").getcolors(1 << 20)
    assert colours is not None
    assert len(colours) > 50


@pytest.mark.parametrize("world", ["lanternvale", "world_b"])
def test_the_pictures_of_the_documents_are_of_todays_roms(world: str) -> None:
    path = PICTURES / f"{world}.png"
    with Image.open(path) as picture:
        assert picture.info["Source"] == f"{world}, ROM SHA-1 {manifest()['worlds'][world]['rom_sha1']}"
    assert path.stat().st_size < 400_000


def test_the_command_draws_and_says_where(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small.png"
    monkeypatch.setattr(sys, "argv", ["world_map", "--world", "small", str(out)])
    assert world_map.main() == 0
    assert capsys.readouterr().out == f"{out}: {out.stat().st_size} bytes\n"
