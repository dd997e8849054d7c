"""Table and plots of a comparison, from its records alone; no torch.

In: complete trainings. Out: `table.md`, and PNG files of milestones and returns by env step and by second. A number
over seeds is the median; a seed that did not get there within its steps counts as later than all others, so the median
is missing where half of the seeds or more did not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cluster_rl.runs.atomic import write_atomic

from .agents import AGENTS, RIVALS
from .record import Training

KEY_MILESTONES = ["REACHED_ROUTE", "FIRST_EXPERIENCE", "FERN_BADGE"]
RECENT_EPISODES = 10
OFTEN = (5, 9)
"""Of so many of the last 10 episodes a milestone must be reached. 5 comes about by chance in a long training where each
episode has one chance in four, as our random actions have of the first experience; 9 does not."""
FINAL_EPISODES = 20

_COLOURS = dict(
    zip(AGENTS, ("#0072b2", "#56b4e9", "#777777", "#009e73", "#d55e00", "#e69f00"), strict=True)
)  # Okabe and Ito
_GRID_POINTS = 400

Point = tuple[float, float]  # env steps, seconds
NEVER: Point = (math.inf, math.inf)
Floats = npt.NDArray[np.float64]


def first_reached(training: Training, milestone: str) -> Point:
    """When a training first reached a milestone; `NEVER` if it did not."""
    for row in training.milestones:
        if row["name"] == milestone:
            return row["env_step"], row["wall_s"]
    return NEVER


def reliably_reached(training: Training, milestone: str, episodes: int) -> Point:
    """The end of the first episode with which so many of the last 10 (or of fewer, early on) reached the milestone."""
    reached = [milestone in row["milestones"] for row in training.episodes]
    for index, row in enumerate(training.episodes):
        if sum(reached[max(0, index + 1 - RECENT_EPISODES) : index + 1]) >= episodes:
            return row["env_step"], row["wall_s"]
    return NEVER


def final_return(training: Training) -> float:
    """Mean return of the last 20 training episodes; NaN without any."""
    returns = [row["return"] for row in training.episodes[-FINAL_EPISODES:]]
    return float(np.mean(returns)) if returns else math.nan


def milestones_so_far(training: Training) -> list[tuple[Point, float]]:
    """(when, milestones ever reached until then), at each change."""
    rows = enumerate(training.milestones, start=1)
    return [((row["env_step"], row["wall_s"]), float(count)) for count, row in rows]


def recent_means(training: Training, value: Callable[[dict[str, Any]], float]) -> list[tuple[Point, float]]:
    """(when, mean of `value` over the last 10 episodes), at the end of each."""
    values = [value(row) for row in training.episodes]
    return [
        ((row["env_step"], row["wall_s"]), float(np.mean(values[max(0, index + 1 - RECENT_EPISODES) : index + 1])))
        for index, row in enumerate(training.episodes)
    ]


def table(trainings: Sequence[Training], milestones: Sequence[str]) -> str:
    """The figures as Markdown: one table of speed and return, one for each milestone."""
    groups = _by_agent(trainings)
    lines = [
        "| agent | seeds | env steps | seconds | env steps/s | return, last 20 episodes | lowest, highest seed |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for agent, group in groups.items():
        returns = [final_return(training) for training in group]
        speed = [training.env_steps / training.wall_s for training in group]
        seconds = _median([training.wall_s for training in group])
        lines.append(
            f"| {AGENTS[agent]} | {len(group)} | {group[0].env_steps:,} | {seconds:,.0f} | {_median(speed):.0f} "
            f"| {_median(returns):.2f} | {min(returns):.2f}, {max(returns):.2f} |"
        )
    for milestone in milestones:
        when = ["first", *(f"{episodes} of {RECENT_EPISODES} episodes" for episodes in OFTEN)]
        lines += [
            "",
            f"| {milestone} | {' | '.join(f'seeds | {name}: env steps | seconds' for name in when)} |",
            f"| --- |{' --- | --- | --- |' * len(when)}",
        ]
        medians: dict[str, list[float]] = {}
        for agent, group in groups.items():
            cells = [AGENTS[agent]]
            medians[agent] = []
            for points in (
                [first_reached(training, milestone) for training in group],
                *([reliably_reached(training, milestone, episodes) for training in group] for episodes in OFTEN),
            ):
                cells.append(f"{sum(point != NEVER for point in points)} of {len(points)}")
                both = [_median([point[axis] for point in points]) for axis in (0, 1)]
                cells += [_cell(value) for value in both]
                medians[agent] += both
            lines.append(f"| {' | '.join(cells)} |")
        rivals = [medians[agent] for agent in RIVALS if agent in medians]
        if rivals and "r2d2" in medians:
            ratios = [_ratio(own, min(others)) for own, *others in zip(medians["r2d2"], *rivals, strict=True)]
            pairs = zip(ratios[::2], ratios[1::2], strict=True)  # env steps and seconds
            lines.append(f"| ours over the better PPO |{' |'.join(f' | {steps} | {sec}' for steps, sec in pairs)} |")
    return "\n".join(lines) + "\n"


def write_report(trainings: Sequence[Training], out: Path, milestones: Sequence[str]) -> str:
    """Writes `table.md` and the plots into `out`, which exists; returns the table."""
    text = table(trainings, milestones)
    write_atomic(out / "table.md", text.encode())
    for axis, unit, name in ((0, "env steps", "step"), (1, "seconds", "second")):
        figure = Figure(figsize=(11, 4.2), layout="constrained")
        ever, recent = figure.subplots(1, 2)
        _draw(ever, trainings, axis, milestones_so_far, start=0.0)
        ever.set(xlabel=unit, ylabel="milestones ever reached", title="Milestones reached at least once")
        _draw(recent, trainings, axis, lambda t: recent_means(t, lambda row: len(row["milestones"])), start=None)
        recent.set(xlabel=unit, ylabel="milestones an episode", title="Mean of the last 10 training episodes")
        ever.legend(fontsize="small")
        figure.savefig(out / f"milestones_by_{name}.png", dpi=120)
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    for axis, (panel, unit) in enumerate(zip(figure.subplots(1, 2), ("env steps", "seconds"), strict=True)):
        _draw(panel, trainings, axis, lambda t: recent_means(t, lambda row: row["return"]), start=None)
        panel.set(xlabel=unit, ylabel="return", title="Return, mean of the last 10 training episodes")
        panel.legend(fontsize="small")
    figure.savefig(out / "returns.png", dpi=120)
    return text


def _draw(
    panel: Axes,
    trainings: Sequence[Training],
    axis: int,
    series: Callable[[Training], list[tuple[Point, float]]],
    start: float | None,
) -> None:
    """One line for each agent, the median of its seeds, with a band from the lowest to the highest.

    `start` is the value before a series' first point; with None, a line begins where all its seeds have a value.
    """
    for agent, group in _by_agent(trainings).items():
        grid = np.linspace(0.0, min((training.env_steps, training.wall_s)[axis] for training in group), _GRID_POINTS)
        curves = np.array([_on_grid(series(training), axis, grid, start) for training in group])
        middle = np.median(curves, axis=0)
        label = f"{AGENTS[agent]} ({len(group)} seed{'s' if len(group) > 1 else ''})"
        panel.plot(grid, middle, color=_COLOURS[agent], label=label)
        panel.fill_between(grid, curves.min(axis=0), curves.max(axis=0), color=_COLOURS[agent], alpha=0.15, linewidth=0)
    panel.grid(alpha=0.3)
    panel.set_xlim(left=0.0)


def _on_grid(points: list[tuple[Point, float]], axis: int, grid: Floats, start: float | None) -> Floats:
    """A step function's values: at each place of the grid, that of the last point before."""
    places = [when[axis] for when, _ in points]
    values = np.array([math.nan if start is None else start, *(value for _, value in points)])
    found: Floats = values[np.searchsorted(places, grid, side="right")]
    return found


def _by_agent(trainings: Sequence[Training]) -> dict[str, list[Training]]:
    groups: dict[str, list[Training]] = {}
    for training in trainings:
        groups.setdefault(training.agent, []).append(training)
    return groups


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))


def _ratio(own: float, other: float) -> str:
    """As text; a `-` where either was never reached."""
    return f"{own / other:.2f}" if math.isfinite(own) and math.isfinite(other) else "-"


def _cell(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else "-"
