"""The table of what each part is worth, from the records alone.

In: records of trainings and of greedy play. Out: Markdown, for each task a line an arm. Figures over seeds are
interquartile means with 95 % intervals (`scripts.bench.learning.statistics`); a training in which 9 of 10 episodes
never reached the milestone counts with all its env steps, which is fewer than it would have needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..learning.record import Training, read_training
from ..learning.report import TABLE_REPETITIONS, reliably_reached
from ..learning.statistics import bootstrap_interval, interquartile_mean
from .greedy import Greedy, read_greedy
from .tasks import WHOLE, Task

OFTEN = 9


def steps_until_often(training: Training, milestone: str) -> tuple[float, bool]:
    """Env steps until 9 of the last 10 episodes reached the milestone, and whether that was so at all."""
    env_step = reliably_reached(training, milestone, OFTEN)[0]
    return min(env_step, float(training.env_steps)), env_step <= training.env_steps


def table(out: Path, tasks: Mapping[str, Task], episodes: int) -> str:
    """All tasks that have records, one table each."""
    parts = []
    for name, task in tasks.items():
        found = {arm: _read(out / name / arm, episodes) for arm in task.arms}
        lines = _task_table(task, {arm: pairs for arm, pairs in found.items() if pairs})
        parts.append("\n".join(lines))
    return "\n\n".join(part for part in parts if part) + "\n"


def _read(folder: Path, episodes: int) -> list[tuple[Training, Greedy]]:
    """The trainings of an arm that are complete and played with, by seed."""
    pairs = []
    for path in sorted((folder / "raw").glob("*.jsonl")):
        training = read_training(path)
        greedy = read_greedy(folder / "greedy" / f"seed{training.seed}.json", episodes) if training else None
        if training is not None and greedy is not None:
            pairs.append((training, greedy))
    return pairs


def _task_table(task: Task, found: Mapping[str, list[tuple[Training, Greedy]]]) -> list[str]:
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
            f"{least}{middle / whole:.2f}",
            _with_interval(np.array([greedy.solved / greedy.episodes for _, greedy in pairs]), "{:.0%}"),
        ]
        if task.noise:
            shares = [greedy.noise_share for _, greedy in pairs]
            cells.append(_with_interval(np.array(shares, np.float64), "{:.0%}"))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _with_interval(values: np.ndarray[tuple[int], np.dtype[np.float64]], form: str) -> str:
    """`MEAN [LOW, HIGH]` over the seeds."""
    scores = values[:, np.newaxis]
    low, high = bootstrap_interval(scores, TABLE_REPETITIONS, np.random.default_rng(0))
    mean, *edges = (form.format(float(value)) for value in (interquartile_mean(scores), low, high))
    return f"{mean} [{', '.join(edges)}]"
