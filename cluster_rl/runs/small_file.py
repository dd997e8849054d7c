"""The reader of small files, and of headers: bytes from outside become a checked value, or one line that says why not.

Every process reads with it what lies in a run directory and what a user gives. In: a path, or bytes and what they are
called. Out: a msgspec type; or an `UnreadableError`, whatever was wrong with the file, a `NewerFormatError`, or a
`StorageError`, which tells nothing of the file: the same may succeed later. Files that are the package's own are read
plainly: with a damaged package nothing is right.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar

import msgspec

from cluster_rl.errors import UserError, is_of_storage, read_error

MAX_BYTES = 1 << 24
"""Far above any small file: `progress.json` has 300 bytes a job."""

DECODE_ERRORS = (msgspec.DecodeError, ValueError, RecursionError, MemoryError)
"""All that JSON or msgpack can raise: text that is no UTF-8 and long numbers are ValueErrors, nesting ends with the
interpreter's stack, and the stated length of a list may be more than memory."""

Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
"""What only grows: a negative or an absurd one is damage. Sums of two fit into 64 bits."""

UnixSeconds = Annotated[float, msgspec.Meta(ge=0, le=253_402_300_799)]
"""A time that can be told as a date: 1970 to 9999."""

_Kind = TypeVar("_Kind")
_STALE_TRIES = 3


class UnreadableError(UserError):
    """A file, or a part of one, that may not be read or cannot be understood."""

    def __init__(self, source: str | Path, why: str) -> None:
        super().__init__(f"{source}: {why}")


class MissingFileError(UnreadableError):
    """No such file."""


class NewerFormatError(UserError):
    """Written by a newer program. It must not be taken for damage: what replaces or passes over it loses work."""


class Version(NamedTuple):
    """The `field` in which a file says its format, and the one that this program reads. Files without it have `was`."""

    field: str
    reads: int
    was: int = 1


def read_bytes(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """All of a regular file.

    Raises `UnreadableError` for any other, and for one of more than `max_bytes`; `StorageError` if the disk fails or
    its server is away.
    """
    return read_bytes_and_mode(path, max_bytes)[0]


def read_bytes_and_mode(path: Path, max_bytes: int = MAX_BYTES) -> tuple[bytes, int]:
    """`read_bytes`, and the permission bits that the file had then."""
    for tries_left in reversed(range(_STALE_TRIES)):
        try:
            return _read(path, max_bytes)
        except FileNotFoundError as error:
            raise MissingFileError(path, f"cannot be read: {error.strerror}") from None
        except OSError as error:
            # A network file system's word for a file that was replaced between its name and its bytes.
            if error.errno == errno.ESTALE and tries_left:
                continue
            if is_of_storage(error):
                raise read_error(error, path) from None
            raise UnreadableError(path, f"cannot be read: {error.strerror or error}") from None
        except ValueError as error:  # a path that no file can have
            raise UnreadableError(path, f"cannot be read: {error}") from None
    raise AssertionError("unreachable")


def read_json(path: Path, kind: type[_Kind], version: Version | None = None) -> _Kind:
    """What a JSON file holds, see `decode_json` and `read_bytes`, for what it raises too."""
    return decode_json(read_bytes(path), kind, path, version)


def decode_json(data: bytes, kind: type[_Kind], source: str | Path, version: Version | None = None) -> _Kind:
    """JSON as a `kind`; with a `version` only of the format that is read. `source` names the bytes in errors.

    Raises `UnreadableError`, and `NewerFormatError` however else a newer format may differ.
    """
    try:
        if version is not None:
            fields = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
            if version.field in fields:
                check_version(msgspec.json.decode(fields[version.field], type=int), version.reads, source)
            else:
                check_version(version.was, version.reads, source)
        return msgspec.json.decode(data, type=kind)
    except DECODE_ERRORS as error:
        raise damaged(source, error) from None


def decode_msgpack(data: bytes | memoryview, kind: type[_Kind], source: str | Path) -> _Kind:
    """msgpack as a `kind`. Raises `UnreadableError`."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except DECODE_ERRORS as error:
        raise damaged(source, error) from None


def check_version(found: int, reads: int, source: str | Path) -> None:
    """Raises `NewerFormatError` for a format above the one that this program `reads`, `UnreadableError` below it."""
    if found > reads:
        raise NewerFormatError(f"{source}: format {found}, this program reads {reads}; use the newer program")
    if found < reads:
        raise UnreadableError(source, f"format {found}, this program reads only {reads}")


def damaged(source: str | Path, error: BaseException | str) -> UnreadableError:
    """The error for bytes that were read and are wrong, in one line."""
    words = "nested too deep" if isinstance(error, RecursionError) else " ".join(str(error).split())
    return UnreadableError(source, f"damaged ({words or type(error).__name__})")


def _read(path: Path, max_bytes: int) -> tuple[bytes, int]:
    # Without waiting: a pipe in a file's place would hold the process until somebody writes into it.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "something else"
            raise UnreadableError(path, f"{kind} lies where a file was expected; move it away")
        if found.st_size > max_bytes:
            raise UnreadableError(path, f"{found.st_size} bytes, more than the {max_bytes} that such a file can have")
        with open(descriptor, "rb", closefd=False) as file:
            # As long as it was: what is appended meanwhile is not of this look.
            return file.read(found.st_size), stat.S_IMODE(found.st_mode)
    finally:
        os.close(descriptor)
