"""The one exception that means "the input is wrong", and how a command ends on it.

Every command of the package wraps its main function in `run_command`, so that bad input gives one line on stderr
(one for each thing that is wrong with a config) and exit code 2, never a traceback.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Sequence

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_BAD_INPUT = 2
EXIT_UNFINISHED = 85
"""The job's time is over and all is saved, but the run's target is not reached: the same command goes on with it."""
EXITS_WELL = (EXIT_OK, EXIT_UNFINISHED)
"""Of a trainer that did what it should."""


# What is wrong with a path that somebody gave, not with the program.
_PATH_ERRNOS = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS)


class UserError(Exception):
    """Bad input. The message is one line: what is wrong, where, and what to do about it.

    Where many things are wrong at once, `details` has a line for each; as a text they follow the message.
    """

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(f"{message}: {'; '.join(details)}" if details else message)
        self.lines = (message, *details)


def run_command(main: Callable[[], int]) -> None:
    """Runs a command's main function and leaves the process with its exit code.

    `UserError`, and a path that may not be entered or cannot be one, becomes `error: <message>` on stderr, its details
    on indented lines below, and exit code 2; Ctrl-C becomes exit code 130.
    """
    try:
        code = main()
    except UserError as error:
        lines = [" ".join(line.split()) for line in error.lines]
        print("error: " + "\n  ".join(lines), file=sys.stderr)
        code = EXIT_BAD_INPUT
    except OSError as error:
        if error.errno not in _PATH_ERRNOS or error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}; give another path, or ask its owner", file=sys.stderr)
        code = EXIT_BAD_INPUT
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
