"""The end of `metrics.jsonl`: how far its rows had come, read without the rest of the file.

The learner asks before it appends, the launcher before a job starts. In: a path. Out: the newest point, and where lines
begin.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import msgspec

from cluster_rl.errors import is_of_storage, read_error
from cluster_rl.runs.small_file import Count, UnreadableError, decode_json

_CHUNK_BYTES = 64 * 1024


class _Point(msgspec.Struct):
    env_steps: Count
    updates: Count


def newest_point(path: Path) -> tuple[int, int]:
    """(env_steps, updates) of the last complete row; before all others where there is none that can be read.

    Raises `StorageError` if the disk fails or its server is away.
    """
    try:
        with path.open("rb") as file:
            end = line_start(file, file.seek(0, os.SEEK_END))
            start = line_start(file, end - 1)
            file.seek(start)
            point = decode_json(file.read(end - start), _Point, path)
    except UnreadableError:
        return -1, -1
    except OSError as error:
        if is_of_storage(error):
            raise read_error(error, path) from None
        return -1, -1
    return point.env_steps, point.updates


def line_start(file: BinaryIO, end: int) -> int:
    """Where the line begins that the bytes before `end` lie in."""
    position = end
    while position > 0:
        start = max(0, position - _CHUNK_BYTES)
        file.seek(start)
        newline = file.read(position - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        position = start
    return 0
