"""Which signals ask a process to stop, in real processes."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

FLAGGED = """
import time
from cluster_rl.jobs.signals import StopFlag
stop = StopFlag().install()
print("ready", flush=True)
stop.wait(20)
print(stop.reason, stop.exit_code, flush=True)
"""


def start(*before: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([*before, sys.executable, "-c", FLAGGED], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGHUP, 0), (signal.SIGUSR1, 85), (signal.SIGUSR2, 85)],
)
def test_a_signal_sets_the_flag(number: signal.Signals, exit_code: int) -> None:
    process = start()
    process.send_signal(number)
    said, _ = process.communicate(timeout=30)
    assert (said, process.returncode) == (f"signal {number.name} {exit_code}\n", 0)


@pytest.mark.parametrize("before", [["nohup"], ["sh", "-c", 'trap "" HUP; exec "$@"', "sh"]], ids=["nohup", "trap"])
def test_a_hang_up_that_was_ignored_at_the_start_stays_so(before: list[str]) -> None:
    process = start(*before)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=30)
    assert said == "signal SIGTERM 0\n"
