"""Our learner beside random play, PPO and recurrent PPO: how fast each reaches the game's milestones.

    python -m scripts.bench.learning [--agents ...] [--seeds 1 2 3] [--env-steps N] [--out DIR] [--key value ...]
    python -m scripts.bench.learning --plot-only

From the repository's root, with `pip install 'cluster_rl[bench]'`. All agents have the same environment, rewards,
buttons, episode length, discount, number of emulators and env steps, from one config (`--config`, a preset or file; any
config key may be given as --key value). Trainings go one after another, one seed of all agents before the next; leave
the machine alone meanwhile, as seconds are compared too. Each writes DIR/raw/AGENT-seedN.jsonl (see `record.py`); those
that are complete are not done again, so the same command goes on after an interruption. Runs of our learner stay in
DIR/runs: `python -m cluster_rl.evaluate --runs DIR/runs --run-name r2d2-seed1` plays with what they learned. At the
end, and with --plot-only from the records alone, DIR gets table.md, milestones_by_step.png, milestones_by_second.png
and returns.png.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from cluster_rl.config import Config, load_config, split_overrides
from cluster_rl.errors import EXIT_FAILURE, EXIT_OK, UserError, run_command
from cluster_rl.jobs.signals import die_with_parent

from .agents import AGENTS, agent_config, check_installed, settings
from .record import Training, read_training, record_path
from .report import KEY_MILESTONES, write_report


def run_trainings(agents: list[str], seeds: list[int], config: Config, env_steps: int, folder: Path) -> bool:
    """Does every training that is not complete yet; False if one failed, at once.

    Raises `UserError`, before any training, if complete ones were made with other settings.
    """
    from .worker import worker_command  # torch: --plot-only does without

    todo = []
    for seed in seeds:
        for agent in agents:
            path, own = record_path(folder, agent, seed), agent_config(agent, config, seed, env_steps)
            done = read_training(path)
            if done is None:
                todo.append((agent, seed, own, path))
            elif done.settings != settings(agent, own):
                raise UserError(f"{path}: made with other settings; use another --out, or delete that file")
    # glibc gives large blocks back to the kernel at once; keeping them makes training faster. Our learner has it keep
    # them by itself (`prepare_process`); the other agents get the same from here.
    keep = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
    parent_pid = os.getpid()
    for number, (agent, seed, own, path) in enumerate(todo, start=1):
        print(f"{number} of {len(todo)}: {agent}, seed {seed}, {env_steps:,} env steps", flush=True)
        started, cpu_before_sec = time.monotonic(), _children_cpu_sec()
        process = subprocess.run(
            worker_command(agent, seed, own, path),
            env=os.environ | keep,
            stdout=sys.stderr,
            preexec_fn=lambda: die_with_parent(parent_pid, signal.SIGKILL),
            check=False,
        )
        if process.returncode != EXIT_OK:
            print(f"{agent}, seed {seed}: ended with exit code {process.returncode}", file=sys.stderr)
            return False
        seconds = time.monotonic() - started
        rate, cpu_sec = env_steps / seconds, _children_cpu_sec() - cpu_before_sec
        print(f"  {seconds:.0f} s, {rate:.0f} env steps a second, {cpu_sec:.0f} CPU seconds", flush=True)
    return True


def _children_cpu_sec() -> float:
    """Processor time of all processes that this one started and that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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
    parser = argparse.ArgumentParser(
        prog="python -m scripts.bench.learning",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--agents", nargs="+", choices=list(AGENTS), default=list(AGENTS), metavar="AGENT")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="SEED")
    parser.add_argument("--env-steps", type=int, default=100_000, help="of each training (default: %(default)s)")
    parser.add_argument("--config", default="cpu", help="preset or file that all agents share (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("results/learning"), help="default: %(default)s")
    parser.add_argument("--milestones", nargs="+", default=KEY_MILESTONES, metavar="NAME", help="for the table")
    parser.add_argument("--plot-only", action="store_true", help="table and plots from the records that are there")
    known, rest = parser.parse_known_args()
    if known.env_steps < 1 or min(known.seeds) < 0:
        raise UserError("--env-steps must be at least 1, --seeds at least 0")
    config = load_config(known.config, split_overrides(rest))
    raw = known.out / "raw"
    if not known.plot_only:
        check_installed(known.agents)
        if not run_trainings(known.agents, known.seeds, config, known.env_steps, raw):
            return EXIT_FAILURE
    print(write_report(read_trainings(raw), known.out, known.milestones))
    return EXIT_OK


if __name__ == "__main__":
    run_command(main)
