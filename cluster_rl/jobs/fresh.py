"""`--fresh`: what a run's folder holds is moved aside, whole, and a new run begins under the same name.

The launcher does it, or the serial mode, before the job's folder is made. In: the folders of a run and of its replay.
Out: `NAME.before-20261129-120301` beside `NAME`, itself a run that can be looked at and gone on with. Nothing is
deleted.
"""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

from cluster_rl.errors import StorageError, UserError
from cluster_rl.replay import segments
from cluster_rl.replay.folder_lock import FolderLock
from cluster_rl.runs import checkpoint
from cluster_rl.runs.atomic import explain_os_error, real_path, sync_folder
from cluster_rl.runs.identity import RunIdentity, read_identity
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.lock import RunLock, holder_path
from cluster_rl.runs.progress import readable_progress
from cluster_rl.runs.slurm_job import slurm_job_id


def is_begun(run_dir: RunDir) -> bool:
    """Whether this SLURM job made the run before it was requeued: its command line still says `--fresh`."""
    requeued = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
    identity = _identity_in(run_dir.identity)
    return requeued and identity is not None and identity.slurm_job_id == slurm_job_id()


def has_something(run_dir: RunDir) -> bool:
    """Whether there is a file that a new run would not have: empty folders and the lock are nothing."""
    locks = (run_dir.lock, holder_path(run_dir))
    return any(path.is_file() and path not in locks for path in run_dir.path.rglob("*"))


def set_aside(run_dir: RunDir, replay: Path) -> Path | None:
    """Moves the run aside and returns its new folder; None where there was nothing.

    The folder is moved by one rename. Of a `replay` elsewhere the segments are moved first, into a folder beside them;
    killed between the two, the next `--fresh` does the rest. Raises `UserError` if a process trains the run, if its
    learner has not ended, or if `replay` is another run's or nothing tells that it is not; nothing is moved then.
    """
    if not has_something(run_dir):
        return None
    stamp = time.strftime("before-%Y%m%d-%H%M%S")
    path = real_path(run_dir.path)  # it may be a link to a larger disk, where the new run is wanted too
    with RunLock(run_dir):
        try:
            if replay.is_dir():  # a learner outlives a launcher that was killed, and writes until it has ended
                FolderLock(replay).release()
            if not _moves_along(run_dir, replay):
                _move_segments(run_dir, replay, stamp)
            aside = _free(path.with_name(f"{path.name}.{stamp}"))
            path.rename(aside)
            if run_dir.path.is_symlink():
                path.mkdir()
            sync_folder(path.parent)
        except OSError as error:
            raise explain_os_error(error, run_dir.path) from None
    (aside / holder_path(run_dir).name).unlink(missing_ok=True)
    return aside


def _moves_along(run_dir: RunDir, replay: Path) -> bool:
    """Whether `replay` is moved with the run's folder: it lies there, or a link to it does."""
    return replay.absolute() == run_dir.replay.absolute() or real_path(replay).is_relative_to(real_path(run_dir.path))


def _move_segments(run_dir: RunDir, replay: Path, stamp: str) -> None:
    ours = _ids(run_dir)
    for path, owner in segments.owners(replay).items():
        if ours and owner not in ours:
            raise UserError(f"{path}: belongs to the run {owner!r}, so --fresh leaves it; give another replay_dir")
    found = sorted(replay.glob("segment-*"))
    if found:
        if not ours:
            raise UserError(
                f"{found[0]}: whose run this is {run_dir.path} does not tell (no run.json, checkpoint or progress.json "
                "with an id), so --fresh leaves it; give another replay_dir"
            )
        for other in _same_run(run_dir, ours):
            raise UserError(
                f"{replay}: also that of the run {other.name!r}, of which this one is a copy or the other way round, "
                "so --fresh leaves it; give another replay_dir"
            )
        folder = _free(replay / stamp)
        folder.mkdir()
        for path in found:
            path.rename(folder / path.name)
        sync_folder(folder)
        sync_folder(replay)


def _ids(run_dir: RunDir) -> set[str]:
    """All that the folder tells of its run's id: one, or none."""
    identity = _identity_in(run_dir.identity)
    if identity is not None:
        return {identity.run_id}
    progress = readable_progress(run_dir.progress)
    told = {progress.run_id} if progress is not None and progress.run_id else set()
    return told | set(checkpoint.owners(run_dir.checkpoint).values())


def _same_run(run_dir: RunDir, ids: set[str]) -> list[Path]:
    """Other folders beside the run's that hold a run of these ids, as copies do."""
    own = real_path(run_dir.path)
    others = [path for path in sorted(run_dir.root.iterdir()) if path.is_dir() and real_path(path) != own]
    found = [(path, _identity_in(path / run_dir.identity.name)) for path in others]
    return [path for path, identity in found if identity is not None and identity.run_id in ids]


def _identity_in(path: Path) -> RunIdentity | None:
    """None also where it is damaged: `--fresh` must help there too. Raises `StorageError`."""
    try:
        return read_identity(path)
    except StorageError:
        raise
    except UserError:
        return None


def _free(path: Path) -> Path:
    names = itertools.chain([path.name], (f"{path.name}-{number}" for number in itertools.count(2)))
    return next(free for name in names if not (free := path.with_name(name)).exists())
