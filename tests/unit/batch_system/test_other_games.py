"""A ROM that is not the cartridge in SLURM's way: the job scripts' presets, what `cluster` says, and the run's name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from blank_rom import blank_rom
from slurm_programs import job_programs, put_program

from cluster_rl import cluster
from cluster_rl.batch_system.job_script import SCRIPTS
from cluster_rl.batch_system.settings import read_settings
from cluster_rl.batch_system.submission import Plan, make_plan
from cluster_rl.config import load_config
from cluster_rl.errors import EXIT_UNFINISHED
from cluster_rl.runs.identity import ensure_identity
from cluster_rl.runs.layout import RunDir


@pytest.fixture
def red(home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A Red that settings.env names."""
    path = str(blank_rom(home, "POKEMON RED", "red.gb"))
    with (home / "slurm" / "settings.env").open("a") as file:
        file.write(f"CLUSTER_RL_ROM={path}\n")
    return path


def plan(script: str, *trainer: str) -> Plan:
    options = {"runs": "cluster_runs", "run_name": "one", "actor_jobs": 0, "seeds": None, "chain": False}
    return make_plan(read_settings(), script, sbatch_options=[], trainer=trainer, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("script", "preset"),
    [("train_gpu", "red"), ("train_cpu", "red_cpu"), ("slim_cpu", "red_cpu"), ("slim_gpu", "slim")],
)
def test_the_job_scripts_take_reds_presets(script: str, preset: str, red: str) -> None:
    assert plan(script).config == load_config(preset, [f"rom={red}"])
    assert plan(script, "--rom=").config == load_config(
        script.removeprefix("train_").replace("slim_gpu", "slim"), ["rom="]
    )
    assert plan(script, "--config", "cpu").config == load_config("cpu", [f"rom={red}"])


def test_a_script_of_ones_own_that_names_a_config_keeps_it(red: str) -> None:
    (SCRIPTS / "mine.sbatch").write_text('#!/bin/bash\n. slurm/job.sh\nrun_job train_cluster --config cpu "$@"\n')
    assert plan("mine").config == load_config("cpu", [f"rom={red}"])


def test_check_and_status_warn(
    home: Path, red: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put_program(job_programs(home), "squeue", "true")
    put_program(job_programs(home), "sbatch", "true")
    run_dir = RunDir("cluster_runs", "one").create()
    ensure_identity(run_dir.identity, "0" * 40, "POKEMON YELLOW")
    cluster.print_status(run_dir)
    assert "WARNING: the game 'POKEMON YELLOW' is not Pokémon Red" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["cluster", "check", "--run-name", "two", "--script", "train_cpu"])
    assert cluster.main() == 0
    said = capsys.readouterr().out
    assert "config: red_cpu, as this is " in said
    run = next(line for line in said.splitlines() if line.startswith("ok  run: "))
    assert "WARNING: the game 'POKEMON RED' is not Pokémon Red" in run


def test_a_job_without_a_run_name_concludes_the_run_of_reds_preset(
    red: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    after_job = ["cluster", "after-job", "--module", "train_slim", "--exit-code", "85", "--"]
    # As the job scripts call it: the ROM of settings.env, the script's own default, and what was given.
    trainer = ["--rom", red, "--default-config", "slim_cpu", "--no-video", "--gamma", "0.9"]
    for more, run_name in (([], "red_cpu"), (["--rom="], "slim_cpu"), (["--config", "mine.yaml"], "mine")):
        monkeypatch.setattr(sys, "argv", [*after_job, *trainer, *more])
        assert cluster.main() == EXIT_UNFINISHED
        assert f"run {run_name}: " in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*after_job, *trainer, "--rom", "none.gb"])
    assert cluster.main() == EXIT_UNFINISHED
    assert capsys.readouterr().out == ""
