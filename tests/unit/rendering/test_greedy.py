"""`replayer --greedy`: what a run has learned, played and rendered by one command."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from terminals import on_terminal

from cluster_rl.config import config_to_json, load_config
from cluster_rl.emulator.spaces import observation_spec
from cluster_rl.model import build_model
from cluster_rl.replayer import parse_arguments, run
from cluster_rl.runs.checkpoint import publish_params
from cluster_rl.runs.episode_log import read_log
from cluster_rl.runs.layout import RunDir

STEPS = 12
CONFIG = load_config("slim_cpu", [f"episode_max_steps={STEPS}", "lstm_hidden_size=16", "num_quantiles=4"])


@pytest.fixture
def trained(tmp_path: Path) -> RunDir:
    """A run with a config and, as good as any, random parameters."""
    run_dir = RunDir(tmp_path, "mine").create()
    run_dir.config.write_bytes(config_to_json(CONFIG))
    torch.manual_seed(0)
    publish_params(run_dir.online_params, build_model(CONFIG, observation_spec(CONFIG)).state_dict())
    return run_dir


def test_it_is_played_and_rendered_each_time_anew(trained: RunDir) -> None:
    arguments = ["--runs", str(trained.root), "--run-name", "mine", "--greedy", "--fps", "2", "--workers", "1"]
    shown, out = on_terminal([sys.executable, "-m", "cluster_rl.replayer", *arguments])
    assert "1 episodes, 1 distinct, from the beginning, greedy, seed 1" in out
    assert f"{STEPS} steps" in out
    assert "rendering: " in shown
    [log] = (trained.greedy / "episode_logs").iterdir()
    header = read_log(log).header
    assert (header.steps, header.epsilon, header.complete) == (STEPS, 0.0, True)
    [video] = (trained.greedy / "videos").glob("*.mp4")
    assert video.name.startswith(f"{log.stem}_r")
    assert video.name.endswith("_eps0.mp4")
    assert not trained.videos.exists()
    assert list(trained.episode_logs.iterdir()) == []
    # What was played before is not played or rendered again, and stays in the list.
    assert run(parse_arguments([*arguments, "--greedy", "2", "--best", "1", "--format", "gif"])) == 0
    assert len(list((trained.greedy / "episode_logs").iterdir())) == 3
    assert len(list((trained.greedy / "videos").glob("*.gif"))) == 1
    page = (trained.greedy / "videos" / "index.html").read_text()
    assert "Videos of 2 episodes" in page


def test_without_parameters_it_ends_as_evaluate_does(trained: RunDir, capfd: pytest.CaptureFixture[str]) -> None:
    trained.online_params.unlink()
    assert run(parse_arguments(["--runs", str(trained.root), "--run-name", "mine", "--greedy"])) == 2
    assert "online_params.pt: not there yet" in capfd.readouterr().err
    assert not (trained.greedy / "videos").exists()
