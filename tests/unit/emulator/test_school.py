"""School starts of every embedded world: where the names table says, and one line for what there is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster_rl import cartridge
from cluster_rl.emulator.console import Console
from cluster_rl.emulator.school import school_snapshot, start_snapshot
from cluster_rl.errors import UserError
from cluster_rl.game.state import GameState
from cluster_rl.game.world import World
from cluster_rl.rom import load_rom


@pytest.mark.parametrize("world", cartridge.world_names())
def test_each_school_starts_in_its_place(world: str) -> None:
    rom = load_rom(world)
    schools = World.for_rom(rom.sha1).schools
    assert schools
    with Console(rom, 24) as console:
        for name, place in schools.items():
            console.load(school_snapshot(name, rom))
            state = GameState(console.image())
            assert (state.map_id, state.x, state.y) == place, name
            assert state.in_game
            assert not state.in_battle


def test_a_school_that_there_is_not_names_those_that_there_are() -> None:
    with pytest.raises(UserError, match="school:pasword: unknown school; the small world has password"):
        start_snapshot("school:pasword", load_rom(""))


def test_another_game_has_no_schools(tmp_path: Path) -> None:
    changed = bytearray(cartridge.rom_bytes())
    changed[0x4000] ^= 1
    path = tmp_path / "other.gb"
    path.write_bytes(changed)
    with pytest.raises(UserError, match="only the embedded worlds have schools"):
        start_snapshot("school:password", load_rom(str(path)))
