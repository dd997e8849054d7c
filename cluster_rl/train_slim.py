"""Serial mode: actors, replay and learner in one process, without sockets or threads.

    python -m cluster_rl.train_slim [--config slim|slim_cpu|FILE] [--run-name NAME] [--no-video] [--fresh] [--dry-run]
                                    [--key value ...]

For notebooks, interactive jobs, debuggers and exact tests: the very parts of the cluster mode, called in turn, so that
two runs with one seed are identical on a CPU. In and out: as `train_cluster`, into the same kind of run directory.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cluster_rl.jobs.signals import hold_signals

    hold_signals()

import argparse
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable

import torch

from cluster_rl.acting.loop import Actor
from cluster_rl.config import Config
from cluster_rl.emulator.spaces import block_spec, milestone_names, observation_spec, quests_of
from cluster_rl.errors import EXIT_OK, run_command
from cluster_rl.jobs.deadline import job_deadline
from cluster_rl.jobs.devices import why_no_cuda
from cluster_rl.jobs.evaluation_child import EvaluationChild
from cluster_rl.jobs.grace import SavingTime
from cluster_rl.jobs.opening import add_run_arguments, dry_run, load_run, open_job
from cluster_rl.jobs.presets import choose_config
from cluster_rl.jobs.signals import StopFlag, die_with_parent, release_signals
from cluster_rl.jobs.status import StatusView
from cluster_rl.runs.arguments import Arguments, config_help
from cluster_rl.runs.layout import RunDir
from cluster_rl.training.outage import Writer
from cluster_rl.training.trainer import Trainer

_VIDEOS = 4
_POLL_SEC = 0.2
_WAIT_SEC = 0.05


class SerialLink:
    """An actor's line to the trainer in the same process: a sequence is logged when it is sent.

    While storage does not take it, it is tried again, and `waiting` called again and again between the tries, which
    does what else there is to do: until it says that the job must end. Then the sequence is `lost`, as are those that
    follow.
    """

    def __init__(self, trainer: Trainer, actor: int, incarnation: int, waiting: Callable[[], bool]) -> None:
        self.lost = 0
        self._trainer = trainer
        self._waiting = waiting
        self._writer = Writer(trainer.outage, f"the replay log, by actor {actor}")
        self._ids = (actor, incarnation)
        self._seq = 0
        self._params: tuple[int, bytes] | None = None

    def send(self, block: bytes) -> None:
        def log() -> None:
            self._trainer.ingest(*self._ids, self._seq, block)

        while not self._writer.write(log):
            while not self._writer.is_due:
                if not self._waiting():
                    self.lost += not self._writer.write(log)
                    self._seq += 1  # so that the log counts a gap
                    return
        self._seq += 1

    def offer(self, version: int, data: bytes) -> None:
        """Puts parameters where the actor takes them at its next sequence edge."""
        self._params = (version, data)

    def take_params(self) -> tuple[int, bytes] | None:
        params, self._params = self._params, None
        return params


def train(config: Config, run_dir: RunDir, stop: StopFlag) -> str:
    """Plays and learns in turn until the run is complete, time is up or `stop` is set. Returns the reason.

    The caller has checked the config and made the folder, and holds the run's lock. Raises `StorageError` at the end if
    something could not be saved.
    """
    deadline = job_deadline(config.max_runtime_seconds, time.monotonic())
    token = uuid.uuid4().hex
    torch.set_num_threads(config.learner_threads or len(os.sched_getaffinity(0)))
    trainer = Trainer(
        config,
        run_dir,
        observation_spec(config),
        block_spec(config),
        milestone_names(run_dir),
        token,
        quests_of(run_dir, config.initial_state),
    )
    trainer.progress.jobs[-1].ends = deadline.unix_sec()
    logs = run_dir.episode_logs if config.log_episodes_for_replay else None
    links, actors = [], []
    view = StatusView(run_dir, config, token)
    evaluation = EvaluationChild(config, run_dir, view.say)
    ending: SavingTime | None = None  # once the job must end

    def job_is_over() -> bool:
        over = trainer.finished(deadline)
        if over is not None:
            stop.set(*over)
        return bool(stop)

    def learn() -> bool:
        """Trains on the next batch, if there is one, publishes and writes what is due; whether there was one."""
        sampled = trainer.try_sample()
        if sampled is not None:
            trainer.update(sampled)
            if trainer.publish_due():
                publish()
        trainer.tick()
        evaluation.tend()
        view.refresh()
        return sampled is not None

    def waiting() -> bool:
        """Between the tries of what storage does not take: learns what it may meanwhile. False where they must end."""
        nonlocal ending
        if not job_is_over():
            if not learn():
                stop.wait(_WAIT_SEC)
            return True
        # Also at the target, where `save` has as long as it takes: nothing that was learned waits for the log's end.
        ending = ending or SavingTime(stop, deadline, patient=False)
        view.refresh()
        time.sleep(_WAIT_SEC)
        return ending.left_sec() > 0

    for index in range(config.num_actors):
        # Counted by the log: the same in a repeated run, another in the next job.
        incarnation = trainer.replay.next_incarnation(index)
        links.append(SerialLink(trainer, index, incarnation, waiting))
        actors.append(Actor(config, index, incarnation, links[-1], logs, run_dir.run_name, run_dir.archive))

    def publish() -> None:
        params = trainer.publish()
        for link in links:
            link.offer(*params)

    publish()
    trainer.tick()
    with view, evaluation:
        for _ in zip(*(actor.run() for actor in actors), strict=True):
            # After random play there are many updates at once: a signal, the time and the files do not wait for them.
            while not stop and not deadline.is_over() and learn():
                pass
            if job_is_over():
                break
        evaluation.kill()
        for actor in actors:
            actor.stop()
        lost = sum(link.lost for link in links)
        saving = SavingTime(stop, deadline)

        def saving_sec() -> float:
            view.refresh()
            return saving.left_sec()

        try:
            trainer.close(stop.reason, f"{lost} sequences" if lost else "", saving_sec)
        finally:
            view.finish()
    return stop.reason


def main() -> int:
    """`python -m cluster_rl.train_slim`."""
    parser = Arguments(
        prog="python -m cluster_rl.train_slim",
        description="Train in one process; the same command goes on with the run.",
        epilog=config_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_run_arguments(parser, "slim; without a GPU slim_cpu, for Red red_cpu")
    parser.add_argument("--no-video", action="store_true", help="do not render the newest episodes at the end")
    known, rest = parser.parse_known_args()
    if known.config is None:
        default, why = (known.default_config, "") if known.default_config else _default_config()
        known.config = choose_config(default, rest, why)
    config, run_dir = load_run(known, rest)
    if known.dry_run:
        release_signals()
        dry_run(config, run_dir, serial=True, fresh=known.fresh)
        return EXIT_OK
    with open_job(config, run_dir, serial=True, fresh=known.fresh) as stop:
        if stop:
            print(f"{stop.reason}: nothing was started", flush=True)
            return stop.exit_code
        train(config, run_dir, stop)
    if not known.no_video and config.log_episodes_for_replay and stop.signal_number is None:
        _render(config, run_dir, StopFlag().install())
    return stop.exit_code


def _default_config() -> tuple[str, str]:
    """The preset for this machine, and why."""
    problem = why_no_cuda()
    return ("slim", "there is a GPU") if problem is None else ("slim_cpu", f"CUDA cannot be used: {problem}")


def _render(config: Config, run_dir: RunDir, stop: StopFlag) -> None:
    """Renders the newest episodes in a process of its own, which a signal ends. Training was good in any case."""
    options = ["--logs", str(run_dir.episode_logs), "--out", str(run_dir.videos), "--limit", str(_VIDEOS)]
    command = [sys.executable, "-m", "cluster_rl.replayer", *options, "--rom", config.rom]
    parent_pid = os.getpid()
    try:
        process = subprocess.Popen(command, preexec_fn=lambda: die_with_parent(parent_pid))
    except OSError as error:
        print(f"nothing is rendered: {command[0]} cannot be started: {error.strerror}", flush=True)
        return
    while process.poll() is None:
        if stop.wait(_POLL_SEC):
            process.terminate()
            process.wait()
    if process.returncode != EXIT_OK and not stop:
        print(f"rendering ended with exit code {process.returncode}", flush=True)


def command() -> None:
    """`cluster-rl-train-slim`."""
    run_command(main, only_logs=True)


if __name__ == "__main__":
    command()
