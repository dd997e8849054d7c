"""Greedy episodes with what a training learned: how many solved the task, and how much was spent before the noise.

In: a run's parameters. Out: a small JSON file, and the episodes' logs beside it for the replayer.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from cluster_rl.acting.rollout import load_network
from cluster_rl.config import Config
from cluster_rl.errors import UserError
from cluster_rl.evaluate import play_episodes
from cluster_rl.report.positions import known_places
from cluster_rl.runs.atomic import write_atomic
from cluster_rl.runs.episode_log import read_log
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.small_file import MissingFileError, UnreadableError, read_json

from .tasks import Task

VIEW_LEFT, VIEW_RIGHT, VIEW_UP, VIEW_DOWN = 4, 5, 4, 4
"""Map tiles on the screen beside the player's, who stands in the fifth of ten columns and of nine rows."""


class Greedy(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Of so many greedy `episodes`, how many `solved` the task, and the share of steps on maps that saw the noise."""

    episodes: int
    solved: int
    noise_share: float | None


def sees(positions: npt.NDArray[np.uint8], noise: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
    """Whether the noise is on the screen from each place: uint8 [steps, 3] of (map id, x, y) to bool [steps]."""
    map_id, x, y = noise
    right, down = (positions[:, axis].astype(np.int64) for axis in (1, 2))
    across = (right - VIEW_LEFT <= x) & (x <= right + VIEW_RIGHT)
    along = (down - VIEW_UP <= y) & (y <= down + VIEW_DOWN)
    return np.asarray((positions[:, 0] == map_id) & across & along)


def play_greedily(config: Config, run: Path, task: Task, episodes: int, seed: int, path: Path) -> None:
    """Plays and writes the file; `run` is the run's folder."""
    logs = path.parent / f"logs-{path.stem}"
    logs.mkdir(parents=True, exist_ok=True)
    for old in logs.iterdir():
        old.unlink()
    if task.greedy_steps:
        config = msgspec.structs.replace(config, episode_max_steps=task.greedy_steps)
    network = load_network(config, RunDir(run.parent, run.name).online_params)
    torch.set_num_threads(1)
    played = play_episodes(config, network, episodes, seed, log_dir=logs)
    share = None
    if task.noise is not None:
        walks = [read_log(log).positions for log in sorted(logs.iterdir())]
        seen = [sees(positions, task.noise)[known_places(positions)] for positions in walks]
        share = float(np.concatenate(seen).mean())
    solved = sum(task.milestone in dict(episode.summary.milestones) for episode in played)
    write_atomic(path, msgspec.json.encode(Greedy(episodes=episodes, solved=solved, noise_share=share)))


def read_greedy(path: Path) -> Greedy | None:
    """The file's content; None if it is missing. Raises `UserError` if it is damaged."""
    try:
        return read_json(path, Greedy)
    except MissingFileError:
        return None
    except UnreadableError as error:
        raise UserError(f"{error}; delete it, and the episodes are played again") from None
