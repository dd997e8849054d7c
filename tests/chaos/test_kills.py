"""SIGKILL of any process of a run at any moment: no step is lost, none is counted twice, and the run goes on."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from chaos_run import ChaosRun, Kind

from cluster_rl.errors import EXIT_OK


@pytest.mark.chaos
def test_an_actor_the_learner_and_the_launcher_are_killed(run: ChaosRun) -> None:
    launcher = run.training()
    run.send(launcher, "actor")
    run.send(launcher, "learner")
    before = launcher.progress()
    assert before is not None
    launcher.wait_for(lambda p: p.env_steps > before.env_steps + 200 and len(launcher.children("actor")) == 2)
    run.send(launcher, "launcher")
    launcher.wait()
    account = run.account(killed=True)
    assert account.acknowledged > 0
    run.next_start(account)


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(5))
def test_random_kills(run: ChaosRun, seed: int) -> None:
    """Of actors and learner, a dozen; then of the launcher, from which the children end by themselves."""
    chance = random.Random(seed)
    launcher = run.training(max_restarts=100)
    for _ in range(12):
        time.sleep(chance.uniform(0.0, 4.0))
        kind: Kind = chance.choice(["actor", "actor", "learner"])
        run.send(launcher, kind, which=chance.randrange(2))
    time.sleep(chance.uniform(0.0, 4.0))
    run.send(launcher, "launcher")
    launcher.wait()
    account = run.account(killed=True, ended=False, replayed=None)
    run.next_start(account)
    # And it still trains.
    launcher = run.training(env_steps=300, updates=20)
    code, _ = launcher.terminate()
    assert code == EXIT_OK
    later = run.account(killed=True)
    assert later.env_steps >= account.env_steps + 300
    assert later.updates >= account.updates + 20


@pytest.mark.chaos
def test_recovery_is_killed_three_times(run: ChaosRun) -> None:
    """A learner that reads the log of the one before is killed at it, and so is the next."""
    launcher = run.training(env_steps=1500, max_restarts=100)
    killed = run.send(launcher, "learner")
    for wait_sec in (0.2, 1.5, 2.5):
        while killed in (found := launcher.children("learner")) or not found:
            time.sleep(0.02)
        time.sleep(wait_sec)
        killed = run.send(launcher, "learner")
    before = launcher.progress()
    assert before is not None
    launcher.wait_for(lambda p: p.env_steps > before.env_steps + 300)
    code, _ = launcher.terminate()
    assert code == EXIT_OK, launcher.output
    run.next_start(run.account(killed=True))


@pytest.mark.chaos
def test_the_whole_job_is_killed_at_its_start_three_times(run: ChaosRun) -> None:
    launcher = run.training(env_steps=1000)
    for wait_sec in (0.5, 3.0, 5.0):
        run.send(launcher, "launcher")
        launcher.wait()
        account = run.account(killed=True, ended=False)
        launcher = run.start()
        time.sleep(wait_sec)
    run.send(launcher, "launcher", signal.SIGTERM)
    launcher.wait()
    run.next_start(run.account(killed=True))
    assert account.env_steps >= 1000


@pytest.mark.chaos
def test_all_actors_die_at_once_again_and_again(run: ChaosRun) -> None:
    launcher = run.training(max_restarts=100)
    for _ in range(5):
        before = launcher.progress()
        assert before is not None
        for pid in run.pids(launcher, "actor"):
            os.kill(pid, signal.SIGKILL)
        reached = before.env_steps + 150
        launcher.wait_for(lambda p, reached=reached: p.env_steps > reached)
    code, _ = launcher.terminate()
    assert code == EXIT_OK, launcher.output
    run.next_start(run.account(killed=True))
