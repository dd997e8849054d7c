"""Files that rows are appended to: each piece is there whole or not at all, and a torn last line goes.

The learner writes figures so. In: bytes. Out: a file that grew by them, or is as it was.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cluster_rl.runs.atomic import append_whole
from cluster_rl.runs.metrics_tail import line_start
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


def cut_torn_line(path: Path) -> None:
    """Cuts a file back to its last complete line; nothing where it is not there.

    Raises `OSError`, and `UnreadableError` where something else than a file of rows lies there.
    """
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(kind):  # a pipe would hold the process until somebody writes into it
        raise UnreadableError(path, "something else lies where a file was expected; move it away")
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        position = line_start(file, end)
        if position < end:
            file.truncate(position)
