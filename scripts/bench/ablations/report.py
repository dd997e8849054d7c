"""The table of what each part is worth, from the records alone.

In: records of trainings and of greedy play. Out: Markdown, for each task a line an arm, and for a game the env steps
after which a training first came through each gate: the median, a seed that never did being later than all. Other
figures over seeds are interquartile means with 95 % intervals (`scripts.bench.learning.statistics`); a training in
which 9 of 10 episodes never reached the milestone counts with all its env steps, fewer than it would have needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..learning.agents import OURS
from ..learning.record import Training, read_training
from ..learning.report import TABLE_REPETITIONS, first_reached, reliably_reached
from ..learning.statistics import bootstrap_interval, interquartile_mean
from .greedy import Greedy, read_greedy
from .tasks import WHOLE, Task

OFTEN = 9
Played = tuple[Training, Greedy | None]
"""A training, and greedy play with what it learned, where it is one of ours."""


def steps_until_often(training: Training, milestone: str) -> tuple[float, bool]:
    """Env steps until 9 of the last 10 episodes reached the milestone, and whether that was so at all."""
    env_step = reliably_reached(training, milestone, OFTEN)[0]
    return min(env_step, float(training.env_steps)), env_step <= training.env_steps


def table(out: Path, tasks: Mapping[str, Task]) -> str:
    """All tasks that have records, one table each; empty where none has."""
    parts = []
    for name, task in tasks.items():
        found = {arm: _read(out / name / arm) for arm in task.arms}
        lines = _task_table(task, {arm: pairs for arm, pairs in found.items() if pairs})
        parts.append("\n".join(lines))
    return "\n".join(f"{part}\n" for part in parts if part)


def _read(folder: Path) -> list[Played]:
    """The trainings of an arm that are complete, and played with if they are ours, by seed."""
    pairs = []
    for path in sorted((folder / "raw").glob("*.jsonl")):
        training = read_training(path)
        if training is None:
            continue
        greedy = read_greedy(folder / "greedy" / f"seed{training.seed}.json")
        if greedy is not None or training.agent not in OURS:
            pairs.append((training, greedy))
    return sorted(pairs, key=lambda pair: pair[0].seed)


def _gate_table(task: Task, found: Mapping[str, list[Played]]) -> list[str]:
    """A line a gate, a column an arm."""
    titles = [f"{task.arms[arm].title} ({len(pairs)})" for arm, pairs in found.items()]
    lines = [f"| first through, env steps (seeds) | {' | '.join(titles)} |", f"|{' --- |' * (1 + len(titles))}"]
    for gate in task.gates:
        cells = []
        for pairs in found.values():
            steps = [first_reached(training, gate)[0] for training, _ in pairs]
            median, count = float(np.median(steps)), int(np.isfinite(steps).sum())
            cells.append(f"{median:,.0f} ({count})" if math.isfinite(median) else f"- ({count})")
        lines.append(f"| {gate} | {' | '.join(cells)} |")
    return lines


def _task_table(task: Task, found: Mapping[str, list[Played]]) -> list[str]:
    if not found:
        return []
    head = [task.title, "seeds", "in 9 of 10 episodes", "env steps until then", "over the whole", "greedily"]
    head += ["steps that see the noise"] if task.noise else []
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    whole = float("nan")
    for arm, pairs in found.items():
        reached = [steps_until_often(training, task.milestone) for training, _ in pairs]
        steps = np.array([float(step) for step, _ in reached])
        often = sum(is_so for _, is_so in reached)
        middle = float(interquartile_mean(steps[:, np.newaxis]))
        whole = middle if arm == WHOLE else whole
        least = "" if often == len(pairs) else "at least "
        cells = [
            task.arms[arm].title,
            str(len(pairs)),
            f"{often} of {len(pairs)}",
            least + _with_interval(steps, "{:,.0f}"),
            f"{least}{middle / whole:.2f}" if math.isfinite(whole) else "-",
            _with_interval(np.array([greedy.solved / greedy.episodes for _, greedy in pairs if greedy]), "{:.0%}"),
        ]
        if task.noise:
            shares = [greedy.noise_share for _, greedy in pairs if greedy]
            cells.append(_with_interval(np.array(shares, np.float64), "{:.0%}"))
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", *_gate_table(task, found)] if task.gates else lines


def _with_interval(values: np.ndarray[tuple[int], np.dtype[np.float64]], form: str) -> str:
    """`MEAN [LOW, HIGH]` over the seeds; `-` where there is none."""
    if not len(values):
        return "-"
    scores = values[:, np.newaxis]
    low, high = bootstrap_interval(scores, TABLE_REPETITIONS, np.random.default_rng(0))
    mean, *edges = (form.format(float(value)) for value in (interquartile_mean(scores), low, high))
    return f"{mean} [{', '.join(edges)}]"
