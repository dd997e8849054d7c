"""Which charts a page has: from the facts of its runs to `Chart`s.

The report's page draws them. In: `RunFacts` of one run or several. Out: charts with a line for each setting, which is
the median of its seeds with a band where it has several. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np

from cluster_rl.exploration.bayes_quests import QuestState
from cluster_rl.report.charts import Chart
from cluster_rl.report.curves import Curve, banded, counted, groups_of, hours_trained, thinned
from cluster_rl.report.rivals import RivalFacts, by_agent
from cluster_rl.report.run_facts import RunFacts
from cluster_rl.report.run_rows import Column

MOST_QUESTS: Final = 16
"""Panels of quests on a page; a table has all of them."""
_EPISODE_POINTS: Final = 150
_FEW: Final = 20
_OF_A_POINT: Final = 5  # episodes at least, on average: single ones say little
_PANEL_POINTS: Final = 120
_MOST_TERMS: Final = 8
_SHORT_HOURS: Final = 2
_STEPS: Final = "env steps"


class Shown(NamedTuple):
    """A chart of something that rows have: its name there, the chart's title, and the label of y."""

    name: str
    title: str
    y_label: str


_OF_EPISODES: Final = (
    Shown("return", "Return of an episode", "reward"),
    Shown("loop_share", "Share of an episode's steps in circles", "share"),
    Shown("entropy", "Entropy of softmax(Q), mean of an episode", "nats"),
    Shown("cells", "Coverage: map cells of an episode", "cells"),
    Shown("steps", "Length of an episode", "env steps"),
)
_OF_EVALUATIONS: Final = (
    Shown("evaluate/return", "Return of greedy episodes by the published parameters (evaluation)", "reward"),
    Shown("evaluate/finished", "Share of them that finished the task", "share"),
)
_OF_METRICS: Final = (
    Shown("env_steps_per_sec", "Env steps a second", "1/s"),
    Shown("updates_per_sec", "Updates a second", "1/s"),
    Shown("samples_per_insert", "Samples per insert, over the run", "ratio"),
    Shown("limiter_ahead", "Sampled beyond that ratio (below 0: actors wait)", "positions"),
    Shown("replay/transitions", "Transitions in the replay", "env steps"),
    Shown("priority/ess", "Effective sample size of the draw", "share"),
    Shown("lag/acting/p50", "Staleness: age of parameters that were played with", "updates"),
    Shown("lag/training/p50", "Age of what is trained on", "updates"),
    Shown("staleness/delta_q_last", "Error of Q from stored states", "fraction"),
    Shown("learner/loss", "Loss", ""),
    Shown("learner/q_start", "Value of where episodes begin", "reward"),
    Shown("actor/epsilon", "Epsilon, mean over actors", "probability"),
    Shown("archive/states", "Start states", "states"),
    Shown("rnd/bonus_mean", "Curiosity: bonus of what is trained on, before its weight", "bonus"),
    Shown("curiosity_scale", "Factor of curiosity's weight", "factor"),
)


def job_spans(run: RunFacts) -> list[tuple[float, float]]:
    """When jobs ran, in Unix seconds. One that has no end ran until the file's last word, or the next one's start; one
    whose learner never was up trained nothing, and lasted no time. Without progress.json the newest row tells of the
    job that wrote it."""
    spans = []
    rows = _times_of_rows(run)
    for number, job in enumerate(run.jobs):
        later = min((other.started for other in run.jobs[number + 1 :]), default=np.inf)
        last = job.started
        if job.ended is not None:
            last = job.ended
        elif run.progress is None:
            last = float(rows[rows < later].max(initial=job.started))
        elif job.env_steps is not None:
            last = min(run.progress.updated, later)
        spans.append((job.started, max(job.started, last)))
    return spans


def trained_spans(run: RunFacts) -> list[tuple[float, float]]:
    """The same; of a run whose jobs nothing tells of, from its first row to its last."""
    rows = _times_of_rows(run)
    return job_spans(run) or ([(float(rows.min()), float(rows.max()))] if len(rows) else [])


def _times_of_rows(run: RunFacts) -> Column:
    """When its rows were written, in no order: clocks are set back."""
    columns = [part["time"] for part in (run.episodes.columns, run.metrics) if "time" in part]
    times = np.concatenate(columns) if columns else np.empty(0)
    return times[np.isfinite(times)]


def hours_of(run: RunFacts, times: Column) -> Column:
    """Hours that the run had trained by these Unix times."""
    return hours_trained(times, trained_spans(run))


def hours_now(run: RunFacts) -> float:
    """Hours that the run has trained, by its jobs, or as long as its rows go."""
    return sum(end - start for start, end in trained_spans(run)) / 3600


def milestone_hours(run: RunFacts) -> dict[str, float]:
    """Name to the hours that the run had trained when it was first reached: at the first row of metrics that counts so
    many env steps, or else when the episode ended that reached it."""
    env_steps, times = (run.metrics.get(name, np.empty(0)) for name in ("env_steps", "time"))
    if len(env_steps) == len(times):
        known = np.isfinite(env_steps) & np.isfinite(times)
        env_steps, times = np.maximum.accumulate(env_steps[known]), times[known]
    at: dict[str, float] = {}
    for name, step in run.milestones.items():
        row, episode = int(np.searchsorted(env_steps, step)), run.episodes.first.get(name)
        told = [float(times[row])] if row < len(times) else []
        told += [episode.time] if episode is not None else []
        if told:
            at[name] = min(told)
    return dict(zip(at, hours_of(run, np.array(list(at.values()))).tolist(), strict=True)) if at else {}


def by_setting(runs: Sequence[RunFacts], curve_of: Callable[[RunFacts], Curve]) -> list[Curve]:
    """A curve for each setting, put together from its seeds; those without any point are left out."""
    named = {run.name: run for run in runs}
    groups = groups_of({run.name: (run.rom_sha1, run.config) for run in runs})
    curves = [banded(names[0], [curve_of(named[name]) for name in names]) for names in groups]
    return [curve for curve in curves if len(curve.x)]


def rival_curves(rivals: Sequence[RivalFacts], curve_of: Callable[[RivalFacts], Curve]) -> list[Curve]:
    """A curve for each other agent, put together from its trainings; those without any point are left out."""
    found = [banded(f"rival {agent}", list(map(curve_of, group))) for agent, group in by_agent(rivals).items()]
    return [curve for curve in found if len(curve.x)]


def milestone_charts(runs: Sequence[RunFacts], rivals: Sequence[RivalFacts] = ()) -> list[Chart]:
    """How many milestones were reached, over env steps and over hours, or over minutes of short runs; by rivals, whose
    machines are not known, over env steps alone."""

    def over_steps(run: RunFacts) -> Curve:
        return counted(run.name, run.milestones.values(), run.env_steps)

    def over_hours(run: RunFacts) -> Curve:
        return counted(run.name, [of_hour * at for at in milestone_hours(run).values()], of_hour * hours_now(run))

    def rival_over_steps(rival: RivalFacts) -> Curve:
        return counted(rival.agent, rival.milestones.values(), rival.env_steps)

    begun = [run for run in runs if run.env_steps]
    unit, of_hour = ("hours", 1) if max(map(hours_now, begun), default=0.0) > _SHORT_HOURS else ("minutes", 60)
    over = by_setting(begun, over_steps) + rival_curves(rivals, rival_over_steps)
    return [
        # Half of them come in the first hundredth of a long run.
        Chart("Milestones reached, by env steps", _STEPS, "milestones", over, log_x=True),
        Chart(f"Milestones reached, by {unit} of training", unit, "milestones", by_setting(begun, over_hours)),
    ]


def _chart_of(
    shown: Shown,
    runs: Sequence[RunFacts],
    curve_of: Callable[[RunFacts, str, str], Curve],
    rivals: Sequence[RivalFacts] = (),
) -> Chart:
    """A figure over env steps, a line a run or setting, and a rival; `curve_of` takes a run, the figure's name and the
    line's."""
    curves = by_setting(runs, lambda run: curve_of(run, shown.name, run.name))
    curves += rival_curves(rivals, lambda rival: rival_curve(rival, shown.name))
    return Chart(shown.title, _STEPS, shown.y_label, curves)


def episode_charts(runs: Sequence[RunFacts], rivals: Sequence[RivalFacts] = ()) -> list[Chart]:
    """How evaluations went, and episodes that began where the run's do; then each run's return by part, and where its
    episodes began."""
    charts = [_chart_of(shown, runs, evaluation_curve) for shown in _OF_EVALUATIONS]
    charts += [_chart_of(shown, runs, episode_curve, rivals) for shown in _OF_EPISODES]
    for run in runs:
        whose = f" of {run.name}" if len(runs) > 1 else ""
        charts.append(Chart(f"Return by part{whose}", _STEPS, "reward", term_curves(run)))
        charts.append(Chart(f"Where episodes began{whose}", _STEPS, "share", start_curves(run), (0, 1)))
    return charts


def evaluation_curve(run: RunFacts, column: str, name: str) -> Curve:
    """A figure of evaluations over the env steps at which their parameters were made."""
    if column not in run.metrics or "evaluate/env_steps" not in run.metrics:
        return Curve(name, np.empty(0), np.empty(0))
    return thinned(name, run.metrics["evaluate/env_steps"], run.metrics[column])


def episode_curve(run: RunFacts, column: str, name: str) -> Curve:
    """A column of episodes over env steps, of the whole ones that began where the run's do, as metrics count them."""
    columns = run.episodes.columns
    if column not in columns:
        return Curve(name, np.empty(0), np.empty(0))
    whole = columns["whole"] == 1
    return episodes_thinned(name, columns["env_steps"][whole], columns[column][whole])


def rival_curve(rival: RivalFacts, column: str) -> Curve:
    """The same of another agent's training; its record has returns and lengths alone."""
    values = rival.episodes.get(column)
    if values is None:
        return Curve(rival.agent, np.empty(0), np.empty(0))
    return episodes_thinned(rival.agent, rival.episodes["env_steps"], values)


def episodes_thinned(name: str, env_steps: Column, values: Column) -> Curve:
    """Figures of episodes, float64 [episodes], as means of several each; few, as of a young run, as they are."""
    return thinned(name, env_steps, values, min(_EPISODE_POINTS, max(_FEW, len(values) // _OF_A_POINT)))


def term_curves(run: RunFacts) -> list[Curve]:
    """The parts of the reward that paid most, largest first; what never paid is left out."""
    columns = run.episodes.columns
    paid = {name: float(np.nansum(np.abs(column))) for name, column in columns.items() if name.startswith("terms/")}
    names = sorted((name for name in paid if paid[name] > 0), key=lambda name: -paid[name])[:_MOST_TERMS]
    return [episode_curve(run, name, name.removeprefix("terms/")) for name in names]


def start_curves(run: RunFacts) -> list[Curve]:
    """The mixture of starts, if episodes began anywhere but at the beginning."""
    names = [name for name in ("start/beginning", "start/early", "start/middle", "start/late") if name in run.metrics]
    curves = [metric_curve(run, name, name.removeprefix("start/")) for name in names]
    return curves if any(curve.y.max(initial=0) > 0 for curve in curves[1:]) else []


def learner_charts(runs: Sequence[RunFacts]) -> list[Chart]:
    """Speed, replay, staleness and the learner's own figures."""
    return [_chart_of(shown, runs, metric_curve) for shown in _OF_METRICS]


def metric_curve(run: RunFacts, column: str, name: str) -> Curve:
    """A metric over env steps."""
    if column not in run.metrics or "env_steps" not in run.metrics:
        return Curve(name, np.empty(0), np.empty(0))
    return thinned(name, run.metrics["env_steps"], run.metrics[column])


def quest_chart(run: RunFacts) -> Chart:
    """The chance of each of the quests that matter most now, with its interval and its alarm, over env steps."""
    curves, alarms = [], []
    for name in chosen_quests(run):
        rows = [(row.env_steps, row.quests[name]) for row in run.quests if name in row.quests]
        x = np.array([step for step, _ in rows], np.float64)

        def part(
            value: Callable[[QuestState], float], x: Column = x, rows: list[tuple[int, QuestState]] = rows
        ) -> Column:
            return thinned("", x, np.array([value(quest) for _, quest in rows], np.float64), _PANEL_POINTS).y

        mean = thinned(name, x, np.array([quest.mean for _, quest in rows], np.float64), _PANEL_POINTS)
        curves.append(Curve(name, mean.x, mean.y, part(lambda quest: quest.low), part(lambda quest: quest.high)))
        alarms.append(Curve(f"alarm of {name}", mean.x, part(lambda quest: quest.alarm)))
    return Chart(
        "Chance of each, with its 95 % interval; dashed: the alarm, how surely the chance is below its target",
        _STEPS,
        "chance",
        curves,
        (-0.02, 1.02),
        panels=True,
        alarms=alarms,
    )


def chosen_quests(run: RunFacts) -> list[str]:
    """At most `MOST_QUESTS`: those with an alarm, the frontier, then those that are not sure; in the order of play."""
    if not run.quests:
        return []
    newest = run.quests[-1]

    def matters(name: str) -> tuple[int, float]:
        quest = newest.quests[name]
        if quest.level != "ok":
            return 0, -quest.alarm
        return (1, 0.0) if name in newest.frontier else (2 if quest.reached else 3, abs(quest.mean - 0.5))

    chosen = sorted(newest.quests, key=matters)[:MOST_QUESTS]
    return [name for name in newest.quests if name in chosen]
