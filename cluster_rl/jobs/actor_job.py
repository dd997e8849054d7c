"""A job of actors alone: they join the run's learner from another node, and stay when it comes back elsewhere.

    python -m cluster_rl.jobs.actor_job --run-name NAME --job N

In: a run whose learner was started with `--actor_jobs` (at least N), in a folder that both nodes see. Out: exit code 0
when the run is complete or no learner comes any more, 85 when this job's time is up. What is played and how, the
learner's job has written to the run's config.json.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cluster_rl.jobs.signals import hold_signals

    hold_signals()

import multiprocessing
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor

from cluster_rl.config import Config, load_config
from cluster_rl.errors import EXIT_UNFINISHED, UserError, run_command
from cluster_rl.jobs.actor_children import ActorChildren
from cluster_rl.jobs.deadline import job_deadline
from cluster_rl.jobs.grace import Grace, demanded_end_sec
from cluster_rl.jobs.signals import WARNING_SIGNALS, StopFlag
from cluster_rl.jobs.supervise import Supervisor
from cluster_rl.report.bars import say
from cluster_rl.runs.arguments import Arguments, add_run_name, whole_number
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.lock import current_holder
from cluster_rl.runs.progress import target_reached
from cluster_rl.runs.rendezvous import wait_for_learner

_POLL_SEC = 0.1


def run_actor_job(run_dir: RunDir, job: int, wait_sec: float | None = None) -> int:
    """Keeps this job's actors running until they are not wanted any more; returns the exit code.

    `wait_sec` is how long it waits for its first learner, None for what the run's config says. Raises `UserError` if
    there is no such run, or it has no job of this number.
    """
    started = time.monotonic()
    stop = StopFlag().install()
    config = _wait_for_run(run_dir.require(), job, stop, wait_sec)
    if config is None:
        if stop:
            print(f"{stop.reason}: nothing was started", flush=True)
        return stop.exit_code
    _check_needs(config)
    deadline, demanded_sec = job_deadline(config.max_runtime_seconds, started), demanded_end_sec()
    supervisor = Supervisor(run_dir.logs, config.max_restarts)
    actors = ActorChildren(supervisor, run_dir, job)
    first = config.num_actors * job
    for slot in range(config.num_actors):
        actors.start(slot, first + slot)
    print(f"actors {first} to {first + config.num_actors - 1} of run {run_dir.path}; logs {run_dir.logs}", flush=True)
    code: int | None = None
    while not stop and code is None and supervisor.unfinished:
        for event in supervisor.poll():
            print(event.line, flush=True)
            actors.note(event)
            if event.job_exit_code is not None:
                code = event.job_exit_code
        if run_dir.rendezvous.exists():  # else they ended because nobody wants them
            actors.restart_missed(print)
        if deadline.is_over():
            stop.set(deadline.reason, EXIT_UNFINISHED)
        stop.wait(_POLL_SEC)
    if stop:
        print(f"{stop.reason}: stopping", flush=True)
    number = signal.Signals(stop.signal_number or signal.SIGTERM)
    for event in supervisor.stop_all(number, Grace(stop, number in WARNING_SIGNALS, demanded_sec)):
        print(event.line, flush=True)
    return stop.exit_code if code is None else code


def _check_needs(config: Config) -> None:
    """Says what will be slow. Raises `UserError` if this machine has not the memory for the job's actors."""
    # Only the size of the weights needs torch, which would stay in this process as long as the job.
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as other:
        for line in other.submit(_needs, config).result():
            say(line)


def _needs(config: Config) -> list[str]:
    """Warnings, or a `UserError`, see `check_here`."""
    from cluster_rl.emulator.spaces import observation_spec
    from cluster_rl.jobs.host_needs import check_here

    return check_here(config, observation_spec(config), "cpu", learner=False)


def _wait_for_run(run_dir: RunDir, job: int, stop: StopFlag, wait_sec: float | None) -> Config | None:
    """The config that a learner with this actor job has written; None if no learner wants its actors in time.

    A learner that was killed leaves its rendezvous.json behind; then the next one is waited for. Raises `UserError` if
    one that is there has no such job.
    """
    # A job that SLURM starts again may find the run complete. One that was submitted may come before a learner's job
    # with a larger target.
    again = "SLURM_RESTART_COUNT" in os.environ
    if wait_sec is None:
        config = load_config(run_dir.config) if run_dir.config.exists() else Config()
        wait_sec = config.learner_wait_seconds
    deadline, stale = time.monotonic() + wait_sec, 0

    def not_wanted() -> bool:
        return stop.is_set() or (again and target_reached(run_dir.progress))

    while True:
        left_sec = max(0.0, deadline - time.monotonic())
        found = wait_for_learner(run_dir.rendezvous, stale, left_sec, not_wanted)
        if found is None:
            return None
        config = load_config(run_dir.config)
        if 1 <= job <= config.actor_jobs:
            return config
        if current_holder(run_dir) is not None:
            raise UserError(
                f"--job {job}: run {run_dir.run_name!r} has {config.actor_jobs} actor jobs, numbered from 1; start "
                f"its learner with --actor_jobs {job}"
            )
        stale = found.incarnation


def main() -> int:
    """`python -m cluster_rl.jobs.actor_job`."""
    parser = Arguments(prog="python -m cluster_rl.jobs.actor_job", description="Actors that join a run's learner.")
    add_run_name(parser)
    parser.add_argument(
        "--job", type=whole_number(1), default=1, help="which of the run's actor jobs, from 1 (default: 1)"
    )
    parser.add_argument(
        "--learner_wait_seconds",
        type=float,
        metavar="SECONDS",
        help="for the first learner (default: what the run's config says, and an hour for a new run)",
    )
    known = parser.parse_args()
    wait_sec = known.learner_wait_seconds
    if wait_sec is not None and not 0 <= wait_sec < float("inf"):
        raise UserError(f"--learner_wait_seconds {wait_sec}: must be at least 0, and finite")
    return run_actor_job(RunDir(known.runs, known.run_name), known.job, wait_sec)


if __name__ == "__main__":
    run_command(main, only_logs=True)
