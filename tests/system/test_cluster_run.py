"""The main job with real processes: progress, parameters, accounting through crashes, stopping and resuming."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from run_fixtures import Launcher, ended_for, logged_positions, logged_sequences, overrides, processes_of

from cluster_rl.config import load_config
from cluster_rl.emulator.spaces import observation_spec
from cluster_rl.errors import EXIT_UNFINISHED
from cluster_rl.jobs.host_needs import host_needs
from cluster_rl.runs.rendezvous import read_rendezvous
from cluster_rl.training.metrics import read_metrics

METRICS_PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


def undocumented(names: set[str]) -> set[str]:
    """Metrics that the page has no row for. NAME and STAT there stand for any last part."""
    known = set(re.findall(r"`([\w/]+)`", METRICS_PAGE.read_text()))
    return {
        name
        for name in names
        if not known & {name, *(f"{name.rpartition('/')[0]}/{any_}" for any_ in ("NAME", "STAT"))}
    }


def test_run_is_killed_stopped_and_resumed_without_losing_count(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path, *overrides(target_total_steps=10_000_000))
    run_dir = launcher.run_dir
    launcher.wait_for(lambda p: p.updates >= 5)
    place = read_rendezvous(run_dir.rendezvous)
    assert place is not None
    assert place.public_key is not None, "the wire is not encrypted"

    # A killed actor is back within seconds.
    victim = next(iter(launcher.children("actor")))
    os.kill(victim, signal.SIGKILL)
    before = launcher.wait_for(lambda p: len(launcher.children("actor").keys() - {victim}) == 2)
    after = launcher.wait_for(lambda p: p.env_steps > before.env_steps + 300)

    # So is a killed learner, with the actors that were there.
    learner = next(iter(launcher.children("learner")))
    actors = set(launcher.children("actor"))
    os.kill(learner, signal.SIGKILL)
    launcher.wait_for(lambda p: p.env_steps > after.env_steps + 600 and p.updates > 0)
    assert set(launcher.children("actor")) == actors

    # TERM: everything down within 15 s, the reason written, nobody left.
    code, seconds = launcher.terminate()
    assert code == 0, launcher.output
    assert seconds < 15
    assert processes_of(run_dir) == []
    stopped = launcher.progress()
    assert stopped is not None
    assert [job.reason for job in stopped.jobs] == ["signal SIGTERM"]
    distinct, counted, episodes = logged_positions(run_dir)
    assert distinct == counted == stopped.env_steps
    assert episodes == stopped.episodes > 0

    weights = torch.load(run_dir.online_params, weights_only=True)
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())

    # The same command goes on from there, and ends by itself at the target.
    target = stopped.env_steps + 400
    resumed = Launcher(tmp_path, *overrides(target_total_steps=target))
    assert resumed.wait() == 0, resumed.output
    for word in ("weights", "target", "optimiser", "counters", "replay", "priorities", "RNG", "limiter"):
        assert word in resumed.output
    progress = resumed.progress()
    assert progress is not None
    first, second = progress.jobs
    assert (second.env_steps_start, second.updates_start) == (stopped.env_steps, stopped.updates)
    assert (first.env_steps_end, first.updates_end) == (stopped.env_steps, stopped.updates)
    assert progress.env_steps >= target
    assert progress.episodes > stopped.episodes
    assert progress.updates > stopped.updates
    assert second.reason == "target_total_steps reached"
    records = [json.loads((run_dir.jobs / name).read_bytes()) for name in ("001.json", "002.json")]
    assert [record["config_sha256"] for record in records] == [first.config_sha256, second.config_sha256]
    assert records[1]["config"]["target_total_steps"] == target
    assert "cluster_rl.train_cluster" in records[1]["command"]
    distinct, counted, episodes = logged_positions(run_dir)
    assert distinct == counted == progress.env_steps
    assert episodes == progress.episodes

    rows = read_metrics(run_dir.metrics)
    steps = [row["env_steps"] for row in rows]
    assert steps == sorted(steps)
    assert {"learner/loss", "lag/acting/mean", "reward/novelty", "samples_per_insert"} <= set(rows[-1])
    assert list(run_dir.tensorboard.glob("events.*"))
    assert undocumented(set().union(*rows)) == set()


def _assert_memory_is_as_reckoned(launcher: Launcher) -> None:
    config = load_config(launcher.run_dir.config)
    needs = host_needs(config, observation_spec(config), "cpu")
    for module, reckoned in (("actor", needs.actor), ("learner", needs.learner)):
        for pid in launcher.children(module):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            own = next(1024 * int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))
            assert own < 1.15 * reckoned, (module, own, reckoned)


def test_a_second_launcher_is_refused_and_an_actor_ended_from_outside_comes_back(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path, *overrides())
    # Both play.
    launcher.wait_for(lambda p: all(logged_sequences(launcher.run_dir, actor) for actor in (0, 1)))
    _assert_memory_is_as_reckoned(launcher)
    second = Launcher(tmp_path, *overrides())
    assert second.wait() == 2
    assert f"process {launcher.process.pid}" in second.output
    assert len(second.output.strip().splitlines()) == 1
    (victim,) = (pid for pid, line in launcher.children("actor").items() if line.rstrip().endswith("--slot 1"))
    os.kill(victim, signal.SIGTERM)
    launcher.wait_for(lambda p: victim not in launcher.children("actor"))
    launcher.wait_for(lambda p: len(launcher.children("actor")) == 2 and p.updates > 0)
    # A batch system's warning: all is saved and the run is not complete.
    code, _ = launcher.terminate(signal.SIGUSR2)  # after a warning there are minutes for a checkpoint
    assert code == EXIT_UNFINISHED
    stopped = launcher.progress()
    assert stopped is not None
    assert stopped.jobs[-1].reason == "signal SIGUSR2"
    assert "actor-1 was ended from outside" in launcher.output


@pytest.mark.parametrize("module", ["train_cluster", "train_slim"])
def test_a_job_whose_time_is_up_says_so(tmp_path: Path, module: str) -> None:
    changes = overrides(max_runtime_seconds=4) + (["--no-video"] if module == "train_slim" else [])
    launcher = Launcher(tmp_path, *changes, module=module)
    assert launcher.wait() == EXIT_UNFINISHED, launcher.output
    progress = launcher.progress()
    assert progress is not None
    (job,) = progress.jobs
    assert ended_for(job, "max_runtime_seconds reached")  # on a slow machine nothing was learned by then
    assert (launcher.run_dir.checkpoint).exists()
    for name in ("learner", "actor-0", "actor-1") if module == "train_cluster" else ():
        lines = (launcher.run_dir.logs / f"{name}.log").read_text().splitlines()
        assert lines
        assert all(re.match(rf"[\d-]{{10}} [\d:]{{8}} {name}\[\d+\] \S", line) for line in lines), lines


def test_children_die_with_a_killed_launcher(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path, *overrides())
    launcher.wait_for(lambda p: p.env_steps > 0)
    launcher.process.kill()
    launcher.wait()
    deadline = time.monotonic() + 20
    while processes_of(launcher.run_dir) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes_of(launcher.run_dir) == []
    distinct, counted, _ = logged_positions(launcher.run_dir)
    assert distinct == counted > 0
