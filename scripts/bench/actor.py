"""How much of the bare emulator's speed is left in the whole actor loop.

usage: python scripts/bench/actor.py [--emulators 8] [--steps 100] [--rounds 6] [--json]

The actor loop is the real one: buttons, emulator, decoding, masks, map memory, context, reward, one batched forward
pass of the slim network, sequences with initial priorities, compression and episode logs. The bare emulator makes the
same presses from the same states in the same process, last frame drawn, nothing read. Both take turns; the best round
of each counts, in CPU time of one thread. Exits 1 if the ratio is below the goal.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from cluster_rl.actor import Actor
from cluster_rl.config import load_config
from cluster_rl.emulator.console import Console
from cluster_rl.emulator.rom import load_rom
from cluster_rl.learning.r2d2 import R2D2
from cluster_rl.spaces import observation_spec

GOAL = 0.6


class _Sink:
    """A link that gives parameters once and counts what it is sent."""

    def __init__(self, params: bytes) -> None:
        self._params: tuple[int, bytes] | None = (0, params)
        self.sent_bytes = 0

    def send(self, block: bytes) -> None:
        self.sent_bytes += len(block)

    def take_params(self) -> tuple[int, bytes] | None:
        params, self._params = self._params, None
        return params


def measure(emulators: int, steps: int, rounds: int) -> dict[str, float]:
    """Steps per CPU second of both loops, and their ratio."""
    torch.set_num_threads(1)
    # Every emulator explores at the same middling rate: greedy play of fresh weights would stand at a wall.
    config = load_config("slim", [f"envs_per_actor={emulators}", "epsilon_base=0.5", "epsilon_alpha=0"])
    weights = R2D2(config, observation_spec(config), "cpu", config.base_seed).params_bytes()
    rom = load_rom(config.rom)
    bare = [Console(rom, config.frame_skip) for _ in range(emulators)]
    whole_sec, bare_sec = [], []
    sink = _Sink(weights)
    with tempfile.TemporaryDirectory() as folder:
        actor = Actor(config, 0, 1, sink, Path(folder))
        play = actor.run()
        for _ in range(config.unroll_length):
            next(play)
        for _ in range(rounds):
            consoles = [slot.env.console for slot in actor.slots]
            for console, played in zip(bare, consoles, strict=True):
                console.load(played.save())
            actions = np.zeros((steps, emulators), np.int64)
            started = time.process_time()
            for row in range(steps):
                next(play)
                actions[row] = actor.last_actions
            whole_sec.append(time.process_time() - started)
            started = time.process_time()
            for row in actions.tolist():
                for console, action in zip(bare, row, strict=True):
                    console.step(action)
            bare_sec.append(time.process_time() - started)
    for console in bare:
        console.close()
    count = steps * emulators
    return {
        "emulators": emulators,
        "frame_skip": config.frame_skip,
        "actor_steps_per_cpu_sec": count / min(whole_sec),
        "bare_steps_per_cpu_sec": count / min(bare_sec),
        "ratio": min(bare_sec) / min(whole_sec),
        "goal": GOAL,
        "sent_bytes": sink.sent_bytes,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emulators", type=int, default=8)
    parser.add_argument("--steps", type=int, default=100, help="batched steps of one round")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options.emulators, options.steps, options.rounds)
    if options.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:24} {value:,.2f}")
    return int(result["ratio"] < GOAL)


if __name__ == "__main__":
    sys.exit(main())
