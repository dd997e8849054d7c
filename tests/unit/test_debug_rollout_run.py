"""What the rollout command tells of a run beside its play: curiosity's bonuses, and the quests' posteriors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster_rl.config import Config, config_to_json, load_config
from cluster_rl.debug_rollout import main
from cluster_rl.emulator.spaces import observation_spec
from cluster_rl.errors import EXIT_FAILURE, UserError
from cluster_rl.exploration.bayes_quests import Quest, QuestRules, assess_all, count_episode, frontier
from cluster_rl.exploration.rnd import Rnd
from cluster_rl.game.world import World
from cluster_rl.model import build_model
from cluster_rl.report import recording
from cluster_rl.report.overlay import Facts
from cluster_rl.runs.checkpoint import flatten_state, publish_params, save_checkpoint
from cluster_rl.runs.layout import RunDir
from cluster_rl.training.quest_rows import QuestRows


@pytest.fixture
def config() -> Config:
    return load_config("slim_cpu", ["episode_max_steps=20", "lstm_hidden_size=16", "w_rnd=0.1"])


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Config) -> RunDir:
    """A run `one` in the working directory, with parameters that nobody has trained."""
    monkeypatch.chdir(tmp_path)
    run_dir = RunDir("cluster_runs", "one").create()
    run_dir.config.write_bytes(config_to_json(config))
    torch.manual_seed(0)
    publish_params(run_dir.online_params, build_model(config, observation_spec(config)).state_dict())
    return run_dir


def report(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    decoded: dict[str, Any] = json.loads(capsys.readouterr().out)
    return decoded


def save(run_dir: RunDir, rnd: Rnd | None) -> Path:
    state = {"rnd": rnd.state_dict()} if rnd is not None else {"other": 1}
    tensors, tree = flatten_state(state)
    return save_checkpoint(run_dir.checkpoint, tensors, {"updates": 0, "run_id": "", "state": tree})


def known_places(config: Config) -> Rnd:
    """Curiosity that has seen everything: errors are far below the usual."""
    rnd = Rnd(config, observation_spec(config), "cpu", seed=1)
    rnd.inputs.count += 1
    rnd.errors.count += 1
    rnd.errors.mean += 1e6
    rnd.errors.variance += 1.0
    return rnd


# --- curiosity ---


def test_untrained_networks_score_where_nothing_is_trained(run_dir: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    found = report(capsys, "--steps", "300", "--rnd")["rnd"]  # more than are scored at once
    assert (found["networks"], found["steps"], found["not_finite"]) == ("untrained networks", 300, 0)
    assert 0 == found["bonus_min"] < found["bonus_mean"] < found["bonus_max"] <= 5
    assert "rnd" not in report(capsys, "--steps", "10")
    of_run = report(capsys, "--steps", "10", "--run-name", "one")["rnd"]
    assert of_run["networks"] == "untrained networks"
    save(run_dir, None)  # when w_rnd was 0
    assert report(capsys, "--steps", "10", "--run-name", "one")["rnd"] == of_run


@pytest.mark.parametrize("by", ["--run-name", "--checkpoint"])
def test_the_runs_own_curiosity_scores(
    run_dir: RunDir, config: Config, capsys: pytest.CaptureFixture[str], by: str
) -> None:
    path = save(run_dir, known_places(config))
    model = "one" if by == "--run-name" else str(run_dir.online_params)
    found = report(capsys, "--steps", "20", by, model)["rnd"]
    assert Path(found["networks"]) == path
    assert found["bonus_max"] == 1.0  # a new tile's own, with nothing for the place


@pytest.mark.parametrize("weight", [float("nan"), 1e30])
def test_a_bonus_that_is_not_finite_is_exit_code_1_and_one_line(
    run_dir: RunDir, config: Config, capsys: pytest.CaptureFixture[str], weight: float
) -> None:
    rnd = known_places(config)
    rnd.predictor.get_parameter("4.bias").data.fill_(weight)  # 1e30: infinite errors
    path = save(run_dir, rnd)
    assert main(["--steps", "20", "--run-name", "one", "--json"]) == EXIT_FAILURE
    said = capsys.readouterr()
    assert said.err == f"error: 20 of 20 RND bonuses are not finite, by {path}\n"
    found = json.loads(said.out)["rnd"]
    assert found["not_finite"] == 20
    assert found["bonus_max"] is None  # of the finite ones


def test_a_checkpoint_of_another_shape_is_refused(run_dir: RunDir, config: Config) -> None:
    rnd = known_places(config)
    state = rnd.state_dict()
    state["tensors"]["target.0.weight"] = torch.zeros(3, 3)
    tensors, tree = flatten_state({"rnd": state})
    save_checkpoint(run_dir.checkpoint, tensors, {"updates": 0, "run_id": "", "state": tree})
    with pytest.raises(UserError, match=r"checkpoint of the curiosity") as error:
        main(["--steps", "5", "--run-name", "one"])
    assert "\n" not in str(error.value)


# --- quests ---


def write_quests(run_dir: RunDir, config: Config) -> tuple[dict[str, Any], list[str]]:
    """Writes what is known after 40 episodes, of which all reach the first quest and half the second; returns it."""
    quests = [Quest(milestone.name, milestone.required, 0) for milestone in World.cartridge().milestones_from("")]
    rules = QuestRules.from_config(config, quests)
    records: dict[str, Any] = {}
    for number in range(40):
        reached = [(quests[0].name, 3), (quests[1].name, 5)][: 1 + number % 2]
        count_episode(records, rules, start=[], reached=reached, steps=20, ended_by_game=False)
    rows = QuestRows(run_dir)
    rows.write(40, 800, records, rules)
    rows.close()
    return dict(assess_all(records, rules)), frontier(records, rules)


def test_the_posteriors_of_a_run_are_told(run_dir: RunDir, config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    states, ahead = write_quests(run_dir, config)
    found = report(capsys, "--steps", "0", "--run-name", "one")["quests"]
    assert (found["episodes"], found["env_steps"], found["frontier"]) == (40, 800, ahead)
    assert list(found["quests"]) == list(states)
    for name, state in states.items():
        told = found["quests"][name]
        assert told["mean"] == pytest.approx(state.mean)
        assert (told["trials"], told["level"]) == (40, state.level)
    assert main(["--steps", "0", "--run-name", "one"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("quests after 40 episodes, 800 steps of the run:")
    second = list(states)[1]
    half = states[second]
    assert ahead == [second]
    assert [line.split()[0] for line in lines[at + 1 :]] == list(states)
    assert lines[at + 2].split(maxsplit=1)[1] == (
        f"{half.mean:.3f} ({half.low:.3f} to {half.high:.3f}), 20 of 40 episodes, alarm {half.alarm:.2f} {half.level}, "
        "frontier"
    )
    assert not lines[at + 1].endswith("frontier")


def test_the_frontier_is_drawn(
    run_dir: RunDir, config: Config, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    states, [name] = write_quests(run_dir, config)
    seen: list[Facts] = []
    overlay = recording.overlay
    monkeypatch.setattr(recording, "overlay", lambda frame, facts: (seen.append(facts), overlay(frame, facts))[1])
    report(capsys, "--steps", "1", "--run-name", "one", "--png", "--overlay")
    [chance] = seen[0].chances
    assert chance.title == "stepped out of the house"
    assert (chance.mean, chance.low, chance.high) == pytest.approx(
        (states[name].mean, states[name].low, states[name].high)
    )


def test_a_run_without_episodes_says_so_in_a_line(run_dir: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    for text in (None, "", '{"half a row'):
        if text is not None:
            run_dir.quests.write_text(text)
        assert report(capsys, "--steps", "0", "--run-name", "one")["quests"] is None
        assert main(["--steps", "0", "--run-name", "one"]) == 0
        assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("quests")] == [
            "quests: none yet; the learner tells of them when the run's first episode has ended"
        ]
    assert "quests" not in report(capsys, "--steps", "0")


def test_a_damaged_row_is_one_line(run_dir: RunDir) -> None:
    run_dir.quests.write_text('{"episodes": -1}\n')
    with pytest.raises(UserError, match=r"quests\.jsonl: damaged") as error:
        main(["--steps", "0", "--run-name", "one"])
    assert "\n" not in str(error.value)
