"""What the learner is told of a game's milestones."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster_rl.cluster_map_features import SLOTS
from cluster_rl.emulator.spaces import milestone_names, quests_of
from cluster_rl.game.world import World
from cluster_rl.rom import load_rom
from cluster_rl.runs.identity import ensure_identity
from cluster_rl.runs.layout import RunDir


@pytest.mark.parametrize("name", ["", "lanternvale"])
def test_quests_are_the_milestones_of_the_part_that_is_played(tmp_path: Path, name: str) -> None:
    rom = load_rom(name)
    run_dir = RunDir(tmp_path, "r").create()
    ensure_identity(run_dir.identity, rom.sha1, rom.title)
    world = World.for_rom(rom.sha1)
    quests = quests_of(run_dir, "")
    assert [quest.name for quest in quests] == [m.name for m in world.milestones if not m.lesson]
    for quest in quests:
        (milestone,) = [m for m in world.milestones if m.name == quest.name]
        assert quest.required == milestone.required
        assert SLOTS[quest.slot] == f"milestone_{world.milestones.index(milestone)}"
    assert {quest.name for quest in quests} <= milestone_names(run_dir)


def test_a_lesson_has_quests_of_its_own(tmp_path: Path) -> None:
    rom = load_rom("")
    run_dir = RunDir(tmp_path, "r").create()
    ensure_identity(run_dir.identity, rom.sha1, rom.title)
    own = [quest.name for quest in quests_of(run_dir, "school:password")]
    assert own == [m.name for m in World.cartridge().milestones if m.lesson]
    assert own


def test_every_milestone_of_red_has_a_slot(tmp_path: Path) -> None:
    quests = quests_of(RunDir(tmp_path, "r"), "")  # a ROM that is not known has Red's tables
    assert len({quest.slot for quest in quests}) == len(quests) == len(World.red().milestones)
