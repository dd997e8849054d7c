"""`episodes.jsonl`: one row an episode, from the log alone, whatever is at the file's end."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
from sequence_fixtures import make_builder, play, start_at, summary_of
from small_disk import SmallDisk
from trainer_fixtures import BLOCK, ingest, open_trainer

from cluster_rl.errors import StorageError, UserError
from cluster_rl.learning.sequences import Sequence
from cluster_rl.runs.layout import RunDir
from cluster_rl.training.episode_rows import EpisodeRow, EpisodeRows, read_episode_rows
from cluster_rl.wire.codec import decode_header, encode_block

LENGTH = 18


def ended(*episodes: int) -> list[Sequence]:
    """The sequences of these episodes, whose returns are their numbers."""
    builder = make_builder(BLOCK)
    summaries = {number: summary_of(LENGTH, episode_return=float(number)) for number in episodes}
    return [s for number in episodes for s in play(builder, number, LENGTH, summary=summaries[number])]


def rows_of(folder: Path) -> list[EpisodeRow]:
    return [row for row, _ in read_episode_rows(RunDir(folder, "run").episodes)]


def test_a_row_tells_of_its_episode(tmp_path: Path) -> None:
    trainer = open_trainer(tmp_path)
    summary = summary_of(
        LENGTH,
        episode_return=2.5,
        terms={"event": 3.0, "step": -0.5},
        milestones=[("badge", 4)],
        final_map=12,
        reason="stopped",
        seed=77,
        start=start_at("archive", "town"),
        cells=5,
        loop_share=0.25,
        entropy=1.5,
    )
    builder = make_builder(BLOCK)
    builder.params_version = 9
    sequences = play(builder, 6, LENGTH, summary=summary)
    ingest(trainer, sequences)
    trainer.write_episodes()
    trainer.write_episodes()
    (row,) = rows_of(tmp_path)
    trainer.close("test")
    assert row == EpisodeRow(
        time=row.time,
        record=len(sequences) - 1,
        env_steps=LENGTH,
        actor=3,
        incarnation=sequences[0].incarnation,
        emulator=1,
        episode=6,
        start_id="archive",
        start_tag="archive",
        start_milestones=["town"],
        steps=LENGTH,
        episode_return=2.5,
        terms={"event": 3.0, "step": -0.5},
        milestones={"badge": 4},
        final_map=12,
        reason="stopped",
        entropy=1.5,
        loop_share=0.25,
        cells=5,
        epsilon=0.25,
        params_version=9,
        seed=77,
    )


def test_rows_come_once_over_jobs_and_lost_ends(tmp_path: Path) -> None:
    trainer = open_trainer(tmp_path)
    ingest(trainer, ended(0, 1, 2))
    trainer.close("test")
    path = RunDir(tmp_path, "run").episodes
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    assert [row.episode for row in rows_of(tmp_path)] == [0, 1, 2]
    for there in (whole, whole[:-3], b"".join(lines[:1]), lines[0] + lines[1][:9], b""):
        path.write_bytes(there)
        resumed = open_trainer(tmp_path)
        resumed.close("test")
        found = rows_of(tmp_path)
        assert [row.episode for row in found] == [0, 1, 2]
        assert [row.env_steps for row in found] == [LENGTH, 2 * LENGTH, 3 * LENGTH]
    resumed = open_trainer(tmp_path)
    ingest(resumed, ended(3))
    resumed.close("test")
    assert [row.episode for row in rows_of(tmp_path)] == [0, 1, 2, 3]


def test_a_file_without_a_readable_end_is_begun_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = open_trainer(tmp_path)
    ingest(trainer, ended(0, 1))
    trainer.close("test")
    path = RunDir(tmp_path, "run").episodes
    path.write_bytes(path.read_bytes() + b"not a row\n")
    with pytest.raises(UserError, match=r"episodes\.jsonl: the row before byte \d+: damaged .*; delete that line"):
        rows_of(tmp_path)
    open_trainer(tmp_path).close("test")
    assert "moved to episodes.jsonl.damaged" in capsys.readouterr().out
    assert [row.episode for row in rows_of(tmp_path)] == [0, 1]
    assert path.with_name("episodes.jsonl.damaged").read_bytes().endswith(b"not a row\n")


def test_a_run_that_started_over_has_rows_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = open_trainer(tmp_path)
    ingest(trainer, ended(0, 1))
    trainer.close("test")
    run_dir = RunDir(tmp_path, "run")
    before = run_dir.episodes.read_bytes()
    for path in (run_dir.replay, run_dir.checkpoint, run_dir.progress, run_dir.metrics, run_dir.online_params):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    anew = open_trainer(tmp_path)
    ingest(anew, ended(5))
    anew.close("test")
    assert [row.episode for row in rows_of(tmp_path)] == [5]
    assert "tells of record" in capsys.readouterr().out
    assert run_dir.episodes.with_name("episodes.jsonl.damaged").read_bytes() == before


def test_no_row_before_its_sequence_is_on_disk(disk: SmallDisk) -> None:
    def refused() -> None:
        raise StorageError("no", disk.folder, None)

    rows = EpisodeRows(disk.folder / "episodes.jsonl", 0)
    header = decode_header(encode_block(ended(0)[-1]))
    assert header.summary is not None
    rows.offer(1, LENGTH, header)
    rows.offer(2, 2 * LENGTH, header)
    rows.offer(3, 2 * LENGTH, msgspec.structs.replace(header, summary=None))
    with pytest.raises(StorageError):
        rows.write(refused)
    assert (rows.size_bytes, rows.waiting) == (0, 2)
    with disk.full(), pytest.raises(StorageError, match=r"episodes\.jsonl"):
        rows.write(lambda: None)
    assert rows.waiting == 2
    rows.write(lambda: None)
    rows.close()
    assert rows.waiting == 0
    assert [row.record for row, _ in read_episode_rows(disk.folder / "episodes.jsonl")] == [1, 2]
