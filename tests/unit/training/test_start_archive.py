"""The trainer's archive of start states: what followed is counted once through jobs and deaths, and told in metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sequence_fixtures import make_builder, play, start_at, summary_of
from trainer_fixtures import BLOCK, changed, ingest, open_trainer

from cluster_rl.exploration.archive import StartStates, StateHeader, read_index
from cluster_rl.exploration.curriculum import Entry
from cluster_rl.runs.identity import ensure_identity
from cluster_rl.runs.layout import RunDir
from cluster_rl.training.metrics import read_metrics
from cluster_rl.training.trainer import Trainer

ROM = "ab" * 20
CONFIG = changed(archive_entries=10)


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    ensure_identity(RunDir(tmp_path, "run").create().identity, ROM, "GAME")
    return open_trainer(tmp_path, CONFIG)


def propose(run_dir: RunDir, key: str, *milestones: str, **changes: Any) -> None:
    header = StateHeader(
        key=key, tag="archive", rom_sha1=ROM, milestones=list(milestones), map_id=0, x=0, y=0, steps=5, **changes
    )
    StartStates(run_dir.archive, 0, 1.0, proposes=True).propose(header, b"", b"snapshot")


def episode(trainer: Trainer, number: int, tag: str = "archive", start: str = "", **changes: Any) -> None:
    begun = start_at(tag, *start.split())  # type: ignore[arg-type]
    summary = summary_of(9, **{"start": begun, "reason": "truncated", **changes})
    ingest(trainer, play(make_builder(BLOCK), number, 9, summary=summary))


def damage_newest_row(trainer: Trainer) -> None:
    trainer.write_episodes()
    *rows, newest = trainer.run_dir.episodes.read_bytes().splitlines(keepends=True)
    trainer.run_dir.episodes.write_bytes(b"".join(rows) + b"x" * (len(newest) - 1) + b"\n")


def only_entry(trainer: Trainer) -> Entry:
    assert trainer.archive is not None
    (entry,) = trainer.archive.entries
    return entry


def test_what_followed_is_counted_once_through_jobs(trainer: Trainer, tmp_path: Path) -> None:
    propose(trainer.run_dir, "archive")
    trainer.tend_archive()
    episode(trainer, 0)
    episode(trainer, 1, milestones=[("town", 3)])
    episode(trainer, 2, reason="stopped")  # says nothing: it was broken off
    episode(trainer, 3, reason="stopped", milestones=[("town", 3)])
    episode(trainer, 4, tag="beginning", milestones=[("town", 3)])
    for _ in range(2):
        trainer.write_episodes()
        trainer.tend_archive()
    assert only_entry(trainer).drawn == 3
    assert only_entry(trainer).followed == pytest.approx(0.98 + 1)
    episode(trainer, 5)
    trainer.write_episodes()  # and a death before it is counted
    trainer.replay.close()
    resumed = open_trainer(tmp_path, CONFIG)
    resumed.tend_archive()
    assert only_entry(resumed).drawn == 4
    episode(resumed, 6)
    resumed.close("test")
    again = open_trainer(tmp_path, CONFIG)
    again.tend_archive()
    assert only_entry(again).drawn == 5
    again.close("test")


@pytest.mark.parametrize("written_first", [True, False])
def test_rows_that_were_begun_anew_are_not_counted_twice(
    trainer: Trainer, tmp_path: Path, written_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not the new ones are there when the archive is tended, and whatever their lengths."""
    propose(trainer.run_dir, "archive")
    trainer.tend_archive()
    episode(trainer, 0)
    episode(trainer, 1)
    trainer.close("test")
    trainer.run_dir.episodes.unlink()
    monkeypatch.setattr("cluster_rl.training.episode_rows.time.time", lambda: 12.0)
    resumed = open_trainer(tmp_path, CONFIG)
    if written_first:
        resumed.write_episodes()
    resumed.tend_archive()
    resumed.write_episodes()
    resumed.tend_archive()
    assert only_entry(resumed).drawn == 2
    episode(resumed, 2)
    resumed.close("test")
    assert only_entry(resumed).drawn == 3


def test_a_log_that_was_lost_gives_numbers_again_and_their_episodes_count(trainer: Trainer, tmp_path: Path) -> None:
    propose(trainer.run_dir, "archive")
    trainer.tend_archive()
    episode(trainer, 0)
    trainer.checkpoint()
    for number in (1, 2):
        episode(trainer, number)
    trainer.write_episodes()
    trainer.tend_archive()
    trainer.replay.close()  # and a death
    assert only_entry(trainer).drawn == 3
    anew = open_trainer(tmp_path, changed(archive_entries=10, replay_dir=str(tmp_path / "empty")))
    assert anew.replay.next_id < trainer.replay.next_id
    episode(anew, 3)
    anew.close("test")
    assert only_entry(anew).drawn == 4


def test_a_lost_log_counts_what_came_before_a_death(trainer: Trainer, tmp_path: Path) -> None:
    """Before the archive was tended even once, with the new log beyond the old one's numbers."""
    propose(trainer.run_dir, "archive")
    trainer.tend_archive()
    for number in range(3):
        episode(trainer, number)
    trainer.write_episodes()
    trainer.tend_archive()
    trainer.replay.close()  # and a death, without a checkpoint
    config = changed(archive_entries=10, replay_dir=str(tmp_path / "empty"))
    anew = open_trainer(tmp_path, config)
    for number in range(3, 8):
        episode(anew, number)
    anew.write_episodes()
    assert anew.replay.next_id > trainer.replay.next_id
    anew.replay.close()  # and another
    resumed = open_trainer(tmp_path, config)
    resumed.tend_archive()
    assert only_entry(resumed).drawn == 3 + 5
    resumed.close("test")


def test_a_damaged_row_is_told_and_passed_over(
    trainer: Trainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    propose(trainer.run_dir, "archive")
    trainer.tend_archive()
    for number in range(3):
        episode(trainer, number)
    trainer.write_episodes()
    rows = trainer.run_dir.episodes.read_bytes().splitlines(keepends=True)
    trainer.run_dir.episodes.write_bytes(rows[0] + b"x" * (len(rows[1]) - 1) + b"\n" + rows[2])
    trainer.tend_archive()
    assert capsys.readouterr().out.count("delete that line; start states are weighed without it\n") == 1
    assert only_entry(trainer).drawn == 2
    trainer.close("test")
    resumed = open_trainer(tmp_path, CONFIG)  # it begins behind the damaged row
    resumed.tend_archive()
    assert only_entry(resumed).drawn == 2
    episode(resumed, 3)
    resumed.close("test")
    assert "start states" not in capsys.readouterr().out
    assert only_entry(resumed).drawn == 3


@pytest.mark.parametrize("tended_between", [False, True])
def test_damage_among_rows_that_count_for_nothing_is_told_once(
    trainer: Trainer, tmp_path: Path, capsys: pytest.CaptureFixture[str], tended_between: bool
) -> None:
    """Nothing but the number of the next record tells the next start of it."""
    propose(trainer.run_dir, "archive")
    trainer.tend_archive()
    episode(trainer, 0)
    damage_newest_row(trainer)
    if tended_between:
        trainer.tend_archive()
    for number in (1, 2):
        episode(trainer, number, tag="beginning")
    trainer.write_episodes()
    trainer.tend_archive()
    assert capsys.readouterr().out.count("start states are weighed without it") == 1
    assert only_entry(trainer).drawn == 0
    trainer.replay.close()  # and a death
    resumed = open_trainer(tmp_path, CONFIG)
    resumed.tend_archive()
    resumed.close("test")
    assert "start states" not in capsys.readouterr().out
    assert only_entry(resumed).drawn == 0


@pytest.mark.parametrize("tended_between", [False, True])
def test_rows_between_two_damaged_ones_count(trainer: Trainer, tmp_path: Path, tended_between: bool) -> None:
    propose(trainer.run_dir, "archive")
    trainer.tend_archive()
    for number in range(7):
        episode(trainer, number, tag="beginning" if number in (1, 5) else "archive")
        trainer.write_episodes()
        if number in (0, 4):
            damage_newest_row(trainer)
        if tended_between:
            trainer.tend_archive()
    trainer.replay.close()  # and a death
    resumed = open_trainer(tmp_path, CONFIG)
    resumed.tend_archive()
    resumed.close("test")
    assert only_entry(resumed).drawn == 3


def test_a_damaged_index_has_what_followed_counted_anew(
    trainer: Trainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    propose(trainer.run_dir, "archive")
    trainer.tend_archive()
    episode(trainer, 0, milestones=[("town", 3)])
    episode(trainer, 1)
    trainer.close("test")
    before = only_entry(trainer)
    (trainer.run_dir.archive / "index.json").write_bytes(b"{")
    resumed = open_trainer(tmp_path, CONFIG)
    words = "made anew from the states, and what followed is counted anew from episodes.jsonl, but for new cells"
    assert words in capsys.readouterr().out
    assert only_entry(resumed).drawn == 0
    resumed.tend_archive()
    assert only_entry(resumed) == before
    resumed.close("test")


def test_no_index_for_episodes_that_count_for_nothing(trainer: Trainer) -> None:
    """It may be long, and all actors read a new one."""
    propose(trainer.run_dir, "archive")
    trainer.tend_archive()
    for number in range(2):
        episode(trainer, number, tag="beginning")
        trainer.write_episodes()
        trainer.tend_archive()
    assert trainer.archive is not None
    assert trainer.archive.next_record > 0
    assert read_index(trainer.run_dir.archive / "index.json").next_record == 0
    trainer.close("test")


def test_the_mixture_and_the_archive_are_told(trainer: Trainer) -> None:
    propose(trainer.run_dir, "archive", "town")
    trainer.tend_archive()
    for number, (tag, start, reached) in enumerate(
        (
            ("beginning", "", [("town", 3), ("badge", 4)]),
            ("archive", "", []),
            ("archive", "town", [("badge", 2)]),
            ("state", "town badge", []),
        )
    ):
        episode(trainer, number, tag, start, milestones=reached)
    trainer.write_metrics()
    row = read_metrics(trainer.run_dir.metrics)[-1]
    trainer.close("test")
    told = {name: value for name, value in row.items() if name.startswith(("start/", "archive/"))}
    size = only_entry(trainer).size_bytes / 1e6
    assert told == {
        "start/beginning": 0.25,
        "start/early": 0.25,
        "start/middle": 0.25,
        "start/late": 0.25,
        "archive/states": 1.0,
        "archive/megabytes": size,
        "archive/admitted": 1.0,
        "archive/evicted": 0.0,
        "archive/unfit": 0.0,
        "archive/newer": 0.0,
    }


def test_what_quests_are_worth_weighs_the_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_identity(RunDir(tmp_path, "run").create().identity, ROM, "GAME")
    trainer = open_trainer(tmp_path, CONFIG)
    for key, milestones in (("first", ()), ("second", ("town",)), ("third", ("town", "badge"))):
        propose(trainer.run_dir, key, *milestones)
        trainer.tend_archive()
    worth = {"town": 0.1, "badge": 0.9}
    monkeypatch.setattr(trainer.quests, "start_weights", lambda: worth)
    trainer.tend_archive()
    index = read_index(trainer.run_dir.archive / "index.json")
    assert {entry.key: round(entry.weight, 9) for entry in index.entries} == {
        "first": 0.1,
        "second": 0.9,
        "third": 0.05,
    }
    worth["town"] = 0.7
    trainer.tend_archive()
    assert read_index(trainer.run_dir.archive / "index.json").entries[0].weight == pytest.approx(0.7)
    trainer.close("test")


def test_without_it_there_is_no_archive(tmp_path: Path) -> None:
    for config in (changed(), changed(archive_entries=10, start_share=0.0)):
        trainer = open_trainer(tmp_path, config)
        trainer.tick()
        assert trainer.archive is None
        trainer.close("test")
        assert not trainer.run_dir.archive.exists()
