"""Text files that are there whole or not at all, of any length, and packages that an export needs.

All exports use it. In: a path and lines; the name of a package. Out: a file; a module, or one line that says how to
install it.
"""

from __future__ import annotations

import contextlib
import importlib
from pathlib import Path
from types import ModuleType
from typing import TextIO

from cluster_rl.errors import UserError
from cluster_rl.report.whole_output import Partial, WholeOutput
from cluster_rl.runs.atomic import explain_os_error, real_path


class TextFile(WholeOutput):
    """A context manager that replaces `path` by what was written, if its block ends without an exception."""

    def __init__(self, path: Path) -> None:
        """Raises as `explain_os_error` says."""
        self.path = path
        try:
            self._partial = Partial(real_path(path))
            self._file: TextIO = self._partial.path.open("w", encoding="utf-8", errors="replace", newline="")
        except OSError as error:
            raise explain_os_error(error, path) from None

    def write(self, words: str) -> int:
        """Appends, as a file does. Raises `StorageError` for a full disk and the like."""
        try:
            return self._file.write(words)
        except OSError as error:
            raise explain_os_error(error, self.path) from None

    def close(self) -> None:
        """Gives it its name. Raises as `write` does, and the file is as it was before."""
        try:
            self._file.close()
            self._partial.keep()
        except OSError as error:
            self.abort()
            raise explain_os_error(error, self.path) from None

    def abort(self) -> None:
        """Removes what was written."""
        with contextlib.suppress(OSError):  # a full disk's last words
            self._file.close()
        self._partial.drop()


def make_folder(path: Path) -> Path:
    """Makes a folder to export into, which may be there. Raises `UserError`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"{path}: is a file; give --out a folder") from None
    except OSError as error:
        raise explain_os_error(error, path) from None
    return path


def require(package: str, extra: str) -> ModuleType:
    """A package that only some installations have. Raises `UserError` with the command that installs it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(
            f"the package {package} is missing or broken ({error}); install it: "
            f"python -m pip install 'cluster_rl[{extra}]'"
        ) from None
