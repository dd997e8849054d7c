"""The environment as the agents that are not ours play it: Stable-Baselines3's vector, a process an emulator."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from cluster_rl.acting.wandering import wander_weights
from cluster_rl.config import Config
from cluster_rl.emulator.env import Env, make_env
from cluster_rl.emulator.spaces import NO_ACTION
from cluster_rl.jobs.signals import die_with_parent

from .agents import action_count
from .record import Recorder
from .starts import Starts

FORBIDDEN_LOGIT = -1.0e8
"""Of a masked button: far below all others, without the infinities that spoil gradients; sb3-contrib's own."""


class AsOurs(gymnasium.Wrapper[dict[str, Any], np.int64, dict[str, Any], np.int64]):
    """What else our network and our actors know: the previous action and reward, and how likely each button is.

    `log_weights`, float32 [actions]: of valid buttons all 0, or with `prior` the logarithm of the weights of our random
    actions; `FORBIDDEN_LOGIT` of masked ones. `info` has the episode that a step was of, as its start states name it.
    """

    def __init__(self, env: Env, config: Config, prior: bool, index: int = 0) -> None:
        super().__init__(env)
        self._frontier_weight = config.frontier_weight
        self._episode = (index, 0, 0, 0)
        self._env, self._prior, self._actions = env, prior, action_count(config)
        self.action_space = gymnasium.spaces.Discrete(self._actions)
        box, spaces = gymnasium.spaces.Box, dict(env.observation_space.items())
        spaces["prev_action"] = box(0, NO_ACTION, (1,), np.uint8)
        spaces["prev_reward"] = box(-np.inf, np.inf, (1,), np.float32)
        spaces["log_weights"] = box(-np.inf, np.inf, (self._actions,), np.float32)
        self.observation_space = gymnasium.spaces.Dict(spaces)

    def reset(self, **arguments: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        *same, number = self._episode
        self._episode = self._env.episode_id = (*same, number + 1)
        observation, info = self.env.reset(**arguments)
        return self._with_more(observation, NO_ACTION, 0.0), info

    def step(self, action: np.int64) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        more = self._with_more(observation, int(action), float(reward))
        return more, float(reward), terminated, truncated, info | {"episode_id": self._episode}

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """The valid buttons, bool [actions]; MaskablePPO asks for it by this name."""
        return self._env.action_masks()[: self._actions]

    def _with_more(self, observation: dict[str, Any], action: int, reward: float) -> dict[str, Any]:
        seen = self._env.observation
        weights = seen.mask[np.newaxis].astype(np.float64)
        if self._prior:
            arrays = (part[np.newaxis] for part in (seen.mask, seen.crop, seen.context))
            weights = wander_weights(*arrays, self._frontier_weight)
        more = {
            "prev_action": np.array([action], np.uint8),
            "prev_reward": np.array([reward], np.float32),
            "log_weights": log_weights(weights[0, : self._actions]),
        }
        return observation | more


def log_weights(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Logits of buttons that are as likely as their weights; weight 0 is a masked one."""
    valid = weights > 0
    return np.where(valid, np.log(np.where(valid, weights, 1.0)), FORBIDDEN_LOGIT).astype(np.float32)


def start_emulators(config: Config, recorder: Recorder, starts: Starts | None, prior: bool = False) -> Any:
    """All emulators of the config, in processes that the recorder's clock knows of."""
    from stable_baselines3.common.vec_env import SubprocVecEnv

    parent_pid = os.getpid()

    def maker(index: int) -> Any:
        def make() -> AsOurs:
            # In the child. Each holds the others' pipes open, so none would see that their owner is gone.
            die_with_parent(parent_pid, signal.SIGKILL)
            env = make_env(config, index, starts=starts.of(index) if starts is not None else None)
            return AsOurs(env, config, prior, index)

        return make

    # Forked before anything has computed in this process, so that there is no thread whose lock could be copied.
    env = SubprocVecEnv([maker(i) for i in range(config.num_actors * config.envs_per_actor)], start_method="fork")
    recorder.cpu.pids += [process.pid for process in env.processes]
    return env


def record_infos(recorder: Recorder, starts: Starts | None, infos: list[Mapping[str, Any]], env_steps: int) -> None:
    """Notes what one step of all emulators reached."""
    if starts is not None:
        starts.note(infos)
    for info in infos:
        recorder.milestones(info["milestones"], env_steps)
        if "summary" in info:
            recorder.episode(info["summary"], env_steps)
