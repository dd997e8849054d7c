"""What a job takes of a machine, against real processes; and what is refused and warned of."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from cluster_rl.config import Config, load_config
from cluster_rl.configs.files import PRESET_DIR
from cluster_rl.emulator.spaces import observation_spec
from cluster_rl.errors import UserError
from cluster_rl.jobs import opening
from cluster_rl.jobs.host_needs import EMULATOR_BYTES, check_here, check_memory, core_warning, host_needs
from cluster_rl.jobs.machine import Limit
from cluster_rl.jobs.opening import dry_run, open_job
from cluster_rl.runs.evaluation import EMULATORS
from cluster_rl.runs.layout import RunDir

BENCH = Path(__file__).parents[3] / "scripts/bench/memory.py"
NONE = Limit(math.inf, "nobody")


def config(*overrides: str) -> Config:
    return load_config("cpu", overrides)


def refusal(
    settings: Config, limit_bytes: float, device: str = "cpu", process: Limit = NONE, learner: bool = True
) -> str:
    needs = host_needs(settings, observation_spec(settings), device, learner=learner)
    with pytest.raises(UserError) as error:
        check_memory(needs, Limit(limit_bytes, "SLURM_MEM_PER_NODE"), process)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.slow
def test_real_processes_take_what_was_reckoned() -> None:
    small = ["--envs_per_actor", "2", "--steps", "60"]
    done = subprocess.run([sys.executable, BENCH, *small], capture_output=True, text=True, check=True, timeout=120)
    figures = [[float(word) for word in line.split() if word.isdecimal()] for line in done.stdout.splitlines()]
    assert len(figures) == 4
    for taken, reckoned in figures:
        assert 0.6 * reckoned < taken < 1.2 * reckoned, done.stdout


def test_too_many_actors() -> None:
    words = refusal(config("num_actors=100"), 16e9)
    assert words.startswith("memory: about 19.4 GB: 100 actors of 187 MB, the learner ")
    assert "; 16.0 GB is there (SLURM_MEM_PER_NODE); give at most --num_actors 81" in words
    fitting = config("num_actors=81")
    check_memory(host_needs(fitting, observation_spec(fitting), "cpu"), Limit(16e9, ""), NONE)
    assert "give at most --num_actors" in refusal(config("num_actors=100"), 16e9, learner=False)


def test_another_projects_environment_takes_its_own() -> None:
    few = ("envs_per_actor=8", "evaluate_interval_seconds=600")
    ours, its = config(*few), config(*few, "puffer=checkout")
    needs = [host_needs(each, observation_spec(each), "cpu") for each in (ours, its)]
    assert needs[1].actor - needs[0].actor == 55e6 + 8 * 10e6
    assert needs[1].evaluation - needs[0].evaluation == 55e6 + min(EMULATORS, ours.evaluate_episodes) * 10e6


def test_the_key_is_of_what_takes_most() -> None:
    assert "give a smaller --envs_per_actor" in refusal(config("num_actors=1", "envs_per_actor=64"), 0.97e9)
    assert "every job takes 845 MB" in refusal(config("num_actors=1"), 0.6e9)
    large = ["unroll_length=400", "batch_size=1024"]
    assert "give a smaller --batch_size" in refusal(config(*large), 4e9)
    wide = "model.conv_channels=[1024,1024,1024,1024]"
    assert "give a smaller --model.conv_channels or --lstm_hidden_size" in refusal(
        config(wide), 1.5e9, "cuda", learner=True
    )


def test_what_was_not_measured_refuses_nothing() -> None:
    settings = config()
    needs = host_needs(settings, observation_spec(settings), "cuda")
    assert str(needs).endswith(", and perhaps 2.0 GB for CUDA")
    assert check_memory(needs, Limit(needs.total + 2.1e9, "a test"), NONE) == ""
    words = check_memory(needs, Limit(needs.total + 1.9e9, "a test"), NONE)
    assert words.startswith("WARNING: memory may be short: ")
    assert "(a test), and with the 2.0 GB that CUDA may take the job has " in words
    refusal(settings, 0.99 * needs.total, "cuda")


def test_each_process_may_have_less() -> None:
    assert "the learner takes about 1.2 GB of address space, and each process may have 1.0 GB (ulimit -v)" in refusal(
        config(), 1e12, process=Limit(1e9, "ulimit -v")
    )
    assert "an actor takes about" in refusal(config(), 1e12, process=Limit(0.9e9, "ulimit -v"), learner=False)


def test_an_evaluation_takes_memory_where_there_is_one() -> None:
    beside = config("evaluate_interval_seconds=60")
    spec = observation_spec(beside)
    plain, needs = host_needs(config(), spec, "cpu"), host_needs(beside, spec, "cpu")
    assert plain.evaluation == host_needs(beside, spec, "cpu", learner=False).evaluation == 0
    assert needs.total == plain.total + needs.evaluation
    assert needs.evaluation > 175e6
    assert ", an evaluation 190 MB" in str(needs)
    assert "an evaluation" not in str(plain)
    one = host_needs(config("evaluate_interval_seconds=60", "evaluate_episodes=1"), spec, "cpu")
    assert needs.evaluation - one.evaluation == 7 * EMULATOR_BYTES
    refusal(beside, (needs.total + plain.total) / 2)


def test_more_actors_than_cores_are_slow() -> None:
    assert core_warning(config("num_actors=2"), Limit(2, "this machine")) == ""
    words = core_warning(config("num_actors=100"), Limit(2, "SLURM_CPUS_PER_TASK"))
    assert words.startswith("WARNING: 100 actors on 2 cores (SLURM_CPUS_PER_TASK)")
    assert "--num_actors 2 would play as fast" in words


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESET_DIR.glob("*.yaml")))
def test_what_is_not_counted_is_bounded(preset: str) -> None:
    """A job that starts is counted exactly only where the bound does not fit."""
    settings = load_config(preset)
    spec = observation_spec(settings)
    counted, bounded = (host_needs(settings, spec, "cpu", exactly=exactly) for exactly in (True, False))
    assert bounded.total > counted.total
    large = load_config(preset, ["num_quantiles=200", "batch_size=2", "occupancy_crop_radius=16"])
    spec = observation_spec(large)
    counted, bounded = (host_needs(large, spec, "cpu", exactly=exactly) for exactly in (True, False))
    assert bounded.total > counted.total


def test_slurms_word_refuses_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = RunDir(tmp_path, "r")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "1000")
    with pytest.raises(
        UserError, match=r"memory: about 1\.1 GB: .* \(SLURM_MEM_PER_NODE\); give at most --num_actors 1"
    ):
        dry_run(config(), run_dir)
    with pytest.raises(UserError, match="SLURM_MEM_PER_NODE"), open_job(config(), run_dir):
        pass
    assert not run_dir.exists()
    # In one process there are no actors of their own.
    capsys.readouterr()
    dry_run(config(), run_dir, serial=True)
    assert "2 actors of 12 MB, the learner" in capsys.readouterr().out
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "8000")
    dry_run(config(), run_dir)
    assert "WARNING: 2 actors on 1 core (SLURM_CPUS_PER_TASK)" in capsys.readouterr().out
    assert "WARNING: 2 actors" in check_here(config(), observation_spec(config()), "cpu")[0]


def test_what_fits_after_counting_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config("batch_size=64")
    spec = observation_spec(settings)
    counted = host_needs(settings, spec, "cpu").total
    assert host_needs(settings, spec, "cpu", exactly=False).total > 1.2 * counted
    monkeypatch.setattr("cluster_rl.jobs.host_needs.memory_limit", lambda: Limit(1.1 * counted, "a test"))
    check_here(settings, spec, "cpu")
    monkeypatch.setattr("cluster_rl.jobs.host_needs.memory_limit", lambda: Limit(0.9 * counted, "a test"))
    with pytest.raises(UserError, match="a test"):
        check_here(settings, spec, "cpu")


def test_settings_that_change_are_in_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = RunDir(tmp_path, "r").create()
    opening.begin_job(config(), run_dir, opening.check_job(config(), run_dir).rom)
    (run_dir.replay / "segment-00000001.log").touch()
    dry_run(config("gamma=0.5", "num_actors=1"), run_dir)
    assert "not as in the run's last job: num_actors 1 (was 2), gamma 0.5 (was 0.97)\n" in capsys.readouterr().out
