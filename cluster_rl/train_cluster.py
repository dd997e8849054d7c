"""The launcher: config -> run lock -> learner and actors -> supervise -> exit code.

    python -m cluster_rl.train_cluster --config cluster_config.json --run-name NAME [--rom ROM] [--key value ...]

In: a config file or preset and overrides. Out: a run directory that the same command goes on with. The launcher itself
neither plays nor trains: it checks everything before anything is created, starts the processes, restarts those that
die, shows how far the run is, and ends all of them when the run is complete or a signal comes.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import uuid

from cluster_rl.config import Config, config_to_json
from cluster_rl.emulator.rom import preflight
from cluster_rl.errors import EXIT_BAD_INPUT, EXIT_FAILURE, EXIT_OK, run_command
from cluster_rl.job import OVERRIDES_HELP, add_run_arguments, check_job, load_run
from cluster_rl.runs.atomic import write_atomic
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.lock import RunLock
from cluster_rl.signals import StopFlag
from cluster_rl.status import StatusView
from cluster_rl.supervise import Supervisor

_POLL_SEC = 0.1
_STOP_GRACE_SEC = 12.0
LEARNER = "learner"


def launch(config: Config, run_dir: RunDir) -> int:
    """Runs one job of a run in this process's children; returns the exit code.

    Raises `UserError`, before anything is created, for a ROM, savestate or earlier run that does not fit.
    """
    rom = check_job(config, run_dir)
    stop = StopFlag().install()
    run_dir.create()
    with RunLock(run_dir):
        print(f"run {run_dir.path}: {preflight(rom)}", flush=True)
        write_atomic(run_dir.config, config_to_json(config))
        # A learner that was killed leaves it behind, and actors would knock at a closed port first.
        run_dir.rendezvous.unlink(missing_ok=True)
        supervisor = Supervisor(run_dir.logs, config.max_restarts)
        try:
            return _supervise(config, run_dir, supervisor, stop)
        finally:
            for line in _stop(supervisor):
                print(line, flush=True)


def _supervise(config: Config, run_dir: RunDir, supervisor: Supervisor, stop: StopFlag) -> int:
    python = [sys.executable, "-m"]
    token = uuid.uuid4().hex
    learner = ["cluster_rl.learner", "--run-dir", str(run_dir.path), "--job-token", token]
    supervisor.start(LEARNER, [*python, *learner, "--job-started", repr(time.time())], _learner_environment())
    for index in range(config.num_actors):
        actor = ["cluster_rl.actor", "--run-dir", str(run_dir.path), "--actor", str(index)]
        supervisor.start(f"actor-{index}", [*python, *actor], {"OMP_NUM_THREADS": "1"})
    with StatusView(run_dir, config, token) as view:
        while not stop:
            for event in supervisor.poll():
                view.say(event.line)
                if event.kind in ("bad_input", "gave_up"):
                    return EXIT_BAD_INPUT if event.kind == "bad_input" else EXIT_FAILURE
                if event.name == LEARNER and event.kind == "finished":
                    view.finish()
                    return EXIT_OK
            view.refresh()
            stop.wait(_POLL_SEC)
        view.say(f"{stop.reason}: stopping")
        for line in _stop(supervisor):
            view.say(line)
        view.finish()
    return EXIT_OK


def _stop(supervisor: Supervisor) -> list[str]:
    """Ends all children; returns what is worth saying. One that is still starting up dies of the TERM, as it may."""
    events = supervisor.stop_all(signal.SIGTERM, _STOP_GRACE_SEC)
    return [event.line for event in events if event.exit_code not in (EXIT_OK, -signal.SIGTERM)]


def _learner_environment() -> dict[str, str]:
    """glibc gives large blocks back to the kernel at once; keeping them saves a third of a CPU update."""
    keep = str(1 << 30)
    return {name: os.environ.get(name, keep) for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")}


def main() -> int:
    """`python -m cluster_rl.train_cluster`."""
    parser = argparse.ArgumentParser(
        prog="python -m cluster_rl.train_cluster",
        description="Train on this machine: actors and a learner, supervised. The same command goes on with the run.",
        epilog=OVERRIDES_HELP,
        allow_abbrev=False,
    )
    add_run_arguments(parser, "cluster_config.json", None)
    known, rest = parser.parse_known_args()
    return launch(*load_run(known, rest))


if __name__ == "__main__":
    run_command(main)
