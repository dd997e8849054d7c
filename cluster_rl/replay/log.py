"""The replay log: received blocks in append-only segment files, and the totals that follow from them.

Runs in the learner. In: blocks with their actor, incarnation and number. Out: where each one lies, and the truth about
env steps, episodes, milestones and what each actor has delivered. Scanning the files on opening gives all of it again,
also after `kill -9` and after old segments were evicted.

    lock, lock.holder      held while the log is open; who holds it
    segment-00000042.log   magic, u32 length, u32 CRC-32, msgpack `SegmentHeader` (the run, its shapes, the totals
                           before this segment), then records
    record                 marker, u32 block length, u64 id, u32 actor, u64 incarnation, u64 number, u32 CRC-32 of
                           these, the block (which ends with its own CRC-32)

A segment appears under its name with its header whole and on disk, and one write appends one record. So a process that
is killed leaves at most the beginning of one record at the newest segment's end, which is cut off on opening. Anything
else is damage: it is counted and told in `notes`. The marker finds the next good record; what has none behind it and
would be in the way of new ones is moved to `segment-00000042.log.damaged`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import struct
import time
import weakref
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cluster_rl.errors import UserError
from cluster_rl.learning.sequences import BlockSpec
from cluster_rl.replay.totals import Totals
from cluster_rl.runs.atomic import sync_folder, write_atomic
from cluster_rl.runs.lock import Holder, read_holder
from cluster_rl.wire.codec import BlockError, SequenceHeader, decode_header, max_block_bytes

LOCK_WAIT_SEC = 20.0  # a learner whose launcher was killed still drains its actors
_LOCK_POLL_SEC = 0.1
_FILE_MAGIC = b"CRLSEG\x02\n"
_FILE_PREFIX = struct.Struct("<8sII")
_MARKER = b"\xf1\x9eRC"
_RECORD = struct.Struct("<4sIQIQQ")
_CRC = struct.Struct("<I")
_RECORD_HEADER_BYTES = _RECORD.size + _CRC.size
_NAME = re.compile(r"segment-(\d{8})\.log")


class SegmentHeader(msgspec.Struct):
    """What a segment file begins with."""

    owner: str
    spec: dict[str, int]
    before: Totals


class Segment:
    """An open segment file. Its descriptor is closed when the last reader has let go of the object."""

    def __init__(self, path: Path, number: int, fd: int) -> None:
        self.path = path
        self.number = number
        self.fd = fd
        self.size_bytes = 0
        self.transitions = 0
        self.first_id = self.end_id = 0  # ids [first_id, end_id) lie here
        self.close = weakref.finalize(self, os.close, fd)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the file; may be called by any thread, also after the file was unlinked."""
        return os.pread(self.fd, length, offset)


@dataclass(frozen=True)
class LogEntry:
    """One record: where its block lies and what is known of it."""

    id: int
    actor: int
    incarnation: int
    seq: int
    segment: Segment
    offset: int  # of the block in the segment file
    length: int
    header: SequenceHeader


class ReplayLog:
    """The log of the run `owner` in `folder`, which is made if it does not exist. Not thread-safe.

    Only one process has it open: opening waits up to `LOCK_WAIT_SEC` for the one before to end. A segment is closed
    when it holds `segment_bytes` bytes or `segment_transitions` trained positions. `on_record(entry)` is called, oldest
    first, for every record that is found on opening.

    Raises `UserError` if the folder cannot be used, is in use, or was written by another run or with other shapes.
    """

    def __init__(
        self,
        folder: Path,
        spec: BlockSpec,
        *,
        owner: str,
        segment_bytes: int,
        segment_transitions: int,
        on_record: Callable[[LogEntry], None] | None = None,
    ) -> None:
        self.folder = folder
        self.totals = Totals()
        self.damaged = 0  # damaged stretches and segment headers that were found on opening
        self.notes: list[str] = []  # what was damaged and where it is now, one line each
        self.segments: list[Segment] = []
        self._owner = owner
        self._spec = spec
        self._spec_items = {name: int(value) for name, value in vars(spec).items()}
        self._max_block_bytes = max_block_bytes(spec)
        self._segment_bytes = segment_bytes
        self._segment_transitions = segment_transitions
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _FolderLock(folder)
            try:
                for leftover in folder.glob(".segment-*.log.*.tmp"):
                    leftover.unlink()
                self._scan(on_record or (lambda entry: None))
            except BaseException:
                self._lock.release()
                raise
        except OSError as error:
            where = error.filename or folder
            raise UserError(f"replay log {where}: cannot be opened: {error.strerror or error}") from None

    @property
    def bytes_on_disk(self) -> int:
        """Size of all segment files."""
        return sum(segment.size_bytes for segment in self.segments)

    def expected_seq(self, actor: int, incarnation: int) -> int:
        """The number that this incarnation of an actor must send next, 0 if nothing of it was logged."""
        return self.totals.next_seq.get(actor, {}).get(incarnation, 0)

    def next_incarnation(self, actor: int) -> int:
        """A number above every known incarnation of an actor; 1 for one that was never seen."""
        return 1 + max(self.totals.next_seq.get(actor, {}), default=0)

    def append(
        self, actor: int, incarnation: int, seq: int, block: bytes | memoryview, header: SequenceHeader
    ) -> LogEntry | None:
        """Logs one block that was checked (`header` is its decoded one); None for what was logged before.

        A number above the expected one is accepted and what is missing is counted in `totals.gaps`. Not on disk for
        sure before `sync`.

        Raises `UserError` if it cannot be written (disk full); the log stays as it was before the call.
        """
        if seq < self.expected_seq(actor, incarnation):
            return None
        segment = self._segment_for_append()
        fields = _RECORD.pack(_MARKER, len(block), self.totals.next_id, actor, incarnation, seq)
        _write(segment, b"".join((fields, _CRC.pack(zlib.crc32(fields)), block)))
        offset = segment.size_bytes - len(block)
        entry = LogEntry(self.totals.next_id, actor, incarnation, seq, segment, offset, len(block), header)
        self._count(entry)
        return entry

    def prepare_sync(self) -> Callable[[], None]:
        """A function that puts everything appended so far on disk: one fsync for many records.

        Apart from `sync` so that it can run without the lock that the caller holds around `append`. Raises `UserError`
        if the disk or the quota is full or the disk fails.
        """
        newest = self.segments[-1:]  # older ones were synced when they were closed

        def run() -> None:
            for segment in newest:
                _sync(segment)

        return run

    def sync(self) -> None:
        """Puts everything appended so far on disk."""
        self.prepare_sync()()

    def adopt(self, saved: Totals) -> bool:
        """Raises the totals to those `saved` elsewhere, where the log has lost records; whether it had.

        They are at once on disk, in a new segment's header.
        """
        merged = self.totals.merged(saved)
        if merged == self.totals:
            return False
        self.totals = merged
        self._begin_segment()
        return True

    def evict_oldest(self) -> Segment:
        """Deletes the oldest segment file. Its bytes stay readable while somebody holds the `Segment`."""
        segment = self.segments.pop(0)
        segment.path.unlink(missing_ok=True)
        return segment

    def close(self) -> None:
        """Syncs and closes all files, and lets others open the log."""
        try:
            self.sync()
        finally:
            for segment in self.segments:
                segment.close()
            self.segments.clear()
            self._lock.release()

    def _count(self, entry: LogEntry) -> None:
        self.totals.count(entry.id, entry.actor, entry.incarnation, entry.seq, entry.header)
        entry.segment.transitions += entry.header.train_length
        entry.segment.end_id = entry.id + 1

    def _segment_for_append(self) -> Segment:
        if self.segments:
            newest = self.segments[-1]
            if newest.size_bytes < self._segment_bytes and newest.transitions < self._segment_transitions:
                return newest
        return self._begin_segment()

    def _begin_segment(self) -> Segment:
        if self.segments:
            # Otherwise the new segment's totals could be on disk, after a power cut, without what they count.
            _sync(self.segments[-1])
        number = self.segments[-1].number + 1 if self.segments else 0
        path = self.folder / f"segment-{number:08d}.log"
        body = msgspec.msgpack.encode(SegmentHeader(self._owner, self._spec_items, self.totals))
        content = _FILE_PREFIX.pack(_FILE_MAGIC, len(body), zlib.crc32(body)) + body
        try:
            write_atomic(path, content)
            segment = Segment(path, number, os.open(path, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            raise _write_error(path, error) from None
        segment.size_bytes = len(content)
        segment.first_id = segment.end_id = self.totals.next_id
        self.segments.append(segment)
        return segment

    # Opening

    def _scan(self, on_record: Callable[[LogEntry], None]) -> None:
        numbered = sorted(
            (int(match[1]), path) for path in self.folder.iterdir() if (match := _NAME.fullmatch(path.name))
        )
        for number, path in numbered:
            segment = Segment(path, number, os.open(path, os.O_RDWR | os.O_CLOEXEC))
            content = path.read_bytes()
            segment.size_bytes = len(content)
            start = self._read_header(content, path)
            segment.first_id = segment.end_id = self.totals.next_id
            damaged: list[tuple[int, int]] = []  # stretches [begin, end) of the file
            if start is None:
                first_record = _next_record(content, 0)
                start = len(content) if first_record is None else first_record
                damaged.append((0, start))
            end = self._scan_records(segment, content, start, on_record, damaged)
            if damaged and damaged[0][0] == 0 and not segment.transitions:
                segment.close()
                self.damaged += len(damaged)
                self._note(path, f"{len(content)} bytes without any record; moved to {_set_aside(path).name}")
                continue
            if number == numbered[-1][0] and end < len(content):
                self._cut_tail(segment, content, end, damaged)
            if damaged:
                self.damaged += len(damaged)
                size = sum(last - first for first, last in damaged)
                self._note(path, f"{size} damaged bytes in {len(damaged)} stretches, their sequences are lost")
            self.segments.append(segment)

    def _cut_tail(self, segment: Segment, content: bytes, end: int, damaged: list[tuple[int, int]]) -> None:
        """Makes the newest segment end with its last good record, so that new ones can follow."""
        if damaged[-1] == (end, len(content)) and _is_torn_record(content[end:]):
            damaged.pop()
        else:
            path = _damaged_path(segment.path)
            write_atomic(path, content[end:])
            self._note(segment.path, f"damaged from byte {end} to its end; these bytes were moved to {path.name}")
        os.ftruncate(segment.fd, end)
        segment.size_bytes = end

    def _note(self, path: Path, words: str) -> None:
        self.notes.append(f"replay log {path}: {words}")

    def _read_header(self, content: bytes, path: Path) -> int | None:
        """Takes over the totals at a segment's start; returns where its records begin, None if it is damaged."""
        if len(content) < _FILE_PREFIX.size:
            return None
        magic, length, crc = _FILE_PREFIX.unpack_from(content)
        if magic[:6] == _FILE_MAGIC[:6] and magic != _FILE_MAGIC:
            raise UserError(f"replay log {path}: written by another version of the program; use another run name")
        body = content[_FILE_PREFIX.size : _FILE_PREFIX.size + length]
        if magic != _FILE_MAGIC or len(body) != length or zlib.crc32(body) != crc:
            return None
        with contextlib.suppress(msgspec.MsgspecError):
            header = msgspec.msgpack.decode(body, type=SegmentHeader)
            if header.owner != self._owner:
                raise UserError(
                    f"replay log {path}: belongs to the run {header.owner!r}, this run is {self._owner!r}; "
                    "use another replay_dir or run name, or move the folder away"
                )
            for name, value in self._spec_items.items():
                if header.spec.get(name) != value:
                    raise UserError(
                        f"replay log {path}: written with {name} {header.spec.get(name)}, the run now has {value}; "
                        "use another run name or replay_dir, or set it back"
                    )
            self.totals = header.before
            return _FILE_PREFIX.size + int(length)
        return None

    def _scan_records(
        self,
        segment: Segment,
        content: bytes,
        start: int,
        on_record: Callable[[LogEntry], None],
        damaged: list[tuple[int, int]],
    ) -> int:
        """Counts every good record from `start` on and adds what lies between; returns the end of the last record."""
        offset = end = start
        while offset < len(content):
            entry = self._read_record(segment, content, offset)
            if entry is not None:
                self._count(entry)
                on_record(entry)
                offset = end = entry.offset + entry.length
                continue
            following = _next_record(content, offset + 1)
            following = len(content) if following is None else following
            damaged.append((offset, following))
            offset = following
        return end

    def _read_record(self, segment: Segment, content: bytes, offset: int) -> LogEntry | None:
        """The record at `offset`, or None if there is no whole and right one."""
        fields = _read_record_fields(content, offset)
        if fields is None:
            return None
        length, record_id, actor, incarnation, seq = fields
        start = offset + _RECORD_HEADER_BYTES
        if length > self._max_block_bytes or start + length > len(content) or record_id < self.totals.next_id:
            return None
        try:
            header = decode_header(memoryview(content)[start : start + length], self._spec)
        except BlockError:
            return None
        return LogEntry(record_id, actor, incarnation, seq, segment, start, length, header)


def _read_record_fields(content: bytes, offset: int) -> tuple[int, int, int, int, int] | None:
    """(block length, id, actor, incarnation, number) of a record whose own CRC is right."""
    if offset + _RECORD_HEADER_BYTES > len(content):
        return None
    marker, length, record_id, actor, incarnation, seq = _RECORD.unpack_from(content, offset)
    (crc,) = _CRC.unpack_from(content, offset + _RECORD.size)
    if marker != _MARKER or crc != zlib.crc32(content[offset : offset + _RECORD.size]):
        return None
    return length, record_id, actor, incarnation, seq


def _next_record(content: bytes, start: int) -> int | None:
    """Offset of the next right record header at or after `start`."""
    while (start := content.find(_MARKER, start)) >= 0:
        if _read_record_fields(content, start) is not None:
            return start
        start += 1
    return None


def _is_torn_record(tail: bytes) -> bool:
    """Whether these bytes are the beginning of one record and no more, as a write that was broken off leaves them."""
    if len(tail) < _RECORD_HEADER_BYTES:
        return tail[: len(_MARKER)] == _MARKER[: len(tail)]
    fields = _read_record_fields(tail, 0)
    return fields is not None and len(tail) < _RECORD_HEADER_BYTES + fields[0]


def _damaged_path(path: Path) -> Path:
    """A free name for what is taken out of a segment."""
    number, free = 1, path.with_name(f"{path.name}.damaged")
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}.damaged-{number}")
    return free


def _set_aside(path: Path) -> Path:
    """Renames a segment that holds nothing; returns its new path."""
    new_path = path.rename(_damaged_path(path))
    sync_folder(path.parent)
    return new_path


def _write(segment: Segment, data: bytes) -> None:
    """Appends `data` to a segment, or leaves it as it was and raises `UserError`."""
    view = memoryview(data)
    try:
        while view:
            view = view[os.pwrite(segment.fd, view, segment.size_bytes + len(data) - len(view)) :]
    except OSError as error:
        with contextlib.suppress(OSError):  # best effort: opening the log cuts a torn record anyway
            os.ftruncate(segment.fd, segment.size_bytes)
        raise _write_error(segment.path, error) from None
    segment.size_bytes += len(data)


def _sync(segment: Segment) -> None:
    try:
        os.fsync(segment.fd)
    except OSError as error:
        raise _write_error(segment.path, error) from None


def _write_error(path: Path, error: OSError) -> UserError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "free space, or lower replay_capacity_transitions" if full else "check the disk, then start again"
    return UserError(f"replay log {path}: cannot be written: {error.strerror or error}; {remedy}")


class _FolderLock:
    """`lock` in a folder: held until `release`, or until the kernel takes it back from a dead process.

    Raises `UserError` that names the holder if it is not free within `LOCK_WAIT_SEC`.
    """

    def __init__(self, folder: Path) -> None:
        self._holder_path = folder / "lock.holder"
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._close = weakref.finalize(self, os.close, fd)
        deadline = time.monotonic() + LOCK_WAIT_SEC
        while not _try_lock(fd):
            if time.monotonic() >= deadline:
                holder = read_holder(self._holder_path) or "another process"
                raise UserError(f"replay log {folder}: in use by {holder}; wait for its end, or stop it")
            time.sleep(_LOCK_POLL_SEC)
        holder = Holder.this_process()
        self._holder_path.write_bytes(msgspec.json.encode(holder) + b"\n")

    def release(self) -> None:
        """Gives the lock back; harmless if it is not held."""
        if self._close.alive:
            # Before the lock goes: afterwards the file may already be the next holder's.
            with contextlib.suppress(OSError):  # it is only words
                self._holder_path.unlink()
            self._close()


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
