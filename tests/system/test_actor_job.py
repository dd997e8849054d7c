"""A job of actors alone where something is not as it should be; with a learner, see tests/cluster/test_nodes.py."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from run_fixtures import environment, overrides

from cluster_rl import actor
from cluster_rl.config import config_to_json, load_config, sequence_schema_hash, split_overrides
from cluster_rl.errors import UserError
from cluster_rl.jobs.signals import StopFlag
from cluster_rl.jobs.watchdog import Watchdog
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.lock import RunLock
from cluster_rl.runs.progress import Progress, save_progress
from cluster_rl.runs.rendezvous import Rendezvous, read_rendezvous, write_rendezvous
from cluster_rl.wire.actor_channel import ActorChannel


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    """A run that was trained by itself: it has a config without actor jobs."""
    run_dir = RunDir(tmp_path / "cluster_runs", "tiny").create()
    config = load_config("quickstart", split_overrides(overrides(learner_wait_seconds=1)))
    run_dir.config.write_bytes(config_to_json(config))
    return run_dir


def begin(run_dir: RunDir, *arguments: str, run_name: str = "tiny", **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cluster_rl.jobs.actor_job", "--run-name", run_name, *arguments],
        cwd=run_dir.root.parent,
        env=environment() | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = process.communicate(timeout=60)
    return process.returncode, said


def stale_rendezvous(run_dir: RunDir) -> None:
    """What a learner that was killed leaves behind."""
    found = Rendezvous(protocol=5, run="tiny", endpoint="tcp://127.0.0.1:9", public_key=None, incarnation=1)
    write_rendezvous(run_dir.rendezvous, found)


def test_no_such_run(run_dir: RunDir) -> None:
    code, said = end(begin(run_dir, run_name="other"))
    assert code == 2
    assert said.startswith("error: run 'other': not found")
    assert said.count("\n") == 1


def test_no_learner_comes(run_dir: RunDir) -> None:
    code, said = end(begin(run_dir))
    assert code == 0
    assert "waiting up to 1 s for a learner" in said
    assert "no learner within 1 s (learner_wait_seconds)" in said


def test_a_dead_learners_file_is_not_taken_for_its_word(run_dir: RunDir) -> None:
    stale_rendezvous(run_dir)
    code, said = end(begin(run_dir))
    assert code == 0
    assert "no learner within" in said


def test_a_learner_that_wants_no_actors(run_dir: RunDir) -> None:
    stale_rendezvous(run_dir)
    with RunLock(run_dir):  # it is not dead
        code, said = end(begin(run_dir, "--job", "2"))
    assert code == 2
    assert said.startswith("error: --job 2: run 'tiny' has 0 actor jobs")
    assert "--actor_jobs 2" in said
    assert said.count("\n") == 1


def wanted(run_dir: RunDir) -> None:
    """A run with an actor job, whose learner is thought to live."""
    run_dir.config.write_bytes(config_to_json(load_config("quickstart", ["actor_jobs=1", "num_actors=1"])))
    stale_rendezvous(run_dir)


def test_it_has_no_torch_of_its_own(run_dir: RunDir) -> None:
    """Its actors have; it waits for them as long as the job lasts."""
    wanted(run_dir)
    process = begin(run_dir)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("actors 1 to 1 of run ")
    assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()
    process.terminate()
    assert end(process)[0] == 0


def test_actors_that_do_not_fit(run_dir: RunDir) -> None:
    wanted(run_dir)
    code, said = end(begin(run_dir, SLURM_MEM_PER_NODE="100"))
    assert code == 2
    assert said.startswith("error: memory: about ")
    assert "(SLURM_MEM_PER_NODE)" in said
    assert said.count("\n") == 1


def test_requeued_after_the_run_is_complete(run_dir: RunDir) -> None:
    save_progress(run_dir.progress, Progress(run_name="tiny", target_total_steps=100, env_steps=100))
    started = time.monotonic()
    code, said = end(begin(run_dir, SLURM_RESTART_COUNT="1"))
    assert (code, said) == (0, "")
    assert time.monotonic() - started < 30


def test_an_actor_that_reaches_nobody_says_so(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(actor, "_FIRST_WORD_SEC", 0.2)
    stale_rendezvous(run_dir)
    config = load_config(run_dir.config)
    channel = ActorChannel(lambda: read_rendezvous(run_dir.rendezvous), 0, "tiny", sequence_schema_hash(config))
    watchdog = Watchdog(60)
    link = actor.WireLink(channel, config, StopFlag(), watchdog, patience_sec=1.0)
    assert not link.wait_for_params()
    assert link.stop_reason == "no learner for 1 s"
    assert capfd.readouterr().out.startswith("waiting for the learner at tcp://127.0.0.1:9 on ")
    watchdog.close()
    channel.close()


def test_its_own_wait_goes_before_the_runs(run_dir: RunDir) -> None:
    _, said = end(begin(run_dir, "--learner_wait_seconds", "2"))
    assert "no learner within 2 s" in said
    code, said = end(begin(run_dir, "--learner_wait_seconds", "-1"))
    assert (code, said) == (2, "error: --learner_wait_seconds -1.0: must be at least 0, and finite\n")


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGUSR2, 85), (signal.SIGTERM, 0)])
def test_signals_while_it_waits(run_dir: RunDir, number: signal.Signals, expected: int) -> None:
    config = load_config("quickstart", split_overrides(overrides(learner_wait_seconds=60)))
    run_dir.config.write_bytes(config_to_json(config))
    process = begin(run_dir)
    assert process.stdout is not None
    assert "waiting up to 60 s" in process.stdout.readline()
    process.send_signal(number)
    assert end(process)[0] == expected


@pytest.mark.parametrize(("job", "slot"), [(0, 99), (1, 0), (0, -1), (-1, 0)])
def test_an_actor_that_the_run_does_not_have_says_nothing_in_anothers_name(
    run_dir: RunDir, job: int, slot: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["actor", "--run-dir", str(run_dir.path), f"--job={job}", f"--slot={slot}"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(UserError, match=f"job {job}, slot {slot}: the run has 0 actor jobs"):
        actor.main()
    assert capfd.readouterr().out == ""
