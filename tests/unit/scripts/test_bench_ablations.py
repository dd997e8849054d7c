"""The comparison of our agent with and without its parts: its tasks, its table, and a small training of it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from cluster_rl.cartridge.compile_content import read_world
from cluster_rl.config import Config, config_from_builtins, load_config
from cluster_rl.emulator.env import make_env
from cluster_rl.errors import UserError
from cluster_rl.runs.layout import RunDir

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))  # scripts/ is no part of the package

from scripts.bench.ablations import __main__ as command  # noqa: E402
from scripts.bench.ablations import greedy, report, tasks  # noqa: E402
from scripts.bench.learning import __main__ as learning  # noqa: E402
from scripts.bench.learning.agents import settings  # noqa: E402
from scripts.bench.learning.record import Recorder, Training  # noqa: E402
from scripts.bench.learning.unmasked_actor import NoAffordances  # noqa: E402

TINY = ["--num_actors", "1", "--envs_per_actor", "2", "--episode_max_steps", "60", "--unroll_length", "10"]
TINY += ["--burn_in", "5", "--min_replay_transitions", "100", "--lstm_hidden_size", "16"]


@pytest.mark.parametrize("name", tasks.TASKS)
def test_each_arm_differs_from_the_whole_agent_in_something(name: str) -> None:
    task = tasks.TASKS[name]
    assert next(iter(task.arms)) == tasks.WHOLE
    made = [(task.arms[arm].agent, task.config(arm)) for arm in task.arms]
    assert all(one != other for index, one in enumerate(made) for other in made[:index])
    assert len({config.rom for _, config in made}) == 1
    env = make_env(made[0][1], 0)
    try:
        env.start()
        assert task.milestone in {milestone.name for milestone in env.world.milestones_ahead(env.state)}
    finally:
        env.close()


def _places(*cells: tuple[int, int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.array(cells, np.uint8)


def test_noise_is_seen_where_it_is_on_the_screen() -> None:
    noise = (13, 20, 10)
    inside = _places((13, 20, 10), (13, 24, 14), (13, 15, 6), (13, 24, 6))
    outside = _places((12, 20, 10), (13, 25, 10), (13, 14, 10), (13, 20, 15), (13, 20, 5), (13, 0, 0))
    assert greedy.sees(inside, noise).all()
    assert not greedy.sees(outside, noise).any()


def test_the_flickering_box_is_where_the_task_says() -> None:
    noise = tasks.TASKS["noisy_tv"].noise
    assert noise is not None
    world = read_world("lanternvale")
    (entry,) = (entry for entry in world["map"] if entry.get("flicker"))
    rows = entry["cells"].strip("\n").splitlines()
    static = {cell["key"] for cell in world["cells"] if "static" in cell["tiles"]}
    found = [(entry["id"], x, y) for y, row in enumerate(rows) for x, key in enumerate(row) if key in static]
    assert found[0] == noise


def _record(folder: Path, seed: int, reached: list[bool], agent: str = "r2d2") -> None:
    """A training with an episode every 100 steps, and 10 greedy episodes of which as many solved it as the last 10."""
    recorder = Recorder(folder / "raw" / f"{agent}-seed{seed}.jsonl", agent, seed, {})
    for number, is_reached in enumerate(reached, start=1):
        summary = {
            "episode_return": 1.0,
            "episode_steps": 100,
            "terms": {},
            "milestones": [("CAVE", 7)] if is_reached else [],
            "reason": "truncated",
            "start": {"id": "cave", "tag": "school", "milestones": []},
        }
        recorder.episode(summary, 100 * number)
    recorder.close(100 * len(reached))
    path = folder / "greedy" / f"seed{seed}.json"
    path.parent.mkdir(exist_ok=True)
    share = 0.25 * seed
    path.write_bytes(msgspec.json.encode(greedy.Greedy(episodes=10, solved=sum(reached[-10:]), noise_share=share)))


def test_the_table_holds_arms_against_the_whole_agent(tmp_path: Path) -> None:
    folder = tmp_path / "noisy_tv"
    for seed in (1, 2):
        _record(folder / tasks.WHOLE, seed, [False] * 10 + [True] * 30)
        _record(folder / "no_counts", seed, [False] * 31 + [True] * (9 if seed == 1 else 8))
    lines = report.table(tmp_path, tasks.TASKS).strip().splitlines()
    assert len(lines) == 4  # tasks without records are left out
    whole, without = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:])
    assert whole[1:5] == ["2", "2 of 2", "1,900 [1,900, 1,900]", "1.00"]
    assert whole[5:] == ["100% [100%, 100%]", "38% [25%, 50%]"]
    # One seed is there with the last episode, the other never: both count with all the steps of the training.
    assert without[1:5] == ["2", "1 of 2", "at least 3,950 [3,900, 4,000]", "at least 2.08"]
    assert without[5] == "85% [80%, 90%]"


def test_a_game_is_told_gate_by_gate(tmp_path: Path) -> None:
    folder = tmp_path / "lanternvale"
    gates = tasks.TASKS["lanternvale"].gates
    assert len(gates) == 12
    for seed, came in ((1, 3), (2, 2), (3, 0)):
        recorder = Recorder(folder / "go_explore" / "raw" / f"explore-seed{seed}.jsonl", "explore", seed, {})
        for number, gate in enumerate(gates[:came], start=1):
            recorder.milestones([gate], 1000 * seed * number)
        recorder.close(9000)
    _record(folder / tasks.WHOLE, 1, [False] * 40)
    lines = report.table(tmp_path, tasks.TASKS).strip().splitlines()
    assert "| Go-Explore: the archive and our random actions | 3 | 0 of 3 |" in lines[3]
    assert lines[3].endswith("| - |")  # it has no greedy play
    whole, go_explore = zip(*(line.strip("| ").split(" | ")[1:] for line in lines[7:19]), strict=True)
    assert set(whole) == {"- (0)"}
    assert go_explore == ("2,000 (2)", "4,000 (2)", "- (1)", *["- (0)"] * 9)


def test_a_task_without_the_whole_agent_has_no_ratio(tmp_path: Path) -> None:
    for seed in (10, 9):
        _record(tmp_path / "noisy_tv" / "no_counts", seed, [True] * 20)
    line = report.table(tmp_path, tasks.TASKS).strip().splitlines()[-1]
    assert line.split(" | ")[4] == "-"
    assert "nan" not in line


def test_what_greedy_play_left_is_read_or_refused_in_a_line(tmp_path: Path) -> None:
    _record(tmp_path, 1, [True] * 10)
    path = tmp_path / "greedy" / "seed1.json"
    assert greedy.read_greedy(tmp_path / "none.json") is None
    assert greedy.read_greedy(path) == greedy.Greedy(episodes=10, solved=10, noise_share=0.25)
    for damaged in (path.read_bytes()[:14], b'{"episodes": 10, "solved": 1}', b"", b"\xff" * 9):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"seed1\.json: .*; delete it, and the episodes are played again"):
            greedy.read_greedy(path)


def _call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["ablations", *arguments])
    return command.main()


def test_a_table_without_records_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(UserError, match="no complete records; run without --plot-only first"):
            _call(monkeypatch, "--plot-only", "--out", str(folder))
    assert not list(tmp_path.iterdir())


def test_other_settings_are_refused_before_any_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _record(tmp_path / "forest" / "no_curiosity", 2, [True] * 10)
    monkeypatch.setattr(command, "run_trainings", lambda *_: pytest.fail("trained before"))
    with pytest.raises(UserError, match=r"r2d2-seed2\.jsonl: made with other settings"):
        _call(monkeypatch, "--tasks", "forest", "--seeds", "1", "2", "--out", str(tmp_path))


def test_greedy_play_of_an_earlier_training_goes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[Path] = []
    _record(tmp_path, 1, [True] * 10)
    (tmp_path / "raw" / "r2d2-seed1.jsonl").unlink()
    arm = command.ArmTraining("forest", tasks.WHOLE, tasks.TASKS["forest"].config(tasks.WHOLE), 300, tmp_path)

    def play(*given: Any) -> None:
        played.append(given[-1])

    monkeypatch.setattr(command, "play_greedily", play)
    monkeypatch.setattr(command, "run_trainings", lambda *_: True)
    assert arm.run(1, arm.unfinished([1])[1], 10)
    assert played == [tmp_path / "greedy" / "seed1.json"]
    assert not played[0].exists()


def test_the_records_of_a_training_are_read_once_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    read_training = learning.read_training

    def noted(path: Path) -> Training | None:
        read.append(path.name)
        return read_training(path)

    def train(command_line: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        given = json.loads(command_line[-1])
        config = config_from_builtins(given["config"], "worker")
        path = Path(given["path"])
        Recorder(path, given["agent"], given["seed"], settings(given["agent"], config, 0.0)).close(300)
        read.append(f"trains {path.name}")
        return subprocess.CompletedProcess(command_line, 0)

    def play(_config: Config, _run: Path, _task: tasks.Task, episodes: int, _seed: int, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(msgspec.json.encode(greedy.Greedy(episodes=episodes, solved=0, noise_share=None)))

    monkeypatch.setattr(learning, "read_training", noted)
    monkeypatch.setattr(subprocess, "run", train)
    monkeypatch.setattr(command, "play_greedily", play)
    arguments = ["--tasks", "forest", "--arms", "no_rnd", "--seeds", "1", "2", "2", "--out", str(tmp_path)]
    assert _call(monkeypatch, *arguments) == 0
    one, other = "r2d2-seed1.jsonl", "r2d2-seed2.jsonl"
    assert read == [one, other, f"trains {one}", one, f"trains {other}", other]
    read.clear()
    assert _call(monkeypatch, *arguments) == 0
    assert read == [one, other]


def test_what_is_given_to_all_does_not_undo_an_arm() -> None:
    for name, given in (
        ("forest", "w_rnd=0.05"),
        ("levers", "model.recurrent_cell=lstm"),
        ("lanternvale", "w_rnd=0.5"),
    ):
        task = tasks.TASKS[name]
        made = [(task.arms[arm].agent, task.config(arm, [given])) for arm in task.arms]
        assert all(one != other for index, one in enumerate(made) for other in made[:index])
    assert tasks.TASKS["lanternvale"].config("no_archive", ["gamma=0.5"]).gamma == 0.5
    assert tasks.TASKS["lanternvale"].config("no_archive", ["archive_entries=9"]).archive_entries == 0


@pytest.mark.parametrize("greedy_steps", [0, 90])
def test_greedy_episodes_may_be_longer_than_those_of_training(
    greedy_steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[Config] = []

    def play(config: Config, *_: Any, **__: Any) -> list[Any]:
        played.append(config)
        return []

    monkeypatch.setattr(greedy, "load_network", lambda *_: None)
    monkeypatch.setattr(greedy, "play_episodes", play)
    task = dataclasses.replace(tasks.TASKS["forest"], greedy_steps=greedy_steps)
    greedy.play_greedily(task.config(tasks.WHOLE), tmp_path / "run", task, 2, 1, tmp_path / "greedy" / "seed1.json")
    assert [config.episode_max_steps for config in played] == [greedy_steps or 1000]


def test_a_game_is_played_greedily_for_longer_than_a_good_player_takes() -> None:
    for name in tasks.GAMES:
        assert tasks.TASKS[name].greedy_steps == tasks.TASKS[name].config("no_archive").episode_max_steps == 4000


def test_an_arm_is_trained_and_played_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["ablations", "--tasks", "masks", "noisy_tv", "--arms", "no_masks", "no_counts", "--seeds", "3"]
    arguments += ["--env-steps", "300", "--episodes", "2", "--out", str(tmp_path), *TINY]
    monkeypatch.setattr(sys, "argv", arguments)
    assert command.main() == 0
    first = capfd.readouterr().out
    assert first.count("1 of 1: r2d2") == 2
    for task, arm, agent in (("masks", "no_masks", "r2d2_unmasked"), ("noisy_tv", "no_counts", "r2d2")):
        run_dir = RunDir(tmp_path / task / arm / "runs", f"{agent}-seed3")
        assert load_config(run_dir.config).initial_state == f"school:{'badge_0' if task == 'masks' else 'cave'}"
        played = greedy.read_greedy(tmp_path / task / arm / "greedy" / "seed3.json")
        assert played is not None
        assert played.episodes == 2
        assert (played.noise_share is None) == (task == "masks")
    table = (tmp_path / "table.md").read_text()
    assert "no masks, but in greedy play | 1 | 0 of 1 | at least " in table
    assert table in first
    assert command.main() == 0
    assert "1 of 1" not in capfd.readouterr().out
    arguments[arguments.index("no_masks")] = "no_mask"
    with pytest.raises(UserError, match="no_mask: no such arm in masks, noisy_tv"):
        command.main()


def test_without_masks_every_button_may_be_pressed(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config("cpu", ["start_button=true"])
    masked = make_env(config, 0)
    monkeypatch.setattr("cluster_rl.emulator.env.Affordances", NoAffordances)
    unmasked = make_env(config, 0)
    try:
        for env in (masked, unmasked):
            env.start()
        for _ in range(12):
            masked.advance(0)
            unmasked.advance(0)
            assert unmasked.observation.mask.all()
        assert not masked.observation.mask.all()  # or the test could not tell
    finally:
        masked.close()
        unmasked.close()
