"""Maps drawn from a ROM's bytes are those that the game shows."""

from __future__ import annotations

import numpy as np
import pytest
from cartridge_player import Player

from cluster_rl.cartridge import SMALL, rom_bytes, world_names
from cluster_rl.cartridge.compile_content import read_world
from cluster_rl.cartridge.maps import map_rows
from cluster_rl.report.rom_maps import CELL_PIXELS, RomMaps, Shades

COLUMN, ROW = 4, 4
"""Of the player on the screen of 10 x 9 cells."""


def shown(player: Player) -> Shades:
    """The screen as shades, uint8 [144, 160]."""
    player.pyboy.tick(1, True, False)
    grey: Shades = player.pyboy.screen.ndarray[:, :, 0]
    return np.unique(grey, return_inverse=True)[1].reshape(grey.shape).astype(np.uint8)


@pytest.mark.parametrize("name", ["HOME", "HOLLOW"])
def test_a_map_looks_as_on_the_screen(name: str) -> None:
    world = read_world(SMALL)
    picture = RomMaps(rom_bytes(), world).picture(name)
    with Player() as player:
        if name == "HOLLOW":
            player.to_villager()
            player.to_town()
            player.run(40)
        number, x, y = player.place()
        assert number == next(entry["id"] for entry in world["map"] if entry["name"] == name)
        screen = 3 - shown(player)  # the lightest grey is shade 0
    rows = map_rows(next(entry for entry in world["map"] if entry["name"] == name))
    compared = 0
    for row in range(9):
        for column in range(10):
            map_x, map_y = x + column - COLUMN, y + row - ROW
            near_player = column == COLUMN and row in (ROW - 1, ROW)
            # Sprites stand four pixels above their cells.
            beside = any((map_x, map_y + below) in people(world, name) for below in (0, 1))
            if near_player or beside or not (0 <= map_x < len(rows[0]) and 0 <= map_y < len(rows)):
                continue
            drawn = cell(picture, map_x, map_y)
            np.testing.assert_array_equal(drawn, cell(screen, column, row), err_msg=f"{map_x}, {map_y}")
            compared += 1
    assert compared > 40


def cell(picture: Shades, x: int, y: int) -> Shades:
    return picture[y * CELL_PIXELS : (y + 1) * CELL_PIXELS, x * CELL_PIXELS : (x + 1) * CELL_PIXELS]


def people(world: dict[str, object], name: str) -> set[tuple[int, int]]:
    entries: list[dict[str, object]] = world["map"]  # type: ignore[assignment]
    entry = next(entry for entry in entries if entry["name"] == name)
    return {tuple(person["at"]) for person in entry.get("object", [])}  # type: ignore[attr-defined]


def test_people_stand_on_the_map_and_look_where_they_look() -> None:
    world = read_world(SMALL)
    for facing in ("left", "right"):
        entry = next(entry for entry in world["map"] if entry["name"] == "HOME")
        entry["object"][0]["facing"] = facing
        x, y = entry["object"][0]["at"]
        drawn = cell(RomMaps(rom_bytes(), world).picture("HOME"), x, y)
        floor = cell(RomMaps(rom_bytes(), world).picture("HOME"), x, y + 1)
        assert (drawn != floor).mean() > 0.3
        if facing == "left":
            left = np.where(drawn != floor, drawn, 0)
    assert (np.where(drawn != floor, drawn, 0) != left).any()


@pytest.mark.parametrize("world", world_names())
def test_all_maps_of_a_world_are_drawn_in_their_size(world: str) -> None:
    content = read_world(world)
    maps = RomMaps(rom_bytes(world), content)
    for entry in content["map"]:
        rows = map_rows(entry)
        picture = maps.picture(entry["name"])
        assert picture.shape == (CELL_PIXELS * len(rows), CELL_PIXELS * len(rows[0]))
        assert set(np.unique(picture)) <= {0, 1, 2, 3}
        assert len(np.unique(picture)) > 1


def test_a_rom_of_another_world_is_refused() -> None:
    content = read_world(SMALL)
    content["map"][0]["cells"] = "\n".join(row + "TT" for row in map_rows(content["map"][0]))
    with pytest.raises(ValueError, match="20 x 18 cells in the ROM, 22 x 18 in the world file"):
        RomMaps(rom_bytes(), content).picture(content["map"][0]["name"])
