"""`episodes.jsonl`: one row an episode, from the log alone, whatever is at the file's end."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
from sequence_fixtures import make_builder, play, start_at, summary_of
from small_disk import SmallDisk
from trainer_fixtures import BLOCK, changed, ingest, open_trainer

from cluster_rl.errors import StorageError, UserError
from cluster_rl.learning.sequences import Sequence
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.metrics_tail import MAX_ROW_BYTES
from cluster_rl.training.episode_rows import EpisodeRow, EpisodeRows, read_episode_rows
from cluster_rl.wire.codec import SequenceHeader, decode_header, encode_block

LENGTH = 18


def ended(*episodes: int) -> list[Sequence]:
    """The sequences of these episodes, whose returns are their numbers."""
    builder = make_builder(BLOCK)
    summaries = {number: summary_of(LENGTH, episode_return=float(number)) for number in episodes}
    return [s for number in episodes for s in play(builder, number, LENGTH, summary=summaries[number])]


def ending() -> SequenceHeader:
    """That of an episode's last sequence."""
    header = decode_header(encode_block(ended(0)[-1]))
    assert header.summary is not None
    return header


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
        assert not list(path.parent.glob("*.damaged*"))  # a death tears a line, and that is no damage
        assert [row.episode for row in found] == [0, 1, 2]
        assert [row.env_steps for row in found] == [LENGTH, 2 * LENGTH, 3 * LENGTH]
    resumed = open_trainer(tmp_path)
    ingest(resumed, ended(3))
    resumed.close("test")
    assert [row.episode for row in rows_of(tmp_path)] == [0, 1, 2, 3]


def test_what_cannot_be_read_at_the_end_is_moved_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = open_trainer(tmp_path)
    ingest(trainer, ended(0, 1))
    trainer.close("test")
    path = RunDir(tmp_path, "run").episodes
    whole = path.read_bytes()
    path.write_bytes(whole + b"not a row\n")
    with pytest.raises(UserError, match=r"episodes\.jsonl: the row before byte \d+: damaged .*; delete that line"):
        rows_of(tmp_path)
    open_trainer(tmp_path).close("test")
    words = f"all from byte {len(whole)} on is moved to episodes.jsonl.damaged, rows go on"
    assert words in capsys.readouterr().out
    assert path.read_bytes() == whole
    assert path.with_name("episodes.jsonl.damaged").read_bytes() == b"not a row\n"


def test_what_is_moved_aside_takes_no_earlier_ones_place(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    for words in (b"first\n", b"second\n"):
        path.write_bytes(words)
        EpisodeRows(path, 0).close()
        assert path.read_bytes() == b""
    assert (tmp_path / "episodes.jsonl.damaged").read_bytes() == b"first\n"
    assert (tmp_path / "episodes.jsonl.damaged-2").read_bytes() == b"second\n"


@pytest.mark.parametrize("next_record", range(6))
def test_rows_of_lost_records_are_moved_aside_and_no_others(tmp_path: Path, next_record: int) -> None:
    """As after an unclean end, whose newest checkpoint is older than the rows, and with the log emptied."""
    header = ending()
    path = tmp_path / "episodes.jsonl"
    rows = EpisodeRows(path, 0)
    for record in (1, 2, 4):
        rows.offer(record, record * LENGTH, header)
    rows.write(lambda: None)
    rows.close()
    before = path.read_bytes()
    again = EpisodeRows(path, next_record)
    kept = [record for record in (1, 2, 4) if record < next_record]
    assert [row.record for row, _ in read_episode_rows(path)] == kept
    moved = path.with_name("episodes.jsonl.damaged")
    assert path.read_bytes() + (moved.read_bytes() if moved.exists() else b"") == before
    assert len(again.notes) == moved.exists() == (kept != [1, 2, 4])
    for record in (1, 2, 4, 6):
        again.offer(record, record * LENGTH, header)
    again.write(lambda: None)
    again.close()
    assert [row.record for row, _ in read_episode_rows(path)] == [1, 2, 4, 6]


@pytest.mark.parametrize("whole", [0, 2])
def test_a_long_tail_without_a_lines_end_is_moved_aside(tmp_path: Path, whole: int) -> None:
    """A row is never so long: it is damage, such as the zeros that a file system leaves after a power cut."""
    path = tmp_path / "episodes.jsonl"
    rows = EpisodeRows(path, 0)
    for record in range(whole):
        rows.offer(record, LENGTH, ending())
    rows.write(lambda: None)
    rows.close()
    before, tail = path.read_bytes(), bytes(MAX_ROW_BYTES + 1)
    path.write_bytes(before + tail)
    again = EpisodeRows(path, whole)
    again.close()
    assert path.read_bytes() == before
    assert path.with_name("episodes.jsonl.damaged").read_bytes() == tail
    words = f"what lies in it from byte {len(before)} on is no row; moved to episodes.jsonl.damaged"
    assert again.notes == [f"{path}: {words}"]


def test_something_else_in_the_files_place_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    path.mkdir()
    with pytest.raises(UserError, match=r"episodes\.jsonl: something else lies where a file was expected"):
        EpisodeRows(path, 0)
    assert path.is_dir()


def test_an_emptied_replay_dir_takes_no_row_that_the_checkpoint_knows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As docs/run_directory.md tells to go on where a log does not fit, after an end that wrote no last checkpoint."""
    trainer = open_trainer(tmp_path / "one")
    ingest(trainer, ended(0, 1))
    trainer.checkpoint()
    ingest(trainer, ended(2))
    trainer.write_episodes()
    shutil.copytree(tmp_path / "one", tmp_path / "two")  # as SIGKILL would leave it
    trainer.close("test")
    shutil.rmtree(RunDir(tmp_path / "two", "run").replay)
    resumed = open_trainer(tmp_path / "two", changed(replay_dir=str(tmp_path / "empty")))
    assert "moved to episodes.jsonl.damaged" in capsys.readouterr().out
    assert [row.episode for row in rows_of(tmp_path / "two")] == [0, 1]
    ingest(resumed, ended(5))
    resumed.close("test")
    found = rows_of(tmp_path / "two")
    assert [row.episode for row in found] == [0, 1, 5]
    assert [row.env_steps for row in found] == [LENGTH, 2 * LENGTH, 3 * LENGTH]


def test_a_torn_last_line_is_left_out_and_reading_begins_where_it_is_told(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    rows = EpisodeRows(path, 0)
    for record in range(3):
        rows.offer(record, LENGTH, ending())
    rows.write(lambda: None)
    rows.close()
    whole = path.read_bytes()
    ends = [end for _, end in read_episode_rows(path)]
    assert ends[-1] == len(whole)
    path.write_bytes(whole[:-1])
    assert [(row.record, end) for row, end in read_episode_rows(path)] == [(0, ends[0]), (1, ends[1])]
    assert [(row.record, end) for row, end in read_episode_rows(path, ends[0])] == [(1, ends[1])]


def test_a_tick_writes_rows_of_what_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        raise StorageError("no", tmp_path, None)

    trainer = open_trainer(tmp_path, changed(progress_interval_seconds=1e-6))
    ingest(trainer, ended(0, 1))
    with monkeypatch.context() as patch:
        patch.setattr(trainer.replay, "sync", refused)
        trainer.tick()
        assert rows_of(tmp_path) == []
    trainer.tick()
    assert [row.episode for row in rows_of(tmp_path)] == [0, 1]
    trainer.close("test")


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
    header = ending()
    rows.offer(1, LENGTH, header)
    rows.offer(2, 2 * LENGTH, header)
    rows.offer(3, 2 * LENGTH, msgspec.structs.replace(header, summary=None))
    with pytest.raises(StorageError):
        rows.write(refused)
    assert (disk.folder / "episodes.jsonl").read_bytes() == b""
    with disk.full(), pytest.raises(StorageError, match=r"episodes\.jsonl"):
        rows.write(lambda: None)
    rows.write(lambda: None)
    rows.close()
    assert [row.record for row, _ in read_episode_rows(disk.folder / "episodes.jsonl")] == [1, 2]
