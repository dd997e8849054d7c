"""Whether a run's next job should follow: the rule of a chain of short jobs, and what it must remember between them.

`python -m cluster_rl.cluster after-job` uses it at the end of every job of a batch system. In: how the job ended, and
how far the run is. Out: go on, or stop with an exit code and a reason. The memory is `chain.json` of the run.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from cluster_rl.errors import EXIT_BAD_INPUT, EXIT_FAILURE, EXIT_OK, EXIT_STORAGE, EXIT_UNFINISHED
from cluster_rl.runs.atomic import write_atomic
from cluster_rl.runs.small_file import Count, MissingFileError, Version, read_json

MAX_CRASHES = 3
MAX_STALLS = 2
SCHEMA_VERSION = 1
_STORAGE = "storage did not take what must be kept"


class ChainState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the jobs before left: crashes in a row, jobs in a row without progress, and env steps after the last."""

    crashes: Count = 0
    stalls: Count = 0
    env_steps: Count = 0
    schema_version: int = SCHEMA_VERSION


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What follows. `exit_code` is for the job script where the chain ends."""

    goes_on: bool
    exit_code: int
    reason: str


def after_job(
    state: ChainState,
    exit_code: int,
    env_steps: int,
    cancelled: bool,
    requeued: bool,
    when_done: str,
) -> tuple[ChainState, Verdict]:
    """The rule. `exit_code` is the trainer's, `env_steps` the run's now; `cancelled`: somebody ended the job (TERM);
    `requeued`: so that SLURM starts it again, as `scontrol requeue` and pre-emption do; `when_done` is what exit code 0
    means.

    A chain that ended is forgotten, so that a job submitted by hand starts with a clean count; a job that was refused
    has neither begun nor ended one. Storage that refused something is no crash where the run has moved.
    """
    moved = env_steps > state.env_steps
    clean = ChainState(env_steps=env_steps)

    def end(code: int, reason: str) -> tuple[ChainState, Verdict]:
        return clean, Verdict(goes_on=False, exit_code=code, reason=reason)

    if exit_code == EXIT_OK and not cancelled:
        return end(EXIT_OK, when_done)
    if requeued:
        # Whatever is said here, it starts again; and it had not all of its time.
        words = "SLURM has put this job back into the queue; it goes on with the run when it starts again"
        return state, Verdict(goes_on=False, exit_code=EXIT_OK, reason=words)
    if cancelled:
        return end(EXIT_OK if exit_code == EXIT_UNFINISHED else exit_code, "cancelled; submit it again to go on")
    if exit_code == EXIT_BAD_INPUT:
        # It has not begun: what the jobs before it left, still counts.
        return state, Verdict(goes_on=False, exit_code=exit_code, reason="bad input, which another job would not mend")
    if exit_code == EXIT_UNFINISHED:
        stalls = 0 if moved else state.stalls + 1
        if stalls >= MAX_STALLS:
            return end(EXIT_FAILURE, f"{stalls} jobs in a row made no progress")
        later = ChainState(stalls=stalls, env_steps=env_steps)
        return later, Verdict(goes_on=True, exit_code=exit_code, reason="time is up; the run is not complete")
    if exit_code == EXIT_STORAGE and moved:
        return clean, Verdict(goes_on=True, exit_code=exit_code, reason=f"exit code {exit_code}: {_STORAGE}")
    crashes = state.crashes + 1
    if crashes >= MAX_CRASHES:
        return end(exit_code, f"{crashes} jobs in a row crashed, the last with exit code {exit_code}")
    later = ChainState(crashes=crashes, stalls=state.stalls, env_steps=env_steps)
    reason = f"crash {crashes} of {MAX_CRASHES} in a row, exit code {exit_code}"
    if exit_code == EXIT_STORAGE:
        reason += f": {_STORAGE}"
    return later, Verdict(goes_on=True, exit_code=exit_code, reason=reason)


def read_chain(path: Path) -> ChainState:
    """The state between jobs; a new one where there is none. Raises as `read_json` does."""
    try:
        return read_json(path, ChainState, Version("schema_version", SCHEMA_VERSION))
    except MissingFileError:
        return ChainState()


def save_chain(path: Path, state: ChainState) -> None:
    """Writes the file atomically."""
    write_atomic(path, msgspec.json.encode(state) + b"\n")
