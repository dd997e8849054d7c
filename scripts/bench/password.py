"""Whether the agent remembers: the cartridge's password lesson, with recurrence and without.

usage: python scripts/bench/password.py [--seconds 600] [--episodes 200] [--seed 1] [--cell lstm] [--cell none]
       [--runs FOLDER] [--json] [key=value ...]

Trains the preset `password` in serial mode, once for each cell and one after the other, then plays greedy episodes with
seeds of their own and counts those that end at the right one of four doors. The word is last seen 23 steps before the
choice, and what is seen from then on is the same for all words: without memory nothing beats 1 in 4. The word is a
function of the episode's seed, all four equally often. Exits 1 if the goals are missed: at least 80 % with an LSTM, at
most 35 % with `recurrent_cell: none`. Runs are kept only under `--runs`; a second call there trains them further.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from cluster_rl.acting.rollout import load_network
from cluster_rl.config import load_config
from cluster_rl.errors import EXITS_WELL, run_command
from cluster_rl.evaluate import count_distinct, play_episodes, wilson_interval
from cluster_rl.jobs.signals import die_with_parent
from cluster_rl.runs.layout import RunDir

PRESET = "password"
MILESTONE = "PASSWORD_RIGHT"
GOALS = {"lstm": (0.8, 1.0), "gru": (0.8, 1.0), "none": (0.0, 0.35)}
"""Lowest and highest share of episodes that each cell may get right."""


def train(runs: Path, name: str, seconds: int, overrides: list[str]) -> None:
    """One job of serial training, in a process of its own so that nothing of it is left over."""
    options = [part for override in overrides for part in ("--" + override.split("=", 1)[0], override.split("=", 1)[1])]
    command = [sys.executable, "-m", "cluster_rl.train_slim", "--config", PRESET, "--runs", str(runs)]
    command += ["--run-name", name, "--no-video", "--max_runtime_seconds", str(seconds), *options]
    parent_pid = os.getpid()
    done = subprocess.run(command, check=False, stdout=sys.stderr, preexec_fn=lambda: die_with_parent(parent_pid))
    if done.returncode not in EXITS_WELL:
        sys.exit(done.returncode)


@dataclass(frozen=True)
class Found:
    """How one agent's episodes ended: at the right door, at any door, how many there were, and how many differ."""

    right: int
    chose: int
    episodes: int
    distinct: int
    goal: tuple[float, float]

    @property
    def share(self) -> float:
        return self.right / self.episodes

    @property
    def good(self) -> bool:
        return self.goal[0] <= self.share <= self.goal[1]

    def line(self, agent: str) -> str:
        low, high = wilson_interval(self.share, self.distinct)
        return (
            f"{agent:8} {self.right} of {self.episodes} right, {self.distinct} distinct: {self.share:.1%} "
            f"({low:.1%} to {high:.1%}), {self.chose} chose; goal {self.goal[0]:.0%} to {self.goal[1]:.0%}"
        )


def evaluate(run_dir: RunDir, episodes: int, seed: int, goal: tuple[float, float], random: bool = False) -> Found:
    """Plays greedily, or at random, with a run's published parameters."""
    config = load_config(run_dir.config)
    network = load_network(config, run_dir.online_params)
    torch.set_num_threads(1)
    played = play_episodes(config, network, episodes, seed, random)
    right = sum(MILESTONE in dict(episode.summary.milestones) for episode in played)
    chose = sum(episode.summary.reason == "terminated" for episode in played)
    return Found(right, chose, episodes, count_distinct(played), goal)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=int, default=600, help="training time of each cell")
    parser.add_argument("--episodes", type=int, default=200, help="greedy episodes of each cell")
    parser.add_argument("--seed", type=int, default=1, help="base_seed of the training")
    parser.add_argument("--cell", action="append", choices=sorted(GOALS), help="default: lstm and none")
    parser.add_argument("--runs", type=Path, help="folder to keep the runs in (default: a temporary one)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config keys")
    options = parser.parse_args()
    found: dict[str, Found] = {}
    with tempfile.TemporaryDirectory() as temporary:
        runs = options.runs or Path(temporary)
        for cell in options.cell or ["lstm", "none"]:
            run_dir = RunDir(runs, f"password-{cell}-{options.seed}")
            overrides = [f"base_seed={options.seed}", f"model.recurrent_cell={cell}", *options.overrides]
            train(runs, run_dir.run_name, options.seconds, overrides)
            found[cell] = evaluate(run_dir, options.episodes, options.seed, GOALS[cell])
        found["random"] = evaluate(run_dir, options.episodes, options.seed, (0.0, 1.0), random=True)
    if options.json:
        print(json.dumps({agent: asdict(figures) for agent, figures in found.items()}))
    else:
        print("\n".join(figures.line(agent) for agent, figures in found.items()))
    return 0 if all(figures.good for figures in found.values()) else 1


if __name__ == "__main__":
    run_command(main)
