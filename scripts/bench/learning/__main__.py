"""Our learner beside PPOs, a Q-table and random play: how fast each reaches the game's milestones.

    python -m scripts.bench.learning [--agents ...] [--seeds 1 ... 5] [--env-steps N] [--cpu-seconds N] [--out DIR]
                                     [--key value ...]
    python -m scripts.bench.learning --plot-only

From the repository's root, with `pip install 'cluster_rl[bench]'`. All agents have the same environment, rewards,
buttons, masks, episode length and number of emulators, from one config (`--config`, a preset or file; any config key
may be given as --key value). Each training goes on until it has both --env-steps and --cpu-seconds, so that agents can
be compared after equal work too and a cheap one is not judged by its beginning; what does not learn ends with the env
steps. Trainings go one after another, one seed of all agents before the next; leave the machine alone meanwhile. Each
writes DIR/raw/AGENT-seedN.jsonl (see `record.py`); those that are complete are not done again, so the same command goes
on after an interruption. Runs of our learner stay in DIR/runs: `python -m cluster_rl.evaluate --runs DIR/runs
--run-name r2d2-seed1` plays with what they learned. At the end, and with --plot-only from the records alone, DIR gets
table.md, by_env_step.png and by_cpu_second.png.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from cluster_rl.config import Config, load_config, split_overrides
from cluster_rl.errors import EXIT_FAILURE, EXIT_OK, UserError, run_command
from cluster_rl.jobs.signals import die_with_parent
from cluster_rl.runs.arguments import Arguments

from .agents import AGENTS, agent_config, check_installed, settings
from .record import Training, read_training, record_path
from .report import KEY_MILESTONES, write_report


class Unfinished(NamedTuple):
    """A training to be done; `config` comes from `agent_config`, `path` is that of its records."""

    agent: str
    seed: int
    config: Config
    path: Path


def unfinished(
    agents: list[str], seeds: list[int], config: Config, env_steps: int, cpu_sec: float, folder: Path
) -> list[Unfinished]:
    """Every training that is not complete yet. Raises `UserError` if complete ones were made with other settings."""
    todo = []
    for seed in dict.fromkeys(seeds):
        for agent in dict.fromkeys(agents):
            path, own = record_path(folder, agent, seed), agent_config(agent, config, seed, env_steps)
            done = read_training(path)
            if done is None:
                todo.append(Unfinished(agent, seed, own, path))
            elif done.settings != settings(agent, own, cpu_sec):
                raise UserError(f"{path}: made with other settings; use another --out, or delete that file")
    return todo


def run_trainings(todo: list[Unfinished], cpu_sec: float) -> bool:
    """Does the trainings; False if one failed, at once."""
    from .worker import worker_command  # torch: --plot-only does without

    # glibc gives large blocks back to the kernel at once; keeping them makes training faster. Our learner has it keep
    # them by itself (`prepare_process`); the other agents get the same from here.
    keep = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
    parent_pid = os.getpid()
    for number, (agent, seed, own, path) in enumerate(todo, start=1):
        print(f"{number} of {len(todo)}: {agent}, seed {seed}, {own.target_total_steps:,} env steps", flush=True)
        process = subprocess.run(
            worker_command(agent, seed, own, path, cpu_sec),
            env=os.environ | keep,
            stdout=sys.stderr,
            preexec_fn=lambda: die_with_parent(parent_pid, signal.SIGKILL),
            check=False,
        )
        if process.returncode != EXIT_OK:
            print(f"{agent}, seed {seed}: ended with exit code {process.returncode}", file=sys.stderr)
            return False
        done = read_training(path)
        assert done is not None, path
        rate, cost_sec = done.env_steps / done.wall_s, done.cpu_s / done.env_steps * 10_000
        print(
            f"  {done.wall_s:.0f} s, {rate:.0f} env steps a second; {done.cpu_s:.0f} CPU seconds, "
            f"{cost_sec:.0f} in 10,000 env steps",
            flush=True,
        )
    return True


def read_trainings(folder: Path) -> list[Training]:
    """All complete trainings in a folder of records, in the order of `AGENTS`, then by seed.

    Raises `UserError` if there is none.
    """
    trainings = []
    for path in sorted(folder.glob("*.jsonl")):
        training = read_training(path)
        if training is None:
            print(f"{path}: not finished, left out", file=sys.stderr)
        elif training.agent in AGENTS:
            trainings.append(training)
    if not trainings:
        raise UserError(f"{folder}: no complete records; run without --plot-only first")
    return sorted(trainings, key=lambda training: (list(AGENTS).index(training.agent), training.seed))


def main() -> int:
    wide = argparse.RawDescriptionHelpFormatter
    parser = Arguments(prog="python -m scripts.bench.learning", description=__doc__, formatter_class=wide)
    parser.add_argument("--agents", nargs="+", choices=list(AGENTS), default=list(AGENTS), metavar="AGENT")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5], metavar="SEED")
    parser.add_argument("--env-steps", type=int, default=100_000, help="of each training (default: %(default)s)")
    parser.add_argument("--cpu-seconds", type=float, default=0.0, help="of each training that learns, at least")
    parser.add_argument("--config", default="cpu", help="preset or file that all agents share (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("results/rivals"), help="default: %(default)s")
    parser.add_argument("--milestones", nargs="+", default=KEY_MILESTONES, metavar="NAME", help="for the table")
    parser.add_argument("--plot-only", action="store_true", help="table and plots from the records that are there")
    known, rest = parser.parse_known_args()
    if known.env_steps < 1 or min(known.seeds) < 0 or not 0.0 <= known.cpu_seconds < math.inf:
        raise UserError("--env-steps must be at least 1, --seeds and --cpu-seconds at least 0")
    config = load_config(known.config, split_overrides(rest))
    raw = known.out / "raw"
    if not known.plot_only:
        check_installed(known.agents)
        todo = unfinished(known.agents, known.seeds, config, known.env_steps, known.cpu_seconds, raw)
        if not run_trainings(todo, known.cpu_seconds):
            return EXIT_FAILURE
    print(write_report(read_trainings(raw), known.out, known.milestones))
    return EXIT_OK


if __name__ == "__main__":
    run_command(main)
