"""Files that are either the old bytes or the new bytes, never half of each, also after a power cut.

Used by every process that writes into the run directory. In: bytes. Out: a file, synced and renamed into place, or a
piece at a file's end, whole or not at all.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from cluster_rl.errors import StorageError, UserError, is_of_storage, mend
from cluster_rl.runs.crash_points import crash_point


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replaces `path` by `data`: temporary file beside it, fsync, rename, fsync of the folder.

    `mode` is subject to the umask. Raises `StorageError` for a full disk and the like, `UserError` for missing
    permissions; the old file is then untouched.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        crash_point("atomic.begin", path.name)
        write_synced(temporary, data, mode)
        crash_point("atomic.written", path.name)
        temporary.replace(path)
        crash_point("atomic.renamed", path.name)
        sync_folder(path.parent)
    except OSError as error:
        _drop(temporary)
        raise explain_os_error(error, path) from None
    except BaseException:
        _drop(temporary)
        raise


def replace_unsynced(path: Path, data: bytes) -> None:
    """Like `write_atomic`, but a power cut may undo it: it waits for no disk."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(data)
        crash_point("episode_log.flush_written")
        temporary.replace(path)
        crash_point("episode_log.flushed")
    except OSError as error:
        _drop(temporary)
        raise explain_os_error(error, path) from None


def append_whole(descriptor: int, size_bytes: int, data: bytes) -> None:
    """Writes `data` behind the first `size_bytes` bytes of a file, the only ones that are whole.

    The descriptor must not be in append mode. Raises `OSError`, and the file then ends with its whole bytes again; if
    not even that is possible, the next call cuts off what lies behind them.
    """
    if os.fstat(descriptor).st_size > size_bytes:
        os.ftruncate(descriptor, size_bytes)
    try:
        write_at(descriptor, size_bytes, data)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, size_bytes)
        raise


def write_at(descriptor: int, offset: int, data: bytes) -> None:
    """Writes all of `data` at `offset`: a disk that gets full takes the beginning of it without an error."""
    view = memoryview(data)
    while view:
        view = view[os.pwrite(descriptor, view, offset + len(data) - len(view)) :]


def why_unwritable(folder: Path) -> StorageError | None:
    """Why a small file cannot be written to `folder` now; None if it can, or if storage is not what hinders it."""
    try:
        check_writable(folder)
    except StorageError as error:
        return error
    except (UserError, OSError):
        return None
    return None


def check_writable(folder: Path) -> None:
    """Writes a small file to `folder` and deletes it. Raises what `write_atomic` raises where it cannot."""
    probe = folder / f".probe.{secrets.token_hex(4)}.tmp"
    try:
        write_synced(probe, bytes(4096))
    except OSError as error:
        raise explain_os_error(error, folder) from None
    finally:
        _drop(probe)


def _drop(temporary: Path) -> None:
    with contextlib.suppress(OSError):  # what hindered the write may hinder this: `remove_temporaries` finds it
        temporary.unlink()


def remove_temporaries(folder: Path) -> None:
    """Deletes what a process killed in the middle of a write left in `folder`. Under the run's lock only.

    A process of an earlier job that still writes then meets `FileNotFoundError`, and its old file stays.
    """
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


def real_path(path: Path) -> Path:
    """Where a path leads, absolute and without links.

    Raises `UserError` where its links go round in a circle, else as `explain_os_error` says.
    """
    try:
        real = path.resolve()
        circular = real.is_symlink()  # Python 3.13 returns it as it is, where older ones raise
    except RuntimeError:
        circular = True
    except OSError as error:
        raise explain_os_error(error, path) from None
    if circular:
        raise UserError(f"{path}: is a link that leads to itself; remove it, or give another path")
    return real


def explain_os_error(error: OSError, path: Path) -> Exception:
    """A `StorageError` for what storage does not take, a `UserError` for what else a user can mend (permissions), else
    `error` itself."""
    hint = mend(error, path)
    words = f"{path}: cannot be written: {error.strerror}" + (f"; {hint}" if hint else "")
    if is_of_storage(error):
        return StorageError(words, path, error.errno)
    return UserError(words) if hint else error
