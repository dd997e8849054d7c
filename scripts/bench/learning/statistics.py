"""What a few trainings say of an agent: the interquartile mean and its interval, as rliable has them.

In: scores of runs (seeds) and tasks. Out: numbers. Agarwal et al. 2021, "Deep reinforcement learning at the edge of the
statistical precipice": a mean over seeds hangs on its best one, a median of five leaves three of them out, and neither
says how far another five could be from it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
_CUT = 0.25  # of the scores, at either end

Floats = npt.NDArray[np.float64]


def interquartile_mean(scores: Floats) -> Floats:
    """[..., runs, tasks] -> [...]: the mean of the middle half of all scores of all runs; NaN where one of them is.

    What a quarter of the number of scores has behind the comma is not cut, as in `scipy.stats.trim_mean`, which rliable
    takes: of five scores the middle three are left, of two both.
    """
    flat = scores.reshape(*scores.shape[:-2], -1)
    cut = int(_CUT * flat.shape[-1])
    middle = np.sort(flat, axis=-1)[..., cut : flat.shape[-1] - cut].mean(axis=-1)
    means: Floats = np.where(np.isnan(flat).any(axis=-1), np.nan, middle)  # sorted, NaN is last and could be cut
    return means


def bootstrap_interval(scores: Floats, repetitions: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """[..., runs, tasks] -> low [...], high [...]: where 95 % of interquartile means lie if the runs are drawn again.

    Stratified: each task draws as many runs as there are, with repetition, from its own and apart from the others, so
    that no draw has more of an easy task. All places of the leading axes share their draws.
    """
    runs, tasks = scores.shape[-2:]
    drawn = rng.integers(runs, size=(repetitions, runs, tasks))
    again = scores[..., drawn, np.arange(tasks)]  # [..., repetitions, runs, tasks]
    means = interquartile_mean(again)
    edge = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(means, [edge, 1.0 - edge], axis=-1)
    return low, high
