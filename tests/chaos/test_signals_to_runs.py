"""Signals to the launcher and to its whole group, once and twice: an end in order, whose exit code is the truth."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
from chaos_run import ChaosRun

from cluster_rl.errors import EXIT_OK, EXIT_UNFINISHED

_CODES = {
    signal.SIGTERM: EXIT_OK,
    signal.SIGINT: EXIT_OK,
    signal.SIGHUP: EXIT_OK,
    signal.SIGUSR1: EXIT_UNFINISHED,
    signal.SIGUSR2: EXIT_UNFINISHED,
}


@pytest.fixture(autouse=True)
def signals_as_in_a_shell() -> Iterator[None]:
    """Also where the tests run under `nohup` or in a script's background, whose children ignore some."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGHUP, signal.SIGQUIT)}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.chaos
@pytest.mark.parametrize("group", [False, True], ids=["process", "group"])
@pytest.mark.parametrize("number", _CODES, ids=[number.name for number in _CODES])
def test_an_end_in_order(run: ChaosRun, number: signal.Signals, group: bool) -> None:
    launcher = run.training()
    (os.killpg if group else os.kill)(launcher.process.pid, number)
    assert launcher.wait() == _CODES[number], launcher.output
    progress = launcher.progress()
    assert progress is not None
    assert progress.jobs[-1].reason == f"signal {number.name}"
    run.next_start(run.account())


@pytest.mark.chaos
@pytest.mark.parametrize("wait_sec", [1.5, 3.0])
def test_a_second_interrupt_shortens_the_end(run: ChaosRun, wait_sec: float) -> None:
    launcher = run.training()
    # An actor that stands still is waited for: by the learner until it counts as silent, 20 s, then by the launcher
    # for the log of its open episode, 10 s.
    stopped = run.send(launcher, "actor", signal.SIGSTOP)
    os.killpg(launcher.process.pid, signal.SIGINT)
    time.sleep(wait_sec)
    before = time.monotonic()
    os.killpg(launcher.process.pid, signal.SIGINT)
    code = launcher.wait()
    assert time.monotonic() - before < 20
    progress = launcher.progress()
    assert progress is not None
    if code == EXIT_OK:
        assert "without a checkpoint" not in progress.jobs[-1].reason
    assert stopped not in launcher.children("actor")
    run.next_start(run.account(killed=True, ended=code == EXIT_OK))
