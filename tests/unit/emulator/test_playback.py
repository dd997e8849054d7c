"""Replaying a recorded episode, on the real console and the embedded cartridge."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest
from recorded_episodes import FRAME_SKIP, HASH_INTERVAL_STEPS, STEPS, flipped_direction, identity_of, record

from cluster_rl.config import config_from_builtins
from cluster_rl.emulator.env import Env
from cluster_rl.emulator.playback import Diverged, replay
from cluster_rl.game.world import World
from cluster_rl.rom import Rom, load_rom
from cluster_rl.runs.episode_log import EpisodeLog, EpisodeRecorder, read_log


@pytest.fixture(scope="module")
def rom() -> Rom:
    return load_rom("")


@pytest.fixture(scope="module")
def log(rom: Rom, tmp_path_factory: pytest.TempPathFactory) -> EpisodeLog:
    return read_log(record(tmp_path_factory.mktemp("recorded"), rom, seed=1, steps=STEPS))


def test_the_log_says_what_happened(log: EpisodeLog) -> None:
    assert log.header.steps == STEPS
    assert len(log.ram_hashes) == STEPS // HASH_INTERVAL_STEPS
    assert len({tuple(position) for position in log.positions.tolist()}) > 3


def test_the_environments_own_episodes_replay(rom: Rom, tmp_path: Path) -> None:
    config = config_from_builtins({"episode_max_steps": 40}, "test")
    recorder = EpisodeRecorder(tmp_path, identity_of(rom, 5), HASH_INTERVAL_STEPS)
    env = Env(config, rom, World.for_rom(rom.sha1), seed=3, recorder=recorder)
    buttons = random.Random(0)
    summaries = []
    for steps in (40, 25):  # the second is stopped before its end
        env.start()
        for _ in range(steps):
            step = env.advance(buttons.choice(np.flatnonzero(env.observation.mask).tolist()))
        summaries.append(step.summary or env.stop())
    env.close()
    logs = [read_log(path) for path in sorted(tmp_path.iterdir())]
    assert [(log.header.steps, log.header.reason) for log in logs] == [(40, "truncated"), (25, "stopped")]
    for log, summary in zip(logs, summaries, strict=True):
        assert summary is not None
        assert (log.header.episode_return, log.header.terms) == (summary.episode_return, summary.terms)
        assert [(milestone.name, milestone.step) for milestone in log.header.milestones] == summary.milestones
        assert (log.header.complete, log.header.seed) == (True, summary.seed)
        assert int(log.positions[-1, 0]) == summary.final_map
        replay(log, rom, "x", lambda: False)


def test_one_turned_button_is_found_at_its_step(log: EpisodeLog, rom: Rom) -> None:
    changed, step = flipped_direction(log)
    with pytest.raises(Diverged, match=f"left the recording at step {step} of {STEPS}: "):
        replay(changed, rom, "x", lambda: False)


def test_drawing_every_frame_changes_nothing_and_shows_them_all(log: EpisodeLog, rom: Rom) -> None:
    shapes = []
    replay(log, rom, "x", lambda: False, lambda frame: shapes.append(frame.shape))
    assert shapes == [(144, 160, 3)] * (STEPS * FRAME_SKIP)


def test_a_change_outside_the_checked_bytes_is_found_by_the_hash(log: EpisodeLog, rom: Rom) -> None:
    hashes = log.ram_hashes.copy()
    hashes[3] ^= 1
    with pytest.raises(Diverged, match=f"at step {4 * HASH_INTERVAL_STEPS} of {STEPS}, or up to 15 steps before"):
        replay(dataclasses.replace(log, ram_hashes=hashes), rom, "x", lambda: False)
