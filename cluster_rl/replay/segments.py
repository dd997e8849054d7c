"""Segment files of the replay log: their format, byte for byte, and one file's writing and reading.

Runs in the learner. In: headers and records. Out: files, and what of a file is whole.

    segment-00000042.log   magic, u32 length, u32 CRC-32, msgpack `SegmentHeader` (the run, its shapes, the totals
                           before this segment), then records
    record                 marker, u32 block length, u64 id, u32 actor, u64 incarnation, u64 number, u32 CRC-32 of
                           these, the block (which ends with its own CRC-32)

A segment appears under its name with its header whole and on disk, and one write appends one record. The marker finds
the next good record behind damage.
"""

from __future__ import annotations

import errno
import os
import re
import struct
import threading
import weakref
import zlib
from pathlib import Path

import msgspec

from cluster_rl.errors import StorageError, UserError, is_of_storage, read_error
from cluster_rl.replay.totals import Totals
from cluster_rl.runs.aside import free_damaged_path
from cluster_rl.runs.atomic import append_whole, sync_folder, write_at, write_atomic
from cluster_rl.runs.crash_points import crash_half_way
from cluster_rl.runs.small_file import Count, UnreadableError, check_version, decode_msgpack

FORMAT = 4
_FILE_MAGIC = b"CRLSEG%c\n" % FORMAT
_FILE_PREFIX = struct.Struct("<8sII")
_MARKER = b"\xf1\x9eRC"
_RECORD = struct.Struct("<4sIQIQQ")
_CRC = struct.Struct("<I")
RECORD_HEADER_BYTES = _RECORD.size + _CRC.size
_NAME = re.compile(r"segment-(\d{8})\.log")


class SegmentHeader(msgspec.Struct):
    """What a segment file begins with."""

    owner: str
    spec: dict[str, Count]
    before: Totals


class Segment:
    """An open segment file. Its descriptor is closed when the last reader has let go of the object.

    What was written is kept until it is synced. After a sync that failed, the system may have dropped pages that it
    could not write, and says nothing of them at the next one: so all that is kept is then written again first. One
    thread writes; several may sync.
    """

    def __init__(self, path: Path, number: int, fd: int) -> None:
        self.path = path
        self.number = number
        self.fd = fd
        self.size_bytes = 0
        self.transitions = 0
        self.end_id = 0  # all ids in here are below it
        self.close = weakref.finalize(self, os.close, fd)
        self._unsynced: list[tuple[int, bytes]] = []  # (offset, record)
        self._doubtful = False  # some of it may not have been taken, and need not be said again
        self._syncing = threading.Lock()

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the file; may be called by any thread, also after the file was unlinked."""
        return os.pread(self.fd, length, offset)

    def write(self, data: bytes) -> None:
        """Appends `data`, or leaves the file as it was and raises `StorageError`."""
        crash_half_way("replay.half_a_record", lambda half: os.pwrite(self.fd, half, self.size_bytes), data)
        try:
            append_whole(self.fd, self.size_bytes, data)
        except OSError as error:
            self._doubtful = True  # a network file system tells so of what was written before
            raise _write_error(self.path, error) from None
        self._unsynced.append((self.size_bytes, data))
        self.size_bytes += len(data)

    def write_again(self, content: bytes) -> None:
        """Puts the file's `content` on disk, whatever the process that wrote it could sync. Raises `StorageError`."""
        self._unsynced = [(0, content)]
        self._doubtful = True
        self.sync()

    def sync(self) -> None:
        """Puts on disk what was written before the call; raises `StorageError` if the disk does not take it."""
        with self._syncing:
            count = len(self._unsynced)
            try:
                if self._doubtful:
                    self._doubtful = False  # first: a write may fail meanwhile
                    for offset, data in self._unsynced[:count]:
                        write_at(self.fd, offset, data)
                os.fsync(self.fd)
            except OSError as error:
                self._doubtful = True
                raise _write_error(self.path, error) from None
            del self._unsynced[:count]


def create_segment(folder: Path, number: int, header: SegmentHeader) -> Segment:
    """A new file that holds its header, on disk as a whole. Raises `StorageError` if it cannot be written."""
    path = _path(folder, number)
    body = msgspec.msgpack.encode(header)
    content = _FILE_PREFIX.pack(_FILE_MAGIC, len(body), zlib.crc32(body)) + body
    try:
        write_atomic(path, content)
        segment = open_segment(path, number)
    except StorageError as error:
        raise StorageError(f"replay log {error}", path, error.number) from None
    except OSError as error:
        raise _write_error(path, error) from None
    segment.size_bytes = len(content)
    return segment


def open_segment(path: Path, number: int) -> Segment:
    """The file as it is; its size is the caller's to set. Raises `OSError`."""
    return Segment(path, number, os.open(path, os.O_RDWR | os.O_CLOEXEC))


def numbered_segments(folder: Path) -> list[tuple[int, Path]]:
    """(number, path) of all segment files, the oldest first."""
    return sorted((int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name)))


def read_header(content: bytes, path: Path) -> tuple[SegmentHeader, int] | None:
    """The header of a whole file, and where its records begin; None if it is damaged.

    Raises `UserError` if another version of the program wrote it: nothing in it is known, so nothing is passed over.
    """
    if len(content) < _FILE_PREFIX.size:
        return None
    magic, length, crc = _FILE_PREFIX.unpack_from(content)
    if magic[:6] == _FILE_MAGIC[:6] and magic[7:] == _FILE_MAGIC[7:]:
        try:
            check_version(magic[6], FORMAT, f"replay log {path}")
        except UnreadableError as error:
            raise UserError(
                f"{error}; go on with the program that wrote it, give an empty --replay_dir (the weights go on), "
                "or use another run name"
            ) from None
    body = content[_FILE_PREFIX.size : _FILE_PREFIX.size + length]
    if magic != _FILE_MAGIC or len(body) != length or zlib.crc32(body) != crc:
        return None
    try:
        return decode_msgpack(body, SegmentHeader, path), _FILE_PREFIX.size + int(length)
    except UnreadableError:
        return None


def owners(folder: Path) -> dict[Path, str]:
    """The run that each segment of a log belongs to, as far as its header can be read.

    Raises `UserError` if another version of the program wrote one, `StorageError` if the disk fails or its server is
    away.
    """
    found: dict[Path, str] = {}
    for _, path in numbered_segments(folder) if folder.is_dir() else ():
        try:
            with path.open("rb") as file:
                prefix = file.read(_FILE_PREFIX.size)
                length = _FILE_PREFIX.unpack(prefix)[1] if len(prefix) == _FILE_PREFIX.size else 0
                content = prefix + file.read(min(length, os.fstat(file.fileno()).st_size))
        except OSError as error:
            if is_of_storage(error):
                raise read_error(error, path, "replay log") from None
            continue
        header = read_header(content, path)
        if header is not None:
            found[path] = header[0].owner
    return found


def record_bytes(block: bytes | memoryview, record_id: int, actor: int, incarnation: int, seq: int) -> bytes:
    """A record, with its block at the end."""
    fields = _RECORD.pack(_MARKER, len(block), record_id, actor, incarnation, seq)
    return b"".join((fields, _CRC.pack(zlib.crc32(fields)), block))


def read_record_fields(content: bytes, offset: int) -> tuple[int, int, int, int, int] | None:
    """(block length, id, actor, incarnation, number) of a record whose own CRC is right."""
    if offset + RECORD_HEADER_BYTES > len(content):
        return None
    marker, length, record_id, actor, incarnation, seq = _RECORD.unpack_from(content, offset)
    (crc,) = _CRC.unpack_from(content, offset + _RECORD.size)
    if marker != _MARKER or crc != zlib.crc32(content[offset : offset + _RECORD.size]):
        return None
    return length, record_id, actor, incarnation, seq


def next_record(content: bytes, start: int) -> int | None:
    """Offset of the next right record header at or after `start`."""
    while (start := content.find(_MARKER, start)) >= 0:
        if read_record_fields(content, start) is not None:
            return start
        start += 1
    return None


def is_torn_record(tail: bytes) -> bool:
    """Whether these bytes are the beginning of one record and no more, as a write that was broken off leaves them."""
    if len(tail) < RECORD_HEADER_BYTES:
        return tail[: len(_MARKER)] == _MARKER[: len(tail)]
    fields = read_record_fields(tail, 0)
    return fields is not None and len(tail) < RECORD_HEADER_BYTES + fields[0]


def _path(folder: Path, number: int) -> Path:
    return folder / f"segment-{number:08d}.log"


def set_aside(path: Path) -> Path:
    """Renames a segment that holds nothing; returns its new path."""
    new_path = path.rename(free_damaged_path(path))
    sync_folder(path.parent)
    return new_path


def _write_error(path: Path, error: OSError) -> StorageError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "free space, or lower replay_capacity_transitions" if full else "check the disk, then start again"
    return StorageError(f"replay log {path}: cannot be written: {error.strerror or error}; {remedy}", path, error.errno)
