"""`jobs/NNN.json` of a run: with what each of its jobs was made, so that a result can be made again years later.

The launcher (or the serial mode) writes it before anything starts, the trainer takes the job's number from it. In: the
resolved config and this process's surroundings. Out: a file that nothing changes afterwards.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import torch

import cluster_rl
from cluster_rl.config import Config, config_from_builtins, config_to_json
from cluster_rl.errors import StorageError, UserError, as_text
from cluster_rl.runs.atomic import write_atomic
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import readable_progress
from cluster_rl.runs.small_file import (
    DECODE_ERRORS,
    Count,
    NewerFormatError,
    UnixSeconds,
    UnreadableError,
    Version,
    damaged,
    read_json,
)

SCHEMA_VERSION = 1
_GIT_TIMEOUT_SEC = 5.0
_PACKAGES = ("torch", "numpy", "pyboy", "pyzmq")
_OF_SLURM = ("JOB_ID", "ARRAY_JOB_ID", "ARRAY_TASK_ID", "RESTART_COUNT", "JOB_PARTITION", "JOB_NODELIST")


class GitState(msgspec.Struct, frozen=True, kw_only=True):
    """The checkout that the program runs from. `dirty`: files that git knows were not as in the commit."""

    commit: str
    dirty: bool


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One job. `config` is the resolved one, every key; `slurm` is empty and `git` is None where there is none.

    `env_steps_start` and `updates_start` are those of progress.json then: where that is lost, they tell what there was.
    """

    schema_version: int
    id: Count
    started: UnixSeconds
    command: list[str]
    folder: str
    host: str
    pid: Count
    slurm: dict[str, str]
    git: GitState | None
    versions: dict[str, str | None]
    config_sha256: str
    config: msgspec.Raw
    env_steps_start: Count = 0
    updates_start: Count = 0


class _Start(msgspec.Struct):
    env_steps_start: Count = 0
    updates_start: Count = 0


def config_sha256(config: Config) -> str:
    """SHA-256 of the run's `config.json`, as `sha256sum` gives it."""
    return hashlib.sha256(config_to_json(config)).hexdigest()


def write_job_record(config: Config, run_dir: RunDir) -> Path:
    """Writes the record of the run's next job and returns its path. The caller holds the run's lock.

    Numbers go on from those in progress.json and of earlier records: a job that ended before its learner was up has
    one too. Raises `UserError` for a full disk.
    """
    progress = readable_progress(run_dir.progress)
    number = 1 + max(newest_number(run_dir), progress.jobs[-1].id if progress is not None and progress.jobs else 0)
    record = JobRecord(
        schema_version=SCHEMA_VERSION,
        id=number,
        started=time.time(),
        command=[as_text(word) for word in sys.orig_argv],
        folder=as_text(str(Path.cwd())),
        host=socket.gethostname(),
        pid=os.getpid(),
        slurm={name: os.environ[f"SLURM_{name}"] for name in _OF_SLURM if f"SLURM_{name}" in os.environ},
        git=_git_state(Path(cluster_rl.__file__).resolve().parent.parent),
        versions=package_versions(),
        config_sha256=config_sha256(config),
        config=msgspec.Raw(config_to_json(config)),
        env_steps_start=progress.env_steps if progress is not None else 0,
        updates_start=progress.updates if progress is not None else 0,
    )
    path = run_dir.job_record(number)
    save_job_record(path, record)
    return path


def save_job_record(path: Path, record: JobRecord) -> None:
    """Writes one record. Raises `UserError` for a full disk."""
    write_atomic(path, msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")


def read_job_record(path: Path) -> JobRecord:
    """The record, its config as it was written. Raises `UnreadableError`, and `NewerFormatError` for a newer one."""
    record = read_json(path, JobRecord, Version("schema_version", SCHEMA_VERSION))
    config_json = msgspec.json.format(bytes(record.config), indent=2) + b"\n"
    if hashlib.sha256(config_json).hexdigest() != record.config_sha256:
        raise damaged(path, "its config is not the one that it has the SHA-256 of")
    return record


def newest_config(run_dir: RunDir) -> tuple[Path, Config] | None:
    """The newest record that can be read, and its config; None where there is none that this program understands.

    Raises `NewerFormatError` for one of a newer program, as an older one would not be the newest; `StorageError` if the
    disk fails or its server is away.
    """
    for number in range(newest_number(run_dir), 0, -1):
        path = run_dir.job_record(number)
        try:
            return path, config_from_builtins(json.loads(bytes(read_job_record(path).config)), str(path))
        except (NewerFormatError, StorageError):
            raise
        except (UserError, *DECODE_ERRORS):
            continue
    return None


def newest_number(run_dir: RunDir) -> int:
    """The number of the newest record; 0 for a run without any, such as one that has not been trained since."""
    return max((int(path.stem) for path in run_dir.jobs.glob("*.json") if path.stem.isdecimal()), default=0)


def newest_start(run_dir: RunDir) -> tuple[int, int]:
    """(env steps, updates) of the run when its newest job began; zeros where its record does not tell."""
    try:
        start = read_json(run_dir.job_record(newest_number(run_dir)), _Start, Version("schema_version", SCHEMA_VERSION))
    except UnreadableError:
        return 0, 0
    return start.env_steps_start, start.updates_start


def package_versions() -> dict[str, str | None]:
    """Of Python, of what computes and plays here, and of the CUDA that PyTorch was built for; None: not installed."""
    # Of this package the one that runs: another may be installed.
    found: dict[str, str | None] = {"python": platform.python_version(), "cluster_rl": cluster_rl.__version__}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found | {"cuda": torch.version.cuda}


def _git_state(folder: Path) -> GitState | None:
    """Of the checkout whose top is `folder`; None if it is none, or git is missing or does not answer."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment["GIT_OPTIONAL_LOCKS"] = "0"  # else `status` writes the index, which the user's own git may need now

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_GIT_TIMEOUT_SEC,
            check=True,
            env=environment,
        )
        return done.stdout.strip()

    try:
        # An installed package may lie in somebody else's checkout, such as one with a virtual environment in it.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != folder:
            return None
        return GitState(
            commit=git("rev-parse", "HEAD"), dirty=bool(git("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.SubprocessError):
        return None
