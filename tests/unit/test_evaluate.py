"""Evaluation: whole episodes, the same for a seed, with intervals that mean what they say."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch

from cluster_rl.config import load_config
from cluster_rl.emulator.env import EpisodeSummary
from cluster_rl.errors import UserError
from cluster_rl.evaluate import load_network, play_episodes, report, wilson_interval
from cluster_rl.game.world import World
from cluster_rl.model import build_model
from cluster_rl.runs.checkpoint import publish_params
from cluster_rl.runs.episode_log import read_log
from cluster_rl.spaces import observation_spec

CONFIG = load_config("slim_cpu", ["episode_max_steps=30", "lstm_hidden_size=16", "num_quantiles=4"])


@pytest.fixture
def params(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    publish_params(tmp_path / "online_params.pt", build_model(CONFIG, observation_spec(CONFIG)).state_dict())
    return tmp_path / "online_params.pt"


def test_episodes_are_whole_and_repeatable(params: Path, tmp_path: Path) -> None:
    network = load_network(CONFIG, params)
    first = play_episodes(CONFIG, network, 10, seed=1, log_dir=tmp_path / "logs")
    assert len(first) == 10
    assert {summary.episode_steps for summary in first} == {30}
    assert first == play_episodes(CONFIG, network, 10, seed=1)
    assert first != play_episodes(CONFIG, network, 10, seed=2)
    assert first != play_episodes(CONFIG, network, 10, seed=1, random=True)
    logs = [read_log(path) for path in (tmp_path / "logs").iterdir()]
    assert sorted(log.header.seed for log in logs) == sorted(summary.seed for summary in first)


def test_report(params: Path) -> None:
    def summary(value: float, milestones: list[tuple[str, int]]) -> EpisodeSummary:
        return EpisodeSummary(
            episode_steps=10,
            episode_return=value,
            terms={"event": value},
            milestones=milestones,
            final_map=0,
            reason="truncated",
            seed=1,
        )

    name = World.cartridge().milestones[0].name
    found = report([summary(1.0, [(name, 4)]), summary(3.0, [])], World.cartridge())
    assert found["return"]["mean"] == 2.0
    assert found["return"]["half_interval"] == pytest.approx(1.96 * 2**0.5 / 2**0.5, rel=1e-3)
    assert found["milestones"] == {
        name: {"episodes": 1, "share": 0.5, "interval": wilson_interval(1, 2), "median_step": 4.0}
    }
    msgspec.json.encode(found)


def test_wilson_interval() -> None:
    # Worked by hand: 9 of 10, z = 1.96.
    low, high = wilson_interval(9, 10)
    assert (low, high) == (pytest.approx(0.5958, abs=1e-3), pytest.approx(0.9821, abs=1e-3))
    assert wilson_interval(0, 10)[0] == 0.0
    assert wilson_interval(10, 10)[1] == pytest.approx(1.0)


def test_bad_parameters_are_named(params: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not there yet"):
        load_network(CONFIG, tmp_path / "missing.pt")
    (tmp_path / "bad.pt").write_bytes(params.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"bad\.pt"):
        load_network(CONFIG, tmp_path / "bad.pt")
    with pytest.raises(UserError, match="online_params"):
        load_network(load_config("slim_cpu"), params)
