"""Runs made of rows alone, for tests of what reads them: as long, and as odd, as a test wants."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from cluster_rl.config import Config, config_to_json
from cluster_rl.exploration.bayes_quests import QuestState
from cluster_rl.rom import load_rom
from cluster_rl.runs.identity import ensure_identity
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import Progress, save_progress
from cluster_rl.training.episode_rows import EpisodeRow

BEGAN = 1_796_000_000.0
"""Unix seconds at which the runs' first job began."""
INCARNATION = int(BEGAN * 1e9) + 5_000_000_000


def episode(number: int, **changes: Any) -> EpisodeRow:
    """Episode `number`: 100 steps, a row every 10 s, a return of its number, of actor 0."""
    values: dict[str, Any] = {
        "time": BEGAN + 10 * (number + 1),
        "record": number,
        "env_steps": 100 * (number + 1),
        "actor": 0,
        "incarnation": INCARNATION,
        "emulator": 0,
        "episode": number,
        "start_id": "boot",
        "start_tag": "beginning",
        "start_milestones": [],
        "steps": 100,
        "episode_return": float(number),
        "terms": {"event": float(number), "step": -0.05},
        "milestones": {},
        "final_map": 0,
        "reason": "truncated",
        "entropy": 1.5,
        "loop_share": 0.1,
        "cells": 20,
        "epsilon": 0.4,
        "params_version": 1,
        "seed": 7,
    }
    return EpisodeRow(**values | changes)


def quest(mean: float = 0.5, **changes: Any) -> QuestState:
    """What is known of a quest that does well."""
    values: dict[str, Any] = {
        "alpha": 5.0,
        "beta": 5.0,
        "mean": mean,
        "low": max(0.0, mean - 0.1),
        "high": min(1.0, mean + 0.1),
        "target": 0.4,
        "alarm": 0.1,
        "level": "ok",
        "stagnant": False,
        "verdict": "undecided",
        "trials": 100,
        "reached": 50,
    }
    return QuestState(**values | changes)


def quest_row(number: int, quests: Mapping[str, QuestState], frontier: Iterable[str] = ()) -> dict[str, Any]:
    """A row after 100 episodes each."""
    counts = {"time": BEGAN + 1000.0 * number, "episodes": 100 * number, "env_steps": 10_000 * number}
    return {**counts, "frontier": list(frontier), "quests": {n: msgspec.to_builtins(q) for n, q in quests.items()}}


def metrics_row(number: int, **values: float) -> dict[str, float]:
    """A row every 10 s and 100 env steps; names with a slash are written with two underscores."""
    row = {"time": BEGAN + 10.0 * (number + 1), "env_steps": 100.0 * (number + 1), "updates": 10.0 * (number + 1)}
    return row | {name.replace("__", "/"): value for name, value in values.items()}


def lines(rows: Iterable[Any]) -> bytes:
    """Rows as a file has them."""
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)


def make_run(
    root: Path,
    name: str = "made",
    config: Config | None = None,
    episodes: Iterable[EpisodeRow] = (),
    metrics: Iterable[Mapping[str, float]] = (),
    quests: Iterable[Mapping[str, Any]] = (),
    **progress: Any,
) -> RunDir:
    """A run of the small world with one job, which has ended; files of no rows are empty."""
    run_dir = RunDir(root, name).create()
    rom = load_rom("")
    ensure_identity(run_dir.identity, rom.sha1, rom.title)
    run_dir.config.write_bytes(config_to_json(config if config is not None else Config()))
    told = Progress(run_name=name, target_total_steps=100_000, **progress)
    told.begin_job().started = BEGAN
    told.end_job("target_total_steps reached")
    told.jobs[-1].ended = BEGAN + 7200.0
    save_progress(run_dir.progress, told)
    run_dir.episodes.write_bytes(lines(episodes))
    run_dir.metrics.write_bytes(lines(metrics))
    run_dir.quests.write_bytes(lines(quests))
    return run_dir


def set_keys(path: Path, values: Mapping[str, Any]) -> None:
    """Changes keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_bytes()) | dict(values)))
