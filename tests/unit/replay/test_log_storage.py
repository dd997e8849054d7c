"""The replay log while storage refuses it: nothing is lost, nothing is there twice, and it goes on afterwards."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from replay_log_fixtures import EPISODE_STEPS, append, block_of, fill, open_log, totals_of
from small_disk import SmallDisk

from cluster_rl.errors import StorageError
from cluster_rl.replay.log import LogEntry, ReplayLog


def reopened(log: ReplayLog) -> tuple[ReplayLog, list[LogEntry]]:
    log.close()
    found: list[LogEntry] = []
    again = open_log(log.folder, transitions=10**6, on_record=found.append)
    return again, found


def fill_until_refused(log: ReplayLog, written: list[LogEntry]) -> None:
    for _ in range(1000):
        written += fill(log, 1, first=len(written))


def test_a_full_disk_changes_nothing_and_what_it_refused_is_taken_later(disk: SmallDisk) -> None:
    log = open_log(disk.folder / "replay", transitions=10**6)
    written = fill(log, 7)
    with disk.full(left_bytes=4096):
        with pytest.raises(StorageError, match=r"replay log") as error:
            fill_until_refused(log, written)
        assert (error.value.state, error.value.path) == ("disk full", log.segments[-1].path)
        assert "\n" not in str(error.value)
        assert log.totals == totals_of(written)
        assert log.segments[-1].path.stat().st_size == log.bytes_on_disk
        with pytest.raises(StorageError):
            fill(log, 1, first=len(written))
    written += fill(log, 5, first=len(written))
    again, found = reopened(log)
    assert (again.totals, again.damaged) == (totals_of(written), 0)
    assert [entry.seq for entry in found] == list(range(len(written)))
    again.close()


def test_a_new_segment_that_a_full_disk_refuses_is_begun_later(disk: SmallDisk) -> None:
    log = open_log(disk.folder / "replay", transitions=EPISODE_STEPS)
    written = fill(log, 3)
    with disk.full():
        with pytest.raises(StorageError, match=r"replay log .*segment-00000001.log: cannot be written: No space left"):
            fill(log, 1, first=3)
        assert log.totals == totals_of(written)
    written += fill(log, 3, first=3)
    assert [path.name for path in sorted(log.folder.glob("*.log"))] == ["segment-00000000.log", "segment-00000001.log"]
    assert not list(log.folder.glob(".*"))
    again, found = reopened(log)
    assert (again.totals, len(found)) == (totals_of(written), 6)
    again.close()


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_what_a_failed_sync_dropped_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The system may drop the pages that it could not write; the next sync says nothing of them."""
    log = open_log(tmp_path, transitions=10**6)
    written = fill(log, 4)
    log.sync()
    synced = log.bytes_on_disk
    written += fill(log, 3, first=4)
    with monkeypatch.context() as patch:

        def dropping(fd: int) -> None:
            os.pwrite(fd, bytes(log.bytes_on_disk - synced), synced)
            raise OSError(number, os.strerror(number))

        patch.setattr(os, "fsync", dropping)
        for _ in range(2):  # the learner's checkpoint, say, is told of it, and the wire's thread comes second
            with pytest.raises(StorageError, match=os.strerror(number)):
                log.sync()
            written += fill(log, 1, first=len(written))
    log.sync()
    os.fsync(log.segments[-1].fd)
    again, found = reopened(log)
    assert (again.totals, again.damaged) == (totals_of(written), 0)
    for entry in found:
        assert entry.segment.read(entry.offset, entry.length) == block_of(entry.seq)
    again.close()


def test_what_was_written_before_a_failed_write_is_written_again_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system tells at a later write what an earlier one met."""
    log = open_log(tmp_path, transitions=10**6)
    written = fill(log, 2)
    real = os.pwrite
    with monkeypatch.context() as patch:

        def full(fd: int, data: bytes, offset: int) -> int:
            begin = written[0].offset
            real(fd, bytes(log.bytes_on_disk - begin), begin)
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

        patch.setattr(os, "pwrite", full)
        with pytest.raises(StorageError):
            fill(log, 1, first=2)
    log.sync()
    again, found = reopened(log)
    assert (again.totals, again.damaged, len(found)) == (totals_of(written), 0, 2)
    again.close()


def test_half_a_record_that_could_not_be_cut_off_is_cut_off_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log(tmp_path, transitions=10**6)
    written = fill(log, 1)
    longest = max(range(1, 4), key=lambda seq: len(block_of(seq)))
    real = os.pwrite

    def half(fd: int, data: bytes, offset: int) -> int:
        real(fd, bytes(data) + bytes(len(block_of(longest))), offset)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def refused(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", half)
        patch.setattr(os, "ftruncate", refused)
        with pytest.raises(StorageError):
            append(log, longest)
        assert log.totals == totals_of(written)
        patch.setattr(os, "pwrite", real)
        with pytest.raises(StorageError):  # not before the file ends where it should
            append(log, longest)
    written += fill(log, 1, first=1)
    again, found = reopened(log)
    assert (again.totals, again.damaged, len(found)) == (totals_of(written), 0, 2)
    assert not list(tmp_path.glob("*.damaged*"))
    again.close()


def test_a_segment_that_cannot_be_deleted_is_deleted_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = open_log(tmp_path, transitions=EPISODE_STEPS)
    fill(log, 9)
    assert [log.evict_oldest().number for _ in range(2)] == [0, 1]
    with monkeypatch.context() as patch:

        def read_only(*_: object, **__: object) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        patch.setattr(os, "unlink", read_only)
        patch.setattr(Path, "unlink", read_only)
        with pytest.raises(StorageError, match=r"segment-00000000.log: cannot be deleted: Read-only file system"):
            log.delete_evicted()
    assert len(list(tmp_path.glob("*.log"))) == 3
    log.delete_evicted()
    assert [path.name for path in tmp_path.glob("*.log")] == ["segment-00000002.log"]
    log.close()


def test_a_log_on_a_full_disk_is_opened_all_the_same(disk: SmallDisk) -> None:
    """A learner that is started again has what it needs to train on."""
    log = open_log(disk.folder / "replay")
    written = fill(log, 5)
    log.close()
    with disk.full():
        found: list[LogEntry] = []
        again = open_log(disk.folder / "replay", on_record=found.append)
        assert (again.totals, len(found)) == (totals_of(written), 5)
        again.close()


def test_a_read_only_file_system_at_the_start_is_no_bad_input(disk: SmallDisk) -> None:
    open_log(disk.folder / "replay").close()
    with disk.read_only(), pytest.raises(StorageError, match=r"replay.*: cannot be opened: Read-only file system"):
        open_log(disk.folder / "replay")
    open_log(disk.folder / "replay").close()
