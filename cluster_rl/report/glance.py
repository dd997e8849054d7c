"""A run at a glance: how far it came and when, what pays, and which episodes to watch.

The report's page begins with it. In: `RunFacts`. Out: a few lines of words with links. Pure.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from cluster_rl.report.bars import count_words, duration_words
from cluster_rl.report.curves import number_words
from cluster_rl.report.pictures import milestone_hours
from cluster_rl.report.run_facts import RunFacts
from cluster_rl.report.run_rows import EpisodeRow
from cluster_rl.report.tables import UNKNOWN, link
from cluster_rl.runs.layout import DEFAULT_ROOT

PAID_EPISODES: Final = 100
"""What pays is told of so many of the newest whole episodes."""
_MOST_PARTS: Final = 3


class Told(NamedTuple):
    """Words, and where a link behind them leads; empty without one."""

    words: str
    link: str = ""
    link_words: str = ""


def glance_table(runs: Sequence[RunFacts], out: Path) -> list[tuple[str, list[Told]]]:
    """A row for each question, with one answer a run. Links lead from the page's file `out`."""
    return [
        ("the goal", [_goal(run) for run in runs]),
        ("furthest so far", [_furthest(run) for run in runs]),
        ("what pays most", [Told(_pays(run)) for run in runs]),
        ("best episode to watch", [_best(run, out) for run in runs]),
        ("first to come furthest", [_first(run, out) for run in runs]),
    ]


def _goal(run: RunFacts) -> Told:
    """The last milestone on the way to the task's end."""
    required = [m.name for m in run.world.milestones_from(run.school) if m.required]
    return _reached(run, required[-1]) if required and run.rom_sha1 else Told(UNKNOWN)


def _furthest(run: RunFacts) -> Told:
    name = _furthest_name(run)
    return _reached(run, name) if name else Told("no milestone was reached yet")


def _furthest_name(run: RunFacts) -> str:
    """The last in the order of play of those reached, an optional one only without others; empty without any."""
    order = [m.name for m in sorted(run.world.milestones_from(run.school), key=lambda milestone: milestone.required)]
    return max(run.milestones, key=lambda name: order.index(name) if name in order else -1, default="")


def _reached(run: RunFacts, name: str) -> Told:
    title = run.world.milestone_title(name)
    words = f"{name}: {title}" if title != name else name
    if name not in run.milestones:
        return Told(f"{words}; not reached yet")
    hours = milestone_hours(run).get(name)
    after = f", after {duration_words(hours * 3600)} of training" if hours is not None else ""
    episodes = run.episodes.reached.get(name, 0)
    since = f"; {count_words(episodes, 'episode')} reached it" if episodes else ""
    return Told(f"{words}; first reached at env step {run.milestones[name]:,}{after}{since}")


def _pays(run: RunFacts) -> str:
    """The parts of the reward that the newest whole episodes got most of, on average."""
    columns = run.episodes.columns
    whole = np.flatnonzero(columns.get("whole", np.empty(0)) == 1)[-PAID_EPISODES:]
    if not len(whole):
        return "no whole episode is known yet"
    terms = {name.removeprefix("terms/"): columns[name][whole] for name in columns if name.startswith("terms/")}
    means = {name: float(np.nansum(values)) / len(whole) for name, values in terms.items()}
    paid = sorted(((amount, name) for name, amount in means.items() if amount > 0), reverse=True)
    if not paid:
        return "nothing was paid"
    total = sum(amount for amount, _ in paid)
    told = ", ".join(f"{name} {number_words(amount)} ({amount / total:.0%})" for amount, name in paid[:_MOST_PARTS])
    return f"{told}; mean of the newest {count_words(len(whole), 'whole episode')}"


def _best(run: RunFacts, out: Path) -> Told:
    """The one with the highest return, and if that has no video the best that has."""
    told = _watched(run, run.episodes.best[:1], "--best 1", out)
    filmed = next((row for row in run.episodes.best if row.name in run.videos.there), None)
    if told.link or filmed is None:
        return told
    other = _watched(run, [filmed], "", out)
    return other._replace(words=f"{told.words}. With a video: {other.words}")


def _first(run: RunFacts, out: Path) -> Told:
    name = _furthest_name(run)
    row = run.episodes.first.get(name)
    return _watched(run, [row] if row is not None else [], f"--milestone {shlex.quote(name)}", out)


def _watched(run: RunFacts, rows: Sequence[EpisodeRow], choice: str, out: Path) -> Told:
    """An episode, with a link to its video, or how to make one."""
    if not rows:
        return Told("no such episode is known")
    (row,) = rows
    words = f"{row.name}: return {number_words(row.episode_return)}, {count_words(row.steps, 'step')}, "
    words += f"{count_words(len(row.milestones), 'milestone')}, epsilon {row.epsilon:.2g}"
    video = run.videos.there.get(row.name)
    if video:
        return Told(words, link(run.run_dir.videos / video, out), "video")
    if row.name not in run.logs:
        return Told(f"{words}; its log is not there, so no video can be made of it")
    root = run.run_dir.root
    runs = "" if root == DEFAULT_ROOT else f"--runs {shlex.quote(str(root))} "
    return Told(f"{words}; python -m cluster_rl.replayer {runs}--run-name {run.name} {choice} makes its video")
