"""The raw records: one JSONL file for each agent and seed.

Trainings write them, the report reads them. Every line has `kind`, `agent`, `seed`, `env_step` (steps of all emulators
so far), `wall_s` (seconds since the training began, the start of its processes included) and `cpu_s` (processor seconds
of all its processes since then):

    start       settings, the libraries' versions, processor cores
    milestone   name; the first time that this training reached it
    episode     return, length, terms (weighted, summed), milestones (name: step of the episode), reason; of whole
                episodes, but those that began elsewhere
    end         the last line; a file without it is not finished, and its training is done again
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cluster_rl.errors import UserError
from cluster_rl.learning.sequences import is_elsewhere
from cluster_rl.runs.atomic import explain_os_error

from .cpu import CpuClock

_LIBRARIES = ("torch", "pyboy", "stable-baselines3", "sb3-contrib")


class Recorder:
    """Writes the file of one training, replacing one that is there. The clocks start when it is made.

    Whoever starts a process for the training adds it to `cpu.pids`.

    Raises `UserError` if the file cannot be written.
    """

    def __init__(self, path: Path, agent: str, seed: int, settings: Mapping[str, Any]) -> None:
        self._head = {"agent": agent, "seed": seed}
        self._reached: set[str] = set()
        self._started = time.monotonic()
        self.cpu = CpuClock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("w", encoding="utf-8", buffering=1)
        except OSError as error:
            raise explain_os_error(error, path) from None
        cores = len(os.sched_getaffinity(0))
        self._write("start", 0, settings=settings, versions=library_versions(), cores=cores)

    def milestones(self, names: Iterable[str], env_step: int) -> None:
        """Notes milestones; each counts the first time only."""
        for name in names:
            if name not in self._reached:
                self._reached.add(name)
                self._write("milestone", env_step, name=name)

    def episode(self, summary: Mapping[str, Any], env_step: int) -> None:
        """Notes a whole episode, if it began where all do; `summary` is an `EpisodeSummary` as plain data.

        Of one that began at an archived or a user's state neither return nor milestones can be held against others'.
        """
        if is_elsewhere(summary["start"]["tag"]):
            return
        self._write(
            "episode",
            env_step,
            **{"return": summary["episode_return"]},
            length=summary["episode_steps"],
            terms={term: value for term, value in summary["terms"].items() if value},
            milestones=dict(summary["milestones"]),
            reason=summary["reason"],
        )

    def close(self, env_step: int) -> None:
        """The training is complete."""
        self._write("end", env_step)
        self._file.close()

    def _write(self, kind: str, env_step: int, **values: Any) -> None:
        clocks = {"wall_s": round(time.monotonic() - self._started, 3), "cpu_s": round(self.cpu.seconds(), 2)}
        self._file.write(json.dumps({"kind": kind, **self._head, "env_step": env_step, **clocks, **values}))
        self._file.write("\n")


@dataclasses.dataclass(frozen=True)
class Training:
    """One complete training as recorded; the lines of each kind in the order in which they were written."""

    agent: str
    seed: int
    settings: dict[str, Any]
    milestones: list[dict[str, Any]]
    episodes: list[dict[str, Any]]
    env_steps: int
    wall_s: float
    cpu_s: float


def record_path(folder: Path, agent: str, seed: int) -> Path:
    """Where the records of one training lie in the folder of all."""
    return folder / f"{agent}-seed{seed}.jsonl"


def read_training(path: Path) -> Training | None:
    """A training's records; None if they are missing or not finished. Raises `UserError` for a damaged line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); delete it, and its training is done again") from None
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            if number == len(lines):
                return None  # torn: its writer was killed
            raise UserError(f"{path}: line {number} is damaged; delete the file, and its training is done again") from (
                None
            )
    if not rows or rows[-1].get("kind") != "end":
        return None
    first, last = rows[0], rows[-1]
    if "cpu_s" not in last:
        raise UserError(f"{path}: made by an older program, which noted no processor time; use another --out")
    return Training(
        agent=first["agent"],
        seed=first["seed"],
        settings=first["settings"],
        milestones=[row for row in rows if row["kind"] == "milestone"],
        episodes=[row for row in rows if row["kind"] == "episode"],
        env_steps=last["env_step"],
        wall_s=last["wall_s"],
        cpu_s=last["cpu_s"],
    )


def library_versions() -> dict[str, str]:
    """Versions of the libraries that are compared; those that are not installed are left out."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
