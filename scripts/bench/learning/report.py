"""Table and plots of a comparison, from its records alone; no torch.

In: complete trainings. Out: `table.md`, and PNG files of returns and milestones by env step and by CPU second.

Two kinds of numbers. Scores at equal env steps and at equal CPU seconds: interquartile means over the seeds, with their
intervals (`statistics.py`). When a milestone was reached: the median; a seed that did not get there within its steps
counts as later than all others, so the median is missing where half of the seeds or more did not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cluster_rl.runs.atomic import write_atomic

from .agents import AGENTS, PPOS, UNLEARNED
from .record import Training
from .statistics import Floats, bootstrap_interval, interquartile_mean

KEY_MILESTONES = ["REACHED_ROUTE", "FIRST_EXPERIENCE", "FERN_BADGE"]
RECENT_EPISODES = 10
OFTEN = (5, 9)
"""Of so many of the last 10 episodes a milestone must be reached. 5 comes about by chance in a long training where each
episode has one chance in four, as our random actions have of the first experience; 9 does not."""
AXES = ("env_step", "cpu_s", "wall_s")
"""By what progress is measured, as the records name it."""
UNITS = {"env_step": "env steps", "cpu_s": "CPU seconds", "wall_s": "seconds"}
SHARES = (0.125, 0.25, 0.5, 1.0)
"""Of the longest time that all agents have in common: where they are held against each other."""
TABLE_REPETITIONS, PLOT_REPETITIONS = 20_000, 500
_BOOTSTRAP_SEED = 0

_COLOURS = dict(
    zip(
        AGENTS,
        (
            *("#0072b2", "#56b4e9", "#000000", "#cc79a7", "#d55e00", "#e69f00", "#f0e442", "#009e73", "#999999"),
        ),  # Okabe and Ito, and grey
        strict=True,
    )
)
_GRID_POINTS = 150

Point = tuple[float, float, float]  # in the order of `AXES`
NEVER: Point = (math.inf, math.inf, math.inf)


def first_reached(training: Training, milestone: str) -> Point:
    """When a training first reached a milestone; `NEVER` if it did not."""
    for row in training.milestones:
        if row["name"] == milestone:
            return _when(row)
    return NEVER


def reliably_reached(training: Training, milestone: str, episodes: int) -> Point:
    """The end of the first episode with which so many of the last 10 (or of fewer, early on) reached the milestone."""
    reached = [milestone in row["milestones"] for row in training.episodes]
    for index, row in enumerate(training.episodes):
        if sum(reached[max(0, index + 1 - RECENT_EPISODES) : index + 1]) >= episodes:
            return _when(row)
    return NEVER


def recent_returns(training: Training) -> Floats:
    """[episodes]: the mean return of the last 10 episodes, at the end of each."""
    return _recent_means([row["return"] for row in training.episodes])


def recent_shares(training: Training, milestone: str) -> Floats:
    """[episodes]: how many of the last 10 episodes reached a milestone, as a share, at the end of each."""
    return _recent_means([float(milestone in row["milestones"]) for row in training.episodes])


def scores_at(training: Training, axis: str, places: Floats, scores: Floats) -> Floats:
    """The scores at the ends of a training's episodes, read off at places of an axis: that of the last episode before.

    NaN before the tenth episode, and behind the training's end but for agents that do not learn: they stay as they are.
    """
    ends = [row[axis] for row in training.episodes]
    found = np.array([math.nan, *scores])[np.searchsorted(ends, places, side="right")]
    if training.agent not in UNLEARNED:
        found[places > training_length(training, axis)] = math.nan
    return np.asarray(found, np.float64)


def training_length(training: Training, axis: str) -> float:
    """How long a training went on."""
    return {"env_step": training.env_steps, "cpu_s": training.cpu_s, "wall_s": training.wall_s}[axis]


def common_length(trainings: Sequence[Training], axis: str) -> float:
    """How far all trainings come that learn, or all if none does."""
    learning = [training for training in trainings if training.agent not in UNLEARNED]
    return min(training_length(training, axis) for training in learning or trainings)


def table(trainings: Sequence[Training], milestones: Sequence[str]) -> str:
    """The figures as Markdown: cost, scores at equal env steps and CPU seconds, and when each milestone was reached."""
    groups = _by_agent(trainings)
    lines = [*_cost_table(groups)]
    for axis in ("env_step", "cpu_s"):
        places = np.array(SHARES) * common_length(trainings, axis)
        lines += ["", *_score_table("return", groups, axis, places, lambda t: [recent_returns(t)])]
        lines += ["", *_score_table("share with the milestones", groups, axis, places, _shares_of(milestones))]
    for milestone in milestones:
        lines += ["", *_milestone_table(milestone, groups)]
    return "\n".join(lines) + "\n"


def _shares_of(milestones: Sequence[str]) -> Callable[[Training], list[Floats]]:
    return lambda training: [recent_shares(training, milestone) for milestone in milestones]


def _cost_table(groups: dict[str, list[Training]]) -> list[str]:
    """What each agent costs; medians over the seeds."""
    lines = [
        "| agent | seeds | env steps | env steps/s | CPU seconds in 10,000 env steps |",
        "| --- | --- | --- | --- | --- |",
    ]
    for agent, group in groups.items():
        cells = [
            _median([training.env_steps for training in group]),
            _median([training.env_steps / training.wall_s for training in group]),
            _median([training.cpu_s / training.env_steps * 10_000 for training in group]),
        ]
        lines.append(f"| {AGENTS[agent]} | {len(group)} | {' | '.join(_cell(value) for value in cells)} |")
    return lines


def _score_table(
    name: str,
    groups: dict[str, list[Training]],
    axis: str,
    places: Floats,
    tasks: Callable[[Training], list[Floats]],
) -> list[str]:
    """Scores of the last 10 episodes at places of an axis; of each training one series a task."""
    columns = " | ".join(f"{at:,.0f} {UNITS[axis]}" for at in places)
    lines = [
        f"| {name}, last {RECENT_EPISODES} episodes, after | {columns} |",
        f"| --- |{' --- |' * len(places)}",
    ]
    for agent, group in groups.items():
        scores = _scores(group, axis, places, tasks)  # [places, runs, tasks]
        means = interquartile_mean(scores)
        edges = bootstrap_interval(scores, TABLE_REPETITIONS, np.random.default_rng(_BOOTSTRAP_SEED))
        cells = [
            f"{mean:.2f} [{low:.2f}, {high:.2f}]" if math.isfinite(mean) else "-"
            for mean, low, high in zip(means, *edges, strict=True)
        ]
        lines.append(f"| {AGENTS[agent]} | {' | '.join(cells)} |")
    return lines


def _milestone_table(milestone: str, groups: dict[str, list[Training]]) -> list[str]:
    """When a milestone was reached, in each unit; medians over the seeds, and ours over the others."""
    when = ["first", *(f"{episodes} of {RECENT_EPISODES}" for episodes in OFTEN)]
    units = " | ".join(UNITS[axis] for axis in AXES)
    lines = [
        f"| {milestone} | {' | '.join(f'{name}: seeds | {units}' for name in when)} |",
        f"| --- |{' --- |' * (1 + len(AXES)) * len(when)}",
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
            own = [_median(values) for values in zip(*points, strict=True)]
            cells += [_cell(value) for value in own]
            medians[agent] += own
        lines.append(f"| {' | '.join(cells)} |")
    for label, agents in (("the best PPO", PPOS), ("the Q-table", ("table_q",))):
        others = [medians[agent] for agent in agents if agent in medians]
        if others and "r2d2" in medians:
            ratios = [_ratio(own, min(rest)) for own, *rest in zip(medians["r2d2"], *others, strict=True)]
            cells = [cell for start in range(0, len(ratios), len(AXES)) for cell in ("", *ratios[start:][: len(AXES)])]
            lines.append(f"| ours over {label} | {' | '.join(cells)} |")
    return lines


def write_report(trainings: Sequence[Training], out: Path, milestones: Sequence[str]) -> str:
    """Writes `table.md` and the plots into `out`, which exists; returns the table."""
    text = table(trainings, milestones)
    write_atomic(out / "table.md", text.encode())
    shares = _shares_of(milestones)
    for axis, name in (("env_step", "env_step"), ("cpu_s", "cpu_second")):
        figure = Figure(figsize=(11, 5.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        _draw(left, trainings, axis, lambda t: [recent_returns(t)])
        left.set(xlabel=UNITS[axis], ylabel="return", title=f"Return, last {RECENT_EPISODES} training episodes")
        _draw(right, trainings, axis, shares)
        right.set(xlabel=UNITS[axis], ylabel="share", title=f"Of them with {', '.join(milestones)}")
        right.title.set_fontsize("small")
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, fontsize="small", loc="outside lower center", ncols=3)
        figure.savefig(out / f"by_{name}.png", dpi=120)
    return text


def _draw(panel: Axes, trainings: Sequence[Training], axis: str, tasks: Callable[[Training], list[Floats]]) -> None:
    """One line for each agent, the interquartile mean of its seeds, with a band of its interval.

    A line begins where all the agent's seeds have a value, and ends with the first of them.
    """
    end = common_length(trainings, axis)
    grid = np.linspace(0.0, end, _GRID_POINTS)
    for agent, group in _by_agent(trainings).items():
        scores = _scores(group, axis, grid, tasks)
        low, high = bootstrap_interval(scores, PLOT_REPETITIONS, np.random.default_rng(_BOOTSTRAP_SEED))
        label = f"{AGENTS[agent]} ({len(group)} seed{'s' if len(group) > 1 else ''})"
        panel.plot(grid, interquartile_mean(scores), color=_COLOURS[agent], label=label)
        panel.fill_between(grid, low, high, color=_COLOURS[agent], alpha=0.15, linewidth=0)
    panel.grid(alpha=0.3)
    panel.set_xlim(0.0, end)


def _scores(group: Sequence[Training], axis: str, places: Floats, tasks: Callable[[Training], list[Floats]]) -> Floats:
    """[places, runs, tasks]."""
    runs = [[scores_at(training, axis, places, series) for series in tasks(training)] for training in group]
    return np.moveaxis(np.array(runs), -1, 0)


def _when(row: dict[str, Any]) -> Point:
    env_step, cpu_s, wall_s = (row[axis] for axis in AXES)
    return env_step, cpu_s, wall_s


def _recent_means(values: Sequence[float]) -> Floats:
    """NaN before there are 10: the first episodes to end are the short ones, which got to the end of the task."""
    means = np.full(len(values), math.nan)
    for index in range(RECENT_EPISODES - 1, len(values)):
        means[index] = np.mean(values[index + 1 - RECENT_EPISODES : index + 1])
    return means


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
