"""What the processes of a job take of a machine's memory, beside what `--dry-run` reckons for them.

usage: python scripts/bench/memory.py [--config cpu] [--steps 300] [--key value ...]

Each process is a real one with the parts of the real program: the launcher's imports; an actor that plays `--steps`
steps with all its emulators and writes episode logs; an evaluation with episodes of so many steps; a learner on the CPU
that makes two updates of a full batch and a checkpoint. Memory is what a process has to itself (anonymous pages), as a
limit counts it; pages of libraries come once for all. Prints a line for each process, and exits 1 if one takes more
than a fifth more than was reckoned.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import torch

import cluster_rl.train_cluster  # noqa: F401 - what the launcher imports
from cluster_rl.acting.loop import Actor
from cluster_rl.config import Config, config_to_json, load_config, split_overrides
from cluster_rl.emulator.spaces import observation_spec
from cluster_rl.jobs.host_needs import host_needs
from cluster_rl.jobs.memory_estimate import full_batch
from cluster_rl.learner import prepare_process
from cluster_rl.learning.r2d2 import R2D2
from cluster_rl.model import build_model, params_to_bytes
from cluster_rl.runs.checkpoint import flatten_state, save_checkpoint

MARGIN = 1.2


class _Link:
    """Gives parameters once and takes all sequences."""

    def __init__(self, params: bytes) -> None:
        self._params: tuple[int, bytes] | None = (0, params)

    def send(self, block: bytes) -> None:
        pass

    def take_params(self) -> tuple[int, bytes] | None:
        params, self._params = self._params, None
        return params


def launcher(_config: Config, _steps: int) -> None:
    pass


def actor(config: Config, steps: int) -> None:
    torch.set_num_threads(1)
    link = _Link(params_to_bytes(build_model(config, observation_spec(config))))
    with tempfile.TemporaryDirectory() as logs:
        player = Actor(config, 0, 1, link, Path(logs), "bench")
        for number, _ in enumerate(player.run(), start=1):
            if number >= steps:
                break


def evaluation(config: Config, steps: int) -> None:
    from cluster_rl.evaluate import play_episodes  # not among the launcher's imports

    torch.set_num_threads(1)
    short = msgspec.structs.replace(config, episode_max_steps=steps)
    play_episodes(short, build_model(config, observation_spec(config)).eval(), config.evaluate_episodes, seed=1)


def learner(config: Config, _steps: int) -> None:
    prepare_process(config)
    spec = observation_spec(config)
    r2d2 = R2D2(config, spec, "cpu", config.base_seed)
    for _ in range(2):
        r2d2.update(full_batch(config, spec, config.batch_size))
    with tempfile.TemporaryDirectory() as folder:
        tensors, tree = flatten_state(r2d2.state_dict())
        save_checkpoint(Path(folder), tensors, {"updates": 2, "state": tree})


ROLES: dict[str, Callable[[Config, int], None]] = {
    "launcher": launcher,
    "actor": actor,
    "learner": learner,
    "evaluation": evaluation,
}


def own_bytes() -> int:
    """Anonymous pages of this process."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="cpu")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--role", choices=ROLES, help=argparse.SUPPRESS)
    known, rest = parser.parse_known_args()
    config = load_config(known.config, split_overrides(rest))
    if known.role:
        ROLES[known.role](config, known.steps)
        print(own_bytes())
        return 0
    config = msgspec.structs.replace(config, evaluate_interval_seconds=config.evaluate_interval_seconds or 3600.0)
    needs = host_needs(config, observation_spec(config), "cpu")
    reckoned = {"launcher": needs.launcher, "actor": needs.actor, "learner": needs.learner}
    reckoned["evaluation"] = needs.evaluation
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        resolved = Path(folder) / "config.json"
        resolved.write_bytes(config_to_json(config))
        for role, reckoned_bytes in reckoned.items():
            options = ["--config", str(resolved), "--steps", str(known.steps), "--role", role]
            done = subprocess.run([sys.executable, __file__, *options], stdout=subprocess.PIPE, check=True)
            taken = int(done.stdout)
            worst = max(worst, taken / reckoned_bytes)
            print(f"{role}: {taken / 1e6:.0f} MB, reckoned {reckoned_bytes / 1e6:.0f} MB", flush=True)
    return int(worst > MARGIN)


if __name__ == "__main__":
    sys.exit(main())
