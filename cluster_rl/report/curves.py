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

# What runs of one setting may differ in: the seed, and where files lie, of which the ROM's own SHA-1 says what it is.
_OF_NO_SETTING = ("base_seed", "replay_dir", "rom")
_NEARLY = 0.02  # of a curve's length, which seeds of one setting may begin or end apart


@dataclass(frozen=True)
class Curve:
    """Points, float64 [n] each, x rising. `low` and `high` are the edges of a band around them, if there is one.

    `steps`: y stays until the next x, as a count does. `of` runs were put together, of `out_of` of one setting: those
    with any point. `runs` are how many of them each point is of, int64 [n].
    """

    name: str
    x: Column
    y: Column
    low: Column | None = None
    high: Column | None = None
    steps: bool = False
    of: int = 1
    out_of: int = 1
    runs: npt.NDArray[np.int64] | None = None

    @property
    def label(self) -> str:
        """The name, and of several runs how many, and how far all of them go: `a (2 of 3 runs, all up to 40,000)`."""
        if self.out_of == 1:
            return self.name
        count = f"{self.of} runs" if self.of == self.out_of else f"{self.of} of {self.out_of} runs"
        return f"{self.name} ({count}{self._all_from_to()})"

    def _all_from_to(self) -> str:
        """Where all of the runs are, where that is not everywhere."""
        if self.runs is None or not len(self.x):
            return ""
        common = self.x[self.runs == self.of]
        if not len(common):
            return ", never all at once"
        near = _NEARLY * (self.x[-1] - self.x[0])
        begins_late, ends_early = common[0] > self.x[0] + near, common[-1] < self.x[-1] - near
        begin, end = number_words(common[0]), number_words(common[-1])
        if begins_late and ends_early:
            return f", all from {begin} to {end}"
        return f", all from {begin} on" if begins_late else f", all up to {end}" if ends_early else ""


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
    """Hours that jobs had run by Unix times, the waits between them left out. `jobs` are (start, end), in order."""
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


def groups_of(settings: Mapping[str, tuple[str, Mapping[str, Any]]]) -> list[list[str]]:
    """Names of runs, put together where they differ in nothing but their seed and where their files lie.

    `settings` are a run's game, by the SHA-1 of its ROM, and its config. One of which either is not known, so empty, is
    a group of its own.
    """
    groups: dict[str, list[str]] = {}
    for name, (rom_sha1, config) in settings.items():
        values = sorted((key, repr(value)) for key, value in config.items() if key not in _OF_NO_SETTING)
        groups.setdefault(repr((rom_sha1, values)) if rom_sha1 and config else name, []).append(name)
    return list(groups.values())


def banded(name: str, curves: Sequence[Curve], points: int = MOST_POINTS // 2) -> Curve:
    """Curves of the runs of one setting as their median and a band from the least to the most of those that are so far.

    At `points` places and where one begins or ends; of counts, wherever one of them changes. One curve is itself, under
    the new name.
    """
    full = [curve for curve in curves if len(curve.x)]
    if not full:
        return Curve(name, np.empty(0), np.empty(0), out_of=len(curves))
    if len(full) == 1:
        only = full[0]
        return Curve(name, only.x, only.y, steps=only.steps, out_of=len(curves))
    if full[0].steps:
        x = np.unique(np.concatenate([curve.x for curve in full]))
    else:
        ends = np.array([curve.x[place] for curve in full for place in (0, -1)])
        x = np.unique(np.concatenate((np.linspace(ends.min(), ends.max(), points), ends)))
    values = np.array([_at(curve, x) for curve in full])  # [runs, points]
    runs = np.isfinite(values).sum(axis=0)
    x, values, runs = x[runs > 0], values[:, runs > 0], runs[runs > 0]
    low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    return Curve(
        name,
        x,
        np.nanmedian(values, axis=0),
        low,
        high,
        full[0].steps,
        of=len(full),
        out_of=len(curves),
        runs=runs,
    )


def _at(curve: Curve, x: Column) -> Column:
    """The curve's values at other places, NaN before its first and behind its last."""
    if curve.steps:
        values = curve.y[np.clip(np.searchsorted(curve.x, x, side="right") - 1, 0, len(curve.y) - 1)]
    else:
        values = np.interp(x, curve.x, curve.y)
    return np.where((x >= curve.x[0]) & (x <= curve.x[-1]), values, np.nan)


def words_of(curve: Curve, y_unit: str = "") -> str:
    """What a curve shows, for those who cannot see it: where it begins and ends, its least and its most."""
    if not len(curve.y):
        return f"{curve.label}: no values"
    unit = f" {y_unit}" if y_unit else ""
    first, last, least, most = (number_words(v) for v in (curve.y[0], curve.y[-1], curve.y.min(), curve.y.max()))
    median = ", median" if curve.of > 1 else ""
    return f"{curve.label}{median}: from {first} to {last}{unit}, least {least}, most {most}"


def printable(text: str, keep: str = "") -> str:
    """Without control characters, which no page can have, but those to `keep`: names come from files."""
    return "".join(letter if letter.isprintable() or letter in keep else "\ufffd" for letter in text)


def number_words(value: float) -> str:
    """`1,234,567`, `12.3` or `0.00123`: three digits, and whole numbers whole."""
    if not np.isfinite(value):
        return "unknown"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value + 0.0:.3g}"  # of -0.0 too, which is 0
