"""The end of a file of rows, such as `metrics.jsonl`: how far they had come, read without the rest of the file.

The learner asks before it appends, the launcher before a job starts. In: a path. Out: the newest row, its point, or why
that is not known, and where lines begin.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from cluster_rl.errors import is_of_storage, read_error
from cluster_rl.runs.small_file import Count, UnreadableError, damaged, decode_json

MAX_ROW_BYTES = 1 << 20
"""Far above any row of metrics: those of a full run have some 10 kB."""

_SEARCHED_BYTES = 1 << 26
"""How far back from the end of a file a line's end is looked for: more is no row and what a crash added to it."""

_CHUNK_BYTES = 64 * 1024


class Tail(NamedTuple):
    """The point of the last complete row; one before all others, and why, where that row cannot be read."""

    env_steps: int = -1
    updates: int = -1
    damage: str = ""


class _Point(msgspec.Struct):
    env_steps: Count
    updates: Count


def newest_point(path: Path) -> Tail:
    """How far the rows of a file had come, of which none need be there.

    Raises `StorageError` if the disk fails or its server is away.
    """
    try:
        row = last_row(path)
        if not row:
            return Tail()
        point = decode_json(row, _Point, path)
    except UnreadableError as error:
        return Tail(damage=str(error))
    except OSError as error:
        if is_of_storage(error):
            raise read_error(error, path) from None
        return Tail()
    return Tail(point.env_steps, point.updates)


def last_row(path: Path) -> bytes:
    """The last complete line of a file; empty where it has none.

    Raises `UnreadableError` for one that is too long to be a row, and `OSError`.
    """
    with path.open("rb") as file:
        end = line_start(file, file.seek(0, os.SEEK_END))
        file.seek(max(0, end - MAX_ROW_BYTES - 1))
        rows = file.read(min(end, MAX_ROW_BYTES + 1))
    row = rows[rows.rfind(b"\n", 0, -1) + 1 :]
    if len(row) > MAX_ROW_BYTES:
        raise damaged(path, f"a row of more than {MAX_ROW_BYTES} bytes")
    return row


def rows_backwards(path: Path) -> Iterator[bytes]:
    """The complete lines of a file, the last one first; none of a file that is not there.

    Raises `UnreadableError` for what is too long to be a row, and `OSError`.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        start, rest = line_start(file, file.seek(0, os.SEEK_END)), b""
        while start > 0:
            end, start = start, max(0, start - _CHUNK_BYTES)
            file.seek(start)
            rest, *rows = (file.read(end - start) + rest).split(b"\n")
            yield from filter(None, reversed(rows))
            if len(rest) > MAX_ROW_BYTES:
                raise damaged(path, f"a row of more than {MAX_ROW_BYTES} bytes")
        yield from filter(None, [rest])


def line_start(file: BinaryIO, end: int) -> int:
    """Where the line begins that the bytes before `end` lie in. Raises `UnreadableError` where that is nowhere near."""
    position = end
    while position > 0:
        if end - position > _SEARCHED_BYTES:
            raise damaged(file.name, f"no line's end in its last {_SEARCHED_BYTES} bytes")
        start = max(0, position - _CHUNK_BYTES)
        file.seek(start)
        newline = file.read(position - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        position = start
    return 0
