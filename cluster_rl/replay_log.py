"""The replay log: received blocks in append-only segment files, and the totals that follow from them.

Runs in the learner. In: blocks with their actor, incarnation and number. Out: where each one lies, and the truth about
env steps, episodes, milestones and what each actor has delivered. Scanning the files on opening gives all of it again,
also after `kill -9` and after old segments were evicted.

    segment-00000042.log   magic, u32 length, u32 CRC-32, msgpack `SegmentHeader` (the totals before this segment),
                           then records
    record                 marker, u32 block length, u64 id, u32 actor, u64 incarnation, u64 number, u32 CRC-32 of
                           these, the block (which ends with its own CRC-32)

A torn record at the newest segment's end is cut off on opening. A damaged record elsewhere is skipped and counted; the
marker finds the next good one.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
import weakref
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cluster_rl.errors import UserError
from cluster_rl.learning.sequences import BlockSpec
from cluster_rl.wire.codec import BlockError, SequenceHeader, decode_header, max_block_bytes

INCARNATIONS_KEPT = 4
_FILE_MAGIC = b"CRLSEG\x01\n"
_FILE_PREFIX = struct.Struct("<8sII")
_MARKER = b"\xf1\x9eRC"
_RECORD = struct.Struct("<4sIQIQQ")
_CRC = struct.Struct("<I")
_RECORD_HEADER_BYTES = _RECORD.size + _CRC.size
_NAME = re.compile(r"segment-(\d{8})\.log")


class Totals(msgspec.Struct):
    """Sums over every record that was ever logged; a segment begins with those before it."""

    env_steps: int = 0  # sum of the trained positions
    sequences: int = 0
    episodes: int = 0  # blocks with an episode summary
    gaps: int = 0  # sequence numbers that never came
    next_id: int = 0
    milestones: dict[str, int] = msgspec.field(default_factory=dict)  # name: env steps when first logged
    # actor: {incarnation: next number}; the newest few incarnations of each actor.
    next_seq: dict[int, dict[int, int]] = msgspec.field(default_factory=dict)

    def expected_seq(self, actor: int, incarnation: int) -> int | None:
        """The next number of an actor's incarnation; None for one so old that it is not kept any more."""
        known = self.next_seq.get(actor, {})
        if incarnation in known:
            return known[incarnation]
        return None if len(known) >= INCARNATIONS_KEPT and incarnation < min(known) else 0

    def count(self, entry: LogEntry) -> None:
        """Adds one record."""
        header = entry.header
        self.env_steps += header.train_length
        self.sequences += 1
        self.episodes += header.summary is not None
        self.next_id = entry.id + 1
        for name in header.milestones:
            self.milestones.setdefault(name, self.env_steps)
        known = self.next_seq.setdefault(entry.actor, {})
        self.gaps += entry.seq - known.get(entry.incarnation, 0)
        known[entry.incarnation] = entry.seq + 1
        if len(known) > INCARNATIONS_KEPT:
            del known[min(known)]


class SegmentHeader(msgspec.Struct):
    """What a segment file begins with."""

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
    """The log in `folder`, which is made if it does not exist. One writer; not thread-safe.

    A segment is closed when it holds `segment_bytes` bytes or `segment_transitions` trained positions.
    `on_record(entry)` is called, oldest first, for every record that is found on opening.

    Raises `UserError` if the folder cannot be used, or if it was written with other shapes.
    """

    def __init__(
        self,
        folder: Path,
        spec: BlockSpec,
        *,
        segment_bytes: int,
        segment_transitions: int,
        on_record: Callable[[LogEntry], None] | None = None,
    ) -> None:
        self.folder = folder
        self.totals = Totals()
        self.damaged = 0  # records or segment headers that could not be read on opening
        self.segments: list[Segment] = []
        self._spec = spec
        self._spec_items = {name: int(value) for name, value in vars(spec).items()}
        self._max_block_bytes = max_block_bytes(spec)
        self._segment_bytes = segment_bytes
        self._segment_transitions = segment_transitions
        self._folder_dirty = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._scan(on_record or (lambda entry: None))
        except OSError as error:
            raise UserError(f"replay log {folder}: cannot be opened: {error.strerror or error}") from None

    @property
    def bytes_on_disk(self) -> int:
        """Size of all segment files."""
        return sum(segment.size_bytes for segment in self.segments)

    def expected_seq(self, actor: int, incarnation: int) -> int:
        """The number that this incarnation of an actor must send next, 0 if nothing of it was logged."""
        return self.totals.expected_seq(actor, incarnation) or 0

    def append(
        self, actor: int, incarnation: int, seq: int, block: bytes | memoryview, header: SequenceHeader
    ) -> LogEntry | None:
        """Logs one block that was checked (`header` is its decoded one); None for what was logged before.

        A number above the expected one is accepted and what is missing is counted in `totals.gaps`. A block of an
        incarnation older than the `INCARNATIONS_KEPT` newest of its actor counts as logged before: whether it was is
        not known any more, and no step may count twice. Not on disk for sure before `sync`.

        Raises `UserError` if it cannot be written (disk full); the log stays as it was before the call.
        """
        expected = self.totals.expected_seq(actor, incarnation)
        if expected is None or seq < expected:
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

        Apart from `sync` so that it can run without the lock that the caller holds around `append`.
        """
        segment = self.segments[-1] if self.segments else None  # older ones were synced when they were closed
        folder = self.folder if self._folder_dirty else None
        self._folder_dirty = False

        def run() -> None:
            if segment is not None:
                os.fsync(segment.fd)
            if folder is not None:
                _sync_folder(folder)

        return run

    def sync(self) -> None:
        """Puts everything appended so far on disk."""
        self.prepare_sync()()

    def evict_oldest(self) -> Segment:
        """Deletes the oldest segment file. Its bytes stay readable while somebody holds the `Segment`."""
        segment = self.segments.pop(0)
        segment.path.unlink(missing_ok=True)
        return segment

    def close(self) -> None:
        """Syncs and closes all files."""
        self.sync()
        for segment in self.segments:
            segment.close()
        self.segments.clear()

    def _count(self, entry: LogEntry) -> None:
        self.totals.count(entry)
        entry.segment.transitions += entry.header.train_length
        entry.segment.end_id = entry.id + 1

    def _segment_for_append(self) -> Segment:
        if self.segments:
            newest = self.segments[-1]
            if newest.size_bytes < self._segment_bytes and newest.transitions < self._segment_transitions:
                return newest
            # Otherwise the next segment's totals could be on disk, after a power cut, without what they count.
            os.fsync(newest.fd)
        number = self.segments[-1].number + 1 if self.segments else 0
        path = self.folder / f"segment-{number:08d}.log"
        try:
            segment = Segment(path, number, os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644))
        except OSError as error:
            raise UserError(f"replay log {path}: cannot be made: {error.strerror or error}") from None
        body = msgspec.msgpack.encode(SegmentHeader(self._spec_items, self.totals))
        _write(segment, _FILE_PREFIX.pack(_FILE_MAGIC, len(body), zlib.crc32(body)) + body)
        segment.first_id = segment.end_id = self.totals.next_id
        self.segments.append(segment)
        self._folder_dirty = True
        return segment

    # Opening

    def _scan(self, on_record: Callable[[LogEntry], None]) -> None:
        numbered = sorted(
            (int(match[1]), path) for path in self.folder.iterdir() if (match := _NAME.fullmatch(path.name))
        )
        for number, path in numbered:
            newest = number == numbered[-1][0]
            segment = Segment(path, number, os.open(path, os.O_RDWR | os.O_CLOEXEC))
            content = path.read_bytes()
            segment.size_bytes = len(content)
            start = self._read_header(content, path)
            if start is None:
                first_record = _next_record(content, 0)
                if newest and first_record is None:
                    # The process died while it made this file; nothing is lost.
                    segment.close()
                    path.unlink()
                    continue
                self.damaged += 1
                start = len(content) if first_record is None else first_record
            segment.first_id = segment.end_id = self.totals.next_id
            end = self._scan_records(segment, content, start, on_record, newest)
            if newest and end < len(content):
                os.ftruncate(segment.fd, end)
                segment.size_bytes = end
            self.segments.append(segment)

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
        self, segment: Segment, content: bytes, start: int, on_record: Callable[[LogEntry], None], newest: bool
    ) -> int:
        """Counts every good record from `start` on; returns the end of the last one."""
        offset = end = start
        while offset < len(content):
            entry = self._read_record(segment, content, offset)
            if entry is not None:
                self._count(entry)
                on_record(entry)
                offset = end = entry.offset + entry.length
                continue
            following = _next_record(content, offset + 1)
            if following is None:
                self.damaged += not newest
                break
            self.damaged += 1
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


def _write(segment: Segment, data: bytes) -> None:
    """Appends `data` to a segment, or leaves it as it was and raises `UserError`."""
    view = memoryview(data)
    try:
        while view:
            view = view[os.pwrite(segment.fd, view, segment.size_bytes + len(data) - len(view)) :]
    except OSError as error:
        with contextlib.suppress(OSError):  # best effort: opening the log cuts a torn record anyway
            os.ftruncate(segment.fd, segment.size_bytes)
        raise UserError(
            f"replay log {segment.path}: cannot be written: {error.strerror or error}; "
            "free space, or lower replay_capacity_transitions"
        ) from None
    segment.size_bytes += len(data)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
