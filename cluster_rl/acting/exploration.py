"""Which action to take: the Ape-X ladder of epsilons, epsilon-greedy choice among valid actions, and when to explore.

Actors call it. Randomness comes only from the generator handed in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster_rl.config import Config
from cluster_rl.learning.targets import RESCALING_EPSILON

_HOLD_EXPONENT = 2.0  # the paper's


def epsilon_ladder(count: int, base: float, alpha: float) -> NDArray[np.float64]:
    """Epsilon of each of `count` emulators of a run, fixed for the whole run: base^(1 + alpha i / (count - 1)).

    Horgan et al. 2018. One emulator alone gets `base`.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    rungs = np.arange(count) / max(count - 1, 1)
    return np.asarray(base ** (1.0 + alpha * rungs), dtype=np.float64)


def actor_epsilons(config: Config, actor_index: int) -> NDArray[np.float64]:
    """Epsilons [envs_per_actor] of one actor process: every `total_actors`-th rung of the run's ladder.

    Each actor so has emulators from the whole ladder, and losing one actor takes away no part of it.
    """
    actors = config.total_actors
    if not 0 <= actor_index < actors:
        raise ValueError(f"actor_index must be in 0..{actors - 1}, not {actor_index}")
    ladder = epsilon_ladder(actors * config.envs_per_actor, config.epsilon_base, config.epsilon_alpha)
    return ladder[actor_index::actors]


def acting_epsilons(ladder: NDArray[np.float64], params_version: int) -> NDArray[np.float64]:
    """The ladder, or 1 everywhere while the parameters are untrained (`params_version` 0, or -1 for none).

    What untrained weights prefer means nothing, and emulators that follow it stand in loops: random play reaches more.
    """
    return ladder if params_version > 0 else np.ones_like(ladder)


def acting_values(quantiles: NDArray[np.float32], rescaling: bool, weights: tuple[float, ...]) -> NDArray[np.float32]:
    """`targets.expected_values` for the few rows of an actor, where numpy starts its operations faster than torch.

    A head's outputs [N, A, S K] -> values [N, A] in reward units; `weights` of the streams.
    """
    if not rescaling:
        return _weighted_means(quantiles, weights)
    linear = np.float32(1.0 + 2.0 * RESCALING_EPSILON)
    divisor = np.abs(quantiles)
    divisor *= np.float32(4.0 * RESCALING_EPSILON)
    divisor += linear * linear
    np.sqrt(divisor, out=divisor)
    divisor += linear
    root = 2.0 * quantiles / divisor  # of the sign of the quantile, as is the value
    return _weighted_means(root * (np.abs(root) + 2.0), weights)


def _weighted_means(returns: NDArray[np.floating[Any]], weights: tuple[float, ...]) -> NDArray[np.float32]:
    """[N, A, S K] -> [N, A]: the weighted sum of each stream's mean."""
    values: NDArray[np.float32] = returns.reshape(*returns.shape[:2], len(weights), -1).mean(-1)  # [N, A, S]
    return values @ np.array(weights, np.float32)


def select_actions(
    values: NDArray[np.float32],
    masks: NDArray[np.bool_],
    epsilons: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Epsilon-greedy actions: values [N, A], masks [N, A] bool, epsilons [N] -> [N] int64.

    Both the greedy and the random action are valid ones. The number of random draws does not depend on the data, so
    that a run with the same seed stays comparable. Raises `ValueError` for a row without a valid action.
    """
    explore, times = _draws(values, masks, epsilons, rng)
    actions: NDArray[np.int64] = np.where(explore, _first(times, masks, masks), best_actions(values, masks))
    return actions


def best_actions(values: NDArray[np.float32], masks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The best valid action of each row: values [N, A], masks [N, A] bool -> [N] int64."""
    best: NDArray[np.int64] = np.where(masks, values, -np.inf).argmax(axis=1)
    return best


class Exploration:
    """Which actions several emulators take: epsilon-greedy, with held random actions and random stretches.

    A random action is repeated for a number of steps drawn from the zeta distribution with exponent 2, at most
    `hold_steps_max`, and ends before where it is no longer valid: the epsilon-z-greedy of Dabney et al. 2021. Single
    random steps undo each other: what an agent would have to walk ten steps for, it never sees.

    At any step a random stretch may begin, after `wander_every_steps` steps on average (0: never), that lasts
    `wander_steps` on average, both by chance alone: the blind switches within an episode of Pislar et al. 2022. An
    agent that has taken all it knows of would stand about for the rest of the episode, and one that goes straight to
    its end would never meet what lies beside its way.
    """

    def __init__(self, count: int, hold_steps_max: int, wander_every_steps: int, wander_steps: int) -> None:
        self._hold_steps_max = hold_steps_max
        self._begin = 1.0 / wander_every_steps if wander_every_steps else 0.0
        self._end = 1.0 / wander_steps
        self._held = np.zeros(count, np.int64)
        self._left = np.zeros(count, np.int64)
        self._wanders = np.zeros(count, np.bool_)
        self._rows = np.arange(count)
        self.best: NDArray[np.int64] = np.zeros(count, np.int64)
        """The best valid action of each row, by the values that `select` was given last."""

    def select(
        self,
        values: NDArray[np.float32],
        masks: NDArray[np.bool_],
        weights: Callable[[NDArray[np.int64]], NDArray[np.float64]],
        epsilons: NDArray[np.float64],
        rng: np.random.Generator,
    ) -> NDArray[np.int64]:
        """Actions int64 [N], see `select_actions`. `epsilons` decide where no action is being held.

        weights: of given rows [n], how likely each valid action is as a random one, [n, A], more than 0. It is asked
        for those rows alone that begin a random action now, which is seldom.
        """
        if self._begin:
            self._wanders ^= rng.random(len(values)) < np.where(self._wanders, self._end, self._begin)
            epsilons = np.where(self._wanders, 1.0, epsilons)
        explore, times = _draws(values, masks, epsilons, rng)
        durations = rng.zipf(_HOLD_EXPONENT, len(values))
        goes_on = (self._left > 0) & masks[self._rows, self._held]
        begins = (explore & ~goes_on).nonzero()[0]
        self._left = np.where(goes_on, self._left - 1, 0)
        if begins.size:
            self._held[begins] = _first(times[begins], masks[begins], weights(begins))
            self._left[begins] = np.minimum(durations[begins], self._hold_steps_max) - 1
            goes_on[begins] = True
        self.best = best_actions(values, masks)
        actions: NDArray[np.int64] = np.where(goes_on, self._held, self.best)
        return actions

    def release(self, row: int) -> None:
        """The row's episode is over: no action is held any longer, and a random stretch has ended."""
        self._left[row], self._wanders[row] = 0, False


def softmax_entropy(values: NDArray[np.float32], masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Entropy in nats of softmax(Q) over the valid actions, [N], of values in units of reward [N, A].

    How sure the values are of one action: 0 where one is far better than all others, log of the number of valid
    actions where all are equal. Each row has a valid action.
    """
    logits = np.where(masks, values.astype(np.float64), -np.inf)
    logits -= logits.max(axis=1, keepdims=True)
    weights = np.exp(logits)
    total = weights.sum(axis=1)
    # An action that cannot be, or never would, has weight 0 and adds nothing.
    entropy: NDArray[np.float64] = np.log(total) - (weights * np.where(weights > 0, logits, 0.0)).sum(axis=1) / total
    return np.maximum(entropy, 0.0)


class EntropySums:
    """Sums of `softmax_entropy` over the open episode of each of `count` emulators, in nats.

    Worked out of `kept_steps` steps at once: of a few rows, entropies would cost what starting numpy's operations does.
    """

    def __init__(self, count: int, actions: int, kept_steps: int) -> None:
        self._values = np.zeros((kept_steps, count, actions), np.float32)
        self._masks = np.ones((kept_steps, count, actions), np.bool_)
        self._kept = 0
        self._firsts = np.zeros(count, np.int64)  # of the kept steps, the first of each open episode
        self._sums = np.zeros(count)

    def begin(self, row: int) -> None:
        """A row's next episode begins with the next step."""
        self._firsts[row], self._sums[row] = self._kept, 0.0

    def add(self, values: NDArray[np.float32], masks: NDArray[np.bool_]) -> None:
        """Takes in one step of all emulators: values [N, A] and masks [N, A] as `softmax_entropy` does."""
        if self._kept == len(self._values):
            counts = np.arange(self._kept)[:, np.newaxis] >= self._firsts
            flat = softmax_entropy(self._values.reshape(-1, values.shape[1]), self._masks.reshape(-1, values.shape[1]))
            self._sums += np.where(counts, flat.reshape(counts.shape), 0.0).sum(axis=0)
            self._firsts[:] = self._kept = 0
        self._values[self._kept] = values
        self._masks[self._kept] = masks
        self._kept += 1

    def of(self, row: int) -> float:
        """The sum over a row's open episode so far."""
        steps = slice(self._firsts[row], self._kept)
        return float(self._sums[row] + softmax_entropy(self._values[steps, row], self._masks[steps, row]).sum())


def _draws(
    values: NDArray[np.float32], masks: NDArray[np.bool_], epsilons: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Whether each row is to explore, and exponentially distributed times [N, A] for `_first`."""
    assert values.shape == masks.shape, (values.shape, masks.shape)
    assert epsilons.shape == values.shape[:1], (epsilons.shape, values.shape)
    if not masks.any(axis=1).all():
        raise ValueError("a row of the action mask has no valid action")
    explore = rng.random(len(values)) < epsilons
    return explore, rng.exponential(size=values.shape)


def _first(
    times: NDArray[np.float64], masks: NDArray[np.bool_], weights: NDArray[np.float64] | NDArray[np.bool_]
) -> NDArray[np.int64]:
    """A random valid action of each row by `weights`: the first of times with these rates, one draw a button."""
    first: NDArray[np.int64] = np.where(masks, times / np.where(masks, weights, 1.0), np.inf).argmin(axis=1)
    return first
