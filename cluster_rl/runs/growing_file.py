"""Files that rows are appended to: each piece is there whole or not at all, and a torn last line goes.

The learner writes figures so. In: bytes. Out: a file that grew by them, or is as it was.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cluster_rl.runs.aside import free_damaged_path
from cluster_rl.runs.atomic import append_whole, sync_folder, write_atomic
from cluster_rl.runs.metrics_tail import MAX_ROW_BYTES, line_start
from cluster_rl.runs.small_file import UnreadableError


class GrowingFile:
    """A file that takes whole pieces or nothing. Raises `OSError`."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.size_bytes = os.fstat(self._descriptor).st_size

    def append(self, data: bytes) -> None:
        """Adds `data` at the end."""
        append_whole(self._descriptor, self.size_bytes, data)
        self.size_bytes += len(data)

    def close(self) -> None:
        """What was appended is with the kernel already."""
        os.close(self._descriptor)


def cut_torn_line(path: Path) -> list[str]:
    """Cuts a file back to its last complete line; nothing where it is not there.

    What is too long for the beginning of a row is moved aside, the whole file where no line's end is near, and a line
    that says so is returned. Raises `OSError`, `UserError` if that cannot be written, and `UnreadableError` where
    something else than a file of rows lies there.
    """
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        return []
    if not stat.S_ISREG(kind):  # a pipe would hold the process until somebody writes into it
        raise UnreadableError(path, "something else lies where a file was expected; move it away")
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        try:
            position = line_start(file, end)
        except UnreadableError:
            position = 0
        if position < end <= position + MAX_ROW_BYTES:
            file.truncate(position)
    if end <= position + MAX_ROW_BYTES:
        return []
    aside = move_end_aside(path, position)
    return [f"{path}: what lies in it from byte {position} on is no row; moved to {aside.name}"]


def move_end_aside(path: Path, position: int) -> Path:
    """Moves what lies in a file from byte `position` on to a free name beside it, which is returned.

    A process that is killed meanwhile may leave the bytes in both. Raises `OSError`, and `UserError` if that file
    cannot be written.
    """
    aside = free_damaged_path(path)
    if position == 0:  # of any size, and whether or not the disk has room
        path.rename(aside)
        sync_folder(path.parent)
        return aside
    with path.open("rb+") as file:
        file.seek(position)
        write_atomic(aside, file.read())
        file.truncate(position)
    return aside
