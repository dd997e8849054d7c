"""Episodes of random buttons on the real console, recorded for tests that replay them."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import msgspec
from sequence_fixtures import start_at

from cluster_rl.emulator.console import Console, live_check
from cluster_rl.rom import Rom, load_rom, pyboy_version
from cluster_rl.runs.episode_log import EpisodeHeader, EpisodeIdentity, EpisodeLog, EpisodeRecorder, Milestone

FRAME_SKIP = 24
STEPS = 64
HASH_INTERVAL_STEPS = 16


def identity_of(rom: Rom, incarnation: int) -> EpisodeIdentity:
    return EpisodeIdentity(
        rom_sha1=rom.sha1,
        rom_kind=rom.kind,
        pyboy_version=pyboy_version(),
        frame_skip=FRAME_SKIP,
        run="test",
        actor=0,
        incarnation=incarnation,
        emulator=0,
    )


def header_of(milestones: list[tuple[str, int]] | None = None, steps: int = 50, **changes: object) -> EpisodeHeader:
    """Of a finished episode of the small world that was never played."""
    header = EpisodeHeader(
        **msgspec.structs.asdict(identity_of(load_rom(""), 1)),
        episode=0,
        seed=1,
        params_version=1,
        epsilon=0.02,
        started="2026-11-29T12:00:00+00:00",
        steps=steps,
        episode_return=1.0,
        terms={},
        milestones=[Milestone(name, step) for name, step in milestones or ()],
        reason="truncated",
        complete=True,
        ram_hash_interval_steps=HASH_INTERVAL_STEPS,
    )
    return msgspec.structs.replace(header, **changes)


def record(folder: Path, rom: Rom, seed: int, steps: int) -> Path:
    """An unfinished episode of random buttons; returns its log."""
    recorder = EpisodeRecorder(folder, identity_of(rom, seed), HASH_INTERVAL_STEPS)
    buttons = random.Random(seed)
    with Console(rom, FRAME_SKIP) as console:
        console.boot()
        recorder.start(console.save(), None, seed, start_at("beginning"))
        for _ in range(steps):
            # The four directions more often than the rest: a menu would swallow most of a short episode.
            action = buttons.choice([0, 1, 2, 3] * 3 + [4, 5])
            console.step(action)
            recorder.step(action, live_check(console.image()), console)
    recorder.flush()
    return recorder.path


def flipped_direction(log: EpisodeLog) -> tuple[EpisodeLog, int]:
    """The log with one walked step turned the other way, and the number of that step (from 1)."""
    for index in range(20, len(log.actions)):
        moved = (log.positions[index] != log.positions[index - 1]).any()
        if moved and log.actions[index] < 4 and log.positions[index][0] == log.positions[index - 1][0]:
            actions = log.actions.copy()
            actions[index] = 3 - actions[index]  # down and up, left and right
            return dataclasses.replace(log, actions=actions), index + 1
    raise AssertionError("the episode never walked: record another")
