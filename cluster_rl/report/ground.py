"""What lies under the visits: pictures of maps, and where their doors and people are.

The report's page, its film and the replayer's maps use it. In: for an embedded world the ROM and the world file in the
package; for any other game what the replayer's workers saw on the screens of the run's own episodes, which is kept in
`videos/maps/ground.npz` and grows with every video. Out: grey pictures of the canvas of `World.global_position`, and
marks on it. No picture of a game is shipped.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cluster_rl.cartridge import rom_bytes, table_name, world_names
from cluster_rl.cartridge.checks import door_ends
from cluster_rl.cartridge.compile_content import read_world
from cluster_rl.errors import UserError, read_error
from cluster_rl.game.world import World
from cluster_rl.report.path import Place, SeenMap
from cluster_rl.report.rom_maps import CELL_PIXELS, RomMaps
from cluster_rl.runs.atomic import write_atomic

PIXELS: Final = 8
"""Of a map tile in the picture."""
GROUND_FILE: Final = "ground.npz"
_GREYS: Final = 16
_SHRINK: Final = CELL_PIXELS // PIXELS
_LAST_MAP: Final = 0xFF  # a door back to wherever one came in from

Box = tuple[int, int, int, int]
"""Left, top, width and height in cells of the canvas."""


class Mark(NamedTuple):
    """A door or a person: the cell of the canvas, and what it is called."""

    x: int
    y: int
    name: str


class Ground(NamedTuple):
    """The whole canvas, uint8 [8 h, 8 w] of greys, 255 where nothing is known, and what stands on it."""

    picture: npt.NDArray[np.uint8]
    doors: list[Mark]
    people: list[Mark]

    def only(self, boxes: Sequence[Box]) -> Ground:
        """What lies in some boxes of the canvas; all else is white."""
        kept = Ground(np.full_like(self.picture, 255), [], [])
        for box in boxes:
            kept.cut(box)[:] = self.cut(box)
        for marks, own in ((kept.doors, self.doors), (kept.people, self.people)):
            marks += [mark for mark in own if any(x <= mark.x < x + w and y <= mark.y < y + h for x, y, w, h in boxes)]
        return kept

    def cut(self, box: Box) -> npt.NDArray[np.uint8]:
        """The picture of a box of the canvas, uint8 [8 h, 8 w], a view."""
        left, top, width, height = (PIXELS * side for side in box)
        return self.picture[top : top + height, left : left + width]


def ground_of(world: World, folder: Path) -> Ground | None:
    """The ground of a world; `folder` is that of the replayer's maps. None for another game that no video was rendered
    of. Raises `UserError` where the file is damaged."""
    name = next((name for name in world_names() if table_name(name) == f"{world.name}.json"), None)
    if name is not None:
        return _embedded(name, world)
    seen = _read(folder / GROUND_FILE, world)
    if seen is None:
        return None
    people = [Mark(x, y, f"somebody of {world.map_name(map_id)}") for map_id, _, x, y in seen.people.tolist()]
    return Ground(seen.picture, _seen_doors(seen.doors, world), people)


class Glimpse(NamedTuple):
    """What episodes saw: greys, uint8 [8, 8], of cells of the canvas, of doors the map that they lead to, and of
    people, by their map's id and slot, where they were first."""

    looks: dict[Place, npt.NDArray[np.uint8]]
    doors: dict[Place, int]
    people: dict[tuple[int, int], Place]

    def update(self, newer: Glimpse) -> None:
        """Adds what another one saw; where both know something, the newer counts."""
        self.looks.update(newer.looks)
        self.doors.update(newer.doors)
        self.people.update(newer.people)


def glimpse_of(seen: SeenMap) -> Glimpse:
    """What a worker tells of an episode's screens."""
    looks = {}
    for place, look in seen.looks():  # uint8 [16, 16, 3]
        small = look.mean(2).reshape(PIXELS, _SHRINK, PIXELS, _SHRINK).mean((1, 3))
        looks[place] = _light(1 - small / 255)
    return Glimpse(looks, dict(seen.doors), dict(seen.people))


def add_to_ground(folder: Path, world: World, glimpse: Glimpse) -> None:
    """Puts what more episodes saw into the file: where both know a cell, the newer look stays. Raises `UserError`
    where the file cannot be written; a damaged one is made anew."""
    path = folder / GROUND_FILE
    try:
        seen = _read(path, world)
    except UserError:
        seen = None
    if seen is None:
        width, height = world.canvas_size
        empty = np.empty((0, 3), np.int16), np.empty((0, 4), np.int16)
        seen = _Seen(np.full((height * PIXELS, width * PIXELS), 255, np.uint8), *empty)
    doors = {(x, y): target for x, y, target in seen.doors.tolist()}
    for (x, y), look in glimpse.looks.items():
        seen.picture[y * PIXELS : (y + 1) * PIXELS, x * PIXELS : (x + 1) * PIXELS] = look
    doors.update(glimpse.doors)
    people = {(map_id, slot): (x, y) for map_id, slot, x, y in seen.people.tolist()} | glimpse.people
    npz = io.BytesIO()
    rows = np.array([(*place, target) for place, target in sorted(doors.items())], np.int16).reshape(-1, 3)
    met = np.array([(*who, *place) for who, place in sorted(people.items())], np.int16).reshape(-1, 4)
    np.savez_compressed(npz, picture=seen.picture, doors=rows, people=met)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(path, npz.getvalue())


class _Seen(NamedTuple):
    """What the file has: `picture` as of `Ground`, int16 [n, 3] of (x, y, target map) of doors, and int16 [m, 4] of
    (map, slot, x, y) of people, which files of older programs lack."""

    picture: npt.NDArray[np.uint8]
    doors: npt.NDArray[np.int16]
    people: npt.NDArray[np.int16]


def _read(path: Path, world: World) -> _Seen | None:
    """None where it is not there. Raises `UserError` for what is no such file, or of a game of another size."""
    width, height = world.canvas_size
    damaged = UserError(f"{path}: not the ground of this game; remove it, and it is made anew with the next videos")
    try:
        with np.load(path, allow_pickle=False) as parts:
            people = parts["people"] if "people" in parts else np.empty((0, 4), np.int16)
            seen = _Seen(parts["picture"], parts["doors"], people)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise read_error(error, path, "ground") from None
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile):
        raise damaged from None
    right = seen.picture.shape == (height * PIXELS, width * PIXELS) and seen.picture.dtype == np.uint8
    for rows, columns in ((seen.doors, 3), (seen.people, 4)):
        right = right and rows.shape[1:] == (columns,) and rows.dtype == np.int16
    if not right:
        raise damaged
    return seen


def _seen_doors(doors: npt.NDArray[np.int16], world: World) -> list[Mark]:
    names = [(x, y, "the way out" if to == _LAST_MAP else world.map_name(to)) for x, y, to in doors.tolist()]
    return [Mark(x, y, f"door to {name}") for x, y, name in names]


def _embedded(name: str, world: World) -> Ground:
    content = read_world(name)
    drawn, ends = RomMaps(rom_bytes(name), content), door_ends(content)
    width, height = world.canvas_size
    ground = Ground(np.full((height * PIXELS, width * PIXELS), 255, np.uint8), [], [])
    ids = {entry["name"]: entry["id"] for entry in content["map"]}
    for entry in content["map"]:
        place = world.global_position(entry["id"], 0, 0)
        if place is None:
            continue
        left, top = place
        shades = drawn.picture(entry["name"])
        rows, columns = shades.shape[0] // _SHRINK, shades.shape[1] // _SHRINK
        small = shades.reshape(rows, _SHRINK, columns, _SHRINK).mean((1, 3))
        x, y = left * PIXELS, top * PIXELS
        ground.picture[y : y + rows, x : x + columns] = _light(small / 3)
        for warp in entry.get("warps", []):
            across, down = warp["at"]
            end = ends[(entry["name"], across, down)]
            ground.doors.append(Mark(left + across, top + down, f"door to {world.map_name(ids[end[0]])}"))
        for person in entry.get("object", []):
            across, down = person["at"]
            ground.people.append(Mark(left + across, top + down, person.get("name", person["sprite"])))
    return ground


def _light(share: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Darkness from 0 to 1 as few greys, none of them so dark that visits could not be told on it."""
    greys: npt.NDArray[np.uint8] = (255 - np.round(share * (_GREYS - 1)) * (255 // (_GREYS - 1)) // 2).astype(np.uint8)
    return greys
