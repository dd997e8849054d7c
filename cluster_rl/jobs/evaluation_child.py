"""The evaluation beside a training: a process of the lowest priority every so often, which cannot hurt the run.

The launcher and serial mode use it. In: the run and its config; `evaluate --publish` is what is started. Out: lines for
people. One that dies or hangs costs its own figures: it is told, and the next one is started when it is due. It has no
state, so whoever ends it kills it.
"""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from cluster_rl.config import Config
from cluster_rl.errors import EXIT_OK, UserError, describe_exit
from cluster_rl.jobs.machine import use_of_process
from cluster_rl.jobs.supervise import first_error, spawn
from cluster_rl.report.bars import duration_words
from cluster_rl.runs.evaluation import readable_evaluation
from cluster_rl.runs.layout import RunDir

_NICENESS = 19
_AGAIN_SEC = 2.0  # until it is looked again for parameters that were not evaluated
_LOOK_MIN_SEC = 30.0  # a process that waits for a disk may use no processor for seconds
_KILLED_SEC = 2.0  # a process that waits for a dead disk takes its KILL later
NAME = "evaluate"


class EvaluationChild:
    """At most one process at a time. A context manager: none is left at its end."""

    def __init__(self, config: Config, run_dir: RunDir, say: Callable[[str], object]) -> None:
        """`say` gets a line where an evaluation failed."""
        self._run_dir, self._say = run_dir, say
        self._log_path = run_dir.logs / f"{NAME}.log"
        self._interval_sec = config.evaluate_interval_seconds or math.inf
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start_bytes = 0
        self._is_killed = False
        self._look_at, self._used_sec = 0.0, 0.0
        # When these were written, as the newest evaluation began; None if its parameters are to be evaluated again.
        self._params_ns: int | None = None
        self._evaluation_ns: int | None = None
        self._due = time.monotonic() + self._until_due_sec()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def tend(self) -> None:
        """Starts an evaluation that is due and looks after the one that runs; to be called again and again."""
        now = time.monotonic()
        if self._process is not None:
            self._look_after(self._process, now)
        if now < self._due:
            return
        params_ns = _written_ns(self._run_dir.online_params)
        if params_ns in (None, self._params_ns):
            self._due = now + min(_AGAIN_SEC, self._interval_sec)
            return
        self._due = now + self._interval_sec
        if self._process is None:  # one that takes longer than the interval goes on
            self._params_ns, self._evaluation_ns = params_ns, _written_ns(self._run_dir.evaluation)
            self._start(now)

    def kill(self) -> None:
        """Ends the evaluation that runs, and any further one."""
        self._due = math.inf
        if self._process is not None:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_KILLED_SEC)
            self._process = None

    def _until_due_sec(self) -> float:
        """As long after the newest evaluation of the run as config says, be it of an earlier job."""
        if math.isinf(self._interval_sec):
            return math.inf
        try:
            newest = readable_evaluation(self._run_dir.evaluation)
        except UserError:  # storage does not give it now
            return self._interval_sec
        left_sec = self._interval_sec - (time.time() - newest.began) if newest is not None else 0.0
        return min(max(left_sec, 0.0), self._interval_sec)  # clocks are set back

    def _start(self, now: float) -> None:
        root, name = str(self._run_dir.root), self._run_dir.run_name
        command = [sys.executable, "-m", "cluster_rl.jobs.evaluation_process", str(os.getpid()), str(_NICENESS)]
        command += ["--runs", root, "--run-name", name, "--publish"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        try:
            self._process, self._log_start_bytes = spawn(command, environment, self._log_path, becomes_child=False)
        except OSError as error:
            self._tell(f"cannot be started: {error.strerror}")
            return
        self._is_killed = False
        self._used_sec, self._look_at = 0.0, now + max(self._interval_sec, _LOOK_MIN_SEC)

    def _look_after(self, process: subprocess.Popen[bytes], now: float) -> None:
        code = process.poll()
        if code is not None:
            self._process = None
            if code == EXIT_OK:
                if _written_ns(self._run_dir.evaluation) == self._evaluation_ns:
                    self._due = now  # nothing was played, as those parameters were evaluated before
            elif not self._is_killed:
                error = first_error(self._log_path, self._log_start_bytes) or "nothing in its log"
                self._tell(f"{describe_exit(code)}: {error}")
        elif now >= self._look_at and not self._is_killed:
            wait_sec = max(self._interval_sec, _LOOK_MIN_SEC)
            use, before_sec = use_of_process(process.pid), self._used_sec
            self._look_at, self._used_sec = now + wait_sec, use.processor_sec
            if use.processor_sec <= before_sec and not use.is_ready:  # else all others come first
                self._is_killed = True
                process.kill()
                self._tell(f"hangs, it has used no processor for {duration_words(wait_sec)}, and was killed")

    def _tell(self, what: str) -> None:
        """Says that an evaluation failed, after which the next one may be of the same parameters."""
        self._params_ns = None
        next_sec = max(0.0, self._due - time.monotonic())
        self._say(
            f"the evaluation {what}; log {self._log_path}; training goes on, and the next one starts in "
            f"{duration_words(next_sec)}"
        )


def _written_ns(path: Path) -> int | None:
    """When a file was written; None where there is none, or storage does not tell now."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
