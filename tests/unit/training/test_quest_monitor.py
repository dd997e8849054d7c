"""A run's quests: rows exactly once through restarts, what progress and metrics tell, and shaped batches."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from sequence_fixtures import make_builder, play, start_at, summary_of
from small_disk import SmallDisk
from trainer_fixtures import (
    BLOCK,
    CONFIG,
    MILESTONES,
    OBSERVATION,
    QUESTS,
    changed,
    episodes,
    ingest,
    open_trainer,
    train,
)

from cluster_rl.errors import StorageError
from cluster_rl.exploration.bayes_quests import QuestRecord, QuestRules, assess_all, count_episode
from cluster_rl.exploration.shaping import potential_weights, shaped
from cluster_rl.learning.batch import Batch
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.metrics_tail import MAX_ROW_BYTES
from cluster_rl.runs.progress import QuestAlarm
from cluster_rl.training import quest_rows
from cluster_rl.training.metrics import read_metrics
from cluster_rl.training.quest_rows import ROW_SEC, QuestRows
from cluster_rl.training.trainer import Trainer

RULES = QuestRules.from_config(CONFIG, QUESTS)


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path, "run").create()


def rows_of(run_dir: RunDir) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run_dir.quests.read_text().splitlines()]


def write(rows: QuestRows, episodes: int) -> bool:
    """Whether a row was due."""
    due = rows.is_due(episodes)
    if due:
        rows.write(episodes, 10 * episodes, {"town": QuestRecord(trials=episodes)}, RULES)
    return due


def test_a_row_for_each_hundred_episodes_and_none_twice(run_dir: RunDir) -> None:
    written = []
    for seen in ((0, 50, 99, 149), (149, 199, 200, 298), (298,), (299, 512, 512, 611)):
        rows = QuestRows(run_dir)  # each time as a new job opens it
        written += [episodes for episodes in seen if write(rows, episodes)]
        rows.close()
    assert written == [50, 199, 299, 512]
    assert [row["episodes"] for row in rows_of(run_dir)] == written


def test_a_row_after_an_hour_with_an_episode(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1.7e9
    monkeypatch.setattr(time, "time", lambda: now)
    rows = QuestRows(run_dir)
    assert not write(rows, 0)
    assert write(rows, 3)  # the first one has nothing to wait for: jobs may be short
    rows.close()
    rows = QuestRows(run_dir)
    now += ROW_SEC - 1
    assert not write(rows, 4)
    now += 1
    assert not write(rows, 3)  # none since that row
    assert write(rows, 4)
    rows.close()
    assert [row["episodes"] for row in rows_of(run_dir)] == [3, 4]


def test_half_a_row_of_a_killed_learner_is_written_again(run_dir: RunDir) -> None:
    rows = QuestRows(run_dir)
    write(rows, 100)
    write(rows, 200)
    rows.close()
    whole = run_dir.quests.read_bytes()
    run_dir.quests.write_bytes(whole[:-30])
    rows = QuestRows(run_dir)
    assert write(rows, 200)
    rows.close()
    assert [row["episodes"] for row in rows_of(run_dir)] == [100, 200]


def test_an_older_copy_of_the_log_waits_for_where_the_rows_are(run_dir: RunDir) -> None:
    rows = QuestRows(run_dir)
    write(rows, 500)
    assert not write(rows, 130)
    assert write(rows, 600)
    rows.close()


def test_a_damaged_row_is_told_and_rows_go_on(run_dir: RunDir) -> None:
    run_dir.quests.write_text('{"episodes": "many"}\n')
    rows = QuestRows(run_dir)
    [note] = rows.notes
    assert note.startswith(f"{run_dir.quests}: damaged (")
    assert note.endswith("; rows go on behind it")
    assert write(rows, 100)
    rows.close()
    rows = QuestRows(run_dir)
    assert (rows.notes, write(rows, 150)) == ([], False)
    rows.close()


def test_a_long_tail_without_a_lines_end_is_moved_aside(run_dir: RunDir) -> None:
    rows = QuestRows(run_dir)
    write(rows, 100)
    rows.close()
    whole = run_dir.quests.read_bytes()
    run_dir.quests.write_bytes(whole + bytes(MAX_ROW_BYTES + 1))
    rows = QuestRows(run_dir)
    assert [note.endswith("moved to quests.jsonl.damaged") for note in rows.notes] == [True]
    assert run_dir.quests.read_bytes() == whole
    assert not write(rows, 150)
    rows.close()


def test_a_full_disk_leaves_no_half_a_row_and_the_row_comes_later(disk: SmallDisk) -> None:
    run_dir = RunDir(disk.folder, "run").create()
    rows = QuestRows(run_dir)
    with disk.full(), pytest.raises(StorageError, match="No space left"):
        write(rows, 100)
    assert run_dir.quests.read_bytes() == b""
    assert write(rows, 101)
    rows.close()
    assert [row["episodes"] for row in rows_of(run_dir)] == [101]


# In a trainer.


def play_quests(trainer: Trainer, first: int, count: int, town: float = 0.5) -> None:
    """Episodes that the game ends; a share `town` of them reach it, none the badge."""
    builder = make_builder(BLOCK)
    for episode in range(first, first + count):
        reached = [("town", 3)] if episode * town % 1 + town >= 1 else []
        ingest(trainer, play(builder, episode, 4, summary=summary_of(4, milestones=reached)))


def tick_due(trainer: Trainer) -> None:
    trainer._quest_writer.make_due()
    trainer.tick()


def test_rows_of_a_run_through_jobs_and_a_death(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quest_rows, "ROW_EPISODES", 40)
    trainer = open_trainer(tmp_path)
    for first in range(0, 100, 10):
        play_quests(trainer, first, 10)
        tick_due(trainer)
    trainer.close("test")
    trainer = open_trainer(tmp_path)
    tick_due(trainer)
    play_quests(trainer, 100, 30)
    tick_due(trainer)
    trainer.replay.close()  # killed: the kernel frees the lock
    trainer = open_trainer(tmp_path)
    play_quests(trainer, 130, 70)
    trainer.close("test")
    trainer = open_trainer(tmp_path)
    rows = rows_of(trainer.run_dir)
    assert [row["episodes"] for row in rows] == [10, 50, 90, 130, 200]
    for row in rows:
        assert row["env_steps"] == 4 * row["episodes"]
        town, badge = row["quests"]["town"], row["quests"]["badge"]
        assert (town["trials"], town["reached"], badge["reached"]) == (row["episodes"], row["episodes"] // 2, 0)
        assert 0.2 < town["low"] < town["mean"] < town["high"] < 0.8
        assert row["frontier"] == ["town"]
    assert rows[-1]["quests"] == json.loads(msgspec.json.encode(assess_all(trainer.replay.quests(), RULES)))
    trainer.close("test")


def test_a_run_that_counts_by_other_rules_says_so_once_and_has_lost_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its checkpoint, too, has counts by the rules before."""
    trainer = open_trainer(tmp_path)
    play_quests(trainer, 0, 40)
    train(trainer, 1)
    trainer.close("test")
    config = changed(quest_half_life_episodes=10.0)
    capsys.readouterr()
    trainer = open_trainer(tmp_path, config)
    assert capsys.readouterr().out.count("they are counted anew") == 1
    assert "lost" not in trainer.restored
    rules, records = QuestRules.from_config(config, QUESTS), {}
    for episode in range(40):
        reached = [("town", 3)] if episode % 2 else []
        count_episode(records, rules, start=(), reached=reached, steps=4, ended_by_game=True)
    assert trainer.replay.quests() == records
    trainer.close("test")
    capsys.readouterr()
    trainer = open_trainer(tmp_path, config)
    assert ("anew" in capsys.readouterr().out, "lost" in trainer.restored) == (False, False)
    assert trainer.replay.quests() == records
    trainer.close("test")


def test_progress_and_metrics_tell_of_alarms(tmp_path: Path) -> None:
    config = changed(quest_patience_episodes=30)
    trainer = open_trainer(tmp_path, config)
    play_quests(trainer, 0, 100, town=0.8)
    trainer.write_progress()
    assert trainer.progress.quests.alarms == {}
    assert list(trainer.progress.quests.frontier) == ["town"]
    assert trainer.progress.quests.frontier["town"] == pytest.approx(0.8, abs=0.1)
    play_quests(trainer, 100, 40, town=0.0)
    trainer.write_progress()
    state = assess_all(trainer.replay.quests(), QuestRules.from_config(config, QUESTS))["town"]
    assert state.level == "critical"
    alarm = QuestAlarm(level="critical", probability=state.alarm, mean=state.mean, target=state.target)
    assert trainer.progress.quests.alarms == {"town": alarm}
    assert trainer.progress.quests.stagnant == ["town"]
    trainer.write_metrics()
    row = read_metrics(trainer.run_dir.metrics)[-1]
    assert [row[f"quest{what}/town"] for what in ("", "_low", "_high", "_alarm")] == [
        state.mean,
        state.low,
        state.high,
        state.alarm,
    ]
    assert "quest/badge" not in row  # never reached: nothing to tell yet
    trainer.close("test")


def test_starts_elsewhere_are_no_trials_of_what_was_reached_there(tmp_path: Path) -> None:
    trainer = open_trainer(tmp_path)
    summary = summary_of(4, start=start_at("archive", "town"), milestones=[("badge", 2)])
    ingest(trainer, play(make_builder(BLOCK), 0, 4, summary=summary))
    records = trainer.replay.quests()
    assert (records.keys(), records["badge"].reached) == ({"badge"}, 1)
    trainer.close("test")


def test_what_the_replay_hands_out_is_the_callers_own(tmp_path: Path) -> None:
    trainer = open_trainer(tmp_path)
    play_quests(trainer, 0, 2)
    trainer.replay.quests()["town"].count(True, 1.0)
    assert trainer.replay.quests()["town"].trials == 2
    assert trainer.replay.quests()["town"].blocks == [(1, 2)]
    trainer.close("test")


def test_sampled_batches_are_shaped_by_the_posterior_of_now(tmp_path: Path) -> None:
    config = changed(w_bayes=2.0)
    trainer, plain = open_trainer(tmp_path / "shaped", config), open_trainer(tmp_path / "plain")
    for one in (trainer, plain):
        play_quests(one, 0, 12)
        ingest(one, episodes(12, 2))
    for first in (20, 30):
        found, without = trainer.sample().batch, plain.sample().batch
        weights = potential_weights(trainer.replay.quests(), RULES, 2.0)
        expected = shaped(without, torch.tensor([0, 2]), weights, config.burn_in, config.gamma)
        assert torch.equal(found.reward, expected.reward)
        assert not torch.equal(found.reward, without.reward)
        play_quests(trainer, first, 3)
        play_quests(plain, first, 3)
    trainer.close("test")
    plain.close("test")


@pytest.mark.parametrize("largest", [1.0, 4.0])
def test_curiosity_weighs_more_while_no_quest_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest: float
) -> None:
    trainer = open_trainer(tmp_path, changed(w_rnd=0.5, curiosity_scale_max=largest, quest_patience_episodes=50))
    play_quests(trainer, 0, 40)
    town = trainer.replay.quests()["town"]
    assert 0 < town.trials - town.grown_at < 50
    expected = largest ** ((town.trials - town.grown_at) / 50)
    asked: list[float] = []
    assert trainer.rnd is not None
    monkeypatch.setattr(trainer.rnd, "update", lambda batch, weight: asked.append(weight) or batch)
    train(trainer, 1)
    assert asked == [pytest.approx(0.5 * expected)]
    trainer.write_metrics()
    row = read_metrics(trainer.run_dir.metrics)[-1]
    assert row.get("curiosity_scale") == (None if largest == 1 else pytest.approx(expected))
    trainer.close("test")


def test_without_shaping_quests_change_nothing_that_is_learned(tmp_path: Path) -> None:
    results = []
    for name, quests in (("with", QUESTS), ("without", ())):
        run = RunDir(tmp_path / name, "run").create()
        trainer = Trainer(CONFIG, run, OBSERVATION, BLOCK, MILESTONES, "job", quests)
        play_quests(trainer, 0, 12)
        train(trainer, 3)
        results.append({key: value.clone() for key, value in trainer.r2d2.state_dict()["tensors"].items()})
        trainer.close("test")
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


@pytest.mark.parametrize("w_bayes", [0.0, 2.0])
def test_a_resumed_run_equals_an_unbroken_one(tmp_path: Path, w_bayes: float) -> None:
    """4 updates, saved and loaded, 5 updates, against 9."""
    ends = []
    for name, broken in (("unbroken", False), ("broken", True)):
        trainer = open_trainer(tmp_path / name, changed(w_bayes=w_bayes))
        play_quests(trainer, 0, 20)
        train(trainer, 4)
        if broken:
            trainer.close("stopped")
            trainer = open_trainer(tmp_path / name, changed(w_bayes=w_bayes))
        play_quests(trainer, 20, 5)
        train(trainer, 5)
        ends.append((trainer.r2d2.state_dict()["tensors"], trainer.replay.quests()))
        trainer.close("test")
    (tensors, records), (others, other_records) = ends
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)
    assert records == other_records


def test_the_shaped_batch_keeps_the_replays_arrays(tmp_path: Path) -> None:
    """The replay's buffers are used again: shaping must not add to what lies in them."""
    trainer = open_trainer(tmp_path, changed(w_bayes=2.0))
    play_quests(trainer, 0, 12)
    arrays = trainer.replay.sample(np.random.default_rng(0), 4)
    before = arrays["reward"].copy()
    trainer.quests.shape(Batch.from_numpy(arrays, trainer.device))
    assert np.array_equal(arrays["reward"], before)
    trainer.close("test")
