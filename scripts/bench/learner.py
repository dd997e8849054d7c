"""How much of the bare network's speed is left in an update, and of an update in the whole learner.

    python scripts/bench/learner.py [--config cpu] [--rounds 12] [--updates 10] [--synthetic] [--json] [--key value ...]

Three loops take turns in one process, on one replay on disk that holds blocks of the embedded cartridge:

- whole: the learner's own loop and threads, without actors: it samples, reads and unpacks blocks, copies them into a
  batch, updates, writes priorities, publishes parameters and writes files as they fall due;
- update: the same updates on one batch that is ready, newly taken in each round;
- bare: the online network alone on that batch: burn-in without gradient, one encoding of all frames, the recurrent
  cell, the head, a sum and its backward pass;
- curiosity, with `--w_rnd` above 0: what it adds to an update, on the same batch.

update, bare and curiosity take turns at every update, so that all meet the same load of the machine; the median ratio
of the rounds counts, in wall time, as the whole learner may use a second core. The ratios in CPU time of the process
stand beside it: they count the sampling too, and hardly depend on other processes. Exits with 1 if a goal is missed.
`--synthetic` scrolls over random tiles instead of playing: hard to compress, and no emulator is needed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from replay import numbered, play_blocks, synthetic_blocks

from cluster_rl.config import Config, load_config, split_overrides
from cluster_rl.emulator.spaces import block_spec, observation_spec
from cluster_rl.errors import UserError, run_command
from cluster_rl.learner import SamplerThread, WireThread, prepare_process, train_step
from cluster_rl.learning.batch import Batch
from cluster_rl.learning.r2d2 import R2D2
from cluster_rl.runs.layout import RunDir
from cluster_rl.training.trainer import Trainer

GOAL_WHOLE = 0.95
"""Updates a second of the whole learner over those on a ready batch, at least."""
GOAL_UPDATE = 1.5
"""Time of an update over the bare forward and backward pass, at most."""
GOAL_CURIOSITY = 0.05
"""CPU time of curiosity over that of an update, at most."""
FREE_RUNNING = ["samples_per_insert=1000", "samples_per_insert_tolerance=10", "min_replay_transitions=1"]
"""Nobody inserts while the learner is timed: its rate limiter must not stop it."""


def bare_pass(r2d2: R2D2, batch: Batch) -> None:
    """Forward and backward pass of the online network alone, over the rows that an update trains on."""
    network, burn_in = r2d2.online, r2d2.config.burn_in
    rows = slice(burn_in, burn_in + r2d2.config.unroll_length)
    network.zero_grad(set_to_none=True)
    with torch.no_grad():
        warm_up = r2d2.encode(network, batch, slice(0, burn_in))
    state = r2d2.warm_state(network, batch, warm_up, batch.burn_in_length.cpu())
    frames = (batch.screen_packed, batch.context, batch.crop, batch.prev_action, batch.prev_reward)
    features = network.encode(*(field[rows].flatten(0, 1) for field in frames))
    outputs, _ = network.recur(features.view(-1, batch.size, network.feature_size), state)
    network.head(outputs, noise=True).sum().backward()


class _Clock:
    """Adds up wall and CPU seconds of what it times; CPU is of all threads of the process."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds = np.zeros(2)

    def time(self, work: Callable[[], Any]) -> None:
        began = self._now()
        work()
        self.seconds += self._now() - began

    def _now(self) -> npt.NDArray[np.float64]:
        if self._device.type == "cuda":  # its work is only queued until here
            torch.cuda.synchronize()
        return np.array([time.perf_counter(), time.process_time()])


def fill(trainer: Trainer, blocks: list[bytes], transitions: int) -> None:
    """Logs blocks under new numbers, repeating them, until the replay holds `transitions`."""
    number = 0
    while trainer.replay.transitions < transitions:
        trainer.ingest(0, 1, number, numbered(blocks, number))
        number += 1
    trainer.replay.sync()


def time_rounds(
    trainer: Trainer, wire: WireThread, sampler: SamplerThread, rounds: int, updates: int
) -> npt.NDArray[np.float64]:
    """Seconds of one update, float64 [4, 2, rounds]: whole, update, bare, curiosity (0 without it); wall, CPU.

    A round more warms up before.
    """
    seconds = np.zeros((4, 2, rounds + 1))

    def train(count: int) -> None:
        for _ in range(count):
            while not train_step(trainer, wire, sampler):
                _raise_error_of(sampler, wire)

    for round_ in range(rounds + 1):
        whole, update, bare, curiosity = clocks = [_Clock(trainer.device) for _ in range(4)]
        train(1)  # on the batch that was got ready while the others had their turn
        whole.time(partial(train, updates))
        while (ready := sampler.next_batch(timeout_sec=0.1)) is None:
            _raise_error_of(sampler, wire)
        for _ in range(updates):
            # As new: a batch keeps its frames unpacked, and a real one comes with none.
            batch = dataclasses.replace(ready.batch)
            update.time(partial(trainer.r2d2.update, batch))
            bare.time(partial(bare_pass, trainer.r2d2, batch))
            if trainer.rnd is not None:
                curiosity.time(partial(trainer.rnd.update, batch, trainer.config.w_rnd))
        trainer.update(ready)  # so that the counts of batches stay right
        seconds[:, :, round_] = [clock.seconds / updates for clock in clocks]
    return seconds[:, :, 1:]


def _raise_error_of(*threads: SamplerThread | WireThread) -> None:
    for thread in threads:
        if thread.error is not None:
            raise thread.error


def measure(
    config: Config, steps: int, transitions: int, synthetic: bool, rounds: int, updates: int, folder: Path
) -> dict[str, Any]:
    """Every figure of this benchmark, by name with its unit; writes a run into `folder`."""
    prepare_process(config)
    spec = block_spec(config)
    blocks = synthetic_blocks(spec, steps) if synthetic else play_blocks(config, spec, steps)
    run_dir = RunDir(folder, "bench")
    run_dir.create()
    trainer = Trainer(config, run_dir, observation_spec(config), spec, frozenset(), "bench")
    fill(trainer, blocks, transitions)
    wire, sampler = WireThread(trainer, config, run_dir), SamplerThread(trainer)
    wire.start()
    sampler.start()
    seconds = time_rounds(trainer, wire, sampler, rounds, updates)
    sampler.end()
    wire.say_goodbye("the benchmark is over", complete=True)
    wire.drain(timeout_sec=0.0)
    trainer.close("the benchmark is over")

    figures: dict[str, Any] = {
        "device": trainer.device.type,
        "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "transitions": trainer.replay.transitions,
        "frames": config.batch_size * spec.max_positions,
    }
    whole, update, bare, curiosity = seconds
    timed = {"whole": whole, "update": update, "bare": bare}
    if config.w_rnd:
        timed["curiosity"] = curiosity
    for loop, of_loop in timed.items():
        for clock, values in zip(("wall", "cpu"), of_loop * 1e3, strict=True):
            figures[f"{loop}_{clock}_ms_min"] = float(values.min())
            figures[f"{loop}_{clock}_ms_median"] = float(np.median(values))
    for name, ratios in (("whole_over_update", update / whole), ("update_over_bare", update / bare)):
        figures[name] = float(np.median(ratios[0]))
        figures[f"{name}_lowest"], figures[f"{name}_highest"] = float(ratios[0].min()), float(ratios[0].max())
        figures[f"{name}_cpu"] = float(np.median(ratios[1]))
    if config.w_rnd:
        figures["curiosity_over_update_cpu"] = float(np.median(curiosity[1] / update[1]))
    return figures


def missed_goals(figures: dict[str, Any]) -> list[str]:
    """Names of the figures that miss their goal."""
    too_slow = {
        "whole_over_update": figures["whole_over_update"] < GOAL_WHOLE,
        "update_over_bare": figures["update_over_bare"] > GOAL_UPDATE,
        "curiosity_over_update_cpu": figures.get("curiosity_over_update_cpu", 0.0) > GOAL_CURIOSITY,
    }
    return [name for name, missed in too_slow.items() if missed]


def check_counts(options: argparse.Namespace, *names: str) -> None:
    """Raises `UserError` for the first of these options that is below 1."""
    for name in names:
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)}: at least 1 is needed")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", default="cpu", help="config file or the name of a preset (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=12, help="turns of each loop that are timed")
    parser.add_argument("--updates", type=int, default=10, help="updates of each loop in a round")
    parser.add_argument("--steps", type=int, default=3000, help="env steps to play (default: %(default)s)")
    parser.add_argument("--transitions", type=int, default=100_000, help="what the replay holds (default: %(default)s)")
    parser.add_argument("--synthetic", action="store_true", help="scroll over random tiles instead of playing")
    parser.add_argument("--folder", type=Path, help="where the run is written (default: a temporary folder)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options, rest = parser.parse_known_args(arguments)
    check_counts(options, "rounds", "updates", "steps", "transitions")
    capacity = f"replay_capacity_transitions={options.transitions * 11 // 10 + 1}"  # nothing is evicted
    config = load_config(options.config, [*split_overrides(rest), *FREE_RUNNING, capacity])
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        figures = measure(
            config,
            options.steps,
            options.transitions,
            options.synthetic,
            options.rounds,
            options.updates,
            Path(folder),
        )
    missed = missed_goals(figures)
    goals = {
        "whole_over_update": f">= {GOAL_WHOLE:g}",
        "update_over_bare": f"<= {GOAL_UPDATE:g}",
        "curiosity_over_update_cpu": f"<= {GOAL_CURIOSITY:g}",
    }
    if options.json:
        print(json.dumps({**figures, "goals": goals, "missed": missed}))
    else:
        for name, value in figures.items():
            shown = f"{value:12.2f}" if isinstance(value, float) else f"{value!s:>12}"
            goal = f"   goal {goals[name]}: {'missed' if name in missed else 'met'}" if name in goals else ""
            print(f"{name:32}{shown}{goal}")
    return 1 if missed else 0


if __name__ == "__main__":
    run_command(main)
