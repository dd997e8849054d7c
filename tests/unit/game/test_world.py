"""The tables of both games: complete, of one format, and right where that can be checked."""

from __future__ import annotations

import json

import pytest
from cartridge_fixtures import state_with
from pyboy.plugins.game_wrapper_pokemon_gen1_constants import EVENT_FLAGS, EVENT_FLAGS_ADDRESS

from cluster_rl import cartridge
from cluster_rl.game import ram
from cluster_rl.game.state import GameState
from cluster_rl.game.world import TABLE_DIR, School, World, embedded

BOTH = [World.red(), *embedded()]


def test_worlds_by_rom() -> None:
    worlds = {World.for_rom(record["rom_sha1"]) for record in cartridge.manifest()["worlds"].values()}
    assert worlds == set(embedded())
    sha1 = cartridge.manifest()["worlds"][cartridge.SMALL]["rom_sha1"]
    assert World.for_rom(sha1) is World.for_rom(sha1.upper()) is World.cartridge()
    assert World.for_rom("ea9bcae617fdf159b045185467ae58b2e4a48b9a") is World.red()
    assert World.for_rom("0" * 40) is World.red()
    assert len(set().union(*(world.rom_sha1s for world in BOTH))) == len(BOTH)


def test_one_format() -> None:
    tables = [json.loads((TABLE_DIR / f"{world.name}.json").read_text(encoding="utf-8")) for world in BOTH]
    assert all(table.keys() == tables[0].keys() for table in tables)


@pytest.mark.parametrize("world", BOTH, ids=lambda world: world.name)
def test_no_number_is_named_twice(world: World) -> None:
    """JSON would keep the last of two equal keys without a word."""

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        assert len({key for key, _ in pairs}) == len(pairs), pairs
        return dict(pairs)

    json.loads((TABLE_DIR / f"{world.name}.json").read_text(encoding="utf-8"), object_pairs_hook=once)


@pytest.mark.parametrize("world", BOTH, ids=lambda world: world.name)
def test_tables_are_sound(world: World) -> None:
    names = [milestone.name for milestone in world.milestones]
    assert len(set(names)) == len(names)
    assert all(ram.is_live(a) for milestone in world.milestones for a in milestone.condition.addresses)
    events = [m.condition.arguments[0] for m in world.milestones if m.condition.kind == "event"]
    assert set(events) <= world.event_names.keys()
    assert len(set(world.event_names.values())) == len(world.event_names)
    assert all(0 <= event < ram.EVENT_COUNT for event in world.event_names)
    assert world.key_items <= world.items.keys()
    for info in world.maps.by_id.values():
        if info.global_x is not None:
            assert world.maps.size(info.id) is not None


@pytest.mark.parametrize("world", BOTH, ids=lambda world: world.name)
def test_outdoor_maps_and_the_canvas(world: World) -> None:
    """Every cell of a map with a place is on the canvas, and towns and routes share none."""
    taken: set[tuple[int, int]] = set()
    for info in world.maps.by_id.values():
        size = world.maps.size(info.id)
        if size is None:
            assert world.global_position(info.id, 0, 0) is None
            continue
        cells = {world.global_position(info.id, x, y) for x in range(size[0]) for y in range(size[1])}
        assert None not in cells
        assert len(cells) == size[0] * size[1]
        if info.category in ("town", "route") and world.map_name(info.id) != "UNUSED":
            assert not cells & taken
            taken |= cells  # type: ignore[arg-type]


def test_reds_tables() -> None:
    world = World.red()
    assert len(world.milestones) == 72
    assert len(world.maps.by_id) == 248
    assert world.badges == ("Boulder", "Cascade", "Thunder", "Rainbow", "Soul", "Marsh", "Volcano", "Earth")
    assert world.badge_names(0b1000_0001) == ["Boulder", "Earth"]
    assert (world.map_name(0), world.map_category(0), world.maps.is_outdoor(0)) == ("PALLET_TOWN", "town", True)
    assert (world.map_category(54), world.maps.is_outdoor(54)) == ("gym", False)
    assert (world.item_name(4), world.species_name(1), world.move_name(15)) == ("POKE_BALL", "RHYDON", "CUT")
    assert world.event_name(119) == "EVENT_BEAT_BROCK"
    # Neighbours touch: Route 1 lies south of Viridian City and north of Pallet Town.
    pallet, route = world.maps.by_id[0], world.maps.by_id[12]
    assert (route.global_x, route.global_y) == (pallet.global_x, pallet.global_y - route.height)  # type: ignore[operator]


def test_reds_event_names_are_those_of_pyboys_wrapper() -> None:
    """Every bit and every name; see scripts/event_names.py."""
    assert ram.wEventFlags == EVENT_FLAGS_ADDRESS
    assert World.red().event_names == {event: f"EVENT_{name.upper()}" for name, event in EVENT_FLAGS.items()}
    assert len(World.red().event_names) == len(EVENT_FLAGS) == 507


def test_a_milestone_that_is_a_flag_has_the_flags_name() -> None:
    for world in BOTH:
        flags = {m.name: m.condition.arguments[0] for m in world.milestones if m.condition.kind == "event"}
        assert {name: world.event_name(event) for name, event in flags.items()} == {name: name for name in flags}


def ahead(world: World, state: GameState) -> set[str]:
    return {milestone.name for milestone in world.milestones_ahead(state)}


def test_milestones_ahead() -> None:
    red, everything = World.red(), {milestone.name for milestone in World.red().milestones}
    assert ahead(red, state_with(in_game=False)) == ahead(red, state_with((ram.wCurMap, 200))) == everything
    late = state_with((ram.wCurMap, 200), (ram.wEventFlags + 119 // 8, 1 << 119 % 8))
    assert ahead(red, late) == everything - {"EVENT_BEAT_BROCK"}


def test_a_lesson_is_no_part_of_the_game() -> None:
    world = World.cartridge()
    assert {m.name: m.lesson for m in world.milestones if m.lesson} == {"PASSWORD_RIGHT": "password"}
    # Each lesson has a start, on a map of its own.
    assert world.schools == {"password": School(38, 1, 1)}
    assert world.maps.lesson(38) == "password"
    for info in world.maps.by_id.values():
        expected = {m.name for m in world.milestones if m.lesson == info.lesson}
        # By being there, and by having come there.
        expected -= {"HOLLOW": {"LEFT_HOME"}, "FERN_TRAIL": {"LEFT_HOME", "REACHED_ROUTE"}}.get(info.name, set())
        assert ahead(world, state_with((ram.wCurMap, info.id))) == expected, info.name
    # Before a game has begun, the map's number means nothing.
    assert ahead(world, state_with((ram.wCurMap, 38), in_game=False)) == ahead(world, state_with((ram.wCurMap, 37)))


def test_unknown_ids_have_names() -> None:
    world = World.cartridge()
    assert (world.map_name(99), world.map_category(99), world.maps.size(99)) == ("MAP_99", "unused", None)
    assert world.global_position(99, 0, 0) is None
    assert (world.item_name(9), world.species_name(0), world.move_name(9)) == ("ITEM_9", "SPECIES_0", "MOVE_9")
    assert world.event_name(2000) == "EVENT_2000"


def test_positions_off_the_canvas_are_none() -> None:
    assert World.red().global_position(0, 255, 255) is None


def test_task_ends() -> None:
    image = bytearray(ram.IMAGE_BYTES)
    image[ram.image_index(ram.wCurMapWidth)] = image[ram.image_index(ram.wCurMapHeight)] = 5
    assert not World.cartridge().task_ended(GameState(bytes(image)))
    image[ram.image_index(ram.wObtainedBadges)] = 1
    assert World.cartridge().task_ended(GameState(bytes(image)))
    assert not World.red().task_ended(GameState(bytes(image)))
    image[ram.image_index(ram.wCurMap)] = 118
    assert World.red().task_ended(GameState(bytes(image)))
