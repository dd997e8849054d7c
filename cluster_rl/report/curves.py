"""Curves of a run, and of several runs side by side, as numbers: thinned, averaged, and put together by seeds.

The report's page draws them. In: columns of rows. Out: points, at most some hundreds a curve. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

MOST_POINTS = 400
"""Of one curve: more cannot be seen, and a page has dozens of curves."""

Column = npt.NDArray[np.float64]

# What runs of one setting may differ in: the seed, and where files lie.
_OF_NO_SETTING = ("base_seed", "replay_dir")


@dataclass(frozen=True)
class Curve:
    """Points, float64 [n] each, x rising. `low` and `high` are the edges of a band around them, if there is one.

    `steps`: y stays until the next x, as a count does. `of`: how many runs were put together.
    """

    name: str
    x: Column
    y: Column
    low: Column | None = None
    high: Column | None = None
    steps: bool = False
    of: int = 1


def thinned(name: str, x: Column, y: Column, most: int = MOST_POINTS) -> Curve:
    """A column over another as at most `most` means of equal stretches of x; rows where either is NaN are left out.

    What has no more rows than that is taken as it is.
    """
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    order = np.argsort(x, kind="stable")  # a crash takes back env steps
    x, y = x[order], y[order]
    if len(x) <= most:
        return Curve(name, x, y)
    edges = np.linspace(x[0], x[-1], most + 1)
    bins = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, most - 1)
    counts = np.bincount(bins, minlength=most)
    there = counts > 0
    means = [np.bincount(bins, weights=values, minlength=most)[there] / counts[there] for values in (x, y)]
    return Curve(name, means[0], means[1])


def counted(name: str, reached_at: Iterable[float], until: float) -> Curve:
    """How many of something had happened by x, from 0 to `until`; `reached_at` are the places of each."""
    places = np.sort(np.array([at for at in reached_at if np.isfinite(at)], np.float64))
    x = np.concatenate(([0.0], places, [max(until, *places, 0.0) if len(places) else until]))
    y = np.concatenate((np.arange(len(places) + 1), [len(places)])).astype(np.float64)
    return Curve(name, x, y, steps=True)


def hours_trained(times: Column, jobs: Sequence[tuple[float, float]]) -> Column:
    """Hours that jobs had run by Unix times, the waits between them left out. `jobs` are (start, end), in order.

    Without jobs, hours since the first of the times.
    """
    if not jobs:
        return (times - np.nanmin(times)) / 3600 if len(times) else times
    hours = np.zeros_like(times)
    for start, end in jobs:
        hours += np.clip(times - start, 0.0, max(0.0, end - start))
    return hours / 3600


def slice_edges(until: float, slices: int) -> Column:
    """The edges of equal slices of training, float64 [slices + 1]."""
    return np.linspace(0.0, max(until, 1.0), slices + 1)


def slice_of(edges: Column, env_steps: float) -> int:
    """The slice that an env step lies in; one beyond the last edge is in the last."""
    return int(np.clip(np.searchsorted(edges, env_steps, side="left") - 1, 0, len(edges) - 2))


def setting_of(config: Mapping[str, Any]) -> str:
    """A text that runs have in common that differ in nothing but their seed and where their files lie."""
    return repr(sorted((key, repr(value)) for key, value in config.items() if key not in _OF_NO_SETTING))


def groups_of(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Runs by name, put together by their settings; a group of several is named after its first. A run without a
    config is a group of its own."""
    groups: dict[str, list[str]] = {}
    for name, config in configs.items():
        groups.setdefault(setting_of(config) if config else name, []).append(name)
    return {names[0] + (f" ({len(names)} seeds)" if len(names) > 1 else ""): names for names in groups.values()}


def banded(name: str, curves: Sequence[Curve], points: int = MOST_POINTS // 2) -> Curve:
    """Curves of several seeds as their median and a band from the least to the most, as far as all of them go.

    At `points` places; of counts, wherever one of them changes. One curve is itself, under the new name; without any
    point in common there is none.
    """
    full = [curve for curve in curves if len(curve.x)]
    if len(full) == 1:
        only = full[0]
        return Curve(name, only.x, only.y, steps=only.steps)
    nothing = np.empty(0)
    first = max((curve.x[0] for curve in full), default=0.0)
    last = min((curve.x[-1] for curve in full), default=-1.0)
    if last < first:
        return Curve(name, nothing, nothing)
    x = np.linspace(first, last, points)
    if full[0].steps:
        changes = np.unique(np.concatenate([curve.x for curve in full]))
        x = changes[(first <= changes) & (changes <= last)]
    values = np.array([_at(curve, x) for curve in full])  # [runs, points]
    return Curve(
        name, x, np.median(values, axis=0), values.min(axis=0), values.max(axis=0), full[0].steps, of=len(full)
    )


def _at(curve: Curve, x: Column) -> Column:
    """The curve's values at other places."""
    if not curve.steps:
        return np.interp(x, curve.x, curve.y)
    return curve.y[np.clip(np.searchsorted(curve.x, x, side="right") - 1, 0, len(curve.y) - 1)]


def words_of(curve: Curve, y_unit: str = "") -> str:
    """What a curve shows, for those who cannot see it: where it begins and ends, its least and its most."""
    if not len(curve.y):
        return f"{curve.name}: no values"
    unit = f" {y_unit}" if y_unit else ""
    first, last, least, most = (number_words(v) for v in (curve.y[0], curve.y[-1], curve.y.min(), curve.y.max()))
    median = ", median" if curve.of > 1 else ""
    return f"{curve.name}{median}: from {first} to {last}{unit}, least {least}, most {most}"


def number_words(value: float) -> str:
    """`1,234,567`, `12.3` or `0.00123`: three digits, and whole numbers whole."""
    if not np.isfinite(value):
        return "unknown"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value + 0.0:.3g}"  # of -0.0 too, which is 0
