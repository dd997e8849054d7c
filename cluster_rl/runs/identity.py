"""`run.json`: what a run is and stays: its id and its game. Written once, when the run is made.

The launcher writes it under the run's lock; the learner binds the replay log to the id. In and out: a `RunIdentity`.
"""

from __future__ import annotations

import sys
import time
import uuid
from pathlib import Path

import msgspec

from cluster_rl.errors import UserError
from cluster_rl.runs.atomic import write_atomic
from cluster_rl.runs.slurm_job import slurm_job_id
from cluster_rl.runs.small_file import MissingFileError, UnixSeconds, UnreadableError, Version, read_json

SCHEMA_VERSION = 1


class RunIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """One run. `created` is in Unix seconds; `slurm_job_id` is the job that made it. `environment` says whose plays, of
    another project and in which version; empty for ours."""

    run_id: str
    rom_sha1: str
    rom_title: str
    created: UnixSeconds
    slurm_job_id: str | None = None
    environment: str = ""
    schema_version: int = SCHEMA_VERSION


def read_identity(path: Path) -> RunIdentity | None:
    """The identity, or None for a run that has none yet. Raises `UserError` if the file is damaged or too new."""
    try:
        return read_json(path, RunIdentity, Version("schema_version", SCHEMA_VERSION))
    except MissingFileError:
        return None
    except UnreadableError as error:
        raise UserError(f"{error}; restore it, or move it away: the run's other files tell its id") from None


def _other_environment(identity: RunIdentity | None, run_name: str, environment: str) -> str:
    """What a run plays that plays another environment, or the same in another version, in words; else empty."""
    if identity is None or identity.environment == environment:
        return ""
    played, given = (name or "our own environment" for name in (identity.environment, environment))
    return f"run {run_name!r} plays {played}, not {given}"


def check_environment(identity: RunIdentity | None, run_name: str, environment: str) -> None:
    """Raises `UserError` for a run that plays another environment, or the same in another version."""
    other = _other_environment(identity, run_name, environment)
    if other:
        raise UserError(f"{other}; give the same --puffer and --puffer_reward, or another --run-name")


def warn_of_other_environment(identity: RunIdentity | None, run_name: str, environment: str) -> None:
    """Says on stderr where a run plays another environment, or the same in another version, than plays now."""
    other = _other_environment(identity, run_name, environment)
    if other:
        print(f"WARNING: {other}, which plays now", file=sys.stderr, flush=True)


def ensure_identity(
    path: Path, rom_sha1: str, rom_title: str, run_id: str | None = None, environment: str = ""
) -> RunIdentity:
    """The run's identity, made now if this is its first job, or again for the run `run_id` that has lost it."""
    identity = read_identity(path)
    if identity is None:
        identity = RunIdentity(
            run_id=run_id or uuid.uuid4().hex,
            rom_sha1=rom_sha1,
            rom_title=rom_title,
            created=time.time(),
            slurm_job_id=slurm_job_id(),
            environment=environment,
        )
        write_atomic(path, msgspec.json.format(msgspec.json.encode(identity), indent=2) + b"\n")
    return identity
