"""Where episodes went, step by step: `coords.csv`, and for Red's maps the messages of a public map of many agents.

`cluster_rl.export --to coords` uses it. In: rows of episodes, whose logs are read for positions, and the world. Out:
one line a step; and one JSON object a line, as a client sends them to https://github.com/PWhiddy/pokerl-map-viz.

That format, seen there in README.md, example/stream_agent_wrapper.py, ws-server/index.js and visualizer_live.js (read
2026-12-01): `{"metadata": {"user": text, "env_id": any, "color": CSS colour, "extra": text}, "coords": [[x, y, map
id], ...]}`, a position for each step. The server passes on what has a `user`; the page walks a figure along `coords` in
twelve seconds, on Red's world of 436 x 444 tiles, which `World.red()` has too.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from cluster_rl.errors import UserError
from cluster_rl.exporting.output import TextFile, make_folder
from cluster_rl.game.world import World
from cluster_rl.report.bars import Bar
from cluster_rl.report.path import path_places
from cluster_rl.report.positions import known_places
from cluster_rl.report.run_facts import read_run
from cluster_rl.report.run_rows import EpisodeRow, Rows
from cluster_rl.report.visits import log_of
from cluster_rl.runs.episode_log import SUFFIX, log_paths
from cluster_rl.runs.layout import RunDir

COLUMNS: Final = (
    *("env_steps", "episode", "actor", "emulator", "step"),
    *("map_id", "map", "x", "y", "known", "global_x", "global_y"),
)
MESSAGE_STEPS: Final = 300
"""Of one message: what the page walks in twelve seconds."""
COLOUR: Final = "#0033ff"


def export_coords(run_dir: RunDir, out: Path, most: int) -> list[str]:
    """Writes the steps of at most `most` episodes, spread evenly over the run, into the folder `out`; returns lines
    that say so. Raises `UserError` where no episode has a log, or the files cannot be written."""
    there = {path.name.removesuffix(SUFFIX) for path in log_paths(run_dir.episode_logs)}
    rows = Rows(run_dir.episodes, EpisodeRow)
    count = sum(row.name in there for row in rows)
    if not count:
        raise UserError(
            f"{run_dir.path}: no episode that ended has a log in episode_logs; "
            "with log_episodes_for_replay actors write them"
        )
    facts = read_run(run_dir)
    world, is_known = facts.world, bool(facts.rom_sha1)
    of_game = (run_dir.identity.name, run_dir.config.name)
    problems = [problem for problem in facts.problems if problem.startswith(of_game)]
    problems += [rows.problem] if rows.problem else []
    make_folder(out)
    with contextlib.ExitStack() as files:
        table = files.enter_context(TextFile(out / "coords.csv"))
        is_red = is_known and world is World.red()
        viz = files.enter_context(TextFile(out / "map_viz.jsonl")) if is_red else None
        steps, messages = _write(run_dir, _spread(rows, there, count, most), world, problems, table, viz)
    told = [f"{table.path}: {steps:,} steps of {min(count, most):,} of {count:,} episodes with a log"]
    if viz is not None:
        told.append(f"{viz.path}: {messages:,} messages of pokerl-map-viz")
    else:
        what = f"this run plays {world.title}" if is_known else "the run's game is not known"
        told.append(f"map_viz.jsonl: left out, as that map is Red's alone and {what}")
    return told + [f"WARNING: {problem}" for problem in problems]


def _spread(rows: Iterable[EpisodeRow], there: Container[str], count: int, most: int) -> list[EpisodeRow]:
    """Those of the `count` rows with a log that are evenly spread; all where they are at most `most`."""
    numbers = set(np.linspace(0, count - 1, min(count, most)).astype(int).tolist())
    with_log = (row for row in rows if row.name in there)
    return [row for number, row in enumerate(itertools.islice(with_log, count)) if number in numbers]


def _write(
    run_dir: RunDir,
    rows: Sequence[EpisodeRow],
    world: World,
    problems: list[str],
    table: TextFile,
    viz: TextFile | None,
) -> tuple[int, int]:
    """Writes what the logs of these episodes say; returns the numbers of steps and messages."""
    steps = messages = 0
    lines = csv.writer(table, lineterminator="\n")
    lines.writerow(COLUMNS)
    with Bar("reading logs", len(rows), "episodes") as bar:
        for done, row in enumerate(rows):
            bar.to(done, row.name)
            log = log_of(run_dir, row, problems)
            if log is None:
                continue
            lines.writerows(step_lines(row, log.positions, world))
            steps += len(log.positions)
            if viz is not None:
                for message in viz_messages(run_dir.run_name, row, log.positions, world):
                    viz.write(message + "\n")
                    messages += 1
    return steps, messages


def step_lines(row: EpisodeRow, positions: npt.NDArray[np.uint8], world: World) -> Iterator[tuple[object, ...]]:
    """The cells of `COLUMNS` for each step: uint8 [steps, 3] of (map id, x, y).

    `env_steps` are the run's at the episode's end. `known` is 0 while a map loads: its id stands beside the old map's
    coordinates; `global_x` and `global_y` then stay where the step before was.
    """
    places, known = path_places(positions, world), known_places(positions).tolist()
    names = {map_id: world.map_name(map_id) for map_id in set(positions[:, 0].tolist())}
    of_episode = (row.env_steps, row.name, row.actor, row.emulator)
    for step, ((map_id, x, y), place) in enumerate(zip(positions.tolist(), places, strict=True), start=1):
        yield (*of_episode, step, map_id, names[map_id], x, y, int(known[step - 1]), *(place or (None, None)))


def viz_messages(user: str, row: EpisodeRow, positions: npt.NDArray[np.uint8], world: World) -> Iterator[str]:
    """An episode as messages, JSON texts, of at most `MESSAGE_STEPS` positions each.

    Steps whose place is not known, or on a map that has none in the world, are left out: the page knows no place for
    them either.
    """
    walked = [
        (x, y, map_id)
        for (map_id, x, y), known in zip(positions.tolist(), known_places(positions).tolist(), strict=True)
        if known and world.global_position(map_id, x, y) is not None
    ]
    about = {"user": user, "env_id": row.name, "color": COLOUR, "extra": f"at {row.env_steps:,} env steps"}
    for start in range(0, len(walked), MESSAGE_STEPS):
        message = {"metadata": about, "coords": walked[start : start + MESSAGE_STEPS]}
        yield msgspec.json.encode(message).decode()
