"""A long training whose processes are killed every few seconds: nothing it counts goes back, nothing grows, it learns.

Twenty minutes, or as many seconds as the variable CHAOS_SOAK_SEC says.
"""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import time
from pathlib import Path

import pytest
from chaos_run import ChaosRun, Kind
from run_fixtures import Launcher

from cluster_rl.errors import EXIT_OK
from cluster_rl.runs.progress import Progress

_SEC = float(os.environ.get("CHAOS_SOAK_SEC", "1200"))
_KILLS: list[Kind] = ["actor"] * 12 + ["learner"] * 4 + ["launcher"]
_MORE_DESCRIPTORS = 16
_YOUNG_SEC = 30.0  # imports alone take a good part of that beside much else
# Small enough for a second on two cores, large enough to learn.
_LEARNS: dict[str, object] = {
    "envs_per_actor": 4,
    "episode_max_steps": 400,
    "unroll_length": 40,
    "n_step": 5,
    "batch_size": 8,
    "samples_per_insert": 16.0,
    "publish_interval": 10,
    "target_update_interval": 10,
    "lstm_hidden_size": 64,
    "num_quantiles": 16,
    "model__conv_channels": "[16,16]",
    "model__context_width": 32,
    "model__trunk_width": 64,
    "min_replay_transitions": 2000,
    "replay_capacity_transitions": 1_000_000,  # the account is of all that was ever logged
    "checkpoint_interval_seconds": 5,
    "max_runtime_seconds": 0,
    "max_restarts": 10_000,
}


def _descriptors(pid: int) -> int | None:
    """How many files it has open, but for the replay's segments, whose number has a bound of its own."""
    count = 0
    try:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                count += link.readlink().parent.name != "replay"
    except OSError:
        return None  # it was killed
    return count


class _Watch:
    """What progress.json said, second by second, and how many files each process has had open."""

    def __init__(self) -> None:
        self.returns: list[float] = []
        self.newest: Progress | None = None
        self._descriptors: dict[int, tuple[float, int]] = {}  # since when, and the most while it was young

    def look(self, launcher: Launcher) -> None:
        progress = launcher.progress()
        if progress is not None:
            if self.newest is not None:
                for name in ("env_steps", "episodes", "sequences"):
                    assert getattr(progress, name) >= getattr(self.newest, name), f"{name} went back"
                assert set(progress.milestones) >= set(self.newest.milestones)
            self.newest = progress
            if progress.mean_return_recent is not None:
                self.returns.append(progress.mean_return_recent)
        now = time.monotonic()
        for pid in [launcher.process.pid, *launcher.children("learner"), *launcher.children("actor")]:
            count = _descriptors(pid)
            if count is None:
                continue
            since, first = self._descriptors.setdefault(pid, (now, count))
            if now - since < _YOUNG_SEC:
                self._descriptors[pid] = since, max(first, count)
            assert count <= self._descriptors[pid][1] + _MORE_DESCRIPTORS, f"process {pid} has {count} files open"


@pytest.mark.chaos
@pytest.mark.timeout(_SEC + 600)
def test_soak(run: ChaosRun) -> None:
    chance = random.Random(16)
    changes = dict(_LEARNS)
    launcher = run.training(**changes)
    watch, killed = _Watch(), {"actor": 0, "learner": 0, "launcher": 0}
    end = time.monotonic() + _SEC
    while time.monotonic() < end:
        wait_until = time.monotonic() + chance.uniform(2.0, 9.0)
        while time.monotonic() < wait_until:
            watch.look(launcher)
            time.sleep(1.0)
        kind = chance.choice(_KILLS)
        if kind != "launcher" and not launcher.children(kind):
            continue  # it waits to be started again
        run.send(launcher, kind, which=chance.randrange(2))
        killed[kind] += 1
        if kind == "launcher":
            launcher.wait()
            launcher = run.training(env_steps=0, updates=0, **changes)
    # A job whose learner is down as it is told to end cannot save: the newest kill may have been the learner's.
    newest = watch.newest
    assert newest is not None
    launcher.wait_for(
        lambda p: p.env_steps > newest.env_steps and [p.jobs[-1].pid] == list(launcher.children("learner"))
    )
    code, _ = launcher.terminate()
    assert code == EXIT_OK, launcher.output
    account = run.account(killed=True, replayed=20)
    run.next_start(account, **changes)
    tenth = max(1, len(watch.returns) // 10)
    first, last = statistics.fmean(watch.returns[:tenth]), statistics.fmean(watch.returns[-tenth:])
    print(f"{_SEC:.0f} s, killed {killed}: {account}")
    print(f"milestones {sorted(newest.milestones)}, return {first:.2f} to {last:.2f}")
    assert last > first
