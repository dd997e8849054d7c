"""One training of one agent, in a process of its own: `python -m scripts.bench.learning.worker ARGUMENTS`.

The comparison starts it, with a JSON object of agent, seed, config, path and cpu_seconds. Out: the training's records.
All agents use the processor alone and as many emulators as the config has.

Ours is the learner process with its actor processes over the wire, as the launcher starts them; records are taken where
the learner logs a sequence, so a milestone is noted up to one sequence later than it was reached. All others have each
emulator in a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import msgspec

from cluster_rl import learner
from cluster_rl.config import Config, config_from_builtins, config_to_json
from cluster_rl.errors import EXIT_FAILURE, EXIT_OK, UserError, run_command
from cluster_rl.jobs.deadline import Deadline
from cluster_rl.jobs.opening import begin_job, check_job
from cluster_rl.jobs.signals import die_with_parent
from cluster_rl.replay_buffer import AppendResult
from cluster_rl.runs.layout import RunDir
from cluster_rl.training.trainer import Trainer

from .agents import OURS, PPOS, settings
from .cpu import Budget
from .players import play
from .record import Recorder
from .starts import Starts

_ACTOR_WAIT_SEC = 10.0
_PROGRAMS = {
    "r2d2_no_prior": "scripts.bench.learning.uniform_actor",
    "r2d2_unmasked": "scripts.bench.learning.unmasked_actor",
}


def train(agent: str, seed: int, config: Config, path: Path, cpu_sec: float) -> bool:
    """Trains one agent and writes its records; whether it got to the end.

    That is when it has both `config.target_total_steps` and the processor seconds of its `settings`. `config` comes
    from `agents.agent_config`.
    """
    all_settings = settings(agent, config, cpu_sec)
    recorder = Recorder(path, agent, seed, all_settings)
    budget = Budget(config.target_total_steps, all_settings["cpu_seconds"])
    if agent in OURS:
        env_steps = _train_ours(agent, config, recorder, budget, path)
    else:
        starts = Starts(config, path.parents[1] / "runs" / path.stem / "archive") if config.starts_elsewhere else None
        if agent in PPOS:
            from .ppo import train_ppo  # sb3-contrib, which the others do without

            env_steps = train_ppo(agent, config, recorder, budget, starts)
        else:
            env_steps = play(agent, config, recorder, budget, starts)
    if not budget.is_spent(env_steps, recorder.cpu):
        return False  # stopped by a signal
    recorder.close(env_steps)
    return True


def _train_ours(agent: str, config: Config, recorder: Recorder, budget: Budget, path: Path) -> int:
    actors: list[subprocess.Popen[bytes]] = []
    env_steps = 0

    class RecordedTrainer(Trainer):
        """The learner's trainer, with notes of what it logs."""

        def ingest(self, actor: int, incarnation: int, seq: int, block: bytes) -> AppendResult:
            nonlocal env_steps
            result = super().ingest(actor, incarnation, seq, block)
            if result.id is not None:
                env_steps = self.replay.env_steps
                recorder.milestones(result.header.milestones, env_steps)
                summary = result.header.summary
                if summary is not None and summary.is_whole:
                    recorder.episode(msgspec.to_builtins(summary), env_steps)
            return result

        def tick(self) -> None:
            super().tick()
            for index, process in enumerate(actors):
                if process.poll():
                    raise RuntimeError(f"actor {index} ended with exit code {process.returncode}")

        def finished(self, deadline: Deadline) -> tuple[str, int] | None:
            """The comparison's budget alone ends it: it may be longer than the config's steps."""
            return ("its budget is spent", EXIT_OK) if budget.is_spent(self.replay.env_steps, recorder.cpu) else None

    # Kept, so that `cluster_rl.evaluate` can play with what was learned; an unfinished one is of no use.
    run_dir = RunDir(path.parents[1] / "runs", path.stem)
    if run_dir.exists():
        shutil.rmtree(run_dir.path)
    rom = check_job(config, run_dir).rom
    run_dir.create()
    begin_job(config, run_dir, rom)
    try:
        actors += [
            _start_actor(_PROGRAMS.get(agent, "cluster_rl.actor"), run_dir, index) for index in range(config.num_actors)
        ]
        recorder.cpu.pids += [process.pid for process in actors]
        with mock.patch.object(learner, "Trainer", RecordedTrainer):
            learner.run_learner(config, run_dir, "", time.monotonic())
    finally:
        for process in actors:
            process.terminate()
        for process in actors:
            process.wait(_ACTOR_WAIT_SEC)
    return env_steps


def _start_actor(program: str, run_dir: RunDir, index: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", program, "--run-dir", str(run_dir.path), "--slot", str(index)]
    parent_pid = os.getpid()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    # Killed: there is nobody to send to, and what an unfinished training learned is of no use.
    return subprocess.Popen(command, env=environment, preexec_fn=lambda: die_with_parent(parent_pid, signal.SIGKILL))


def worker_command(agent: str, seed: int, config: Config, path: Path, cpu_sec: float) -> list[str]:
    """The command that runs `train` in a process of its own."""
    plain_config = json.loads(config_to_json(config))
    arguments = {"agent": agent, "seed": seed, "config": plain_config, "path": str(path), "cpu_seconds": cpu_sec}
    return [sys.executable, "-m", __name__, json.dumps(arguments)]


def main() -> int:
    """`python -m scripts.bench.learning.worker ARGUMENTS`."""
    if len(sys.argv) != 2:
        raise UserError("usage: python -m scripts.bench.learning; it starts this module itself")
    given = json.loads(sys.argv[1])
    config = config_from_builtins(given["config"], "worker")
    done = train(given["agent"], given["seed"], config, Path(given["path"]), given["cpu_seconds"])
    return EXIT_OK if done else EXIT_FAILURE


if __name__ == "__main__":
    run_command(main)
