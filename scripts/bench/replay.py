"""What a transition costs in the replay, and whether sampling gets slower as it fills.

    python scripts/bench/replay.py [--steps 3000] [--synthetic] [--folder DIR] [--json]

Plays the embedded cartridge with a random policy, cuts the play into blocks and fills one replay with 10,000 and one
with 1,000,000 transitions of them, repeating blocks under new numbers (each keeps its size and has its own place on
disk). The recurrent states are noise, which is their worst case. Both replays are sampled in turns and the best time of
each counts, so that both figures are of the same machine in the same minute. Exits with 1 if a goal is missed.
`--synthetic` scrolls over random tiles instead, without idle moments: hard to compress, and no emulator is needed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from cluster_rl import cluster_map_features
from cluster_rl.config import Config, load_config
from cluster_rl.errors import run_command
from cluster_rl.game.buttons import NUM_BUTTONS
from cluster_rl.learning.sequences import BlockSpec, SequenceBuilder
from cluster_rl.networks.frames import pack_screen
from cluster_rl.replay_buffer import Replay
from cluster_rl.wire.codec import decode_header, encode_block

GOAL_BYTES_PER_TRANSITION = 400.0
GOAL_SAMPLE_RATIO = 1.3
SIZES = (10_000, 1_000_000)
BATCH_SIZE = 64
ROUNDS = 60  # the shortest of many, as other processes come in between
SHAPE = ["unroll_length=40", "burn_in=20", "n_step=5", "lstm_hidden_size=128", "episode_max_steps=1000"]


def play_blocks(config: Config, spec: BlockSpec, steps: int) -> list[bytes]:
    """Blocks of `steps` steps of random valid buttons on the embedded cartridge."""
    from cluster_rl.emulator.env import make_env  # here, so that --synthetic runs without an emulator

    rng = np.random.default_rng(0)
    env = make_env(config, 0)
    builder = SequenceBuilder(spec, actor=0, incarnation=1, emulator=0)
    blocks: list[bytes] = []
    episode = 0
    observation = env.start()
    builder.begin(episode)
    for _ in range(steps):
        screen, context, crop, mask = observation
        action, greedy = int(rng.choice(np.flatnonzero(mask))), bool(rng.integers(2))
        step = env.advance(action)
        state = rng.normal(scale=0.3, size=(2, spec.hidden_size))
        finished = builder.add(
            pack_screen(screen), context, crop, mask, action, greedy, step.reward, step.visits, state[0], state[1]
        )
        observation = step.observation
        if step.terminated or step.truncated:
            screen, context, crop, mask = observation
            finished += builder.end(pack_screen(screen), context, crop, mask, terminated=step.terminated)
            episode += 1
            observation = env.start()
            builder.begin(episode)
        blocks += [encode_block(sequence) for sequence in finished]
    env.close()
    return blocks


def synthetic_blocks(spec: BlockSpec, steps: int) -> list[bytes]:
    """Blocks of one long episode that scrolls 2 pixels a step over random 8 x 8 tiles."""
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 4, (32, 8, 8), np.uint8)
    world = tiles[rng.integers(0, 32, (64, 64))].swapaxes(1, 2).reshape(512, 512)
    context = rng.integers(0, 256, spec.context_size, np.uint8)
    crop = np.zeros((2, spec.crop_side, spec.crop_side), np.uint8)
    mask = np.ones(spec.num_actions, np.bool_)
    builder = SequenceBuilder(spec, actor=0, incarnation=1, emulator=0)
    builder.begin(0)
    blocks: list[bytes] = []
    for _ in range(steps):
        world = np.roll(world, 2, axis=int(rng.integers(2)))
        context[rng.integers(spec.context_size)] = rng.integers(256)
        state = rng.normal(scale=0.3, size=(2, spec.hidden_size))
        action, greedy = int(rng.integers(spec.num_actions)), bool(rng.integers(2))
        finished = builder.add(
            pack_screen(world[:72, :80]), context, crop, mask, action, greedy, 0.0, 0, state[0], state[1]
        )
        blocks += [encode_block(sequence) for sequence in finished]
    return blocks


def numbered(blocks: list[bytes], number: int) -> bytes:
    """The block that comes under a number: `blocks`, over and over, each time as the episodes after those before."""
    passes, index = divmod(number, len(blocks))
    header, last = decode_header(blocks[index]), decode_header(blocks[-1])
    changed = msgspec.structs.replace(header, episode=passes * (last.episode + 1) + header.episode)
    encoded = msgspec.msgpack.encode(changed)
    payload = blocks[index][8 + int.from_bytes(blocks[index][4:8], "little") : -4]
    body = b"".join((blocks[index][:4], len(encoded).to_bytes(4, "little"), encoded, payload))
    return body + zlib.crc32(body).to_bytes(4, "little")


def fill(replay: Replay, blocks: list[bytes], transitions: int) -> float:
    """Appends blocks until `transitions` are in; returns microseconds a transition."""
    began = time.perf_counter()
    number = 0
    while replay.transitions < transitions:
        replay.append(0, 1, number, numbered(blocks, number))
        number += 1
    replay.sync()
    return (time.perf_counter() - began) / transitions * 1e6


def best_sample_ms(replays: list[Replay], rounds: int) -> list[float]:
    """Milliseconds to sample a batch from each replay, in turns, the best of `rounds`."""
    rng = np.random.default_rng(0)
    best = [float("inf")] * len(replays)
    for _ in range(rounds):
        for index, replay in enumerate(replays):
            began = time.perf_counter()
            replay.sample(rng, BATCH_SIZE)
            best[index] = min(best[index], (time.perf_counter() - began) * 1e3)
    return best


def measure(steps: int, synthetic: bool, folder: Path) -> dict[str, Any]:
    """Every figure of this benchmark, by name with its unit."""
    # A little more than the largest size, so that nothing is evicted.
    config = load_config(None, [*SHAPE, f"replay_capacity_transitions={SIZES[1] * 11 // 10}"])
    spec = BlockSpec.from_config(config, len(cluster_map_features.SLOTS), NUM_BUTTONS)
    blocks = synthetic_blocks(spec, steps) if synthetic else play_blocks(config, spec, steps)
    replays = [Replay(config, spec, folder / str(size), "bench", frozenset()) for size in SIZES]
    append_us = [fill(replay, blocks, size) for replay, size in zip(replays, SIZES, strict=True)]
    small_ms, large_ms = best_sample_ms(replays, ROUNDS)
    large = replays[1]
    disk, index = large.bytes_on_disk / large.transitions, large.index_bytes / large.transitions
    for replay in replays:
        replay.close()
    return {
        "blocks_played": len(blocks),
        "context_bytes": spec.context_size,
        "disk_bytes_per_transition": disk,
        "index_bytes_per_transition": index,
        "bytes_per_transition": disk + index,
        "append_us_per_transition": append_us[1],
        f"sample_{BATCH_SIZE}_ms_at_{SIZES[0]}": small_ms,
        f"sample_{BATCH_SIZE}_ms_at_{SIZES[1]}": large_ms,
        "sample_ratio": large_ms / small_ms,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=3000, help="env steps to play (default 3000)")
    parser.add_argument("--synthetic", action="store_true", help="scroll over random tiles instead of playing")
    parser.add_argument("--folder", type=Path, help="where the replays are written (default: a temporary folder)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        figures = measure(arguments.steps, arguments.synthetic, Path(folder))
    goals = {
        "bytes_per_transition": GOAL_BYTES_PER_TRANSITION,
        "sample_ratio": GOAL_SAMPLE_RATIO,
    }
    missed = [name for name, goal in goals.items() if figures[name] > goal]
    if arguments.json:
        print(json.dumps({**figures, "goals": goals, "missed": missed}))
    else:
        for name, value in figures.items():
            goal = f"   goal <= {goals[name]:g}: {'missed' if name in missed else 'met'}" if name in goals else ""
            print(f"{name:32}{value:12.2f}{goal}")
    return 1 if missed else 0


if __name__ == "__main__":
    run_command(main)
