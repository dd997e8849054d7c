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
from cluster_rl.runs.atomic import explain_os_error, real_path, write_atomic


class TextFile(WholeOutput):
    """A context manager that replaces `path` by what was written, if its block ends without an exception."""

    def __init__(self, path: Path) -> None:
        """Raises as `cannot_write` says."""
        self.path = path
        try:
            self._partial = Partial(real_path(path))
            self._file: TextIO = self._partial.path.open("w", encoding="utf-8", errors="replace", newline="")
        except OSError as error:
            raise cannot_write(error, path) from None

    def write(self, words: str) -> int:
        """Appends, as a file does. Raises `StorageError` for a full disk and the like."""
        try:
            return self._file.write(words)
        except OSError as error:
            raise cannot_write(error, self.path) from None

    def close(self) -> None:
        """Gives it its name. Raises as `write` does, and the file is as it was before."""
        try:
            self._file.close()
            self._partial.keep()
        except OSError as error:
            self.abort()
            raise cannot_write(error, self.path) from None

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
        raise cannot_write(error, path) from None
    return path


def write_file(path: Path, data: bytes) -> None:
    """`write_atomic`, and makes the file's folder. Raises as `cannot_write` says."""
    make_folder(path.parent)
    try:
        write_atomic(path, data)
    except OSError as error:
        raise cannot_write(error, path) from None


def cannot_write(error: OSError, path: Path) -> UserError:
    """The error for what cannot be written below `--out`: where it goes is a user's choice, so whatever the system says
    of it is told in a line; a `StorageError` for what storage does not take."""
    why = explain_os_error(error, path)
    if isinstance(why, UserError):
        return why
    return UserError(f"{path}: cannot be written: {error.strerror or error}; give --out another place")


def require_onnx() -> tuple[ModuleType, ModuleType]:
    """The packages onnx and onnxruntime, and onnxscript with them, without which torch makes no graph. Raises as
    `require` does."""
    onnx, _, runtime = (require(package, "onnx") for package in ("onnx", "onnxscript", "onnxruntime"))
    return onnx, runtime


def require(package: str, extra: str) -> ModuleType:
    """A package that only some installations have. Raises `UserError` with the command that installs it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(
            f"the package {package} is missing or broken ({error}); install it: "
            f"python -m pip install 'cluster_rl[{extra}]'"
        ) from None
