"""A learner's job on one node and an actors' job on another: sequences over CURVE, through requeues and a dead node."""

from __future__ import annotations

import functools
import sys
import time
from pathlib import Path

import pytest
from run_fixtures import logged_positions, logged_sequences, overrides
from slurm_fixtures import Slurm, cluster

from cluster_rl.config import load_config, sequence_schema_hash
from cluster_rl.errors import UserError
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import Progress, read_progress
from cluster_rl.runs.rendezvous import Rendezvous, read_rendezvous
from cluster_rl.wire.actor_channel import ActorChannel
from cluster_rl.wire.keys import load_actor_keys, make_keys

FLOWS_AGAIN_SEC = 10.0


class Run:
    """A run of one learner's job, with an actor of its own, and one job of an actor, number 1."""

    def __init__(self, slurm: Slurm, home: Path) -> None:
        self.slurm, self.home = slurm, home
        self.run_dir = RunDir(home / "cluster_runs", "two")
        self._environment = {"CLUSTER_RL_PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
        self.run_dir.path.mkdir(parents=True)  # as `cluster submit` does: actors may come first
        self.learner = self.submit("train_cpu", "gpu01", "--config", "quickstart", *self.overrides())
        self.actors = self.submit("actors", "cpu01", "--job", "1")

    def overrides(self, target: int = 1_000_000) -> list[str]:
        return overrides(num_actors=1, actor_jobs=1, target_total_steps=target, max_runtime_seconds=0)

    def submit(self, script: str, node: str, *arguments: str) -> int:
        return self.slurm.submit(
            f"slurm/{script}.sbatch",
            "--run-name",
            "two",
            *arguments,
            cwd=self.home,
            options=["-w", node],
            **self._environment,
        )

    def log(self, name: str) -> str:
        path = self.run_dir.logs / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def progress(self) -> Progress:
        progress = read_progress(self.run_dir.progress)
        assert progress is not None
        return progress

    def rendezvous(self) -> Rendezvous:
        found = read_rendezvous(self.run_dir.rendezvous)
        assert found is not None
        return found

    def wait_for_joins(self, times: int) -> None:
        """Until actor 1 has joined so many times in all."""
        words = "actor 1 joined"
        self.slurm.wait_for(lambda: self.log("learner").count(words) == times, f"{words}, {times} times")

    def wait_for_steps(self, more: int) -> None:
        before = self.progress().env_steps
        self.slurm.wait_for(lambda: self.progress().env_steps >= before + more, "no env steps")

    def wait_for_flow(self, before: int) -> None:
        """Until more than `before` sequences of actor 1, from the other node, are in the learner's log."""
        self.slurm.wait_for(lambda: logged_sequences(self.run_dir, actor=1) > before, "actor 1 delivers nothing")


def test_two_nodes(slurm: Slurm, home: Path) -> None:
    run = Run(slurm, home)
    run.wait_for_joins(1)
    first = run.rendezvous()
    assert (first.host, first.slurm_job_id) == ("gpu01", str(run.learner))
    assert first.public_key is not None, "the wire is not encrypted"
    run.wait_for_flow(0)
    run.wait_for_steps(200)
    shown = cluster(slurm, home, "status", "--run-name", "two").stdout
    assert f"job {run.learner} train_cpu: running on gpu01" in shown
    assert f"learner: {first.endpoint} on gpu01, SLURM job {run.learner}" in shown
    assert "progress: env_steps " in shown

    # Somebody with keys, but not this run's: both sides say so, and nothing else happens.
    make_keys(home / "strange")
    config = load_config(run.run_dir.config)
    stranger = ActorChannel(
        functools.partial(read_rendezvous, run.run_dir.rendezvous),
        0,
        "two",
        sequence_schema_hash(config),
        load_keys=functools.partial(load_actor_keys, home / "strange"),
    )
    with pytest.raises(UserError, match="does not know this actor's key"):
        stranger.wait_for_credit(20)
    stranger.close()
    public = load_actor_keys(home / "strange").public
    slurm.wait_for(lambda: f"not of this run ({public})" in run.log("learner"), "the learner says nothing")

    # The learner's time is up: it comes back on another node and port, and the actor's process plays on.
    assert slurm.call("scancel", "-b", "--signal=USR2", str(run.learner), cwd=home).returncode == 0
    slurm.wait_for_state(run.learner, "PENDING")
    ended, delivered = run.progress(), logged_sequences(run.run_dir, actor=1)
    moved = slurm.call("scontrol", "update", f"jobid={run.learner}", "ReqNodeList=gpu02", cwd=home)
    assert moved.returncode == 0, moved.stderr
    slurm.wait_for(run.run_dir.rendezvous.exists, "the learner does not come back")
    second = run.rendezvous()
    run.wait_for_joins(2)
    run.wait_for_flow(delivered)
    waited_sec = time.time() - second.written_unix_sec
    assert waited_sec < FLOWS_AGAIN_SEC
    assert second.host == "gpu02"
    assert second.endpoint != first.endpoint
    run.wait_for_steps(200)
    assert slurm.field(run.actors, "Restarts") == "0"
    assert run.log("actor-1").count("playing as actor 1") == 2
    resumed = run.progress().jobs[1]
    assert (resumed.env_steps_start, resumed.updates_start) == (ended.env_steps, ended.updates)

    # The actors' node dies. The learner does not mind, and SLURM starts the actors again.
    slurm.node("fail", "cpu01")
    run.wait_for_steps(400)
    slurm.wait_for_state(run.actors, "PENDING")  # SLURM asks its nodes every half a minute
    slurm.node("revive", "cpu01")
    run.wait_for_joins(3)
    run.wait_for_flow(logged_sequences(run.run_dir, actor=1))
    assert len(run.progress().jobs) == 2, "the learner was disturbed"
    assert slurm.field(run.learner, "Restarts") == "1"

    # Cancelled and submitted again, to a target: there all jobs end, those of actors too.
    slurm.call("scancel", str(run.learner), cwd=home)
    slurm.wait_for_state(run.learner, "CANCELLED")
    slurm.wait_for(lambda: run.progress().jobs[-1].ended is not None, "the learner did not end well")
    target = run.progress().env_steps + 600
    last_job = run.submit("train_cpu", "gpu01", "--config", "quickstart", *run.overrides(target))
    run.wait_for_joins(4)
    slurm.wait_for_state(last_job, "COMPLETED")
    slurm.wait_for_state(run.actors, "COMPLETED")

    # Every step that was counted is in the log once, whatever happened.
    distinct, total, episodes = logged_positions(run.run_dir)
    last = run.progress()
    assert last.env_steps >= target
    assert distinct == total == last.env_steps
    assert episodes == last.episodes
