"""Walked coordinates: each step of the logs in its line, and messages as the public map takes them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from made_logs import write_log
from made_runs import INCARNATION, episode, make_run, set_keys

from cluster_rl.errors import UserError
from cluster_rl.exporting import coords
from cluster_rl.exporting.coords import export_coords
from cluster_rl.game.world import World
from cluster_rl.runs.layout import RunDir

PALLET, OAKS_LAB, UNPLACED = 0, 40, 11  # of Red
HOME = (PALLET, 5, 6)


def lines_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "coords.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def on_red(root: Path, episodes: int) -> RunDir:
    """A run of a ROM that no world is of, which gets Red's tables."""
    run_dir = make_run(root, "red", episodes=[episode(number) for number in range(episodes)])
    set_keys(run_dir.identity, {"rom_sha1": "00" * 20})
    return run_dir


def test_a_line_a_step(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, episodes=[episode(number) for number in range(3)])
    write_log(run_dir, 0, (0, 4, 5), (0, 4, 6))
    write_log(run_dir, 2, (0, 1, 1))
    told = export_coords(run_dir, tmp_path / "out", 10)
    assert told[0].endswith("3 steps of 2 of 2 episodes with a log")
    assert "map_viz.jsonl: left out" in told[1]
    name = f"a000-e00-{INCARNATION:x}"
    found = [
        tuple(row[key] for key in ("env_steps", "episode", "step", "map_id", "x", "y", "known", "global_x", "global_y"))
        for row in lines_of(tmp_path / "out")
    ]
    assert found == [
        ("100", f"{name}-000000", "1", "0", "4", "5", "1", "14", "23"),
        ("100", f"{name}-000000", "2", "0", "4", "6", "1", "14", "24"),
        ("300", f"{name}-000002", "1", "0", "1", "1", "1", "11", "19"),
    ]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["coords.csv"]


def test_messages_of_the_public_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coords, "MESSAGE_STEPS", 2)
    run_dir = on_red(tmp_path, 1)
    # Through a door: while the lab loads, its id stands beside the town's coordinates.
    write_log(run_dir, 0, HOME, HOME, (OAKS_LAB, 5, 6), (OAKS_LAB, 5, 11), (UNPLACED, 1, 1), (OAKS_LAB, 5, 10))
    export_coords(run_dir, tmp_path / "out", 10)
    messages = [json.loads(line) for line in (tmp_path / "out" / "map_viz.jsonl").read_text().splitlines()]
    assert [message["coords"] for message in messages] == [[[5, 6, PALLET]] * 2, [[5, 11, OAKS_LAB], [5, 10, OAKS_LAB]]]
    about = messages[0]["metadata"]
    assert about["user"] == "red"
    assert about["env_id"].endswith("-000000")
    known = [row["known"] for row in lines_of(tmp_path / "out")]
    assert known == ["1", "1", "0", "1", "1", "1"]


def test_the_game_of_a_run_without_run_json(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, episodes=[episode(0)])
    write_log(run_dir, 0, (0, 4, 5))
    run_dir.identity.unlink()
    told = export_coords(run_dir, tmp_path / "by_config", 10)  # the embedded world's, by its config
    assert [row["global_x"] for row in lines_of(tmp_path / "by_config")] == ["14"]
    assert f"this run plays {World.cartridge().title}" in told[1]
    assert any(line.startswith("WARNING: run.json: not there") for line in told)

    run_dir.config.unlink()
    told = export_coords(run_dir, tmp_path / "unknown", 10)
    assert told[1] == "map_viz.jsonl: left out, as that map is Red's alone and the run's game is not known"
    assert any("have the names of Pokémon Red" in line for line in told if line.startswith("WARNING: "))
    assert [path.name for path in (tmp_path / "unknown").iterdir()] == ["coords.csv"]


def test_no_more_episodes_than_asked_for_spread_evenly(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, episodes=[episode(number) for number in range(30)])
    for number in range(0, 30, 2):
        write_log(run_dir, number, (0, 4, 5))
    told = export_coords(run_dir, tmp_path / "out", 3)
    assert told[0].endswith("3 steps of 3 of 15 episodes with a log")
    assert [row["env_steps"] for row in lines_of(tmp_path / "out")] == ["100", "1500", "2900"]


def test_a_damaged_log_is_told_and_no_log_refused(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, episodes=[episode(number) for number in range(2)])
    with pytest.raises(UserError, match="no episode that ended has a log"):
        export_coords(run_dir, tmp_path / "out", 10)
    assert not (tmp_path / "out").exists()
    write_log(run_dir, 0, (0, 4, 5))
    write_log(run_dir, 1, (0, 4, 5)).write_bytes(b"nothing")
    told = export_coords(run_dir, tmp_path / "out", 10)
    assert any(line.startswith("WARNING: episode log episode_logs/") for line in told)
    assert len(lines_of(tmp_path / "out")) == 1
