"""Q-learning with a table: what the world's decoded state and our random actions are worth without a network.

A state is what the context vector says and what lies on the eight cells around the player. Both are in what every agent
sees, and nothing else is used of that: no screen, no memory of earlier steps, nothing alike in two states.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster_rl.game.buttons import NUM_BUTTONS

Key = bytes
_SALIENCY = 1  # the crop's second channel: doors, signs and people


@dataclasses.dataclass(frozen=True)
class Move:
    """One step: where, the valid buttons there (bool [A]), the button, and what it paid."""

    key: Key
    mask: npt.NDArray[np.bool_]
    action: int
    reward: float


@dataclasses.dataclass(frozen=True)
class Episode:
    """A played episode, with the state after its last move; `terminated` is not said of a time limit."""

    moves: Sequence[Move]
    end_key: Key
    end_mask: npt.NDArray[np.bool_]
    terminated: bool


def state_key(context: npt.NDArray[np.float32], crop: npt.NDArray[np.float32]) -> Key:
    """The table's row of one gymnasium observation: context [C], crop [2, S, S]."""
    middle = crop.shape[-1] // 2
    around = crop[_SALIENCY, middle - 1 : middle + 2, middle - 1 : middle + 2]
    return bytes(np.rint(context * 255).astype(np.uint8)) + bytes(np.rint(around * 255).astype(np.uint8))


class TableQ:
    """Values of states' buttons, learned from whole episodes swept backwards, the newest and some before it."""

    def __init__(self, gamma: float, settings: dict[str, Any], rng: np.random.Generator) -> None:
        self._gamma, self._trace, self._step_size = gamma, settings["trace"], settings["step_size"]
        self._kept, self._again = settings["episodes_kept"], settings["episodes_again"]
        self._rng = rng
        self._values: dict[Key, npt.NDArray[np.float64]] = {}
        self._counts: dict[Key, npt.NDArray[np.int64]] = {}
        self._episodes: list[Episode] = []

    def values(self, keys: Sequence[Key]) -> npt.NDArray[np.float32]:
        """[N, A]; 0 of what was never tried."""
        nothing = np.zeros(NUM_BUTTONS)
        return np.array([self._values.get(key, nothing) for key in keys], np.float32)

    def learn(self, episode: Episode) -> None:
        """Takes an episode in, and learns from it and from some of the last ones."""
        self._episodes = [*self._episodes[1 - self._kept :], episode]
        self._sweep(episode)
        for index in self._rng.integers(len(self._episodes), size=self._again):
            self._sweep(self._episodes[index])

    def _sweep(self, episode: Episode) -> None:
        """Each move's value towards its return: of the next state the best value, and the return that was played from
        there where it was more (Watkins' cut, except that a random action that did better is kept)."""
        ahead = 0.0 if episode.terminated else self._best(episode.end_key, episode.end_mask)
        after: Move | None = None
        for move in reversed(episode.moves):
            if after is not None:
                best = self._best(after.key, after.mask)
                ahead = (1.0 - self._trace) * best + self._trace * max(ahead, best)
            ahead = move.reward + self._gamma * ahead
            counts = self._counts.setdefault(move.key, np.zeros(NUM_BUTTONS, np.int64))
            values = self._values.setdefault(move.key, np.zeros(NUM_BUTTONS))
            counts[move.action] += 1
            # As a mean at first: the start at 0 says nothing.
            share = max(self._step_size, 1.0 / counts[move.action])
            values[move.action] += share * (ahead - values[move.action])
            after = move

    def _best(self, key: Key, mask: npt.NDArray[np.bool_]) -> float:
        values = self._values.get(key)
        return 0.0 if values is None else float(values[mask].max())
