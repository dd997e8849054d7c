"""Files that are either the old bytes or the new bytes, never half of each, also after a power cut.

Used by every process that writes into the run directory. In: bytes. Out: a file, synced and renamed into place.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from cluster_rl.errors import UserError, mend


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replaces `path` by `data`: temporary file beside it, fsync, rename, fsync of the folder.

    `mode` is subject to the umask. Raises `UserError` for a full disk or quota and for missing permissions; the old
    file is then untouched.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        write_synced(temporary, data, mode)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise explain_os_error(error, path) from None
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_temporaries(folder: Path) -> None:
    """Deletes what a process killed in the middle of `write_atomic` left in `folder`. Under the run's lock only."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def write_synced(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Creates a new file at `path` and returns once its bytes are on the disk. `OSError` if it exists."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "wb") as file:  # noqa: PTH123 (a descriptor, not a path)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Makes renames and new names in `folder` last; without it a power cut can undo a rename."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def nearest_existing(folder: Path) -> Path:
    """The folder itself, or what it would be made in. Raises `UserError` where it may not be looked into."""
    absolute = folder.absolute()
    try:
        return next(path for path in (absolute, *absolute.parents) if path.exists())
    except OSError as error:
        raise explain_os_error(error, folder) from None


def explain_os_error(error: OSError, path: Path) -> Exception:
    """The `UserError` for what a user can mend (space, quota, permissions), else `error` itself."""
    hint = mend(error, path)
    return UserError(f"{path}: cannot be written: {error.strerror}; {hint}") if hint else error
