"""What arrived at the learner lately: lags, epsilons, episodes and their starts, for metrics and progress."""

from __future__ import annotations

import collections
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster_rl.exploration.curriculum import third_of
from cluster_rl.learning.sequences import EpisodeSummary, is_elsewhere
from cluster_rl.replay.totals import RECENT_EPISODES
from cluster_rl.wire.codec import BlockArrays, SequenceHeader

_RECENT_STARTS = 16


class Arrivals:
    """What arrived: lags and epsilons since the last row, the newest episodes and their starts.

    Figures are of the episodes that began where the run's do by its config, where they do not say `elsewhere`. One
    thread adds, another reads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lags: list[int] = []
        self._epsilons: list[float] = []
        self._episodes: collections.deque[EpisodeSummary] = collections.deque(maxlen=RECENT_EPISODES)
        self._elsewhere: collections.deque[EpisodeSummary] = collections.deque(maxlen=RECENT_EPISODES)
        self._begun: collections.deque[EpisodeSummary] = collections.deque(maxlen=RECENT_EPISODES)  # of both kinds
        self._starts: collections.deque[dict[str, npt.NDArray[Any]]] = collections.deque(maxlen=_RECENT_STARTS)

    def add(self, header: SequenceHeader, updates: int) -> None:
        with self._lock:
            self._lags.append(header.age(updates))
            self._epsilons.append(header.epsilon)
        self.add_ending(header)

    def add_ending(self, header: SequenceHeader) -> None:
        """Keeps the summary, if it has that of a whole episode: one cut short by a job's end says nothing about the
        policy."""
        if header.summary is not None and header.summary.is_whole:
            with self._lock:
                (self._elsewhere if header.elsewhere else self._episodes).append(header.summary)
                self._begun.append(header.summary)

    def add_start(self, arrays: BlockArrays) -> None:
        """Keeps position 0 of a block that begins an episode where the run's begin."""
        start = {name: getattr(arrays, name)[0].copy() for name in ("screen_packed", "context", "crop", "mask")}
        with self._lock:
            self._starts.append(start)

    def starts(self) -> list[dict[str, npt.NDArray[Any]]]:
        """The newest first positions of episodes: screen_packed, context, crop, mask."""
        with self._lock:
            return list(self._starts)

    def mean_return(self) -> float | None:
        """Mean return of the newest episodes; None before the first."""
        with self._lock:
            returns = [episode.episode_return for episode in self._episodes]
        return float(np.mean(returns)) if returns else None

    def take_row(self) -> tuple[dict[str, float], npt.NDArray[np.int64]]:
        """Metrics of what came since the last call, and how many updates old each sequence's parameters were."""
        row: dict[str, float] = {}
        with self._lock:
            lags, self._lags = self._lags, []
            epsilons, self._epsilons = self._epsilons, []
            episodes, elsewhere = list(self._episodes), list(self._elsewhere)
            begun = list(self._begun)
        if lags:
            row["actor/epsilon"] = float(np.mean(epsilons))
        if elsewhere:
            row |= _mixture(begun)
            row["elsewhere/return"] = float(np.mean([e.episode_return for e in elsewhere]))
            row["elsewhere/steps"] = float(np.mean([e.episode_steps for e in elsewhere]))
            row["elsewhere/milestones"] = float(np.mean([len(e.milestones) for e in elsewhere]))
        if episodes:
            row["episode/return"] = float(np.mean([e.episode_return for e in episodes]))
            row["episode/steps"] = float(np.mean([e.episode_steps for e in episodes]))
            row["episode/cells"] = float(np.mean([e.cells for e in episodes]))
            row["episode/loop_share"] = float(np.mean([e.loop_share for e in episodes]))
            entropies = [e.entropy for e in episodes if e.entropy is not None]
            if entropies:
                row["episode/entropy"] = float(np.mean(entropies))
            for term in episodes[-1].terms:
                row[f"reward/{term}"] = float(np.mean([e.terms.get(term, 0.0) for e in episodes]))
            reached = collections.defaultdict(list)
            for episode in episodes:
                for name, step in episode.milestones:
                    reached[name].append(step)
            for name, steps in reached.items():
                row[f"milestone_recent/{name}"] = len(steps) / len(episodes)  # share of the newest episodes
                row[f"milestone_recent_step/{name}"] = float(np.median(steps))  # of those that reached it
        return row, np.array(lags, np.int64)


def _mixture(episodes: list[EpisodeSummary]) -> dict[str, float]:
    """Shares of the episodes by where they began: at the beginning, or at a state early, in the middle or late on the
    way to the furthest that one of them came."""
    most = max(len(episode.start.milestones) + len(episode.milestones) for episode in episodes)
    kinds = collections.Counter(
        third_of(len(episode.start.milestones), most) if is_elsewhere(episode.start.tag) else "beginning"
        for episode in episodes
    )
    return {f"start/{kind}": kinds[kind] / len(episodes) for kind in ("beginning", "early", "middle", "late")}
