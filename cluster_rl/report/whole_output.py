"""What a file or folder of frames has in common with the others: it is kept whole, or not at all.

`VideoWriter` and `PngFolder` use it. In: where the whole thing goes. Out: a partial one beside it, each writer's own,
which gets that name when it is complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import secrets
import shutil
import weakref
from pathlib import Path
from types import TracebackType
from typing import Self


class Partial:
    """A file or folder `.NAME.TOKEN.partial` beside `whole`: of writers with one `whole` each has its own.

    It is locked for as long as its writer lives. What writers that were killed have left, which nobody has locked, the
    next one removes; where the file system has no such locks it stays.
    """

    def __init__(self, whole: Path, is_folder: bool = False) -> None:
        """Makes it, empty. Raises `OSError`."""
        self._whole = whole
        for left in whole.parent.glob(f".{glob.escape(whole.name)}.{'[0-9a-f]' * 8}.partial"):
            _remove_unlocked(left)
        lock = None
        while lock is None:
            self.path = whole.with_name(f".{whole.name}.{secrets.token_hex(4)}.partial")
            if is_folder:
                self.path.mkdir()
            else:
                self.path.touch(exist_ok=False)
            lock = _locked(self.path)
        self._unlock = weakref.finalize(self, os.close, lock)

    def keep(self) -> None:
        """Gives it the name of the whole. Raises `OSError`, and it is as it was."""
        self.path.replace(self._whole)
        self._unlock()

    def drop(self) -> None:
        """Removes it, as far as can be: what ended the writing is told, and not what hinders this."""
        _remove(self.path)
        self._unlock()


def _locked(made: Path) -> int | None:
    """The descriptor that locks it; None where another writer came before, and took it for one that was left."""
    try:
        lock = _open(made)
    except FileNotFoundError:
        return None
    with contextlib.suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_EX)
    if made.exists():
        return lock
    os.close(lock)
    return None


def _remove_unlocked(left: Path) -> None:
    """Removes what no writer has locked; leaves what cannot be looked at, or has gone meanwhile."""
    with contextlib.suppress(OSError):
        lock = _open(left)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(left)
        finally:
            os.close(lock)


def _open(path: Path) -> int:
    """A descriptor to lock it by: network file systems lock only what may be written to, so a folder there never."""
    return os.open(path, os.O_CLOEXEC | (os.O_RDONLY if path.is_dir() else os.O_RDWR))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


class WholeOutput:
    """A context manager that keeps what was written only if its block ends without an exception."""

    def finish(self) -> None:
        """Completes what was written, without its name yet; nothing, where each frame is written at once."""

    def close(self) -> None:
        """Finishes, and gives it its name."""
        raise NotImplementedError

    def abort(self) -> None:
        """Removes what was written."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()
