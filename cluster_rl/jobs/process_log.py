"""What the learner and the actors print, as lines of their logs: with the time, and with who says it.

Their programs use it, whose output the supervisor leads into `logs/NAME.log`, appended to by one process after another.
In: what is printed to stdout, in any thread. Out: records of the `logging` module. What goes to stderr stays as it is:
errors and tracebacks, whose first words the supervisor looks for. The launcher's lines stay too: people and scripts
read them as they are.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Iterator

_FORMAT = "%(asctime)s %(name)s[%(process)d] %(message)s"
_TIME = "%Y-%m-%d %H:%M:%S"


class _Lines:
    """A stream that hands on whole lines. `print` writes a line in parts, so each thread has its own beginning."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._begun = threading.local()

    def write(self, words: str) -> int:
        *lines, rest = (getattr(self._begun, "words", "") + words).split("\n")
        self._begun.words = rest
        for line in lines:
            self._logger.info("%s", line)
        return len(words)

    def flush(self) -> None:
        """Each line is flushed as it comes."""

    def isatty(self) -> bool:
        return False


@contextlib.contextmanager
def logged(name: str) -> Iterator[None]:
    """While it is open, each line that is printed has the time (local) and `name[process id]` before it."""
    logger = logging.getLogger(name)
    handler = logging.StreamHandler(sys.stdout)  # flushes each record
    handler.setFormatter(logging.Formatter(_FORMAT, _TIME))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        with contextlib.redirect_stdout(_Lines(logger)):
            yield
    finally:
        logger.removeHandler(handler)
