"""Episodes that begin at archived states: what they know there, that they replay, and that each step counts once."""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cartridge_fixtures import HOME, TOWN, play, poke
from recorded_episodes import HASH_INTERVAL_STEPS, identity_of

from cluster_rl.config import Config
from cluster_rl.emulator import env as env_module
from cluster_rl.emulator.env import Env, make_env
from cluster_rl.emulator.playback import replay, state_after
from cluster_rl.errors import UserError
from cluster_rl.exploration.archive import Archive, ArchiveDir, StartState, StartStates, StateHeader, pack_state
from cluster_rl.game import ram
from cluster_rl.game.world import World
from cluster_rl.rom import Rom, load_rom
from cluster_rl.runs.episode_log import EpisodeRecorder, read_log

CONFIG = Config(start_idle_frames_max=0, archive_entries=50)
ELDER = "r" + 8 * "A"  # a milestone at home


class ListedStarts:
    """Keeps what is proposed, and hands out what it is told to."""

    def __init__(self) -> None:
        self.proposed: list[StartState] = []
        self.refused: list[str] = []
        self.next: list[StartState] = []

    def choose(self, rng: np.random.Generator) -> StartState | None:
        return self.next.pop(0) if self.next else None

    def refuse(self, path: Path, why: UserError) -> None:
        self.refused.append(str(why))

    def wants(self, key: str, steps: int) -> bool:
        return key not in [state.header.key for state in self.proposed]

    def propose(self, header: StateHeader, memory: bytes, snapshot: bytes) -> None:
        self.proposed.append(StartState(Path(f"{header.key}.start"), header, memory, snapshot))


@pytest.fixture(scope="module")
def rom() -> Rom:
    return load_rom("")


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> ListedStarts:
    monkeypatch.setattr(env_module, "_SAVE_EVERY_STEPS", 1)
    return ListedStarts()


@pytest.fixture
def env(rom: Rom, starts: ListedStarts) -> Iterator[Env]:
    env = Env(CONFIG, rom, World.for_rom(rom.sha1), 1, starts=starts)
    yield env
    env.close()


def known(env: Env) -> dict[str, Any]:
    """All that an agent sees and a reward depends on."""
    observation = env.observation
    return {
        "context": observation.context.tolist(),
        "crop": observation.crop.tolist(),
        "rewards": copy.deepcopy(env._rewards.memory_state),
        "latch": env.latch.state_dict(),
        "maps": env._occupancy.memory_state,
    }


def test_an_episode_from_the_middle_knows_what_was_known_there(env: Env, starts: ListedStarts) -> None:
    env.start()
    reached = [name for step in play(env, ELDER + "dddld") for name in step.milestones]
    while not starts.proposed[-1].header.map_id == env.state.map_id != HOME:  # until the town stands
        play(env, "d")
    state, steps = starts.proposed[-1], env.episode_steps
    assert state.header.milestones == reached == ["TALKED_ELDER", "LEFT_HOME"]
    assert (state.header.steps, state.header.step, state.header.start_id) == (steps, steps, "boot")
    there = known(env)
    rewards = [step.reward for step in play(env, "ddrrr")]
    later = known(env)
    starts.next = [state]
    env.start()
    assert known(env) == there
    assert (env.episode_start.id, env.episode_start.tag) == (state.header.key, "archive")
    assert env.episode_start.milestones == reached
    assert [step.reward for step in play(env, "ddrrr")] == rewards
    assert known(env) == later
    summary = env.stop()
    assert summary is not None
    assert (summary.episode_steps, summary.milestones) == (5, [])
    assert summary.episode_return == pytest.approx(sum(r for r in rewards) - summary.terms["novelty"])
    assert summary.cells < len(later["rewards"].visits)  # its own cells only
    env.start()
    assert env.episode_start.tag == "beginning"
    assert env.latch.reached == ()


def test_what_the_game_cleared_again_stays_reached(env: Env, starts: ListedStarts) -> None:
    env.start()
    play(env, ELDER)
    events = env.latch.event_count
    for offset in range(ram.EVENT_BYTES):
        poke(env, ram.wEventFlags + offset, 0)
    play(env, "dddldd")
    assert env.state.event_bits == 0
    starts.next = [starts.proposed[-1]]
    env.start()
    assert env.episode_start.milestones == ["TALKED_ELDER", "LEFT_HOME"]
    assert env.latch.event_count == events > 0


def test_steps_add_up_over_a_chain_of_episodes(env: Env, starts: ListedStarts) -> None:
    env.start()
    play(env, ELDER)
    first = starts.proposed[-1]
    starts.next = [first]
    env.start()
    play(env, "dddldd")
    second = starts.proposed[-1]
    assert second.header.key != first.header.key
    assert second.header.steps == first.header.steps + second.header.step
    assert second.header.start_id == first.header.key


def test_a_cell_is_proposed_once_and_not_at_every_step(rom: Rom) -> None:
    starts = ListedStarts()
    env = Env(CONFIG, rom, World.for_rom(rom.sha1), 1, starts=starts)
    env.start()
    play(env, "r" + 8 * "A" + "dddld" + 8 * "dr")
    env.close()
    # The first cell and those of the milestones; for others it is too soon.
    assert [(state.header.milestones, state.header.map_id) for state in starts.proposed] == [
        ([], HOME),
        (["TALKED_ELDER"], HOME),
        (["TALKED_ELDER", "LEFT_HOME"], TOWN),
    ]


def test_what_does_not_fit_is_refused_by_name_and_another_is_chosen(env: Env, starts: ListedStarts, rom: Rom) -> None:
    env.start()
    play(env, ELDER)
    good = starts.proposed[-1]
    foreign = good.snapshot.replace(rom.sha1.encode(), b"0" * 40)
    old = re.sub(rb'"state_version":\d\d', b'"state_version":99', good.snapshot)
    assert foreign != good.snapshot != old
    starts.next = [
        StartState(Path("foreign.start"), good.header, good.memory, foreign),
        StartState(Path("old.start"), good.header, good.memory, old),
        StartState(Path("memory.start"), good.header, b"no memory", good.snapshot),
        good,
    ]
    env.start()
    assert env.episode_start.id == good.header.key
    assert [words.split(":")[0] for words in starts.refused] == ["foreign.start", "old.start", "memory.start"]
    assert f"made for the ROM with SHA-1 {'0' * 40}" in starts.refused[0]
    assert "install the PyBoy it was made by" in starts.refused[1]


def test_a_memory_of_another_radius_is_refused(env: Env, starts: ListedStarts, rom: Rom) -> None:
    env.start()
    play(env, ELDER)
    wide = Config(start_idle_frames_max=0, occupancy_crop_radius=8)
    other = Env(wide, rom, World.for_rom(rom.sha1), 1, starts=starts)
    starts.next = [starts.proposed[-1]]
    other.start()
    other.close()
    assert other.episode_start.tag == "beginning"
    assert "what is remembered there does not fit" in starts.refused[0]


def test_logs_of_such_episodes_replay_and_hold_the_state_again(rom: Rom, tmp_path: Path, starts: ListedStarts) -> None:
    recorder = EpisodeRecorder(tmp_path, identity_of(rom, 5), HASH_INTERVAL_STEPS)
    config = Config(episode_max_steps=40, start_idle_frames_max=95)
    env = Env(config, rom, World.for_rom(rom.sha1), 3, recorder=recorder, starts=starts)
    buttons = random.Random(0)
    env.start()
    play(env, ELDER)
    state = starts.proposed[-1]
    for _ in range(2):
        starts.next = [state]
        env.start()
        while env.advance(buttons.choice(np.flatnonzero(env.observation.mask).tolist())).summary is None:
            pass
    env.close()
    first, *logs = [read_log(path) for path in sorted(tmp_path.iterdir())]
    assert first.header.start is not None
    assert first.header.start.tag == "beginning"
    for log in logs:
        assert log.header.start is not None
        assert (log.header.start.id, log.header.start.tag) == (state.header.key, "archive")
        assert log.header.start.milestones == ["TALKED_ELDER"]
        assert log.header.steps == 40
        replay(log, rom, "x", lambda: False)
    # The log of the episode that came by there gives the state too.
    assert state_after(first, rom, "x", state.header.step) == state.snapshot


def test_an_actors_starts_end_to_end(rom: Rom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files, as actors and learner have them."""
    monkeypatch.setattr(env_module, "_SAVE_EVERY_STEPS", 1)
    archive = Archive(tmp_path, rom.sha1, "frontier", 50, 10**8)
    starts = StartStates(tmp_path, 0, share=1.0, proposes=True, read_sec=0.0)
    env = Env(CONFIG, rom, World.for_rom(rom.sha1), 1, starts=starts)
    env.start()
    play(env, ELDER + "dddld")
    assert archive.admit() >= 2
    archive.publish()
    met = set()
    for _ in range(20):
        env.start()
        met.add(env.episode_start.id)
        assert env.episode_start.tag == "archive"
    env.close()
    assert met == {entry.key for entry in archive.entries}


def test_a_state_with_a_newer_snapshot_stays_for_the_newer_program(env: Env, rom: Rom, tmp_path: Path) -> None:
    """Its file is of this format, so the learner lets it in."""
    env.start()
    proposer = StartStates(tmp_path, 0, share=1.0, proposes=True, read_sec=0.0)
    archive = Archive(tmp_path, rom.sha1, "frontier", 50, 10**8)
    header = StateHeader(
        key="cell", tag="archive", rom_sha1=rom.sha1, milestones=[], map_id=1, x=2, y=3, steps=4, start_id="boot"
    )
    snapshot = env.console.save()
    proposer.propose(header, b"", snapshot.replace(b'"schema_version":1', b'"schema_version":2'))
    assert archive.admit() == 1
    archive.publish()
    other = Env(CONFIG, rom, World.for_rom(rom.sha1), 1, starts=proposer)
    other.start()
    assert other.episode_start.tag == "beginning"
    other.close()
    path = ArchiveDir(tmp_path).states / "cell.start"
    assert (path.exists(), archive.unfit, proposer.newer) == (True, 0, {path})


def test_a_user_gets_the_same_by_make_env() -> None:
    env = make_env(CONFIG, 0)  # no run, no archive: every episode is from the beginning
    env.start()
    assert env.episode_start.tag == "beginning"
    env.close()


def test_a_state_costs_little_beside_its_snapshot(env: Env, starts: ListedStarts) -> None:
    env.start()
    play(env, ELDER + "dddld" + 20 * "drul")
    state = starts.proposed[-1]
    assert len(state.memory) < len(state.snapshot) / 2
    data = pack_state(state.header, state.memory, state.snapshot)
    assert len(data) < 60_000
    assert ArchiveDir(Path("x")).state("archive", state.header.key).name == f"{state.header.key}.start"
