"""A signal while a program, or its learner, still imports means what it means later: no traceback, its exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from run_fixtures import Launcher, environment, overrides, processes_of

from cluster_rl.config import Config, config_to_json
from cluster_rl.errors import EXIT_OK, EXIT_UNFINISHED
from cluster_rl.jobs.signals import STOP_SIGNALS
from cluster_rl.runs.layout import RunDir


def _in_set(pid: int, name: str, number: int) -> bool:
    """Whether a signal is in one of the kernel's sets of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    signals = int(next(line for line in status.splitlines() if line.startswith(name)).split()[1], 16)
    return bool(signals >> (number - 1) & 1)


def _holds(pid: int) -> bool:
    """Whether the process has its stop signals wait."""
    return all(_in_set(pid, "SigBlk", number) for number in STOP_SIGNALS)


def _console(command: str) -> list[str]:
    """What pip writes into the program of that name."""
    return ["-c", f"import sys; from cluster_rl.commands import {command}; sys.exit({command}())"]


@pytest.mark.parametrize(
    ("program", "number", "code", "words"),
    [
        (["-m", "cluster_rl.train_cluster"], signal.SIGUSR1, EXIT_UNFINISHED, "nothing was started"),
        (["-m", "cluster_rl.train_slim"], signal.SIGINT, EXIT_OK, "nothing was started"),
        (_console("train"), signal.SIGUSR2, EXIT_UNFINISHED, "nothing was started"),
        (_console("train_slim"), signal.SIGTERM, EXIT_OK, "nothing was started"),
        (["-m", "cluster_rl.jobs.actor_job"], signal.SIGTERM, EXIT_OK, "nothing was started"),
        (["-m", "cluster_rl.watch"], signal.SIGTERM, EXIT_OK, "ended; the run goes on as it did"),
        (_console("watch"), signal.SIGINT, EXIT_OK, "ended; the run goes on as it did"),
        (["-m", "cluster_rl.learner"], signal.SIGUSR2, EXIT_UNFINISHED, "stopping before anything was read"),
    ],
)
def test_a_signal_during_the_imports(
    tmp_path: Path, program: list[str], number: signal.Signals, code: int, words: str
) -> None:
    run_dir = RunDir(tmp_path / "cluster_runs", "tiny").create()
    run_dir.config.write_bytes(config_to_json(Config()))
    of_module = {
        "cluster_rl.jobs.actor_job": ["--run-name", "tiny"],
        "cluster_rl.learner": ["--run-dir", str(run_dir.path)],
        "cluster_rl.watch": ["--run-name", "tiny"],
        _console("watch")[1]: ["--run-name", "tiny"],
    }
    arguments = of_module.get(program[1], ["--config", "quickstart", "--run-name", "tiny"])
    process = subprocess.Popen(
        [sys.executable, *program, *arguments],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while not _holds(process.pid):
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert output.splitlines()[-1].endswith(f"signal {number.name}: {words}")  # in a log behind the time
    assert "Traceback" not in output


@pytest.mark.parametrize("console", [False, True])
@pytest.mark.parametrize("name", ["evaluate", "replayer", "debug_rollout", "start_state", "cluster"])
def test_ctrl_c_during_the_imports_of_a_short_command(tmp_path: Path, name: str, console: bool) -> None:
    """It has nothing to save, and ends by the signal, as shells expect it."""
    process = subprocess.Popen(
        [sys.executable, *(_console(name) if console else ["-m", f"cluster_rl.{name}"]), "--help"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for python_handles_it in (True, False):
        while _in_set(process.pid, "SigCgt", signal.SIGINT) != python_handles_it:
            assert process.poll() is None
            time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (-signal.SIGINT, "")


def test_ctrl_c_while_learner_and_actors_start(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path, *overrides(num_actors=1))
    while not ((learner := launcher.children("learner")) and (actor := launcher.children("actor"))):
        assert launcher.process.poll() is None
        time.sleep(0.005)
    for pid in (launcher.process.pid, *learner, *actor):
        os.kill(pid, signal.SIGINT)
    assert launcher.wait() == EXIT_OK, launcher.output
    logs = {path.name: path.read_text() for path in launcher.run_dir.logs.iterdir()}
    assert "Traceback" not in launcher.output + "".join(logs.values())
    assert launcher.progress() is None  # no job that would count as one without progress
    assert processes_of(launcher.run_dir) == []
