"""How long an end may take: what SLURM leaves, what a terminal leaves, and what a second and third demand change."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_programs import put_program

from cluster_rl.errors import EXIT_UNFINISHED
from cluster_rl.jobs import grace, signals
from cluster_rl.jobs.deadline import Deadline
from cluster_rl.jobs.grace import Grace, SavingTime, demanded_end_sec
from cluster_rl.jobs.signals import HURRY_SIGNAL, StopFlag

ALL = ("learner", "actor-0")


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> Iterator[StopFlag]:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    flag = StopFlag().install()
    yield flag
    flag.uninstall()


@pytest.mark.parametrize(
    ("says", "kills_sec"),
    [
        ("printf 'KeepAliveTime = 9 sec\\nKillWait                = 90 sec\\nLaunchType = x\\n'", 90),
        ("echo 'KillWait = 2 sec'", 2),
        ("exit 1", 30),  # slurm.conf's default
        ("exec /bin/sleep 20", 30),
    ],
)
def test_in_a_slurm_job_the_end_is_over_before_slurm_kills(
    stop: StopFlag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, kills_sec: float
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    put_program(tmp_path, "scontrol", f'[ "$*" = "show config" ] || exit 1; {says}')
    demanded_sec = demanded_end_sec()
    signal.raise_signal(signal.SIGTERM)
    left_sec = Grace(stop, False, demanded_sec).left_sec(ALL)
    assert kills_sec / 2 - 0.5 < left_sec <= kills_sec - min(4, kills_sec / 2)
    assert stop.demanded_at is not None
    stop.demanded_at -= kills_sec / 4  # it counts from the signal, not from when somebody looked
    assert Grace(stop, False, demanded_sec).left_sec(ALL) < left_sec - kills_sec / 8


def test_elsewhere_a_minute_and_after_a_warning_minutes(stop: StopFlag) -> None:
    signal.raise_signal(signal.SIGUSR2)
    warned = Grace(stop, True, demanded_end_sec())
    assert warned.left_sec(ALL) > 200
    assert not warned.is_short(ALL)
    signal.raise_signal(signal.SIGTERM)  # such as scancel while the last checkpoint is written
    assert 50 < warned.left_sec(ALL) <= 60
    assert not warned.is_short(ALL)
    assert (stop.reason, stop.exit_code) == ("signal SIGUSR2", 85)


def test_the_second_demand_hurries_and_the_third_kills(stop: StopFlag, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_DOUBLED_SEC", 0.0)
    after = Grace(stop, False, demanded_end_sec())
    for _ in range(3):
        signal.raise_signal(signal.SIGUSR1)  # warnings demand nothing, however many
    assert (stop.demands, after.is_short(ALL)) == (0, False)
    signal.raise_signal(signal.SIGINT)
    assert (after.left_sec(ALL) > 50, after.is_short(ALL)) == (True, False)
    signal.raise_signal(signal.SIGINT)
    assert (after.left_sec(ALL) > 50, after.is_short(ALL)) == (True, True)  # a checkpoint may still take its time
    signal.raise_signal(signal.SIGTERM)
    assert after.left_sec(ALL) == 0


def test_the_halves_of_a_doubled_signal_are_one_demand(stop: StopFlag, monkeypatch: pytest.MonkeyPatch) -> None:
    """SLURM's TERM and the job script's; a terminal's INT and the launcher's."""
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)
    assert stop.demands == 1
    before = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: before + 1.1)
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    assert stop.demands == 2
    assert stop.demanded_at is not None
    assert stop.demanded_at < before


def test_who_has_nobody_to_deliver_to_need_not_wait(stop: StopFlag, monkeypatch: pytest.MonkeyPatch) -> None:
    after = Grace(stop, True, demanded_end_sec(), "learner")
    assert not after.is_short(ALL)
    assert after.is_short(["actor-0"])
    assert 0 < after.left_sec(["actor-0"]) <= 10
    monkeypatch.setattr(grace, "_SOURCE_GONE_SEC", 0.0)
    assert after.left_sec(["actor-0"]) <= 0


def test_hurry_is_no_reason_to_stop(stop: StopFlag) -> None:
    assert not stop.hurried
    signal.raise_signal(HURRY_SIGNAL)
    assert (stop.hurried, bool(stop), stop.demands) == (True, False, 0)


NEVER = Deadline(math.inf, "")


def test_a_complete_run_may_try_to_save_until_it_is_told_to_end(
    stop: StopFlag, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "_DOUBLED_SEC", 0.0)
    stop.set("target_total_steps reached")
    saving = SavingTime(stop, NEVER)
    assert saving.left_sec() == math.inf
    signal.raise_signal(signal.SIGUSR2)  # as the time of its job is nearly up
    assert 20 < saving.left_sec() <= 30
    signal.raise_signal(signal.SIGINT)
    assert 2 < saving.left_sec() <= 3
    signal.raise_signal(signal.SIGINT)
    assert saving.left_sec() <= 0


def test_what_does_not_wait_for_storage_at_the_target_has_half_a_minute(stop: StopFlag) -> None:
    stop.set("target_total_steps reached")
    assert 29 < SavingTime(stop, NEVER, patient=False).left_sec() <= 30


def test_a_complete_run_tries_no_longer_than_its_job_lasts(stop: StopFlag) -> None:
    stop.set("target_total_steps reached")
    saving = SavingTime(stop, Deadline(time.monotonic() + 0.2, "max_runtime_seconds reached"))
    assert saving.left_sec() == math.inf
    time.sleep(0.3)
    assert 29 < saving.left_sec() <= 30


@pytest.mark.parametrize(("number", "most_sec"), [(signal.SIGTERM, 3), (signal.SIGUSR2, 30), (None, 30)])
def test_a_job_that_must_end_tries_to_save_for_seconds(
    stop: StopFlag, number: signal.Signals | None, most_sec: float
) -> None:
    if number is None:
        stop.set("max_runtime_seconds reached", EXIT_UNFINISHED)
    else:
        signal.raise_signal(number)
    time.sleep(0.1)
    saving = SavingTime(stop, NEVER)  # from now on, whenever the signal came
    assert most_sec - 0.1 < saving.left_sec() <= most_sec
    signal.raise_signal(HURRY_SIGNAL)
    assert saving.left_sec() == 0
