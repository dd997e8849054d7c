"""What a large replay costs when a checkpoint is written and when a killed learner starts again.

    python scripts/bench/restart.py [--transitions 1000000] [--starts 3] [--folder DIR] [--json] [--key value ...]

Fills a run's replay log with synthetic scrolling pictures, which are large, each sequence with its own place on disk.
Then, with the preset `cpu` and a batch of 8 (an update is not what is measured): how long a checkpoint keeps the
training thread, and how long its thread then writes; and how long a real learner process, started with a log and a
checkpoint after `kill -9`, takes from its start to its first update, imports included. The slowest of `--starts`
counts. Exits with 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
from replay import SHAPE, synthetic_blocks
from replay import fill as fill_replay

from cluster_rl.config import Config, load_config, split_overrides
from cluster_rl.emulator.spaces import block_spec, milestone_names, observation_spec
from cluster_rl.errors import UserError, run_command
from cluster_rl.jobs.opening import begin_job
from cluster_rl.jobs.signals import die_with_parent
from cluster_rl.learner import prepare_process
from cluster_rl.replay_buffer import Replay
from cluster_rl.rom import load_rom
from cluster_rl.runs.identity import read_identity
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import read_progress
from cluster_rl.training.trainer import Trainer

GOALS = {"checkpoint_stall_sec": 1.0, "first_update_sec_max": 10.0}
PLAYED_STEPS = 3000  # then the same again, as the next episode
UPDATES = 3
START_TIMEOUT_SEC = 300.0


def fill(config: Config, run_dir: RunDir, transitions: int) -> dict[str, float]:
    """Fills the run's replay log."""
    identity = read_identity(run_dir.identity)
    assert identity is not None
    spec = block_spec(config)
    replay = Replay(config, spec, run_dir.replay, identity.run_id, milestone_names(run_dir))
    fill_replay(replay, synthetic_blocks(spec, PLAYED_STEPS), transitions)
    figures = {
        "transitions": replay.transitions,
        "sequences": replay.sequences,
        "log_bytes": replay.bytes_on_disk,
    }
    replay.close()
    return figures


def measure_checkpoint(config: Config, run_dir: RunDir) -> dict[str, float]:
    """Opens the run as the learner does, trains a little and writes a checkpoint."""
    prepare_process(config)
    began = time.perf_counter()
    trainer = Trainer(config, run_dir, observation_spec(config), block_spec(config), milestone_names(run_dir), "bench")
    opened = time.perf_counter()
    for _ in range(UPDATES):
        trainer.update(trainer.sample())
    trained = time.perf_counter()
    trainer.begin_checkpoint()
    taken = time.perf_counter()
    trainer.checkpoint()
    figures = {
        "open_sec": opened - began,
        "update_sec": (trained - opened) / UPDATES,
        "checkpoint_stall_sec": taken - trained,
        "two_checkpoints_sec": time.perf_counter() - trained,
        "checkpoint_bytes": sum(path.stat().st_size for path in run_dir.checkpoint.rglob("*") if path.is_file()) / 2,
    }
    trainer.close("measured")
    return figures


def has_learned(run_dir: RunDir, pid: int) -> bool:
    """Whether the learner with this process id has made an update, as progress.json says."""
    progress = read_progress(run_dir.progress)
    if progress is None or progress.jobs[-1].pid != pid:
        return False
    return progress.updates > progress.jobs[-1].updates_start


def seconds_to_first_update(run_dir: RunDir) -> float:
    """Starts a learner, waits for its first update, and kills it without warning."""
    parent_pid = os.getpid()
    log = (run_dir.logs / "learner.log").open("ab")
    began = time.monotonic()
    learner = subprocess.Popen(
        [sys.executable, "-m", "cluster_rl.learner", "--run-dir", str(run_dir.path)],
        stdout=log,
        stderr=log,
        preexec_fn=lambda: die_with_parent(parent_pid),
    )
    try:
        while time.monotonic() - began < START_TIMEOUT_SEC and learner.poll() is None:
            if has_learned(run_dir, learner.pid):
                return time.monotonic() - began
            time.sleep(0.01)
    finally:
        learner.kill()
        learner.wait()
        log.close()
    last_words = (run_dir.logs / "learner.log").read_text().splitlines()[-1:]
    raise UserError(f"the learner made no update: {''.join(last_words)}")


def measure(config: Config, folder: Path, transitions: int, starts: int) -> dict[str, Any]:
    """Every figure of this benchmark, by name with its unit."""
    run_dir = RunDir(folder, "restart").create()
    begin_job(config, run_dir, load_rom(config.rom))
    figures: dict[str, Any] = fill(config, run_dir, transitions)
    figures |= measure_checkpoint(config, run_dir)
    seconds = [seconds_to_first_update(run_dir) for _ in range(starts)]
    return {**figures, "first_update_sec": seconds, "first_update_sec_max": max(seconds), "load": os.getloadavg()[0]}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--transitions", type=int, default=1_000_000, help="how many the replay holds")
    parser.add_argument("--starts", type=int, default=3, help="how often the learner is killed and started (default 3)")
    parser.add_argument("--folder", type=Path, help="where the run is written (default: a temporary folder)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments, rest = parser.parse_known_args()
    if arguments.starts < 1 or arguments.transitions < 1:
        raise UserError("--starts and --transitions: at least 1 is needed")
    config = load_config("cpu", [*SHAPE, "batch_size=8", *split_overrides(rest)])
    config = msgspec.structs.replace(
        config,
        # A little more, so that nothing is evicted.
        replay_capacity_transitions=arguments.transitions * 11 // 10,
        min_replay_transitions=arguments.transitions // 2,
        target_total_steps=10 * arguments.transitions,
        progress_interval_seconds=0.01,  # which tells of the first update
    )
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        figures = measure(config, Path(folder), arguments.transitions, arguments.starts)
    missed = [name for name, goal in GOALS.items() if figures[name] > goal]
    if arguments.json:
        print(json.dumps({**figures, "goals": GOALS, "missed": missed}))
    else:
        for name, value in figures.items():
            words = ", ".join(f"{one:.2f}" for one in value) if isinstance(value, list) else f"{value:.2f}"
            goal = f"   goal <= {GOALS[name]:g}: {'missed' if name in missed else 'met'}" if name in GOALS else ""
            print(f"{name:24}{words:>16}{goal}")
    return 1 if missed else 0


if __name__ == "__main__":
    run_command(main)
