"""The lock of a replay folder: one process at a time has the log open.

Runs in the learner. In: the folder. Out: `lock`, held through the kernel, and `lock.holder`, which names who holds it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import weakref
from pathlib import Path

import msgspec

from cluster_rl.errors import BusyError
from cluster_rl.runs.lock import Holder, read_holder

# A learner whose launcher was killed still writes its checkpoint and drains its actors for a minute.
LOCK_WAIT_SEC = 180.0
_TOLD_SEC = 1.0
_LOCK_POLL_SEC = 0.1


class FolderLock:
    """`lock` in a folder: held until `release`, or until the kernel takes it back from a dead process.

    Says whom it waits for. Raises `BusyError` that names the holder if it is not free within `LOCK_WAIT_SEC`.
    """

    def __init__(self, folder: Path) -> None:
        self._holder_path = folder / "lock.holder"
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._close = weakref.finalize(self, os.close, fd)
        began, told = time.monotonic(), False
        while not _try_lock(fd):
            waited_sec = time.monotonic() - began
            holder = read_holder(self._holder_path) or "another process"
            if waited_sec >= _TOLD_SEC and not told:
                told = True
                print(f"replay log {folder}: waiting for {holder}, up to {LOCK_WAIT_SEC:.0f} s", flush=True)
            if waited_sec >= LOCK_WAIT_SEC:
                raise BusyError(f"replay log {folder}: in use by {holder}; wait for its end, or stop it")
            time.sleep(_LOCK_POLL_SEC)
        holder = Holder.this_process()
        with contextlib.suppress(OSError):  # it is only words: a learner may start again on a full disk
            self._holder_path.write_bytes(msgspec.json.encode(holder) + b"\n")

    def release(self) -> None:
        """Gives the lock back; harmless if it is not held."""
        if self._close.alive:
            # Before the lock goes: afterwards the file may already be the next holder's.
            with contextlib.suppress(OSError):  # it is only words
                self._holder_path.unlink()
            self._close()


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
