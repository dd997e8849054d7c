"""How much of the bare emulator's speed is left in the whole actor loop.

usage: python scripts/bench/actor.py [--kind slim] [--emulators 8] [--rounds 12] [--json]

The actor loop is the real one: buttons, emulator, decoding, masks, map memory, context, reward, one batched forward
pass of the network, sequences with initial priorities, compression and episode logs. `--kind slim` has the network and
the sequences of the preset `slim`, `--kind unified` those of the preset `gpu`. The bare emulator makes the same presses
from the same states in the same process, last frame drawn, nothing read. Both take turns every few steps, so that both
meet the same load of the machine. A round is one whole window of the actor, so that each pays for cutting, valuing and
packing its sequences; the median ratio of the rounds counts, in CPU time of one thread. Exits 1 if that is below the
goal.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from cluster_rl.acting.loop import Actor
from cluster_rl.config import load_config
from cluster_rl.emulator.console import Console
from cluster_rl.emulator.spaces import observation_spec
from cluster_rl.errors import run_command
from cluster_rl.learning.r2d2 import R2D2
from cluster_rl.rom import load_rom

PRESETS = {"slim": "slim", "unified": "gpu"}
GOALS = {"slim": 0.68, "unified": 0.38}
"""What both reach with 8 emulators on a loaded machine. docs/results.md names what is aimed at."""
TURN_STEPS = 5
"""Batched steps before the other loop's turn; divides the unroll length."""


class _Sink:
    """A link that gives new parameters at every second window, and counts what it is sent.

    That is as often as in a run of the preset `gpu`: a window of all its actors brings six updates, ten make one
    publication. Preset `slim` publishes less often.
    """

    def __init__(self, params: bytes) -> None:
        self._params = params
        self._windows = 0
        self.sent_bytes = 0

    def send(self, block: bytes) -> None:
        self.sent_bytes += len(block)

    def take_params(self) -> tuple[int, bytes] | None:
        self._windows += 1
        return (0, self._params) if self._windows % 2 else None


def measure(kind: str, emulators: int, rounds: int) -> dict[str, float]:
    """Steps per CPU second of both loops, and their ratio."""
    torch.set_num_threads(1)
    # Every emulator explores at the same middling rate: greedy play of fresh weights would stand at a wall.
    options = [f"envs_per_actor={emulators}", "epsilon_base=0.5", "epsilon_alpha=0"]
    config = load_config(PRESETS[kind], options)
    weights = R2D2(config, observation_spec(config), "cpu", config.base_seed).params_bytes()
    rom = load_rom(config.rom)
    bare = [Console(rom, config.frame_skip) for _ in range(emulators)]
    whole_sec, bare_sec = np.zeros(rounds), np.zeros(rounds)
    sink = _Sink(weights)
    with tempfile.TemporaryDirectory() as folder:
        actor = Actor(config, 0, 1, sink, Path(folder))
        play = actor.run()
        for _ in range(config.unroll_length):
            next(play)
        for console, slot in zip(bare, actor.slots, strict=True):
            console.load(slot.env.console.save())
        for turn in range(rounds * config.unroll_length // TURN_STEPS):
            actions = np.zeros((TURN_STEPS, emulators), np.int64)
            round_ = turn * TURN_STEPS // config.unroll_length
            started = time.process_time()
            for row in range(TURN_STEPS):
                next(play)
                actions[row] = actor.last_actions
            whole_sec[round_] += time.process_time() - started
            presses = actions.tolist()
            started = time.process_time()
            for row_presses in presses:
                for console, action in zip(bare, row_presses, strict=True):
                    console.step(action)
            bare_sec[round_] += time.process_time() - started
    for console in bare:
        console.close()
    steps = config.unroll_length * emulators
    ratios = bare_sec / whole_sec
    return {
        "emulators": emulators,
        "frame_skip": config.frame_skip,
        "sequence_steps": config.unroll_length,
        "actor_steps_per_cpu_sec": steps / float(np.median(whole_sec)),
        "bare_steps_per_cpu_sec": steps / float(np.median(bare_sec)),
        "ratio": float(np.median(ratios)),
        "ratio_lowest": float(ratios.min()),
        "ratio_highest": float(ratios.max()),
        "goal": GOALS[kind],
        "sent_bytes": sink.sent_bytes,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=PRESETS, default="slim", help="which network")
    parser.add_argument("--emulators", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=12, help="windows of the actor that are timed")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options.kind, options.emulators, options.rounds)
    if options.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:24} {value:,.2f}")
    return int(result["ratio"] < result["goal"])


if __name__ == "__main__":
    run_command(main)
