"""Episode logs of `made_runs` with the positions that a test wants."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import numpy as np
import run_golden
from made_runs import INCARNATION

from cluster_rl.runs.episode_log import read_log
from cluster_rl.runs.layout import RunDir


def write_log(
    run_dir: RunDir, number: int, *positions: tuple[int, int, int], blackouts: list[int] | None = None
) -> Path:
    """The log of episode `number`, with these positions and blackouts; what the map does not need is as in the golden
    one."""
    golden = read_log(next(run_golden.FOLDER.glob("*.eplog")))
    steps = len(positions)
    header = msgspec.structs.replace(
        golden.header, episode=number, incarnation=INCARNATION, steps=steps, milestones=[], blackouts=blackouts
    )
    log = dataclasses.replace(
        golden,
        header=header,
        actions=np.zeros(steps, np.uint8),
        checks=np.zeros(steps, np.uint16),
        positions=np.array(positions, np.uint8),
        ram_hashes=np.zeros(steps // header.ram_hash_interval_steps, np.uint64),
    )
    path = run_dir.episode_logs / f"a000-e00-{INCARNATION:x}-{number:06d}.eplog"
    path.write_bytes(log.to_bytes())
    return path
