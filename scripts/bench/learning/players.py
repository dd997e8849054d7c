"""Agents that play without a network: random valid buttons, our random actions alone, and the Q-table with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cluster_rl.acting.exploration import Exploration, acting_epsilons, epsilon_ladder
from cluster_rl.acting.wandering import wander_weights
from cluster_rl.config import Config
from cluster_rl.game.buttons import NUM_BUTTONS

from .agents import TABLE_SETTINGS
from .cpu import Budget
from .emulators import record_infos, start_emulators
from .record import Recorder
from .starts import Starts
from .table_q import Episode, Move, TableQ, state_key

_TIE_BREAK = 1e-3  # of a value, at most: among buttons that are worth the same, any


def play(agent: str, config: Config, recorder: Recorder, budget: Budget, starts: Starts | None) -> int:
    """Plays as `random`, `explore` or `table_q` until the budget is spent; returns the env steps."""
    rng = np.random.default_rng([config.base_seed, 2])
    env = start_emulators(config, recorder, starts)
    exploration = Exploration(
        env.num_envs, config.epsilon_hold_steps_max, config.wander_every_steps, config.wander_steps
    )
    table = _Learning(config, env.num_envs, rng) if agent == "table_q" else None
    ladder = epsilon_ladder(env.num_envs, config.epsilon_base, config.epsilon_alpha)
    values, epsilons = np.zeros((env.num_envs, NUM_BUTTONS), np.float32), np.ones(env.num_envs)
    observations = env.reset()
    env_steps = 0
    while not budget.is_spent(env_steps, recorder.cpu):
        masks = observations["action_mask"].astype(np.bool_)
        weights = masks.astype(np.float64)
        if agent != "random":
            crops = np.rint(observations["crop"] * 255).astype(np.uint8)
            weights = wander_weights(masks, crops, observations["context"], config.frontier_weight)
        if table is not None:
            values = table.values(observations)
            # As our actors: random until there is enough to learn from.
            epsilons = acting_epsilons(ladder, int(env_steps >= config.min_replay_transitions))
        actions = exploration.select(values, masks, weights.__getitem__, epsilons, rng)
        observations, rewards, ended, infos = env.step(actions)
        if table is not None:
            table.add(masks, actions, rewards, ended, infos)
        for row in np.flatnonzero(ended):
            exploration.release(row)
        env_steps += len(infos)
        record_infos(recorder, starts, infos, env_steps)
    env.close()
    return env_steps


class _Learning:
    """The table on a vector of emulators: whose episodes are open, and what they were at."""

    def __init__(self, config: Config, emulators: int, rng: np.random.Generator) -> None:
        self._table, self._rng = TableQ(config.gamma, TABLE_SETTINGS, rng), rng
        self._open: list[list[Move]] = [[] for _ in range(emulators)]
        self._keys: list[bytes] = []

    def values(self, observations: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """[N, A], with a little noise that breaks ties."""
        self._keys = [state_key(*pair) for pair in zip(observations["context"], observations["crop"], strict=True)]
        values = self._table.values(self._keys)
        return values + np.float32(_TIE_BREAK) * self._rng.random(values.shape, np.float32)

    def add(
        self,
        masks: npt.NDArray[np.bool_],
        actions: npt.NDArray[np.int64],
        rewards: npt.NDArray[np.float32],
        ended: npt.NDArray[np.bool_],
        infos: list[dict[str, Any]],
    ) -> None:
        """One step of all emulators from where `values` was asked last."""
        for row, info in enumerate(infos):
            self._open[row].append(Move(self._keys[row], masks[row], int(actions[row]), float(rewards[row])))
            if ended[row]:
                last = info["terminal_observation"]
                key, mask = state_key(last["context"], last["crop"]), last["action_mask"].astype(np.bool_)
                self._table.learn(Episode(self._open[row], key, mask, not info["TimeLimit.truncated"]))
                self._open[row] = []
