"""Trainings of other agents, as curves beside a run's: what their records tell.

The report's page uses it, for `--rival`. In: JSONL files as `python -m scripts.bench.learning` writes them, one a
training, or of your own in the same form (docs/rivals.md). Out: `RivalFacts`. A file was named by somebody, so one that
is damaged is refused, not passed over.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np

from cluster_rl.errors import UserError
from cluster_rl.report.run_facts import flat
from cluster_rl.report.run_rows import LARGEST, Column, Rows
from cluster_rl.runs.small_file import Count

# Of a config what makes its game and its returns another's or not; its rewards besides.
_GAME_KEYS: Final = ("rom", "initial_state", "frame_skip", "episode_max_steps", "start_idle_frames_max", "start_button")


class RivalRow(msgspec.Struct, frozen=True, kw_only=True):
    """What the page needs of a line; `scripts/bench/learning/record.py` has all of it."""

    kind: Literal["start", "milestone", "episode", "end"]
    agent: str
    seed: int
    env_step: Count
    name: str = ""
    episode_return: float | None = msgspec.field(name="return", default=None)
    length: Count | None = None
    settings: dict[str, Any] = {}


@dataclass(frozen=True)
class RivalFacts:
    """One training. `episodes` are float64 [episodes] each: `env_steps` at their ends, `return` and `steps`."""

    agent: str
    seed: int
    env_steps: int
    milestones: Mapping[str, int]
    """Name to the env step at which it was first reached."""
    episodes: Mapping[str, Column]
    config: Mapping[str, Any]
    """By dotted key, as far as the record tells it."""


def read_rival(path: Path) -> RivalFacts:
    """A record, of which the last line may be still to come. Raises `UserError` for whatever is no record."""
    told = Rows(path, RivalRow)
    first: RivalRow | None = None
    milestones: dict[str, int] = {}
    columns: dict[str, array[float]] = {name: array("d") for name in ("env_steps", "return", "steps")}
    env_steps = 0
    for row in told:
        first = first or row
        if (row.agent, row.seed) != (first.agent, first.seed):
            raise UserError(f"--rival {path}: has several trainings; give a file for each agent and seed")
        env_steps = max(env_steps, row.env_step)
        if row.kind == "milestone":
            milestones.setdefault(row.name, row.env_step)
        elif row.kind == "episode" and row.episode_return is not None and abs(row.episode_return) <= LARGEST:
            columns["env_steps"].append(row.env_step)
            columns["return"].append(row.episode_return)
            columns["steps"].append(np.nan if row.length is None else row.length)
    if told.problem:
        raise UserError(f"--rival {path.parent / told.problem}")
    if first is None or first.kind != "start":
        raise UserError(f"--rival {path}: does not begin with a line of kind start; docs/rivals.md has the form")
    config = first.settings.get("config", {})
    return RivalFacts(
        agent=first.agent,
        seed=first.seed,
        env_steps=env_steps,
        milestones=milestones,
        episodes={name: np.array(column, np.float64) for name, column in columns.items()},
        config=flat(config) if isinstance(config, dict) else {},
    )


def read_rivals(paths: Iterable[Path]) -> list[RivalFacts]:
    """Records of which those of one agent are seeds of one setting.

    Raises `UserError` for whatever is no record, and where two of one agent are the same training, by seed and config,
    or tell of different games.
    """
    found: list[tuple[Path, RivalFacts]] = []
    for path in paths:
        rival = read_rival(path)
        for before, other in found:
            if other.agent == rival.agent:
                _check_pair(path, rival, before, other)
        found.append((path, rival))
    return [rival for _, rival in found]


def _check_pair(path: Path, rival: RivalFacts, before: Path, other: RivalFacts) -> None:
    whose = f"of agent {rival.agent}"
    if (rival.seed, rival.config) == (other.seed, other.config):
        raise UserError(
            f"--rival {path}: {whose}, with the seed {rival.seed} and the config of {before}; leave one out"
        )
    for key in filter(is_of_game, rival.config):
        if key in other.config and rival.config[key] != other.config[key]:
            raise UserError(
                f"--rival {path}: {whose} as {before}, in another game: {key} {rival.config[key]!r}, not "
                f"{other.config[key]!r}; leave one out, or give its lines another agent's name"
            )


def is_of_game(key: str) -> bool:
    """Whether a config's key, dotted, is of the game and its rewards: what comparable returns have in common."""
    return key in _GAME_KEYS or key.startswith("rewards.")


def by_agent(rivals: Iterable[RivalFacts]) -> dict[str, list[RivalFacts]]:
    """The trainings of each agent, in the order in which they were given."""
    found: dict[str, list[RivalFacts]] = {}
    for rival in rivals:
        found.setdefault(rival.agent, []).append(rival)
    return found
