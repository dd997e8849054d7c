"""`rendezvous.json`: where the learner of a run is now. The learner writes it, actors read it again and again.

In and out: a `Rendezvous`. The file is replaced atomically and is the user's alone (0600): whoever can write it
decides where actors send their experience.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from cluster_rl.errors import StorageError, UserError
from cluster_rl.runs.atomic import write_atomic
from cluster_rl.runs.slurm_job import slurm_job_id
from cluster_rl.runs.small_file import (
    Count,
    MissingFileError,
    UnixSeconds,
    UnreadableError,
    decode_json,
    read_bytes_and_mode,
)

_LOOK_SEC = 0.5


class Rendezvous(msgspec.Struct, frozen=True, kw_only=True):
    """One incarnation of a learner. `incarnation` is unique to it; `public_key` is None where CURVE is off."""

    protocol: Count
    run: str
    endpoint: str
    public_key: str | None
    incarnation: Count
    host: str = msgspec.field(default_factory=socket.gethostname)
    pid: Count = msgspec.field(default_factory=os.getpid)
    slurm_job_id: str | None = msgspec.field(default_factory=slurm_job_id)
    written_unix_sec: UnixSeconds = msgspec.field(default_factory=time.time)


class _Protocol(msgspec.Struct):
    protocol: Count


def write_rendezvous(path: Path, rendezvous: Rendezvous) -> None:
    """Publishes where the learner is. Raises `UserError` if the file cannot be written."""
    write_atomic(path, msgspec.json.format(msgspec.json.encode(rendezvous), indent=2) + b"\n", mode=0o600)


def read_rendezvous(path: Path) -> Rendezvous | None:
    """The learner's place, or None while there is none.

    The file is opened anew each time, so that network file systems look at the server again. Raises `UserError` for a
    file that others may write or that is no rendezvous.
    """
    try:
        data, mode = read_bytes_and_mode(path)
    except MissingFileError:
        return None
    except StorageError:  # a network file system while the file is being replaced, or away; the caller comes again
        return None
    if mode & 0o022:
        raise UserError(f"{path}: other users may write it (mode {mode:04o}); run chmod 600 on it")
    try:
        return decode_json(data, Rendezvous, path)
    except UnreadableError as error:
        raise UserError(
            f"{error}; no rendezvous file that this program knows{_of_protocol(data, path)}: use the program of the "
            "learner; if that is this one delete it, the next learner writes it anew"
        ) from None


def _of_protocol(data: bytes, path: Path) -> str:
    """Which protocol a file of another shape names; empty where it names none."""
    try:
        return f" (protocol {decode_json(data, _Protocol, path).protocol})"
    except UnreadableError:
        return ""


def wait_for_learner(
    path: Path,
    previous: int,
    wait_sec: float,
    should_stop: Callable[[], bool],
    alive: Callable[[], object] = lambda: None,
) -> Rendezvous | None:
    """Waits up to `wait_sec` for a learner that is not the incarnation `previous`; None if a stop or the time comes.

    Says what it waits for. `alive` is called about twice a second. Raises `UserError`, see `read_rendezvous`.
    """
    deadline, told = time.monotonic() + wait_sec, False
    while not should_stop():
        alive()
        found = read_rendezvous(path)
        if found is not None and found.incarnation != previous:
            return found
        if not told:
            told = True
            print(f"waiting up to {wait_sec:.0f} s for a learner, which writes {path}", flush=True)
        if time.monotonic() > deadline:
            print(f"no learner within {wait_sec:.0f} s (learner_wait_seconds); submit both again", flush=True)
            return None
        time.sleep(_LOOK_SEC)
    return None


def remove_rendezvous(path: Path, incarnation: int) -> None:
    """Takes the file away at the learner's end, unless another learner has written it since."""
    current = read_rendezvous(path)
    if current is not None and current.incarnation == incarnation:
        path.unlink(missing_ok=True)
