"""An evaluation is in one row of metrics, whoever dies meanwhile, and whatever lies in its file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from run_golden import EVALUATION
from sequence_fixtures import make_builder, play
from trainer_fixtures import BLOCK, CONFIG, episodes, ingest, open_trainer, train

from cluster_rl.errors import StorageError
from cluster_rl.runs import metrics_tail
from cluster_rl.runs.checkpoint import point_of, read_params
from cluster_rl.runs.evaluation import Evaluation, ParamsPoint, save_evaluation
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.metrics_tail import rows_backwards
from cluster_rl.training.evaluation_rows import EvaluationRows, told_point
from cluster_rl.training.event_file import EventFile
from cluster_rl.training.metrics import read_metrics
from cluster_rl.training.trainer import Trainer


def evaluated(env_steps: int, **changes: Any) -> Evaluation:
    return msgspec.structs.replace(EVALUATION, env_steps=env_steps, updates=env_steps // 10, **changes)


def grow(trainer: Trainer, first: int) -> None:
    """There is something for a row to tell."""
    ingest(trainer, episodes(first, 1))


def told(run_dir: RunDir) -> list[float | None]:
    """Env steps of the parameters of each evaluation in the rows, in order."""
    return [row["evaluate/env_steps"] for row in read_metrics(run_dir.metrics) if "evaluate/env_steps" in row]


def refuse(*_: object) -> None:
    """A full disk."""
    raise OSError(28, "No space left on device")


def test_a_row_has_the_figures_and_progress_the_newest(tmp_path: Path) -> None:
    trainer = open_trainer(tmp_path)
    ingest(trainer, play(make_builder(BLOCK), 0, 18, milestones={4: ["town"]}))
    trainer.write_metrics()
    save_evaluation(trainer.run_dir.evaluation, evaluated(50, milestones={"town": 0.0, "badge": 0.5, "moon": 0.0}))
    assert set(trainer.replay.milestones) == {"town"}
    grow(trainer, 1)
    trainer.write_metrics()
    before, row = read_metrics(trainer.run_dir.metrics)
    assert not any(name.startswith("evaluate/") for name in before)
    assert {name: value for name, value in row.items() if name.startswith("evaluate/")} == {
        "evaluate/env_steps": 50,
        "evaluate/updates": 5,
        "evaluate/return": 3.25,
        "evaluate/return_half_interval": 0.5,
        "evaluate/steps": 40,
        "evaluate/finished": 0.125,
        "evaluate/episodes": 8,
        "evaluate/distinct": 3,
        "evaluate/seconds": 12.5,
        "evaluate/milestone/town": 0,
        "evaluate/milestone/badge": 0.5,
    }
    trainer.write_progress()
    assert trainer.progress.evaluation is not None
    assert trainer.progress.evaluation.point == (50, 5)
    trainer.close("test")


def test_one_distinct_episode_has_no_interval(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path, "run").create()
    save_evaluation(run_dir.evaluation, evaluated(50, half_interval=None))
    assert "evaluate/return_half_interval" not in EvaluationRows(run_dir).row(())


def test_each_is_in_one_row_also_over_jobs(tmp_path: Path) -> None:
    trainer = open_trainer(tmp_path)
    for number in range(3):
        grow(trainer, number)
        trainer.write_metrics()
    save_evaluation(trainer.run_dir.evaluation, evaluated(20))
    for number in range(3, 6):
        grow(trainer, number)
        trainer.write_metrics()
    assert told(trainer.run_dir) == [20]
    trainer.close("test")
    for first in (6, 7):  # a job without a new one, and one for which one was made meanwhile
        trainer = open_trainer(tmp_path)
        grow(trainer, first)
        trainer.write_metrics()
        trainer.close("test")
        save_evaluation(trainer.run_dir.evaluation, evaluated(20 * first))
    assert told(trainer.run_dir) == [20, 120]


def test_parameters_of_fewer_updates_after_a_crash_are_others(tmp_path: Path) -> None:
    trainer = open_trainer(tmp_path)
    for number, updates in enumerate((9, 4)):
        grow(trainer, number)
        save_evaluation(trainer.run_dir.evaluation, msgspec.structs.replace(EVALUATION, updates=updates))
        trainer.write_metrics()
    assert told(trainer.run_dir) == [600, 600]
    trainer.close("test")


def test_a_learner_that_dies_between_both_files_tells_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row is in metrics.jsonl, and the disk is full for TensorBoard's."""
    trainer = open_trainer(tmp_path)
    grow(trainer, 0)
    save_evaluation(trainer.run_dir.evaluation, evaluated(10))

    with monkeypatch.context() as patch:
        patch.setattr(EventFile, "write", refuse)
        with pytest.raises(StorageError):
            trainer.write_metrics()
    grow(trainer, 1)
    trainer.write_metrics()
    assert told(trainer.run_dir) == [10]
    trainer.close("test")


def test_a_row_that_is_in_no_file_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = open_trainer(tmp_path)
    grow(trainer, 0)
    save_evaluation(trainer.run_dir.evaluation, evaluated(10))

    with monkeypatch.context() as patch:
        patch.setattr("cluster_rl.runs.growing_file.append_whole", refuse)
        with pytest.raises(StorageError):
            trainer.write_metrics()
    trainer.write_metrics()
    assert told(trainer.run_dir) == [10]
    trainer.close("test")


@pytest.mark.parametrize("damage", [b"", b"{", b'{"env_steps": 5}', b"\xff", b"[]"])
def test_what_is_wrong_with_the_file_is_said_once_and_stops_nothing(
    tmp_path: Path, damage: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = open_trainer(tmp_path)
    path = trainer.run_dir.evaluation
    save_evaluation(path, evaluated(10))
    grow(trainer, 0)
    trainer.write_metrics()
    path.write_bytes(damage)
    for number in (1, 2):
        grow(trainer, number)
        trainer.write_metrics()
    out = capsys.readouterr().out
    assert out.count(f"{path}: damaged (") == out.count("the next evaluation writes it anew") == 1
    assert len(read_metrics(trainer.run_dir.metrics)) == 3
    trainer.close("test")
    trainer = open_trainer(tmp_path)
    assert trainer.evaluations.newest is None
    save_evaluation(path, evaluated(30))
    grow(trainer, 3)
    trainer.write_metrics()
    assert told(trainer.run_dir) == [10, 30]
    trainer.close("test")


def test_one_that_was_damaged_at_a_start_is_not_told_again(tmp_path: Path) -> None:
    trainer = open_trainer(tmp_path)
    path = trainer.run_dir.evaluation
    save_evaluation(path, evaluated(10))
    grow(trainer, 0)
    trainer.write_metrics()
    trainer.close("test")
    path.write_bytes(b"{")
    trainer = open_trainer(tmp_path)
    trainer.write_progress()
    assert trainer.progress.evaluation is not None  # as progress.json had it
    save_evaluation(path, evaluated(10))
    grow(trainer, 1)
    trainer.write_metrics()
    assert told(trainer.run_dir) == [10]
    trainer.close("test")


def test_one_of_older_parameters_that_comes_late_is_not_told(tmp_path: Path) -> None:
    trainer = open_trainer(tmp_path)
    for number, env_steps in enumerate((10, 20, 10, 30)):
        save_evaluation(trainer.run_dir.evaluation, evaluated(env_steps))
        grow(trainer, number)
        trainer.write_metrics()
    assert told(trainer.run_dir) == [10, 20, 30]
    trainer.close("test")


def test_only_of_a_damaged_file_it_is_said_that_it_is_written_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = RunDir(tmp_path, "run").create()
    run_dir.evaluation.mkdir()
    assert EvaluationRows(run_dir).row(()) == {}
    assert capsys.readouterr().out == f"{run_dir.evaluation}: a folder lies where a file was expected; move it away\n"


def test_published_parameters_say_when_they_were_made(tmp_path: Path) -> None:
    trainer = open_trainer(tmp_path)
    ingest(trainer, episodes(0, 4))
    train(trainer, 2)
    trainer.write_params_file()
    assert point_of(read_params(trainer.run_dir.online_params)) == (trainer.replay.env_steps, 2)
    assert trainer.replay.env_steps == 72
    trainer.close("test")


def test_published_parameters_are_written_anew_only_after_an_update(tmp_path: Path) -> None:
    """Whoever waits for others would begin for nothing."""
    trainer = open_trainer(tmp_path, msgspec.structs.replace(CONFIG, params_file_interval_seconds=1e-6))
    path = trainer.run_dir.online_params
    ingest(trainer, episodes(0, 4))
    trainer.tick()
    assert not path.exists()
    for updates in (1, 2):
        train(trainer, 1)
        trainer.tick()
        assert point_of(read_params(path)) == (72, updates)
        os.utime(path, ns=(5, 5))
        trainer.tick()
        assert path.stat().st_mtime_ns == 5
    trainer.close("test")


def rows(path: Path, *values: dict[str, float]) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def test_the_search_for_what_was_told_ends_where_it_cannot_be(tmp_path: Path) -> None:
    point = {"evaluate/env_steps": 10.0, "evaluate/updates": 2.0}
    path = rows(tmp_path / "metrics.jsonl", {"env_steps": 15} | point, {"env_steps": 20}, {"env_steps": 30})
    assert told_point(path, since_env_steps=10) == (10, 2)
    assert told_point(path, since_env_steps=25) is None
    assert told_point(tmp_path / "none.jsonl", 0) is None
    with path.open("a") as file:
        file.write('{"env_steps": "damaged"}\n{"env_steps": 40}\n{"torn')
    assert told_point(path, since_env_steps=10) == ParamsPoint(10, 2)


@pytest.mark.parametrize("chunk_bytes", [1, 7, 8, 9, 64, 4096])
@pytest.mark.parametrize("text", ["", "a\n", "torn", "a\nbb\nccccccccccc\n", "a\nb", "\na\n\n", "dddddddd\n" * 3])
def test_rows_come_backwards_wherever_the_chunks_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, chunk_bytes: int
) -> None:
    monkeypatch.setattr(metrics_tail, "_CHUNK_BYTES", chunk_bytes)
    path = tmp_path / "rows"
    path.write_text(text)
    wanted = [line.encode() for line in text[: text.rfind("\n") + 1].split("\n") if line]
    assert list(rows_backwards(path)) == wanted[::-1]
