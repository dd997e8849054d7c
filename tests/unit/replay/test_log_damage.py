"""A replay log that was torn or damaged: what can be read is counted, what cannot is kept and told."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from replay_log_fixtures import EPISODE_STEPS, append, block_of, files, fill, open_log, totals_of

from cluster_rl.errors import StorageError
from cluster_rl.replay.log import LogEntry
from cluster_rl.replay.totals import Totals


@pytest.mark.parametrize("records", [1, 3])
def test_every_truncation_of_the_newest_segment(tmp_path: Path, records: int) -> None:
    """A log of one whole segment and `records` more, cut at every byte of the newest file."""
    source = tmp_path / "source"
    log = open_log(source, transitions=EPISODE_STEPS)
    written = fill(log, 3 + records)
    log.close()
    newest = files(source)[-1]
    content = newest.read_bytes()
    ends = [entry.offset + entry.length for entry in written[3:]]
    assert ends[-1] == len(content)
    folder = tmp_path / "copy"
    rng = np.random.default_rng(0)
    header_end = content.index(b"\xf1\x9eRC")  # a segment appears with its header whole
    assert header_end < written[3].offset
    near_edges = {edge + d for edge in [header_end, *ends] for d in (-2, -1, 0, 1, 3, 4, 5, 30, 36, 41)}
    drawn = set(rng.integers(header_end, len(content), 60).tolist())
    sizes = {size for size in near_edges | drawn if header_end <= size <= len(content)}
    for size in sorted(sizes):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        with (folder / newest.name).open("r+b") as file:
            file.truncate(size)
        survivors = written[: 3 + sum(end <= size for end in ends)]
        reopened = open_log(folder, transitions=EPISODE_STEPS)
        assert reopened.totals == totals_of(survivors), size
        assert reopened.bytes_on_disk == sum(path.stat().st_size for path in files(folder))
        assert (reopened.damaged, reopened.notes) == (0, [])
        # It goes on as if the lost ones had never come: the actor sends them again.
        resent = [append(reopened, seq) for seq in range(3 + records)]
        assert [entry is None for entry in resent] == [True] * len(survivors) + [False] * (3 + records - len(survivors))
        assert reopened.totals == totals_of(written)
        reopened.close()
        final = open_log(folder, transitions=EPISODE_STEPS)
        assert final.totals == totals_of(written)
        assert final.damaged == 0
        final.close()


def test_a_damaged_record_in_an_older_segment_is_skipped_and_counted(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    written = fill(log, 30)
    expected = log.totals
    log.close()
    for victim, at in ((written[1], 40), (written[4], -30), (written[5], -3)):  # in a block, in record headers
        with files(tmp_path)[0].open("r+b") as file:
            file.seek(victim.offset + at)
            byte = file.read(1)[0]
            file.seek(victim.offset + at)
            file.write(bytes([byte ^ 0x55]))
    found: list[LogEntry] = []
    again = open_log(tmp_path, on_record=found.append)
    assert [entry.id for entry in found] == [entry.id for entry in written if entry.id not in (1, 4, 5)]
    assert again.damaged == 2  # 4 and 5 are neighbours: one damaged stretch
    assert again.totals == expected
    for entry in found:
        assert entry.segment.read(entry.offset, entry.length) == block_of(entry.seq)


def test_a_damaged_segment_header_does_not_lose_the_records(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    fill(log, 60)
    expected = log.totals
    log.close()
    with files(tmp_path)[1].open("r+b") as file:
        file.seek(20)
        file.write(b"\0\0\0")
    found: list[LogEntry] = []
    again = open_log(tmp_path, on_record=found.append)
    assert (again.damaged, len(found)) == (1, 60)
    assert again.totals == expected


def damage(path: Path, at: int, content: bytes = b"\x55\xaa\x55") -> None:
    """Overwrites bytes of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def test_records_behind_a_damaged_one_in_the_newest_segment_are_kept(tmp_path: Path) -> None:
    log = open_log(tmp_path, transitions=10**6)
    written = fill(log, 6)
    log.close()
    damage(files(tmp_path)[0], written[2].offset + 40)
    for _ in range(2):
        found: list[LogEntry] = []
        again = open_log(tmp_path, transitions=10**6, on_record=found.append)
        assert [entry.id for entry in found] == [0, 1, 3, 4, 5]
        assert (again.damaged, again.totals.gaps, again.expected_seq(0, 1)) == (1, 1, 6)
        (note,) = again.notes
        assert files(tmp_path)[0].name in note
        again.close()
    assert not list(tmp_path.glob("*.damaged*"))


@pytest.mark.parametrize("whole", [True, False])
def test_a_damaged_end_of_the_newest_segment_is_told_and_moved_away(tmp_path: Path, whole: bool) -> None:
    """The last records are damaged; where the file is not whole, the very last is cut off in its middle besides."""
    log = open_log(tmp_path, transitions=10**6)
    written = fill(log, 6)
    log.close()
    path = files(tmp_path)[0]
    damage(path, written[4].offset + 40)
    if whole:
        damage(path, written[5].offset + 40)
    else:
        os.truncate(path, path.stat().st_size - 7)
    content = path.read_bytes()
    again = open_log(tmp_path, transitions=10**6)
    end = written[3].offset + written[3].length
    assert again.totals == totals_of(written[:4])
    assert again.damaged == 2
    assert path.stat().st_size == end == again.bytes_on_disk
    moved = path.with_name(f"{path.name}.damaged")
    assert moved.read_bytes() == content[end:]
    assert any(moved.name in note for note in again.notes)
    assert all("\n" not in note for note in again.notes)
    fill(again, 2, first=4)
    again.close()

    # The next damage has its own file.
    damage(path, path.stat().st_size - 30)
    third = open_log(tmp_path, transitions=10**6)
    assert (third.damaged, third.totals.sequences) == (1, 5)
    assert moved.read_bytes() == content[end:]
    assert moved.with_name(f"{moved.name}-2").exists()
    third.close()
    clean = open_log(tmp_path, transitions=10**6)
    assert (clean.damaged, clean.notes, clean.totals.sequences) == (0, [], 5)


def test_the_beginnings_of_two_records_are_more_than_a_torn_one(tmp_path: Path) -> None:
    log = open_log(tmp_path, transitions=10**6)
    written = fill(log, 5)
    log.close()
    path = files(tmp_path)[0]
    content = path.read_bytes()
    end, fourth, fifth = written[2].offset + written[2].length, written[3], written[4]
    tail = content[end : fourth.offset + 10] + content[fourth.offset + fourth.length : fifth.offset + 10]
    assert len(tail) < fourth.length
    path.write_bytes(content[:end] + tail)
    again = open_log(tmp_path, transitions=10**6)
    assert (again.damaged, again.totals) == (2, totals_of(written[:3]))
    assert next(tmp_path.glob("*.damaged")).read_bytes() == tail


def test_zeros_at_the_end_are_not_taken_for_a_torn_record(tmp_path: Path) -> None:
    """What a power cut may leave of records that were never synced."""
    log = open_log(tmp_path)
    written = fill(log, 2)
    log.close()
    with files(tmp_path)[0].open("ab") as file:
        file.write(bytes(10))
    again = open_log(tmp_path)
    assert (again.damaged, again.totals) == (1, totals_of(written))
    assert next(tmp_path.glob("*.damaged")).read_bytes() == bytes(10)


@pytest.mark.parametrize("left", [0, 5, 40])
def test_a_newest_segment_without_its_header_is_damage(tmp_path: Path, left: int) -> None:
    log = open_log(tmp_path, transitions=EPISODE_STEPS)
    written = fill(log, 4)
    log.close()
    newest = files(tmp_path)[-1]
    content = newest.read_bytes()[:left]
    os.truncate(newest, left)
    again = open_log(tmp_path, transitions=EPISODE_STEPS)
    assert (again.damaged, again.totals) == (1, totals_of(written[:3]))
    assert newest.with_name(f"{newest.name}.damaged").read_bytes() == content
    assert len(again.notes) == 1
    fill(again, 1, first=3)
    again.close()
    final = open_log(tmp_path, transitions=EPISODE_STEPS)
    assert (final.damaged, final.totals) == (0, totals_of(written))


def test_adopted_totals_hold_after_the_newest_segment_was_damaged(tmp_path: Path) -> None:
    log = open_log(tmp_path, transitions=10**6)
    written = fill(log, 6)
    saved = Totals.from_plain(log.totals.to_plain())
    log.close()
    os.truncate(files(tmp_path)[0], written[3].offset)
    again = open_log(tmp_path, transitions=10**6)
    assert again.totals == totals_of(written[:3])
    assert again.adopt(saved)
    again.segments.clear()  # as after kill -9: nothing is synced any more
    again.close()
    final = open_log(tmp_path, transitions=10**6)
    assert final.totals == saved == totals_of(written)
    assert append(final, 5) is None
    assert fill(final, 1, first=6)[0].id == 6
    assert not final.adopt(saved)


@pytest.mark.parametrize(("lost", "sequences"), [([1], 3), ([1, 2], 6), ([2], 3), ([0, 2], 3)])
def test_missing_segments_are_told_with_what_they_held(tmp_path: Path, lost: list[int], sequences: int) -> None:
    """But for the oldest, which may have been evicted: the log knows no capacity."""
    log = open_log(tmp_path, transitions=EPISODE_STEPS)
    written = fill(log, 12)
    log.close()
    paths = files(tmp_path)
    for number in lost:
        paths[number].unlink()
    found: list[LogEntry] = []
    again = open_log(tmp_path, transitions=EPISODE_STEPS, on_record=found.append)
    steps = sequences // 3 * EPISODE_STEPS
    words = f"{sequences} sequences ({steps} env steps) that lay before it are missing, with their files"
    assert again.notes == [f"replay log {paths[max(lost) + 1]}: {words}"]
    assert len(found) == 12 - 3 * len(lost)
    assert again.totals == totals_of(written)
    assert again.evicted == ((3, EPISODE_STEPS) if lost[0] == 0 else (0, 0))


@pytest.mark.parametrize("number", [0, 1])
def test_a_segment_that_was_moved_aside_is_told_of_once(tmp_path: Path, number: int) -> None:
    log = open_log(tmp_path, transitions=EPISODE_STEPS)
    written = fill(log, 9)
    log.close()
    paths = files(tmp_path)
    paths[number].write_bytes(bytes(100))
    again = open_log(tmp_path, transitions=EPISODE_STEPS)
    assert (again.damaged, len(again.notes)) == (1, 1)
    again.close()
    final = open_log(tmp_path, transitions=EPISODE_STEPS)
    assert (final.damaged, final.notes) == (0, [])
    assert final.totals == totals_of(written)
    final.close()


def test_a_segment_that_was_moved_aside_does_not_hide_those_that_are_missing(tmp_path: Path) -> None:
    log = open_log(tmp_path, transitions=EPISODE_STEPS)
    fill(log, 15)
    log.close()
    paths = files(tmp_path)
    paths[2].write_bytes(bytes(100))
    open_log(tmp_path, transitions=EPISODE_STEPS).close()
    paths[1].unlink()
    again = open_log(tmp_path, transitions=EPISODE_STEPS)
    words = f"3 sequences ({EPISODE_STEPS} env steps) that lay before it are missing, with their files"
    assert again.notes == [f"replay log {paths[2]}: {words}"]


@pytest.mark.parametrize("cut", [True, False])
def test_a_missing_segment_is_told_whatever_was_moved_out_of_it_before(tmp_path: Path, cut: bool) -> None:
    """The newest was damaged at its end, or as a whole; the log went on with its number, and then it vanished."""
    log = open_log(tmp_path, transitions=EPISODE_STEPS)
    written = fill(log, 6)
    log.close()
    paths = files(tmp_path)
    if cut:
        damage(paths[1], written[5].offset + 40)
    else:
        paths[1].write_bytes(bytes(100))
    again = open_log(tmp_path, transitions=EPISODE_STEPS)
    assert [path.name for path in tmp_path.glob("*.damaged")] == [f"{paths[1].name}.damaged"]
    fill(again, 9 - again.totals.sequences, first=again.totals.sequences)
    again.close()
    paths[1].unlink()
    last = open_log(tmp_path, transitions=EPISODE_STEPS)
    (note,) = last.notes
    assert f"3 sequences ({EPISODE_STEPS} env steps) that lay before it are missing" in note


def test_a_missing_segment_is_told_where_the_next_one_has_lost_its_header(tmp_path: Path) -> None:
    log = open_log(tmp_path, transitions=EPISODE_STEPS)
    fill(log, 12)
    log.close()
    paths = files(tmp_path)
    paths[1].unlink()
    damage(paths[2], 20, bytes(3))
    again = open_log(tmp_path, transitions=EPISODE_STEPS)
    words = f"3 sequences ({EPISODE_STEPS} env steps) that lay before it are missing, with their files"
    assert f"replay log {paths[3]}: {words}" in again.notes


@pytest.mark.parametrize("torn", [True, False])
def test_what_is_found_is_on_disk_before_it_counts_as_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: bool
) -> None:
    """Written again too: a sync that failed may have left pages that no later sync writes."""
    log = open_log(tmp_path, transitions=EPISODE_STEPS)
    written = fill(log, 5)
    log.close()
    newest = files(tmp_path)[-1]
    if torn:
        os.truncate(newest, newest.stat().st_size - 7)
    pwrite, fsync = os.pwrite, os.fsync
    calls: list[tuple[str, bytes]] = []

    def watched_write(fd: int, data: bytes, offset: int) -> int:
        calls.append((os.readlink(f"/proc/self/fd/{fd}"), bytes(data)))  # noqa: PTH115
        assert offset == 0
        return pwrite(fd, data, offset)

    def watched_sync(fd: int) -> None:
        calls.append((os.readlink(f"/proc/self/fd/{fd}"), b""))  # noqa: PTH115
        fsync(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", watched_write)
        patch.setattr(os, "fsync", watched_sync)
        again = open_log(tmp_path, transitions=EPISODE_STEPS)
        assert calls == [(str(newest), newest.read_bytes()), (str(newest), b""), (str(tmp_path), b"")]
    assert again.totals == totals_of(written[: 4 if torn else 5])
    with monkeypatch.context() as patch:

        def refused(_: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        again.close()
        patch.setattr(os, "fsync", refused)
        with pytest.raises(StorageError, match="cannot be written: Input/output error"):
            open_log(tmp_path, transitions=EPISODE_STEPS)
