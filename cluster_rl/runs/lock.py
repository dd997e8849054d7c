"""One writer for each run: `run.lock`, held by the launcher for as long as it lives.

The kernel lets go of it when the holder dies, however it dies, so there are no stale locks. In: a run directory. Out:
the lock, or a `UserError` that names who holds it: a `BusyError` where that is an earlier start of this SLURM job.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path
from types import TracebackType

import filelock
import msgspec

from cluster_rl.errors import BusyError, StorageError, UserError, as_text
from cluster_rl.runs.atomic import explain_os_error, write_atomic
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.slurm_job import slurm_job_id
from cluster_rl.runs.small_file import Count, UnixSeconds, UnreadableError, read_json

_PATIENCE_SEC = 1.0  # who asks for the holder takes the lock for an instant


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds a lock. `since` is in Unix seconds."""

    pid: Count
    host: str
    slurm_job_id: str | None
    since: UnixSeconds
    command: str

    @classmethod
    def this_process(cls) -> Holder:
        """This process, holding something from now on."""
        return cls(
            pid=os.getpid(),
            host=socket.gethostname(),
            slurm_job_id=slurm_job_id(),
            since=time.time(),
            command=as_text(" ".join(sys.argv))[:500],
        )

    def __str__(self) -> str:
        job = f", SLURM job {self.slurm_job_id}" if self.slurm_job_id else ""
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host}{job}, since {since}"


class RunLock:
    """A context manager; also `acquire()` and `release()`. `run.lock.holder` beside the lock says who has it.

    Keep the object: the lock goes with its last reference.
    """

    def __init__(self, run_dir: RunDir) -> None:
        self._run_name = run_dir.run_name
        self._path = run_dir.lock
        self._holder_path = holder_path(run_dir)
        self._lock = filelock.FileLock(self._path, timeout=_PATIENCE_SEC, thread_local=False)

    def acquire(self) -> RunLock:
        """Takes the lock within a second or not at all. Raises `UserError` that names the holder."""
        try:
            self._lock.acquire()
        except filelock.Timeout:
            raise self._held() from None
        except OSError as error:
            raise explain_os_error(error, self._path) from None
        except NotImplementedError:
            raise self._no_flock() from None
        if isinstance(self._lock, filelock.SoftFileLock):
            # filelock's stand-in where flock is missing is a file that outlives a killed owner.
            self._lock.release()
            raise self._no_flock()
        holder = Holder.this_process()
        try:
            write_atomic(self._holder_path, msgspec.json.encode(holder) + b"\n")
        except BaseException:
            self._lock.release()
            raise
        return self

    def _held(self) -> UserError:
        """The error that names the holder. One that belongs to this very SLURM job, as after its node was lost and it
        was requeued, is on its way out: the chain must not end for it."""
        holder = read_holder(self._holder_path)
        own = holder is not None and holder.slurm_job_id is not None and holder.slurm_job_id == slurm_job_id()
        return (BusyError if own else UserError)(
            f"run {self._run_name!r} is being trained by {holder or 'another process'}; "
            "wait for its end, stop it, or take another --run-name"
        )

    def _no_flock(self) -> UserError:
        return UserError(f"{self._path}: this file system cannot lock files; put the runs on another one")

    def release(self) -> None:
        """Gives the lock back; harmless if it is not held."""
        if self._lock.is_locked:
            # Before the lock goes: afterwards the file may already be that of the next holder.
            self._holder_path.unlink(missing_ok=True)
            self._lock.release()

    def __enter__(self) -> RunLock:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def holder_path(run_dir: RunDir) -> Path:
    """`run.lock.holder`. It is left behind by a holder that was killed, so it alone does not mean "locked"."""
    return run_dir.lock.with_name(f"{run_dir.lock.name}.holder")


def read_holder(path: Path) -> Holder | None:
    """The last holder's words, or None if there are none that can be read."""
    try:
        return read_json(path, Holder)
    except (UnreadableError, StorageError):  # it is only words
        return None


def current_holder(run_dir: RunDir) -> Holder | None:
    """Who trains the run now, for status commands; None if nobody does. It takes the lock for an instant."""
    if not run_dir.lock.exists():
        return None
    try:
        with filelock.FileLock(run_dir.lock, timeout=0):
            return None
    except filelock.Timeout:
        return read_holder(holder_path(run_dir)) or Holder(
            pid=0, host="an unknown host", slurm_job_id=None, since=0.0, command=""
        )
