"""The one exception that means "the input is wrong", and how a command writes and ends.

Every command of the package wraps its main function in `run_command`. Bad input gives one line on stderr (one for each
thing that is wrong with a config) and exit code 2, storage that takes nothing now one line and exit code 75, what else
fails outside of the program one line and exit code 1 or 2, and only a mistake of the program's own a traceback.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_BAD_INPUT = 2
EXIT_UNFINISHED = 85
"""The job's time is over and all is saved, but the run's target is not reached: the same command goes on with it."""
EXIT_STORAGE = 75
"""The storage takes nothing now: full, read-only, failing or away. The same command may succeed later (sysexits.h has
the number as EX_TEMPFAIL)."""
EXITS_WELL = (EXIT_OK, EXIT_UNFINISHED)
"""Of a trainer that did what it should."""

_PACKAGE = Path(__file__).parent

# What somebody can do about it; after any other error of the system starting again is all there is.
_MENDS = {
    errno.ENOSPC: "free some space and start again",
    errno.EDQUOT: "free some of the quota, of space or of the number of files, and start again",
    errno.EFBIG: "raise the limit on the size of files (`ulimit -f`), and start again",
    errno.EIO: "check the disk or its server, and start again",
    errno.ESTALE: "its file server has lost it; start again",
    errno.EACCES: "give another path, or ask its owner",
    errno.EPERM: "give another path, or ask its owner",
    errno.EROFS: "give another path: the file system is mounted read-only",
    errno.ENAMETOOLONG: "give another path",
    errno.ELOOP: "give another path",
    errno.ENOTDIR: "a folder was expected there",
    errno.EISDIR: "a file was expected there",
}
# What passes, or is mended, without a change of what was given; with what storage is then, in words. The last ones are
# those of network file systems.
_STORAGE = {
    errno.ENOSPC: "disk full",
    errno.EDQUOT: "quota full",
    errno.EFBIG: "limit on file sizes reached",
    errno.EROFS: "file system read-only",
    errno.EIO: "storage failing",
    **dict.fromkeys(
        (errno.ESTALE, errno.ENOLINK, errno.EREMOTEIO, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN),
        "file server away",
    ),
}
# Also sockets and terminals fail with the others.
_STORAGE_WITHOUT_PATH = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.ESTALE)
# Of the machine, whatever the path.
_LIMITS = {
    errno.EMFILE: "more open files than `ulimit -n` allows; raise it, or run fewer at once",
    errno.ENFILE: "more open files than the machine allows; close other programs",
    errno.ENOMEM: "give it more memory, or run fewer at once",
    errno.EAGAIN: "more processes than `ulimit -u` or the job allows; raise it, or run fewer at once",
}
_AWAY = "check its file server, and start again"
_OUT_OF_INODES = "no inode is left there, though there is space; delete some files (many small ones, most likely)"

# Of libraries that this module must not import. torch's are RuntimeErrors.
_OUTSIDE = ("ZMQError", "OutOfMemoryError", "AcceleratorError")
_OUTSIDE_WORDS = ("can't start new thread", "can't allocate memory", "CUDA error: ")


class UserError(Exception):
    """Bad input. The message is one line: what is wrong, where, and what to do about it.

    Where many things are wrong at once, `details` has a line for each; as a text they follow the message.
    """

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(f"{message}: {'; '.join(details)}" if details else message)
        self.lines = (message, *details)


class StorageError(UserError):
    """Storage that does not take or give a file now. Nobody gave anything wrong, and the same may succeed later.

    `path` is the file's, `number` the errno; `state` says in two or three words what storage is.
    """

    def __init__(self, message: str, path: str | Path, number: int | None) -> None:
        super().__init__(message)
        self.path, self.number = Path(path), number
        self.state = _STORAGE.get(number or 0, "storage failing")

    @property
    def cause(self) -> str:
        """The path, and the system's words."""
        return f"{self.path}: {os.strerror(self.number) if self.number else 'cannot be written'}"

    def __reduce__(self) -> tuple[type[StorageError], tuple[str, Path, int | None]]:
        return type(self), (self.lines[0], self.path, self.number)  # from a process of a pool to its parent


class BusyError(UserError):
    """What is wanted is held by a process that is ending: nobody gave anything wrong, the same may succeed later."""


def exit_code_of(error: UserError) -> int:
    """What a command ends with that this error ends."""
    if isinstance(error, StorageError):
        return EXIT_STORAGE
    return EXIT_FAILURE if isinstance(error, BusyError) else EXIT_BAD_INPUT


def is_of_storage(error: OSError) -> bool:
    """Whether this is the storage's doing, so that the same call may succeed later."""
    return error.errno in _STORAGE


def read_error(error: OSError, path: str | Path, what: str = "") -> UserError:
    """The error for a file that cannot be read: a `StorageError` where that is the storage's doing. `what` it is."""
    words = f"{what} {path}: cannot be read: {error.strerror or error}".lstrip()
    if not is_of_storage(error):
        return UserError(words)
    return StorageError(f"{words}; {_MENDS.get(error.errno or 0, _AWAY)}", path, error.errno)


def exceeded_limit(error: OSError) -> str:
    """Which limit of the machine refuses this, whatever the path, and what to do; empty where it is none."""
    return _LIMITS.get(error.errno or 0, "")


def mend(error: OSError, path: str | Path) -> str:
    """What the user can do about an error with this path; empty where nothing is known."""
    if error.errno == errno.ENOSPC and _inodes_are_full(Path(path)):
        return _OUT_OF_INODES
    return _MENDS.get(error.errno or 0, "")


def _inodes_are_full(path: Path) -> bool:
    """Whether a file system that counts its files can take no more of them, and could take more bytes."""
    for folder in (path, *path.absolute().parents):
        with contextlib.suppress(OSError):
            found = os.statvfs(folder)
            return found.f_files > 0 and found.f_favail == 0 and found.f_bavail > 0
    return False


def describe_exit(code: int) -> str:
    """How a process ended, by the return code that `Popen` gives: `exited with code 1`, `was killed by SIGTERM`."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}{' (out of memory?)' if -code == signal.SIGKILL else ''}"


def end_quietly() -> None:
    """Has Ctrl-C end this process without a traceback until `run_command` begins: for the time that imports take."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def run_command(main: Callable[[], int], only_logs: bool = False) -> None:
    """Runs a command's main function and leaves the process with its exit code.

    `UserError` becomes `error: <message>` on stderr, its details on indented lines below, and exit code 2. So does what
    the system says of a path that was given; `StorageError`, and the system's words for the same, are exit code 75;
    `BusyError` is 1. What else fails outside of the program (the system's errors, memory, sockets, the GPU) becomes a
    line that names the place in the program, and exit code 1. Ctrl-C is exit code 130. Anything else is a mistake of
    the program's own: its traceback, a last line that says so, and exit code 1.

    Output that nobody reads any more (`| head`, a terminal that was closed, `>&-`) is dropped: the work is done to its
    end, and the exit code is the work's. Where output was lost that somebody wants (a full disk) the work is done too,
    but exit code 0 becomes 1, with a line; not where the program `only_logs`, so that its output is no result. Such a
    program, which has closed what it had, is gone at once when `main` has returned and all went well: no `atexit`, no
    destructors.
    """
    returned = False  # not so by `--version` or `--help`

    def whole() -> int:
        nonlocal returned
        code = main()
        returned = True
        return code

    held = [_hold("stdout", 1), _hold("stderr", 2)]
    code = _run(whole)
    sys.stdout.flush()
    for descriptor in held:
        if descriptor is not None and descriptor.lost is not None:
            _say(f"{descriptor.name}: {descriptor.lost.strerror}; lines of it are lost, all else is done")
            if not only_logs:
                code = code or EXIT_FAILURE
    if only_logs and returned and code in EXITS_WELL:
        # All is closed and said. Python's tidying up after torch takes a second of CPU, or half a minute when busy:
        # a batch system does not wait so long for what it has told to end.
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _run(main: Callable[[], int]) -> int:
    try:
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # by `end_quietly`
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return main()
    except UserError as error:
        _say("\n  ".join(" ".join(line.split()) for line in error.lines))
        return exit_code_of(error)
    except KeyboardInterrupt:
        return 130
    except SystemExit as ended:
        if not isinstance(ended.code, int):  # argparse's is one
            raise
        return ended.code
    except Exception as error:  # noqa: BLE001  (answered or shown)
        answer = _answer(error)
        if answer is None:
            traceback.print_exception(error)
            answer = (
                EXIT_FAILURE,
                "this is a mistake in cluster_rl, not in what it was given; please report it, with the lines above, "
                "the command line and the version (`--version`, and `git rev-parse HEAD` in a checkout)",
            )
        _say(answer[1])
        return answer[0]


def _say(line: str) -> None:
    print(f"error: {line}", file=sys.stderr)


def _answer(error: Exception) -> tuple[int, str] | None:
    """Exit code and line for what failed outside of the program; None for a mistake of its own."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    words = " ".join(str(error).split())
    if isinstance(error, OSError):
        words, hint = error.strerror or words or type(error).__name__, ""
        if error.filename is not None:
            path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(error.filename)
            words, hint = f"{path}: {words}", mend(error, path)
        elif error.errno in _STORAGE_WITHOUT_PATH:  # of a file that was opened before
            words, hint = f"{words}{_place(error)}", _MENDS[error.errno]
        if is_of_storage(error) and (error.filename is not None or error.errno in _STORAGE_WITHOUT_PATH):
            return EXIT_STORAGE, f"{words}; {hint}" if hint else words
        if hint:
            return EXIT_BAD_INPUT, f"{words}; {hint}"
        hint = exceeded_limit(error)
        return EXIT_FAILURE, f"{words}{_place(error)}" + (f"; {hint}" if hint else "")
    if isinstance(error, MemoryError):
        return EXIT_FAILURE, f"not enough memory{': ' if words else ''}{words}{_place(error)}; {_LIMITS[errno.ENOMEM]}"
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] != _PACKAGE.name:
        return EXIT_BAD_INPUT, f"{words}{_place(error)}; a package is missing or broken, install it anew"
    told = isinstance(error, RuntimeError) and any(part in words for part in _OUTSIDE_WORDS)
    if told or kinds.intersection(_OUTSIDE):
        return EXIT_FAILURE, f"{words}{_place(error)}"
    return None


def _place(error: Exception) -> str:
    """Where in this package it came from, in brackets; empty if nowhere."""
    here = [
        f" ({_PACKAGE.name}/{Path(frame.filename).relative_to(_PACKAGE)}, line {frame.lineno})"
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(_PACKAGE) and frame.filename != __file__
    ]
    return here[-1] if here else ""


# --- standard output and error ---


class _Descriptor(io.FileIO):
    """A standard stream's descriptor. What cannot be written is dropped, so that nothing ends half way for it."""

    lost: OSError | None = None
    """Why output was lost that somebody may want."""

    def __init__(self, number: int, name: str) -> None:
        super().__init__(number, "wb", closefd=False)
        self.name = name
        self._terminal = os.isatty(number)

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            while (written := super().write(data)) is None:  # full, and made non-blocking by whoever shares it
                select.select([], [self], [])
            return written
        except OSError as error:
            if error.errno == errno.EPIPE or (self._terminal and error.errno == errno.EIO):
                with contextlib.suppress(OSError):
                    _lead_nowhere(self.fileno())  # of processes started later too
            else:
                self.lost = error
            return memoryview(data).nbytes


def _hold(name: str, number: int) -> _Descriptor | None:
    """Puts a `_Descriptor` under one of Python's own streams; None where another one is there, as in a test."""
    own = getattr(sys, name)
    if own is not getattr(sys, f"__{name}__"):
        return None
    if own is None:  # closed when the process began, so that the next file opened may have got its number
        try:
            os.fstat(number)
            number = os.open(os.devnull, os.O_WRONLY)
        except OSError:
            _lead_nowhere(number)
    else:
        with contextlib.suppress(OSError):
            own.flush()
    unbuffered = own is not None and isinstance(own.buffer, io.RawIOBase)  # `python -u`
    descriptor = _Descriptor(number, f"<{name}>")
    stream = io.TextIOWrapper(
        descriptor if unbuffered else io.BufferedWriter(descriptor),
        encoding=own.encoding if own is not None else "utf-8",
        errors=_AS_GIVEN if name == "stdout" else "backslashreplace",
        line_buffering=own is not None and own.line_buffering,
        write_through=unbuffered,
    )
    setattr(sys, name, stream)
    return descriptor


def _lead_nowhere(number: int) -> None:
    """Makes a descriptor one of /dev/null, which child processes inherit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere == number:
        os.set_inheritable(number, True)
    else:
        os.dup2(nowhere, number)
        os.close(nowhere)


def as_text(words: str) -> str:
    """Words for what takes text alone (JSON, a picture): bytes of a path that are no text become a mark."""
    return os.fsencode(words).decode(errors="replace")


_AS_GIVEN = "cluster_rl.as_given"


def _as_given(error: UnicodeError) -> tuple[str | bytes, int]:
    """Bytes of a path that are no text come out as they came in; a character that the encoding lacks as `\\u....`."""
    assert isinstance(error, UnicodeEncodeError)
    error.end = error.start + 1  # of a run of characters each may be either
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


codecs.register_error(_AS_GIVEN, _as_given)
