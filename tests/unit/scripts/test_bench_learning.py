"""The comparison of learners: its figures from made-up records, and small trainings of every agent."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from processes import session_members

from cluster_rl.config import load_config
from cluster_rl.emulator.env import make_env
from cluster_rl.emulator.spaces import NO_ACTION
from cluster_rl.errors import UserError
from cluster_rl.game.buttons import BUTTONS
from cluster_rl.rewards import INTRINSIC_TERMS

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))  # scripts/ is no part of the package

from scripts.bench.learning import __main__ as command  # noqa: E402
from scripts.bench.learning import agents, record, report  # noqa: E402
from scripts.bench.learning.worker import WithPrevious, worker_command  # noqa: E402

ROUTE = "REACHED_ROUTE"
TINY = {
    "num_actors": 1,
    "envs_per_actor": 2,
    "episode_max_steps": 60,
    "unroll_length": 10,
    "burn_in": 5,
    "min_replay_transitions": 100,
    "lstm_hidden_size": 16,
}
ENV_STEPS = 300  # more than one of PPO's rollouts: 2 emulators, 128 steps

needs_sb3_contrib = pytest.mark.skipif(
    importlib.util.find_spec("sb3_contrib") is None, reason="sb3-contrib is not installed (extra: bench)"
)


def training(seed: int, route_in: list[bool], agent: str = "ppo") -> record.Training:
    """A training with an episode every 100 steps or 10 seconds, which reaches the route or does not."""
    head: dict[str, Any] = {"agent": agent, "seed": seed}
    rows = [
        {"env_step": 100 * n, "wall_s": 10.0 * n, "return": float(n), "milestones": {ROUTE: 7} if reached else {}}
        for n, reached in enumerate(route_in, start=1)
    ]
    first = [{"name": ROUTE, "env_step": row["env_step"], "wall_s": row["wall_s"]} for row in rows if row["milestones"]]
    steps = 100 * len(rows)
    return record.Training(**head, settings={}, milestones=first[:1], episodes=rows, env_steps=steps, wall_s=steps / 10)


def test_first_and_reliable_milestones() -> None:
    # The fifth hit, in the eleventh episode, comes when the first is out of the last ten; the sixth is in time.
    hits = [n in (1, 4, 6, 8, 11, 13, 14) for n in range(1, 21)]
    assert report.first_reached(training(1, hits), ROUTE) == (100, 10.0)
    assert [sum(hits[max(0, n - 10) : n]) for n in (10, 11, 13)] == [4, 4, 5]
    assert report.reliably_reached(training(1, hits), ROUTE, 5) == (1300, 130.0)
    assert report.reliably_reached(training(1, hits), ROUTE, 6) == report.NEVER
    never = training(1, [False] * 20)
    assert report.first_reached(never, ROUTE) == report.reliably_reached(never, ROUTE, 5) == report.NEVER


def test_returns_are_of_the_last_episodes() -> None:
    assert report.final_return(training(1, [False] * 30)) == np.mean(range(11, 31))
    assert math.isnan(report.final_return(training(1, [])))


def test_table_counts_a_seed_that_never_got_there_as_later_than_all_others() -> None:
    late, early, never = ([False] * n + [True] * (20 - n) for n in (9, 4, 20))
    most = report.table([training(1, early), training(2, never), training(3, late)], [ROUTE])
    assert "| SB3 PPO | 2 of 3 | 1,000 | 100 | 2 of 3 | 1,400 | 140 | 2 of 3 | 1,800 | 180 |" in most.splitlines()
    few = report.table([training(1, early), training(2, never), training(3, never)], [ROUTE])
    assert "| SB3 PPO | 1 of 3 | - | - | 1 of 3 | - | - | 1 of 3 | - | - |" in few.splitlines()


def test_table_holds_ours_against_the_better_ppo() -> None:
    ours, late, early = ([False] * n + [True] * (20 - n) for n in (1, 9, 4))
    three = [training(1, ours, "r2d2"), training(1, late, "ppo"), training(1, early, "recurrent_ppo")]
    lines = report.table(three, [ROUTE]).splitlines()
    assert lines[-1] == "| ours over the better PPO | | 0.40 | 0.40 | | 0.67 | 0.67 | | 0.77 | 0.77 |"
    lines = report.table([three[0], training(1, [False] * 20)], [ROUTE]).splitlines()
    assert lines[-1] == "| ours over the better PPO | | - | - | | - | - | | - | - |"


def test_records_come_back_as_written(tmp_path: Path) -> None:
    path = record.record_path(tmp_path / "raw", "random", 3)
    assert record.read_training(path) is None
    recorder = record.Recorder(path, "random", 3, {"config": {"gamma": 0.5}})
    recorder.milestones(["LEFT_HOME", ROUTE], 8)
    recorder.milestones([ROUTE], 16)
    summary = {"episode_return": 2.5, "episode_steps": 9, "terms": {"event": 2.5, "item": 0.0}, "reason": "truncated"}
    recorder.episode({**summary, "milestones": [("LEFT_HOME", 1), (ROUTE, 4)]}, 24)
    assert record.read_training(path) is None  # not finished
    recorder.close(32)
    found = record.read_training(path)
    assert found is not None
    assert (found.agent, found.seed, found.env_steps) == ("random", 3, 32)
    assert found.settings == {"config": {"gamma": 0.5}}
    assert [(row["name"], row["env_step"]) for row in found.milestones] == [("LEFT_HOME", 8), (ROUTE, 8)]
    (episode,) = found.episodes
    assert (episode["return"], episode["length"], episode["env_step"]) == (2.5, 9, 24)
    assert (episode["terms"], episode["milestones"]) == ({"event": 2.5}, {"LEFT_HOME": 1, ROUTE: 4})
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]) + lines[-1][:10])
    assert record.read_training(path) is None  # torn
    path.write_text("".join([lines[0], "{\n", *lines[1:]]))
    with pytest.raises(UserError, match="line 2 is damaged"):
        record.read_training(path)


def test_all_agents_share_the_environment() -> None:
    config = load_config("cpu")
    own = {agent: agents.agent_config(agent, config, 4, 1000) for agent in agents.AGENTS}
    kept = [agents.settings(agent, own[agent])["config"] for agent in ("random", "ppo", "recurrent_ppo")]
    assert kept[0] == kept[1] == kept[2]
    ours = agents.settings("r2d2", own["r2d2"])["config"]
    assert {name: ours[name] for name in kept[0]} == kept[0]
    assert (kept[0]["base_seed"], kept[0]["target_total_steps"]) == (4, 1000)
    feedforward = agents.settings("r2d2_feedforward", own["r2d2_feedforward"])["config"]
    assert feedforward.pop("model") == ours.pop("model") | {"recurrent_cell": "none"}
    assert feedforward == ours


def test_masked_buttons_may_be_pressed_and_the_previous_step_is_seen() -> None:
    config = load_config("cpu")
    env = WithPrevious(make_env(config, 0), config)
    assert env.action_space == gymnasium.spaces.Discrete(BUTTONS.index("start"))  # which the preset forbids
    observation, _ = env.reset()
    assert env.observation_space.contains(observation)
    assert (observation["prev_action"][0], observation["prev_reward"][0]) == (NO_ACTION, 0.0)
    pressed_masked = 0
    for _ in range(100):
        action = int(observation["action_mask"][: env.action_space.n].argmin())
        pressed_masked += not observation["action_mask"][action]
        observation, reward, *_ = env.step(np.int64(action))
        assert (observation["prev_action"][0], observation["prev_reward"][0]) == (action, np.float32(reward))
    assert env.observation_space.contains(observation)
    assert pressed_masked > 0
    env.close()


@needs_sb3_contrib
def test_agents_train_and_complete_trainings_are_not_done_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = load_config("cpu", [f"{name}={value}" for name, value in TINY.items()])
    # Both kinds of our learner differ in one key only; one of them is enough here.
    names = ["r2d2_feedforward", "random", "ppo", "recurrent_ppo"]
    raw = tmp_path / "raw"
    workers = [  # at once, to be quick: most of their time is spent on imports
        subprocess.Popen(
            worker_command(name, 1, agents.agent_config(name, config, 1, ENV_STEPS), record.record_path(raw, name, 1)),
            cwd=ROOT,
        )
        for name in names[:3]
    ]
    assert command.run_trainings(names[3:], [1], config, ENV_STEPS, raw)
    assert [worker.wait(timeout=200) for worker in workers] == [0, 0, 0]
    trainings = command.read_trainings(raw)
    assert [found.agent for found in trainings] == names
    for found in trainings:
        # Ours ends when its actors have sent what they had.
        assert found.env_steps >= ENV_STEPS if found.agent in agents.OURS else found.env_steps == ENV_STEPS
        assert len(found.episodes) >= 2, found.agent
        for row in found.episodes:
            assert row["length"] == TINY["episode_max_steps"]
            intrinsic = sum(row["terms"].get(name, 0.0) for name in INTRINSIC_TERMS)
            assert row["return"] == pytest.approx(sum(row["terms"].values()) - intrinsic)
        steps = [row["env_step"] for row in found.episodes]
        assert steps == sorted(steps)
    assert "1 of 1: recurrent_ppo" in capfd.readouterr().out
    assert command.run_trainings(names, [1], config, ENV_STEPS, raw)
    assert capfd.readouterr().out == ""
    with pytest.raises(UserError, match="made with other settings"):
        command.run_trainings(["ppo"], [1], config, ENV_STEPS + 1, raw)


def wait_until(reached: Callable[[], bool], seconds: float, what: str) -> None:
    deadline_sec = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline_sec, what
        time.sleep(0.05)


ENDS = [
    pytest.param(
        agent,
        number,
        id=f"{agent}, {number.name}",
        marks=[*marks, *([] if (agent, number) == ("random", signal.SIGKILL) else [pytest.mark.slow])],
    )
    for agent, marks in (("random", []), ("r2d2", []), ("ppo", []), ("recurrent_ppo", [needs_sb3_contrib]))
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
]


@pytest.mark.parametrize(("agent", "number"), ENDS)
def test_nothing_of_a_comparison_that_ended_goes_on(agent: str, number: signal.Signals, tmp_path: Path) -> None:
    """The command, its worker, and below that each emulator's process or an actor's."""
    arguments = [sys.executable, "-m", "scripts.bench.learning", "--agents", agent, "--seeds", "1"]
    arguments += ["--env-steps", "1000000", "--out", str(tmp_path)]
    arguments += [part for name, value in TINY.items() for part in (f"--{name}", str(value))]
    with (tmp_path / "log").open("wb") as log:
        comparison = subprocess.Popen(arguments, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    records = record.record_path(tmp_path / "raw", agent, 1)
    processes = 3 if agent in agents.OURS else 2 + TINY["num_actors"] * TINY["envs_per_actor"]

    def plays() -> bool:
        assert comparison.poll() is None, (tmp_path / "log").read_text()
        return records.exists() and '"kind": "episode"' in records.read_text()

    try:
        wait_until(plays, 100, "no episode was played")
        assert len(session_members(comparison.pid)) == processes
        comparison.send_signal(number)
        comparison.wait(timeout=10)
        wait_until(lambda: not session_members(comparison.pid), 10, "a process outlived the comparison")
    finally:
        for pid in session_members(comparison.pid):
            os.kill(pid, signal.SIGKILL)


def test_report_from_the_records_alone(tmp_path: Path) -> None:
    write_records(tmp_path / "raw", "ppo", 1, [False] * 6 + [True] * 6)
    write_records(tmp_path / "raw", "ppo", 2, [True] * 12)
    write_records(tmp_path / "raw", "random", 1, [])
    arguments = [sys.executable, "-m", "scripts.bench.learning", "--plot-only", "--out", str(tmp_path)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (tmp_path / "table.md").read_text().strip()
    for name in ("milestones_by_step", "milestones_by_second", "returns"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="no complete records"):
        command.read_trainings(tmp_path / "elsewhere")


def write_records(folder: Path, agent: str, seed: int, route_in: list[bool]) -> None:
    """The file of a made-up training."""
    made = training(seed, route_in, agent)
    head = {"agent": agent, "seed": seed}
    rows: list[dict[str, Any]] = [{"kind": "start", **head, "env_step": 0, "wall_s": 0.0, "settings": {}}]
    rows += [{"kind": "milestone", **head, **row} for row in made.milestones]
    rows += [{"kind": "episode", **head, **row} for row in made.episodes]
    rows.append({"kind": "end", **head, "env_step": made.env_steps or 10, "wall_s": made.wall_s or 1.0})
    folder.mkdir(exist_ok=True)
    record.record_path(folder, agent, seed).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_missing_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    agents.check_installed(["r2d2", "r2d2_feedforward"])
    with pytest.raises(UserError, match="sb3_contrib is missing"):
        agents.check_installed(["r2d2", "recurrent_ppo"])
