"""Whether a run's folder holds all that the run had, and nothing of another run.

The launcher asks before anything is written, the trainer before it goes on. In: the folders of a run and of its replay.
Out: the run's id and lines to tell, or a `UserError` that says what is missing, what is left and what to do.

Scratch file systems are purged file by file, and weeks of training must not start anew without a word. A process that
is killed, at whatever instant, leaves nothing that is refused here, for
- progress.json is on disk before the first record, and a record's segment file before its env steps are told anywhere;
- a checkpoint is on disk before progress.json tells of it, and the newest is never deleted;
- online_params.pt is not written before the first update, or the first checkpoint.
So what is told of and not there was taken away. A run whose first job was killed has env steps, updates and no
checkpoint, and goes on.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from cluster_rl.config import load_config
from cluster_rl.errors import UserError
from cluster_rl.replay import segments
from cluster_rl.runs import checkpoint
from cluster_rl.runs.aside import damaged_path
from cluster_rl.runs.atomic import real_path
from cluster_rl.runs.episode_log import log_paths
from cluster_rl.runs.identity import read_identity
from cluster_rl.runs.job_record import newest_start
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.metrics_tail import newest_point
from cluster_rl.runs.progress import readable_progress


class _Told(NamedTuple):
    """What small files tell that the run had."""

    env_steps: int
    updates: int
    log: bool  # the replay log had records
    checkpoint: bool  # one had been made
    by: str
    notes: list[str]  # about what of them cannot be read


def check_whole(run_dir: RunDir, replay: Path) -> list[str]:
    """Lines about what the run goes on without, or cannot read.

    Raises `UserError` where it would start anew, or lose its replay.

    A `replay` outside of the run's folder may be another node's scratch, and empty: the weights go on, and a line says
    so.
    """
    told = _told(run_dir)  # first: a learner that is alive writes what tells last
    has_log = any(replay.glob("segment-*"))  # also one whose records were all damaged, and moved aside
    number, updates = checkpoint.newest(run_dir.checkpoint)
    had_log = told.log or updates > 0
    missing = []
    if had_log and not has_log and _is_inside(run_dir, replay):
        missing.append(f"{replay}{_replay_dir_before(run_dir)}")
    if told.checkpoint and not number and (had_log or has_log):
        missing.append(str(run_dir.checkpoint))
    if missing:
        small = (run_dir.identity, run_dir.progress, run_dir.metrics, run_dir.online_params)
        kept = [str(replay)] * has_log + [str(run_dir.checkpoint)] * (number > 0)
        kept += [path.name for path in small if path.exists()]
        raise UserError(
            f"run {run_dir.run_name!r}: missing or empty: {' and '.join(missing)}; by {told.by or run_dir.checkpoint} "
            f"the run was at env step {told.env_steps:,} and update {max(told.updates, updates):,}; still there: "
            f"{', '.join(kept) or 'little'}; restore what is missing from a backup, or give --fresh, which moves what "
            "is left aside and starts a new run"
        )
    if had_log and not has_log:
        rest = "its weights and counters go on" if number else "it had no checkpoint yet, and starts over"
        words = f"replay_dir {replay} holds nothing of this run, which had {told.env_steps:,} env steps: {rest}"
        return [*told.notes, words]
    return told.notes


def run_id_of(run_dir: RunDir, replay: Path) -> str | None:
    """The id of the run that the folder holds, by run.json or, where that was lost, its other files; None: a new run.

    Raises `UserError` if files of different runs lie there, or `replay` is another run's.
    """
    identity = read_identity(run_dir.identity)
    said = {run_dir.identity: identity.run_id} if identity is not None else {}
    progress = readable_progress(run_dir.progress)
    said |= checkpoint.owners(run_dir.checkpoint)
    if progress is not None and progress.run_id:
        said[run_dir.progress] = progress.run_id
    logged = segments.owners(replay)
    known = bool(said) or run_dir.config.exists()
    if logged and not known and not _is_inside(run_dir, replay):
        path, owner = next(iter(logged.items()))
        raise UserError(f"{path}: belongs to the run {owner!r}, and this one is new; give it another replay_dir")
    said |= logged
    of_run: dict[str, Path] = {}
    for path, run_id in said.items():
        of_run.setdefault(run_id, path)
    if len(of_run) > 1:
        (own, first), (other, second) = list(of_run.items())[:2]
        raise UserError(
            f"{second}: belongs to the run {other!r}, and {first} to {own!r}; put back what is this run's, or move "
            "away what is not"
        )
    return next(iter(of_run), None)


def _told(run_dir: RunDir) -> _Told:
    rows, start = newest_point(run_dir.metrics), newest_start(run_dir)
    progress = readable_progress(run_dir.progress)
    now = (progress.env_steps, progress.updates) if progress is not None else (0, 0)
    env_steps, updates = (max(0, *counts) for counts in zip(rows[:2], start, now, strict=True))
    notes = [f"{rows.damage}; its last row tells nothing: delete it, or reports refuse the file"] * bool(rows.damage)
    if progress is not None:
        return _Told(env_steps, updates, env_steps > 0, progress.had_checkpoint(), run_dir.progress.name, notes)
    # One that is damaged says nothing. A learner may have moved it aside, and been killed before it wrote another.
    damaged = run_dir.progress.exists() or damaged_path(run_dir.progress).exists()
    played, learned = any(log_paths(run_dir.episode_logs)), run_dir.online_params.exists()
    signs = [(run_dir.metrics, rows.env_steps > 0), (run_dir.jobs, start[0] > 0), (run_dir.episode_logs, played)]
    signs.append((run_dir.online_params, learned))
    names = [path.name for path, there in signs if there]
    log = env_steps > 0 or (played and not damaged)
    # Play alone says nothing of a checkpoint: progress.json may be gone before the first one was made.
    return _Told(env_steps, updates, log, updates > 0 or (learned and not damaged), ", ".join(names), notes)


def _is_inside(run_dir: RunDir, replay: Path) -> bool:
    return real_path(replay) == real_path(run_dir.replay)


def _replay_dir_before(run_dir: RunDir) -> str:
    """Where the last job's replay was, if not in the run's folder; empty where that is not known."""
    try:
        before = load_config(run_dir.config).replay_dir
    except UserError:
        return ""
    return f" (the last job's was in {before}: --replay_dir {before})" if before else ""
