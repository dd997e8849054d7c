"""What a run that was really played exports: the rows and logs that its own processes wrote."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import run_fixtures
import safetensors
import torch
from run_fixtures import Launcher

from cluster_rl.config import config_from_builtins, load_config
from cluster_rl.emulator.spaces import observation_spec
from cluster_rl.model import build_model, load_params
from cluster_rl.runs.checkpoint import read_params
from cluster_rl.runs.layout import RunDir


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder above `cluster_runs` of a tiny run that has ended."""
    folder = tmp_path_factory.mktemp("played")
    launcher = Launcher(folder, *run_fixtures.overrides(target_total_steps=1500, ram_hash_interval_steps=20))
    assert launcher.wait() == 0, launcher.output
    return folder


def export(folder: Path, *words: str) -> str:
    command = [sys.executable, "-m", "cluster_rl.export", "--run-name", "tiny", *words]
    done = subprocess.run(command, cwd=folder, env=run_fixtures.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stdout
    return done.stdout


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_tables_and_coordinates(played: Path) -> None:
    export(played, "--to", "csv")
    export(played, "--to", "coords")
    folder = played / "cluster_runs" / "tiny" / "exports"
    metrics, episodes = table(folder / "csv" / "metrics.csv"), table(folder / "csv" / "episodes.csv")
    assert int(metrics[-1]["env_steps"]) >= 1000
    assert len(table(folder / "csv" / "quests.csv")) > 3
    steps: dict[str, int] = {}
    for row in table(folder / "coords" / "coords.csv"):
        steps[row["episode"]] = steps.get(row["episode"], 0) + 1
        assert int(row["step"]) == steps[row["episode"]]
    assert sum(steps.values()) == sum(int(row["steps"]) for row in episodes)
    assert len(steps) == len(episodes) >= 10


def test_the_policy_plays_from_its_file(played: Path) -> None:
    assert "weights" in export(played, "--to", "safetensors")
    run_dir = RunDir(played / "cluster_runs", "tiny")
    with safetensors.safe_open(run_dir.exports / "policy.safetensors", "pt") as file:
        config = config_from_builtins(json.loads(file.metadata()["config"]), "metadata")
    assert config == load_config(run_dir.config)
    network = build_model(config, observation_spec(config))
    load_params(network, (run_dir.exports / "policy.safetensors").read_bytes())
    wanted = read_params(run_dir.online_params)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in network.state_dict().items())
