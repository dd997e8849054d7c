"""CPU time of an update in this checkout over that in another one, on the same batch.

    python scripts/bench/update_against.py OTHER [--config cpu] [--rounds 12] [--updates 10] [--json] [--key value ...]

OTHER is a checkout of another commit (`git worktree add OTHER COMMIT`). Each checkout's update runs in a process of its
own, with the code and the preset of that checkout; `--key value` changes this one's preset. The batch is sampled here,
from a replay that holds blocks of the embedded cartridge; both presets must have its shapes. The two take turns, so
that both meet the same load of the machine; the median ratio of the rounds counts, in CPU time of the process. Exits
with 1 if it is above the goal, which is meant for the commit that the constant names.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from learner import check_counts, fill
from replay import play_blocks

from cluster_rl.config import load_config, split_overrides
from cluster_rl.emulator.spaces import block_spec, observation_spec
from cluster_rl.errors import UserError, run_command
from cluster_rl.runs.layout import RunDir
from cluster_rl.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("timed_updates.py")
GOAL = 0.6
"""CPU time of an update over that of an update before the learner was made faster (commit 6ecf973), at most."""


class Worker:
    """A process that times the updates of one checkout on request."""

    def __init__(self, checkout: Path, config: str, overrides: Sequence[str], batch: Path) -> None:
        self._checkout = checkout
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER), config, str(batch), *overrides],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

        imported = Path(self._line().strip())
        if not imported.is_relative_to(checkout):
            raise UserError(f"{checkout}: another checkout's package was imported, {imported}")

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def seconds(self, updates: int) -> float:
        """CPU seconds of one of so many updates. Raises `UserError` if the checkout cannot make them."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{updates}\n")
            self._process.stdin.flush()
            return float(self._line()) / updates
        except (BrokenPipeError, ValueError):
            raise UserError(f"{self._checkout}: its update does not take this batch; its own words are above") from None

    def end(self) -> None:
        """Waits until the process is gone."""
        self._process.communicate()


def write_batch(config_name: str, overrides: Sequence[str], steps: int, path: Path) -> None:
    """Samples a batch from `steps` env steps of random play and writes its arrays."""
    minimum = ["min_replay_transitions=1", f"replay_capacity_transitions={2 * steps}"]
    config = load_config(config_name, [*overrides, *minimum])
    spec = block_spec(config)
    with tempfile.TemporaryDirectory() as folder:
        run_dir = RunDir(Path(folder), "bench")
        run_dir.create()
        trainer = Trainer(config, run_dir, observation_spec(config), spec, frozenset(), "bench")
        fill(trainer, play_blocks(config, spec, steps), steps)
        np.savez(path, **trainer.replay.sample(np.random.default_rng(0), config.batch_size))
        trainer.close("the batch is there")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("other", type=Path, help="another checkout")
    parser.add_argument("--config", default="cpu", help="a preset that both have (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=12, help="turns of each checkout that are timed")
    parser.add_argument("--updates", type=int, default=10, help="updates in a turn")
    parser.add_argument("--steps", type=int, default=3000, help="env steps to play (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options, rest = parser.parse_known_args(arguments)
    check_counts(options, "rounds", "updates", "steps")
    other: Path = options.other.resolve()
    if not (other / "cluster_rl").is_dir():
        raise UserError(f"{options.other}: no checkout of this project; make one with git worktree add")
    overrides = split_overrides(rest)
    with tempfile.TemporaryDirectory() as folder:
        batch = Path(folder) / "batch.npz"
        write_batch(options.config, overrides, options.steps, batch)
        workers = [Worker(ROOT, options.config, overrides, batch), Worker(other, options.config, [], batch)]
        for worker in workers:
            worker.seconds(3)  # warms up
        seconds = np.array([[worker.seconds(options.updates) for worker in workers] for _ in range(options.rounds)])
        for worker in workers:
            worker.end()
    ratios = seconds[:, 0] / seconds[:, 1]
    figures = {
        "this_cpu_ms_median": 1e3 * float(np.median(seconds[:, 0])),
        "other_cpu_ms_median": 1e3 * float(np.median(seconds[:, 1])),
        "ratio": float(np.median(ratios)),
        "ratio_lowest": float(ratios.min()),
        "ratio_highest": float(ratios.max()),
        "load_average": os.getloadavg()[0],
    }
    if options.json:
        print(json.dumps({**figures, "goal": GOAL}))
    else:
        for name, value in figures.items():
            print(f"{name:24}{value:10.2f}")
    return int(figures["ratio"] > GOAL)


if __name__ == "__main__":
    run_command(main)
