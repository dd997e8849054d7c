"""Whether training on the cartridge works: seeds of the preset `cpu`, judged by greedy episodes against random play.

usage: python scripts/bench/training.py [--seeds 1 2 3] [--seconds 1800] [--episodes 10] [--runs FOLDER] [key=value]

Trains each seed with `train_cluster` for that long, one after the other on the whole machine, then plays greedy
episodes of 1,500 steps; and once 104 random ones, whose returns vary much more. Prints a Markdown table, with env
steps a second over the second half of each training. Exits 1 if a seed misses a goal: after half an hour, nine of ten
episodes leave the house and reach the route, and the mean return (without intrinsic terms) is three times that of
random play; from three hours on also first experience in nine of ten and the badge in half. Under `--runs` runs are
kept: with a larger `--seconds` they are trained on by the difference.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster_rl.errors import EXIT_OK, EXITS_WELL, run_command
from cluster_rl.jobs.signals import die_with_parent
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import read_progress
from cluster_rl.training.metrics import read_metrics

SHORT_GOALS = {"LEFT_HOME": 0.9, "REACHED_ROUTE": 0.9}
LONG_GOALS = SHORT_GOALS | {"FIRST_EXPERIENCE": 0.9, "FERN_BADGE": 0.5}
LONG_SECONDS = 3 * 3600
RETURN_GOAL = 3.0  # times that of random play
EPISODE_STEPS = 1500  # of greedy and random episodes; those of the preset's training are shorter
RANDOM_EPISODES = 104
COLUMNS = ("LEFT_HOME", "READ_SIGN", "REACHED_ROUTE", "GOT_BALM", "FIRST_EXPERIENCE", "FERN_BADGE")


@dataclass(frozen=True)
class Trained:
    """One seed: what was trained, and how greedy and random episodes went (as `evaluate --json` says it)."""

    seed: int
    seconds: float
    env_steps: int
    env_steps_per_sec: float
    updates: int
    greedy: dict[str, Any]
    random: dict[str, Any]

    @property
    def ratio(self) -> float:
        """Greedy return over random return; meaningless, and no goal reached, if random play gains nothing."""
        base = self.random["return"]["mean"]
        return self.greedy["return"]["mean"] / base if base > 0 else float("nan")

    def missed(self, goals: dict[str, float]) -> list[str]:
        """The goals that this seed does not reach."""
        missed = [name for name, share in goals.items() if self.greedy["milestones"][name]["share"] < share]
        return missed if self.ratio >= RETURN_GOAL else [*missed, "return"]

    def row(self) -> str:
        cells = [f"{self.seed}", f"{self.seconds / 60:.0f} min", f"{self.env_steps:,}"]
        cells += [f"{self.env_steps_per_sec:.0f}", f"{self.updates:,}"]
        for found in (self.greedy, self.random):
            half = found["return"]["half_interval"]
            cells.append(f"{found['return']['mean']:.1f}" + (f" +- {half:.1f}" if half is not None else ""))
        cells.append(f"{self.ratio:.1f}")
        for name in COLUMNS:
            shares = (found["milestones"][name]["share"] for found in (self.greedy, self.random))
            cells.append(", ".join(f"{share:.0%}" for share in shares))
        return f"| {' | '.join(cells)} |"


def trained_seconds(run_dir: RunDir) -> float:
    """How long the run's jobs have trained so far."""
    progress = read_progress(run_dir.progress) if run_dir.progress.exists() else None
    return sum((job.ended or job.started) - job.started for job in progress.jobs) if progress is not None else 0.0


def second_half_rate(run_dir: RunDir) -> float:
    """Env steps a second between the row of metrics in the middle of the newest job's and the last one; NaN where
    there are fewer than two."""
    progress = read_progress(run_dir.progress)
    assert progress is not None, run_dir.progress
    rows = [(row.get("time") or 0.0, row.get("env_steps") or 0.0) for row in read_metrics(run_dir.metrics)]
    rows = [row for row in rows if row[0] >= progress.jobs[-1].started]
    if len(rows) < 2:
        return float("nan")
    (began, first), (ended, last) = rows[(len(rows) - 1) // 2], rows[-1]
    return (last - first) / (ended - began)


def train(run_dir: RunDir, seed: int, seconds: int, overrides: list[str]) -> None:
    """One job of the run, for what is left of `seconds`."""
    left = round(seconds - trained_seconds(run_dir))
    if left <= 0:
        return
    command = [sys.executable, "-m", "cluster_rl.train_cluster", "--config", "cpu", "--runs", str(run_dir.path.parent)]
    command += ["--run-name", run_dir.run_name, f"base_seed={seed}", "log_episodes_for_replay=false"]
    parent_pid = os.getpid()
    done = subprocess.run(
        [*command, *overrides, f"max_runtime_seconds={left}"],
        check=False,
        stdout=sys.stderr,
        preexec_fn=lambda: die_with_parent(parent_pid),
    )
    if done.returncode not in EXITS_WELL:
        sys.exit(done.returncode)


def evaluate(run_dir: RunDir, episodes: int, *options: str) -> dict[str, Any]:
    """What `evaluate --json` prints of the run's parameters."""
    command = [sys.executable, "-m", "cluster_rl.evaluate", "--runs", str(run_dir.path.parent)]
    command += ["--run-name", run_dir.run_name, "--episodes", str(episodes), "--json"]
    command += ["--max-steps", str(EPISODE_STEPS), *options]
    parent_pid = os.getpid()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, preexec_fn=lambda: die_with_parent(parent_pid))
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="base_seed of each training")
    parser.add_argument("--seconds", type=int, default=1800, help="training time of each seed")
    parser.add_argument("--episodes", type=int, default=10, help="greedy episodes of each seed")
    parser.add_argument("--runs", type=Path, help="folder to keep the runs in (default: a temporary one)")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="config keys")
    options = parser.parse_intermixed_args()
    heads = ["seed", "time", "env steps", "env steps/s", "updates", "greedy return", "random", "ratio", *COLUMNS]
    print(f"| {' | '.join(heads)} |")
    print(f"|{' --- |' * len(heads)}")
    missed: dict[int, list[str]] = {}
    random: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for seed in options.seeds:
            run_dir = RunDir(options.runs or Path(temporary), f"training-{seed}")
            train(run_dir, seed, options.seconds, options.overrides)
            progress = read_progress(run_dir.progress)
            assert progress is not None, run_dir.progress
            greedy = evaluate(run_dir, options.episodes)
            random = random or evaluate(run_dir, RANDOM_EPISODES, "--random")
            rate = second_half_rate(run_dir)
            found = Trained(seed, trained_seconds(run_dir), progress.env_steps, rate, progress.updates, greedy, random)
            print(found.row(), flush=True)
            missed[seed] = found.missed(LONG_GOALS if options.seconds >= LONG_SECONDS else SHORT_GOALS)
    for seed, names in missed.items():
        if names:
            print(f"seed {seed} misses: {', '.join(names)}")
    return 1 if any(missed.values()) else EXIT_OK


if __name__ == "__main__":
    run_command(main)
