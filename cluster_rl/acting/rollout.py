"""Rollout: several emulators played in step by one network.

Actors, `evaluate` and `debug_rollout` use it. In: environments and a network. Out: quantiles to choose actions by, then
one `Step` of each emulator. It keeps what the network needs from step to step: the newest observation, the previous
action and reward, and the recurrent state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cluster_rl.acting.policy import Policy
from cluster_rl.config import Config
from cluster_rl.emulator.console import Frame
from cluster_rl.emulator.env import Env, Observation, Step
from cluster_rl.emulator.spaces import NO_ACTION, observation_spec
from cluster_rl.model import QNetwork, State, build_model, copy_tensors
from cluster_rl.networks.frames import pack_screen
from cluster_rl.runs.checkpoint import read_params


def load_network(config: Config, path: Path) -> QNetwork:
    """The network with published parameters. Raises `UserError` if they are missing or do not fit."""
    network = build_model(config, observation_spec(config)).eval()
    copy_tensors(read_params(path), network.state_dict(), str(path))
    return network


class Rollout:
    """K emulators. The arrays are the newest observations, by emulator; take a copy of what is kept."""

    def __init__(self, envs: Sequence[Env], network: QNetwork) -> None:
        self.envs = envs
        count, spec = len(envs), network.spec
        self.shades = np.zeros((count, 72, 80), np.uint8)
        self.context = np.zeros((count, spec.context_size), np.uint8)
        self.crop = np.zeros((count, 2, spec.crop_size, spec.crop_size), np.uint8)
        self.mask = np.zeros((count, spec.num_actions), np.bool_)
        self._prev_action = np.zeros(count, np.int64)
        self._prev_reward = np.zeros(count, np.float32)
        self._state = network.initial_state(count)
        self._network = network
        self.refresh()

    def refresh(self) -> None:
        """To be called when the network's weights or noise have changed."""
        self._policy = Policy(self._network)

    @property
    def state(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """The recurrent state (h, c) before the next `act`, float32 [K, H] each."""
        return self._state[0][0].numpy(), self._state[1][0].numpy()

    def packed_screens(self) -> npt.NDArray[np.uint8]:
        """The newest screens in their stored form, uint8 [K, 72, 20]."""
        return pack_screen(self.shades)

    def start(self, row: int) -> None:
        """Begins an emulator's next episode, with a zero state."""
        observation = self.envs[row].start()
        self._observe(row, observation, NO_ACTION, 0.0)
        for part in self._state:
            part.numpy()[:, row] = 0.0  # through numpy: tensors made in inference mode refuse it outside

    def act(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Noisy and clean quantiles [K, A, quantiles] of the newest observations; the recurrent state goes on."""
        noisy, clean, self._state = self._forward()
        return noisy.numpy(), clean.numpy()

    def peek(self) -> npt.NDArray[np.float32]:
        """Clean quantiles [K, A, quantiles] of the newest observations; the recurrent state stays."""
        return self._forward()[1].numpy()

    def play(
        self, actions: Sequence[int], rows: Iterable[int], on_frame: Callable[[Frame], None] | None = None
    ) -> Iterator[tuple[int, Step]]:
        """Presses `actions[row]` for each of `rows`, then yields (row, step) one by one.

        While a row is yielded, its arrays still hold the observation that the action was chosen by. `on_frame` is
        handed every frame, as `Env.press` does.
        """
        rows = tuple(rows)
        # First all emulators, then all that looks at them: each side finds its own code and data in the cache.
        for row in rows:
            self.envs[row].press(actions[row], on_frame)
        for row in rows:
            step = self.envs[row].look()
            yield row, step
            self._observe(row, step.observation, actions[row], step.reward)

    def _observe(self, row: int, observation: Observation, action: int, reward: float) -> None:
        self.shades[row] = observation.screen
        self.context[row] = observation.context
        self.crop[row] = observation.crop
        self.mask[row] = observation.mask
        self._prev_action[row] = action
        self._prev_reward[row] = reward

    def _forward(self) -> tuple[torch.Tensor, torch.Tensor, State]:
        return self._policy.act(
            torch.from_numpy(self.shades),
            torch.from_numpy(self.context),
            torch.from_numpy(self.crop),
            torch.from_numpy(self._prev_action),
            torch.from_numpy(self._prev_reward),
            self._state,
        )
