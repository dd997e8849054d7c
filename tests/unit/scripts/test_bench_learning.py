"""The comparison of learners: its figures from made-up records, and small trainings of its agents."""

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

import numpy as np
import pytest
from processes import session_members

from cluster_rl.config import Config, load_config
from cluster_rl.errors import UserError
from cluster_rl.exploration.archive import read_index
from cluster_rl.rewards import INTRINSIC_TERMS

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))  # scripts/ is no part of the package

from scripts.bench.learning import __main__ as command  # noqa: E402
from scripts.bench.learning import agents, record, report  # noqa: E402

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


def training(seed: int, route_in: list[bool], agent: str = "maskable_ppo") -> record.Training:
    """A training with an episode every 100 steps, 10 seconds or 20 CPU seconds, which reaches the route or does not."""
    head: dict[str, Any] = {"agent": agent, "seed": seed}
    rows: list[dict[str, Any]] = [
        {"env_step": 100 * n, "wall_s": 10.0 * n, "cpu_s": 20.0 * n, "return": float(n), "milestones": {}}
        for n in range(1, len(route_in) + 1)
    ]
    for row, reached in zip(rows, route_in, strict=True):
        row["milestones"] = {ROUTE: 7} if reached else {}
    first = [{**row, "name": ROUTE} for row in rows if row["milestones"]]
    steps = 100 * len(rows)
    return record.Training(
        **head,
        settings={},
        milestones=first[:1],
        episodes=rows,
        env_steps=steps,
        wall_s=steps / 10,
        cpu_s=steps / 5,
    )


def test_first_and_reliable_milestones() -> None:
    # The fifth hit, in the eleventh episode, comes when the first is out of the last ten; the sixth is in time.
    hits = [n in (1, 4, 6, 8, 11, 13, 14) for n in range(1, 21)]
    assert report.first_reached(training(1, hits), ROUTE) == (100, 20.0, 10.0)
    assert [sum(hits[max(0, n - 10) : n]) for n in (10, 11, 13)] == [4, 4, 5]
    assert report.reliably_reached(training(1, hits), ROUTE, 5) == (1300, 260.0, 130.0)
    assert report.reliably_reached(training(1, hits), ROUTE, 6) == report.NEVER
    never = training(1, [False] * 20)
    assert report.first_reached(never, ROUTE) == report.reliably_reached(never, ROUTE, 5) == report.NEVER


def test_scores_are_of_the_last_ten_episodes_before() -> None:
    made = training(1, [False] * 4 + [True] * 26)
    places = np.array([0.0, 999.0, 1000.0, 1150.0, 3000.0])
    returns = report.scores_at(made, "env_step", places, report.recent_returns(made))
    assert returns.tolist() == pytest.approx([math.nan, math.nan, 5.5, 6.5, 25.5], nan_ok=True)
    shares = report.recent_shares(made, ROUTE)
    # The first to end are the short ones, with the badge: before there are ten they say nothing.
    assert np.isnan(shares[:9]).all()
    assert (shares[9], shares[29]) == (6 / 10, 1.0)
    by_cpu = report.scores_at(made, "cpu_s", places / 5, report.recent_returns(made))
    assert by_cpu.tolist() == pytest.approx(returns.tolist(), nan_ok=True)


def test_only_what_does_not_learn_is_judged_behind_its_end() -> None:
    short, still = training(1, [True] * 10), training(1, [True] * 10, "random")
    long = training(1, [True] * 20)
    assert report.common_length([short, long], "cpu_s") == 200.0
    assert report.common_length([still, long], "cpu_s") == 400.0
    behind = np.array([1001.0])
    assert math.isnan(report.scores_at(short, "env_step", behind, report.recent_returns(short))[0])
    assert report.scores_at(still, "env_step", behind, report.recent_returns(still)).tolist() == [5.5]


def test_table_holds_agents_against_each_other_at_equal_steps_and_seconds() -> None:
    seeds = [training(seed, [True] * (4 + seed) + [False] * (16 - seed)) for seed in range(1, 6)]
    lines = report.table([*seeds, training(1, [False] * 20, "random")], [ROUTE]).splitlines()
    assert "| MaskablePPO | 5 | 2,000 | 10 | 2,000 |" in lines
    columns = " | ".join(f"{cpu_sec} CPU seconds" for cpu_sec in (50, 100, 200, 400))
    start = lines.index(f"| return, last 10 episodes, after | {columns} |")
    assert lines[start + 2] == "| MaskablePPO | - | - | 5.50 [5.50, 5.50] | 15.50 [15.50, 15.50] |"
    # Of their first ten episodes the seeds have the route in 5 to 9: the interval is that of all 3,125 draws.
    shares = lines[lines.index(f"| share with the milestones, last 10 episodes, after | {columns} |") + 2]
    assert shares == "| MaskablePPO | - | - | 0.70 [0.53, 0.87] | 0.00 [0.00, 0.00] |"


def test_table_counts_a_seed_that_never_got_there_as_later_than_all_others() -> None:
    late, early, never = ([False] * n + [True] * (20 - n) for n in (9, 4, 20))
    most = report.table([training(1, early), training(2, never), training(3, late)], [ROUTE])
    row = "| MaskablePPO | 2 of 3 | 1,000 | 200 | 100 | 2 of 3 | 1,400 | 280 | 140 | 2 of 3 | 1,800 | 360 | 180 |"
    assert row in most.splitlines()
    few = report.table([training(1, early), training(2, never), training(3, never)], [ROUTE])
    assert "| MaskablePPO | 1 of 3 | - | - | - | 1 of 3 | - | - | - | 1 of 3 | - | - | - |" in few.splitlines()


def test_table_holds_ours_against_the_best_ppo_and_the_table() -> None:
    ours, late, early = ([False] * n + [True] * (20 - n) for n in (1, 9, 4))
    four = [training(1, ours, "r2d2"), training(1, late, "maskable_ppo"), training(1, early, "recurrent_ppo")]
    four.append(training(1, late, "table_q"))
    *_, ppo, table = report.table(four, [ROUTE]).splitlines()
    assert ppo == "| ours over the best PPO |  | 0.40 | 0.40 | 0.40 |  | 0.67 | 0.67 | 0.67 |  | 0.77 | 0.77 | 0.77 |"
    assert table.startswith("| ours over the Q-table |  | 0.20 | 0.20 | 0.20 |")
    last = report.table([four[0], training(1, [False] * 20)], [ROUTE]).splitlines()[-1]
    assert last == "| ours over the best PPO |  | - | - | - |  | - | - | - |  | - | - | - |"


def test_records_come_back_as_written(tmp_path: Path) -> None:
    path = record.record_path(tmp_path / "raw", "random", 3)
    assert record.read_training(path) is None
    recorder = record.Recorder(path, "random", 3, {"config": {"gamma": 0.5}})
    recorder.milestones(["LEFT_HOME", ROUTE], 8)
    recorder.milestones([ROUTE], 16)
    summary = {"episode_return": 2.5, "episode_steps": 9, "terms": {"event": 2.5, "item": 0.0}, "reason": "truncated"}
    start = {"id": "boot", "tag": "beginning", "milestones": []}
    recorder.episode({**summary, "milestones": [("LEFT_HOME", 1), (ROUTE, 4)], "start": start}, 24)
    recorder.episode({**summary, "milestones": [], "start": {**start, "tag": "archive"}}, 28)  # is left out
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
    path.write_text("".join(lines).replace("cpu_s", "seconds"))
    with pytest.raises(UserError, match="noted no processor time"):
        record.read_training(path)


def test_all_agents_share_the_environment() -> None:
    config = load_config("cpu")
    own = {agent: agents.agent_config(agent, config, 4, 1000) for agent in agents.AGENTS}
    kept = {agent: agents.settings(agent, own[agent], 50.0)["config"] for agent in agents.AGENTS}
    shared = kept["maskable_ppo"]
    assert (shared["base_seed"], shared["target_total_steps"]) == (4, 1000)
    for agent in set(agents.AGENTS) - {"r2d2_feedforward"}:
        assert {name: kept[agent][name] for name in shared} == shared, agent
    feedforward, ours = kept["r2d2_feedforward"], kept["r2d2"]
    assert feedforward.pop("model") == ours.pop("model") | {"recurrent_cell": "none"}
    assert feedforward == ours
    without = kept["r2d2_no_prior"]
    assert without.pop("model") != feedforward
    assert {name for name in ours if ours[name] != without[name]} == {"epsilon_hold_steps_max", "wander_every_steps"}


def test_what_learns_goes_on_for_the_cpu_seconds() -> None:
    config = load_config("cpu")
    longer = {agent for agent in agents.AGENTS if agents.settings(agent, config, 50.0)["cpu_seconds"] == 50.0}
    assert longer == set(agents.AGENTS) - {"random", "explore"}


# The table is quick, and stands for all in the short form. The CPU seconds are more than those steps take.
TRAINED = [
    pytest.param(agent, 2.0) if agent == "table_q" else pytest.param(agent, 12.0, marks=[pytest.mark.slow])
    for agent in agents.AGENTS
]


def run_trainings(agent: str, config: Config, env_steps: int, cpu_sec: float, raw: Path) -> bool:
    """What is not complete yet of one agent's training, of seed 1."""
    return command.run_trainings(command.unfinished([agent], [1], config, env_steps, cpu_sec, raw), cpu_sec)


@needs_sb3_contrib
@pytest.mark.parametrize(("agent", "cpu_sec"), TRAINED)
def test_agents_train_and_complete_trainings_are_not_done_again(
    agent: str, cpu_sec: float, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    config = load_config("cpu", [f"{name}={value}" for name, value in TINY.items()])
    raw = tmp_path / "raw"
    assert run_trainings(agent, config, ENV_STEPS, cpu_sec, raw)
    assert f"1 of 1: {agent}" in capfd.readouterr().out
    assert not list((tmp_path / "temporary").glob("SB3*")), "a folder at each start"
    (found,) = command.read_trainings(raw)
    assert found.agent == agent
    if agent in agents.UNLEARNED:
        assert found.env_steps == ENV_STEPS
    else:
        assert found.env_steps > ENV_STEPS  # for the sake of the CPU seconds
        assert found.cpu_s >= cpu_sec
    assert len(found.episodes) >= 2
    for row in found.episodes:
        assert row["length"] == TINY["episode_max_steps"]
        intrinsic = sum(row["terms"].get(name, 0.0) for name in INTRINSIC_TERMS)
        assert row["return"] == pytest.approx(sum(row["terms"].values()) - intrinsic)
    for clock in ("env_step", "wall_s", "cpu_s"):
        values = [row[clock] for row in found.episodes]
        assert values == sorted(values)
        assert 0.0 < values[0] <= values[-1] <= report.training_length(found, clock)
    assert run_trainings(agent, config, ENV_STEPS, cpu_sec, raw)
    assert capfd.readouterr().out == ""
    with pytest.raises(UserError, match="made with other settings"):
        run_trainings(agent, config, ENV_STEPS + 1, cpu_sec, raw)


@needs_sb3_contrib
@pytest.mark.parametrize("agent", ["explore", *(pytest.param(name, marks=[pytest.mark.slow]) for name in agents.PPOS)])
def test_agents_share_the_archive_of_start_states(agent: str, tmp_path: Path) -> None:
    given = {**TINY, "archive_entries": 20, "start_share": 0.9, "quest_half_life_episodes": 10}
    config = load_config("cpu", [f"{name}={value}" for name, value in given.items()])
    raw = tmp_path / "raw"
    assert run_trainings(agent, config, 6000, 0.0, raw)
    (found,) = command.read_trainings(raw)
    assert found.settings["config"]["archive_entries"] == 20
    index = read_index(tmp_path / "runs" / f"{agent}-seed1" / "archive" / "index.json")
    assert 0 < len(index.entries) <= 20
    assert sum(entry.drawn for entry in index.entries) > 10  # episodes began there, ended, and were counted
    whole = found.env_steps // TINY["episode_max_steps"]
    assert 0 < len(found.episodes) < 0.6 * whole


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
    for agent, marks in (("random", []), ("r2d2", []), ("recurrent_ppo", [needs_sb3_contrib]))
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
    write_records(tmp_path / "raw", "maskable_ppo", 1, [False] * 6 + [True] * 6)
    write_records(tmp_path / "raw", "maskable_ppo", 2, [True] * 12)
    write_records(tmp_path / "raw", "random", 1, [])
    arguments = [sys.executable, "-m", "scripts.bench.learning", "--plot-only", "--out", str(tmp_path)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (tmp_path / "table.md").read_text().strip()
    for name in ("by_env_step", "by_cpu_second"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="no complete records"):
        command.read_trainings(tmp_path / "elsewhere")


def write_records(folder: Path, agent: str, seed: int, route_in: list[bool]) -> None:
    """The file of a made-up training."""
    made = training(seed, route_in, agent)
    head = {"agent": agent, "seed": seed}
    rows: list[dict[str, Any]] = [{"kind": "start", **head, "env_step": 0, "wall_s": 0.0, "cpu_s": 0.0, "settings": {}}]
    rows += [{"kind": "milestone", **head, **row} for row in made.milestones]
    rows += [{"kind": "episode", **head, **row} for row in made.episodes]
    clocks = {"wall_s": made.wall_s or 1.0, "cpu_s": made.cpu_s or 1.0}
    rows.append({"kind": "end", **head, "env_step": made.env_steps or 10, **clocks})
    folder.mkdir(exist_ok=True)
    record.record_path(folder, agent, seed).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_missing_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    agents.check_installed(["r2d2", "r2d2_feedforward"])
    for agent in agents.PPOS:
        with pytest.raises(UserError, match="sb3_contrib is missing"):
            agents.check_installed(["r2d2", agent])
