"""The comparison's statistics, against values worked out otherwise, and its clock of processor time."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))  # scripts/ is no part of the package

from scripts.bench.learning.cpu import Budget, CpuClock  # noqa: E402
from scripts.bench.learning.statistics import bootstrap_interval, interquartile_mean  # noqa: E402

FIVE = np.array([[3.0], [100.0], [1.0], [2.0], [-50.0]])  # [runs, tasks]


@pytest.mark.parametrize(
    ("scores", "mean"),
    [  # `scipy.stats.trim_mean(scores, 0.25)` of scipy 1.16, which rliable calls
        ([7.0], 7.0),
        ([0.0, 1.0], 0.5),
        ([0.0, 1.0, 5.0], 2.0),
        ([0.0, 1.0, 5.0, 100.0], 3.0),
        ([3.0, 100.0, 1.0, 2.0, -50.0], 2.0),
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 80.0], 4.5),
    ],
)
def test_interquartile_mean_cuts_a_quarter_at_either_end(scores: list[float], mean: float) -> None:
    assert interquartile_mean(np.array(scores)[:, np.newaxis]) == mean
    assert interquartile_mean(np.array(scores)[np.newaxis]) == mean  # tasks count as runs do


def test_interquartile_mean_keeps_the_leading_axes_and_hides_no_missing_score() -> None:
    both = np.stack([FIVE, FIVE + 1.0])
    assert interquartile_mean(both).tolist() == [2.0, 3.0]
    both[1, 0, 0] = np.nan
    means = interquartile_mean(both)
    assert means[0] == 2.0
    assert np.isnan(means[1])


@pytest.mark.parametrize("runs", [[0.5, 0.6, 0.7, 0.8, 0.9], [0.0, 1.0, 3.0, 7.0, 20.0]])
def test_interval_is_that_of_all_draws(runs: list[float]) -> None:
    draws = np.array(list(itertools.product(runs, repeat=5)))  # all 3,125, as likely as each other
    exact = np.quantile(np.sort(draws, axis=1)[:, 1:4].mean(axis=1), [0.025, 0.975])
    edges = bootstrap_interval(np.array(runs)[:, np.newaxis], 50_000, np.random.default_rng(0))
    assert edges == pytest.approx(tuple(exact), rel=0.01)


def test_interval_is_that_of_rliable() -> None:
    """rliable 1.2.0 with 20,000 repetitions. It does not run with today's arch unless one argument is given its new
    name, so its figures are written down here."""
    scores = np.random.default_rng(1).normal(size=(5, 3)) * [1.0, 5.0, 0.3] + [0.0, 2.0, 9.0]
    assert interquartile_mean(scores) == pytest.approx(4.38469267)
    edges = bootstrap_interval(scores, 20_000, np.random.default_rng(0))
    assert edges == pytest.approx((3.273, 5.373), abs=0.03)


def test_draws_are_stratified_by_task() -> None:
    # All runs alike, two tasks far apart: which runs are drawn says nothing, which tasks would.
    alike = np.tile([0.0, 10.0], (5, 1))
    assert bootstrap_interval(alike, 200, np.random.default_rng(0)) == (5.0, 5.0)
    # And each task draws for itself: with the runs of one draw for both, the sum would always be 1.
    opposed = np.array([[0.0, 1.0], [1.0, 0.0]])
    low, high = bootstrap_interval(opposed, 500, np.random.default_rng(0))
    assert (low, high) == (0.0, 1.0)


def burn(cpu_sec: float) -> None:
    end = time.process_time() + cpu_sec
    while time.process_time() < end:
        pass


def test_clock_counts_its_own_process_and_those_it_started_before_and_after_they_ended() -> None:
    burn(0.2)
    clock = CpuClock()
    assert clock.seconds() < 0.1
    burn(0.2)
    own = clock.seconds()
    assert 0.2 <= own < 0.4
    code = "import time\nwhile time.process_time() < 0.4: pass\nprint(flush=True)\ninput()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    assert clock.seconds() - own < 0.2  # not told of it
    clock.pids.append(child.pid)
    alive = clock.seconds()
    assert alive - own >= 0.38  # ticks are of a hundredth
    child.communicate(b"\n")
    assert alive - 0.02 <= clock.seconds() < alive + 0.3  # counted once


def test_budget_wants_both_steps_and_seconds() -> None:
    clock = CpuClock()
    assert Budget(100, 0.0).is_spent(100, clock)
    assert not Budget(100, 0.0).is_spent(99, clock)
    assert not Budget(100, 60.0).is_spent(1000, clock)
    burn(0.05)
    assert Budget(100, 0.05).is_spent(100, clock)
    assert not Budget(100, 0.05).is_spent(99, clock)
