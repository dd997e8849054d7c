"""The one exception that means "the input is wrong", and how a command ends on it.

Every command of the package wraps its main function in `run_command`, so that bad input gives one line on stderr
(one for each thing that is wrong with a config) and exit code 2, never a traceback.
"""

from __future__ import annotations

import errno
import os
import select
import sys
from collections.abc import Callable, Sequence

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_BAD_INPUT = 2
EXIT_NOBODY_READS = 141
EXIT_UNFINISHED = 85
"""The job's time is over and all is saved, but the run's target is not reached: the same command goes on with it."""
EXITS_WELL = (EXIT_OK, EXIT_UNFINISHED)
"""Of a trainer that did what it should."""


_STDOUT = 1

# What is wrong with a path that somebody gave, not with the program.
_PATH_ERRNOS = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS)


class UserError(Exception):
    """Bad input. The message is one line: what is wrong, where, and what to do about it.

    Where many things are wrong at once, `details` has a line for each; as a text they follow the message.
    """

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(f"{message}: {'; '.join(details)}" if details else message)
        self.lines = (message, *details)


def _nobody_reads(descriptor: int) -> bool:
    """Whether this is a pipe whose other end is closed."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def run_command(main: Callable[[], int]) -> None:
    """Runs a command's main function and leaves the process with its exit code.

    `UserError`, and a path that may not be entered or cannot be one, becomes `error: <message>` on stderr, its details
    on indented lines below, and exit code 2; Ctrl-C becomes exit code 130, and output that nobody reads any more
    (`| head`) 141, as a shell says of its own commands.
    """
    try:
        code = main()
    except UserError as error:
        lines = [" ".join(line.split()) for line in error.lines]
        print("error: " + "\n  ".join(lines), file=sys.stderr)
        code = EXIT_BAD_INPUT
    except BrokenPipeError:
        if not _nobody_reads(_STDOUT):
            raise
        # What is still in the buffer would be tried, and fail, once more at the end of the process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT)
        code = EXIT_NOBODY_READS
    except OSError as error:
        if error.errno not in _PATH_ERRNOS or error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}; give another path, or ask its owner", file=sys.stderr)
        code = EXIT_BAD_INPUT
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
