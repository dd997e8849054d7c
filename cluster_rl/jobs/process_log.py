"""What the learner and the actors print, as lines of their logs: with the time, and with who says it.

Their programs use it, whose output the supervisor leads into `logs/NAME.log`, appended to by one process after another.
In: what is printed to stdout, in any thread. Out: records of the `logging` module. What goes to stderr stays as it is:
errors and tracebacks, whose first words the supervisor looks for. The launcher's lines stay too: people and scripts
read them as they are.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading
from collections.abc import Iterator
from typing import TextIO

_FORMAT = "%(asctime)s %(name)s[%(process)d] %(message)s"
_TIME = "%Y-%m-%d %H:%M:%S"


class _Lines(io.TextIOBase):
    """A stream that hands on whole lines. `print` writes a line in parts, so each thread has its own beginning."""

    def __init__(self, logger: logging.Logger, stream: TextIO) -> None:
        super().__init__()
        self._logger, self._stream = logger, stream
        self._begun: dict[threading.Thread, str] = {}

    def write(self, words: str, /) -> int:
        thread = threading.current_thread()
        *lines, rest = (self._begun.pop(thread, "") + words).split("\n")
        if rest:
            self._begun[thread] = rest
        for line in lines:
            self._logger.info("%s", line)
        return len(words)

    def end(self) -> None:
        """Hands on what was begun and has no end: there will be none."""
        for rest in self._begun.values():
            self._logger.info("%s", rest)
        self._begun.clear()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        """Of the stream below, for what looks where it leads, or hands it to a child. Raises `OSError` without one."""
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding


@contextlib.contextmanager
def logged(name: str) -> Iterator[None]:
    """While it is open, each line that is printed has the time (local) and `name[process id]` before it."""
    logger = logging.getLogger(name)
    handler = logging.StreamHandler(sys.stdout)  # flushes each record
    handler.setFormatter(logging.Formatter(_FORMAT, _TIME))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    lines = _Lines(logger, sys.stdout)
    try:
        with contextlib.redirect_stdout(lines):
            yield
    finally:
        lines.end()
        logger.removeHandler(handler)
