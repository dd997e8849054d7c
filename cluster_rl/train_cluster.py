"""The launcher: config -> run lock -> learner and actors -> supervise -> exit code.

    python -m cluster_rl.train_cluster [--config FILE] [--run-name NAME] [--fresh] [--dry-run] [--key value ...]

In: a config file or preset and overrides. Out: a run directory that the same command goes on with. The launcher itself
neither plays nor trains: it checks everything before anything is created, starts the processes, restarts those that
die, shows how far the run is, and ends all of them when the run is complete or a signal comes.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cluster_rl.jobs.signals import hold_signals

    hold_signals()

import argparse
import math
import signal
import sys
import time
import uuid
from pathlib import Path

from cluster_rl.config import Config
from cluster_rl.configs.files import config_name
from cluster_rl.errors import (
    EXIT_FAILURE,
    EXIT_OK,
    EXIT_STORAGE,
    EXIT_UNFINISHED,
    EXITS_WELL,
    StorageError,
    run_command,
)
from cluster_rl.jobs.actor_children import ActorChildren
from cluster_rl.jobs.deadline import why_complete
from cluster_rl.jobs.evaluation_child import EvaluationChild
from cluster_rl.jobs.grace import Grace, demanded_end_sec
from cluster_rl.jobs.opening import add_run_arguments, dry_run, load_run, open_job
from cluster_rl.jobs.presets import choose_config
from cluster_rl.jobs.signals import WARNING_SIGNALS, StopFlag, release_signals
from cluster_rl.jobs.status import StatusView
from cluster_rl.jobs.supervise import ChildEvent, Supervisor
from cluster_rl.runs.arguments import Arguments, config_help
from cluster_rl.runs.checkpoint import newest
from cluster_rl.runs.crash_points import crash_point
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import Progress, read_progress, save_progress

_DEFAULT_CONFIG = "cluster_config.json"
_POLL_SEC = 0.1
# The learner ends itself at max_runtime_seconds. Where it hangs, or was never up, the launcher ends the job this much
# later: a tenth of the job's time, within these bounds, in which a learner that is well has made its checkpoint.
_LATE_PART, _LATE_MIN_SEC, _LATE_MAX_SEC = 0.1, 120.0, 300.0
# Until a learner is started again that somebody ended from outside: whoever signals all processes of a job may reach
# the launcher last.
_LEARNER_MISSED_SEC = 5.0
LEARNER = "learner"


def launch(config: Config, run_dir: RunDir, fresh: bool = False) -> int:
    """Runs one job of a run, of a new one if `fresh`, in this process's children; returns the exit code.

    Raises `UserError`, before anything is created, for a ROM, savestate or earlier run that does not fit.
    """
    with open_job(config, run_dir, fresh=fresh) as stop:
        if stop:
            print(f"{stop.reason}: nothing was started", flush=True)
            return stop.exit_code
        return _Job(config, run_dir, stop).run()


class _Job:
    """The children of one job, and what is done about each of their ends."""

    def __init__(self, config: Config, run_dir: RunDir, stop: StopFlag) -> None:
        self._config = config
        self._run_dir = run_dir
        self._stop = stop
        self._token = uuid.uuid4().hex
        self._started = time.monotonic()
        self._late_at = _late_at(self._started, config.max_runtime_seconds)
        self._demanded_sec = demanded_end_sec()
        self._supervisor = Supervisor(run_dir.logs, config.max_restarts)
        self._actors = ActorChildren(self._supervisor, run_dir, job=0)
        self._code: int | None = None
        self._failure = ""  # whose end ended the job
        self._late = False
        self._learner_back_at = math.inf  # by time.monotonic(), where it was ended from outside

    def run(self) -> int:
        """Starts the children and stays until the run is complete, cannot go on, or is told to stop."""
        self._start_learner()
        crash_point("launcher.learner_started")
        for index in range(self._config.num_actors):
            self._actors.start(index, index)
        crash_point("launcher.actors_started")
        with (
            StatusView(self._run_dir, self._config, self._token) as view,
            EvaluationChild(self._config, self._run_dir, view.say) as evaluation,
        ):
            while not self._stop and self._code is None:
                for event in self._supervisor.poll():
                    if event.kind == "died":
                        crash_point("launcher.child_died")
                    elif event.kind == "restarted":
                        crash_point("launcher.child_restarted")
                    view.say(event.line)
                    self._look_at(event)
                if time.monotonic() >= self._learner_back_at:
                    view.say("learner was ended from outside, and the run is not complete; starting it again")
                    self._start_learner()
                self._actors.restart_missed(view.say)
                evaluation.tend()
                if time.monotonic() >= self._late_at:
                    self._late = True
                    self._stop.set("max_runtime_seconds reached, and the learner has not ended itself", EXIT_UNFINISHED)
                view.refresh()
                self._stop.wait(_POLL_SEC)
            if self._stop:
                view.say(f"{self._stop.reason}: stopping")
            crash_point("launcher.stopping")
            evaluation.kill()
            self._end(view)
            view.finish()
        return self.exit_code

    @property
    def exit_code(self) -> int:
        """As it stands: the job's own where nothing else has ended it."""
        return self._stop.exit_code if self._code is None else self._code

    def _start_learner(self) -> None:
        arguments = ["--run-dir", str(self._run_dir.path), "--job-token", self._token]
        arguments += ["--job-started", repr(self._started)]
        command = [sys.executable, "-m", "cluster_rl.learner", *arguments]
        self._learner_back_at = math.inf
        self._supervisor.start(LEARNER, command)

    def _look_at(self, event: ChildEvent) -> None:
        if event.job_exit_code is not None:
            self._code = event.job_exit_code
            self._failure = event.line.splitlines()[0]
        elif event.kind == "finished" and event.name == LEARNER:
            if event.exit_code == EXIT_OK and not self._is_complete():
                self._learner_back_at = time.monotonic() + _LEARNER_MISSED_SEC
            else:
                self._code = event.exit_code
        else:
            self._actors.note(event)

    def _end(self, view: StatusView) -> None:
        """Ends all children. Writes the job's reason where the learner could not, as it was killed, or knows only of a
        signal, as another child, or its time, has ended the job.

        A learner that has not begun the job has read nothing and loses nothing. One that has, and is not there to end
        it, loses what it learned since its last checkpoint: no exit code says then that all is well. Nor after one that
        died when it had written that checkpoint: the log has what actors sent since, and progress.json lacks it.
        """
        number = signal.Signals(self._stop.signal_number or signal.SIGTERM)
        # A learner that is late and has begun may be writing its checkpoint.
        patient = number in WARNING_SIGNALS or (self._late and self._begun() is not None)
        grace = Grace(self._stop, patient, self._demanded_sec, source=LEARNER)
        died = ""
        for event in self._supervisor.stop_all(number, grace):
            if event.exit_code in EXITS_WELL:
                continue
            view.say(event.line)
            if event.name == LEARNER and event.exit_code == EXIT_STORAGE:
                self._code = self._code or EXIT_STORAGE
            elif event.name == LEARNER:
                died = event.line.partition("; log ")[0]
        progress = self._begun()
        if progress is None:
            return
        cause = self._failure or ("" if self._stop.signal_number else self._stop.reason)  # that no signal tells
        unended = progress.jobs[-1].ended is None
        if cause:
            progress.correct_reason(f"signal {number.name}", cause)
        if unended:
            reason = self._stop.reason or self._failure or "failure"
            progress.end_job(f"{reason}; the learner ended without a checkpoint{self._lost(progress.updates)}")
        elif died:
            counted = "the next start counts what the log has of the actors' last steps"
            progress.jobs[-1].reason += f"; the {died}; {counted}"
        if unended or died:
            self._code = EXIT_FAILURE if self._code in (None, *EXITS_WELL) else self._code
        if cause or unended or died:
            try:
                save_progress(self._run_dir.progress, progress)
            except StorageError as error:
                view.say(f"why the job ended is not in {error}")
                self._code = self._code or EXIT_STORAGE

    def _is_complete(self) -> bool:
        """Whether the run has reached what it was started for: exit code 0 is also that of a learner told to end."""
        progress = self._begun()
        return progress is not None and bool(why_complete(self._config, progress.env_steps, progress.episodes))

    def _lost(self, updates: int) -> str:
        """What is lost of `updates`, and what is not; empty without any."""
        saved = newest(self._run_dir.checkpoint)[1]
        return f"; the run goes on from update {saved}, {updates - saved} are lost" if updates > saved else ""

    def _begun(self) -> Progress | None:
        """The run's progress, if the learner has begun this job in it."""
        progress = read_progress(self._run_dir.progress)
        return progress if progress is not None and progress.jobs and progress.jobs[-1].token == self._token else None


def _late_at(started: float, max_runtime_seconds: float) -> float:
    """When, by `time.monotonic()`, the launcher ends a job that has not ended itself; 0 seconds is no limit."""
    if not max_runtime_seconds:
        return math.inf
    late_sec = min(max(_LATE_PART * max_runtime_seconds, _LATE_MIN_SEC), _LATE_MAX_SEC)
    return started + max_runtime_seconds + late_sec


def main() -> int:
    """`python -m cluster_rl.train_cluster`."""
    parser = Arguments(
        prog="python -m cluster_rl.train_cluster",
        description="Train on this machine: actors and a learner, supervised. The same command goes on with the run.",
        epilog=config_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_run_arguments(parser, f"{_DEFAULT_CONFIG}; for Red red, red_cpu without a GPU")
    known, rest = parser.parse_known_args()
    if known.config is None:
        default = _DEFAULT_CONFIG if Path(_DEFAULT_CONFIG).exists() else config_name(_DEFAULT_CONFIG)
        known.config = choose_config(known.default_config or default, rest)
    config, run_dir = load_run(known, rest)
    if known.dry_run:
        release_signals()
        dry_run(config, run_dir, fresh=known.fresh)
        return EXIT_OK
    return launch(config, run_dir, known.fresh)


def command() -> None:
    """`cluster-rl-train`."""
    run_command(main, only_logs=True)


if __name__ == "__main__":
    command()
