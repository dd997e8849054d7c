"""Rollout: several emulators played in step by one network.

Actors, `evaluate` and `debug_rollout` use it. In: environments and a network. Out: quantiles to choose actions by, then
one `Step` of each emulator. It keeps what the network needs from step to step: the newest observation, the previous
action and reward, and the recurrent state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from cluster_rl.acting.policy import ActingState, Floats, Policy
from cluster_rl.config import Config
from cluster_rl.emulator.console import Frame
from cluster_rl.emulator.env import Env, Observation, Step
from cluster_rl.emulator.spaces import NO_ACTION, observation_spec
from cluster_rl.model import QNetwork, build_model, copy_tensors
from cluster_rl.networks.frames import pack_screen
from cluster_rl.runs.checkpoint import read_params


def load_network(config: Config, path: Path) -> QNetwork:
    """The network with published parameters. Raises `UserError` if they are missing or do not fit."""
    return network_of(config, read_params(path), path)


def network_of(config: Config, params: dict[str, Tensor], source: Path) -> QNetwork:
    """The network with parameters that were read from `source`. Raises `UserError` if they do not fit."""
    network = build_model(config, observation_spec(config)).eval()
    copy_tensors(params, network.state_dict(), str(source))
    return network


class Rollout:
    """K emulators. The arrays are the newest observations, by emulator; take a copy of what is kept.

    `packed` are the screens of the last `act` or `peek` in their stored form, uint8 [K, 72, 20].
    """

    def __init__(self, envs: Sequence[Env], network: QNetwork, bfloat16: bool = False) -> None:
        """`bfloat16` as for `Policy`."""
        self.envs = envs
        count, spec = len(envs), network.spec
        self.shades = np.zeros((count, 72, 80), np.uint8)
        self.packed = pack_screen(self.shades)
        self.context = np.zeros((count, spec.context_size), np.uint8)
        self.crop = np.zeros((count, 2, spec.crop_size, spec.crop_size), np.uint8)
        self.mask = np.zeros((count, spec.num_actions), np.bool_)
        self._prev_action = np.zeros(count, np.int64)
        self._prev_reward = np.zeros(count, np.float32)
        shape = (count, network.hidden_size)
        self._state: ActingState = (np.zeros(shape, np.float32), np.zeros(shape, np.float32))
        for row, env in enumerate(envs):
            env.recurrent_state = partial(self._kept_state, row)
        self._network, self._bfloat16 = network, bfloat16
        self.refresh()

    def refresh(self) -> None:
        """To be called when the network's weights or noise have changed."""
        self._policy = Policy(self._network, self._bfloat16)

    @property
    def state(self) -> ActingState:
        """The recurrent state (h, c) before the next `act`, float32 [K, H] each."""
        return self._state

    def start(self, row: int) -> None:
        """Begins an emulator's next episode, with a zero state or what was kept with the state that it begins at."""
        observation = self.envs[row].start()
        self._observe(row, observation, NO_ACTION, 0.0)
        for part, begins in zip(self._state, self._start_state(row), strict=True):
            part[row] = begins

    def act(self) -> tuple[Floats, Floats]:
        """Noisy and clean quantiles [K, A, quantiles] of the newest observations; the recurrent state goes on."""
        noisy, clean, self._state = self._forward()
        return noisy, clean

    def peek(self) -> Floats:
        """Clean quantiles [K, A, quantiles] of the newest observations; the recurrent state stays."""
        return self._forward()[1]

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

    def _kept_state(self, row: int) -> bytes:
        """The recurrent state of one emulator, as sequences store it: h and c, float16."""
        return np.concatenate([part[row] for part in self._state]).astype(np.float16).tobytes()

    def _start_state(self, row: int) -> tuple[Any, Any]:
        """h and c that the row's episode begins with: zeros, unless such were kept of a network of this width."""
        kept, width = self.envs[row].start_recurrent, self._network.hidden_size
        if len(kept) != 2 * width * np.float16().itemsize:
            return 0.0, 0.0
        values = np.frombuffer(kept, np.float16)
        return (values[:width], values[width:]) if np.isfinite(values).all() else (0.0, 0.0)

    def _observe(self, row: int, observation: Observation, action: int, reward: float) -> None:
        self.shades[row] = observation.screen
        self.context[row] = observation.context
        self.crop[row] = observation.crop
        self.mask[row] = observation.mask
        self._prev_action[row] = action
        self._prev_reward[row] = reward

    def _forward(self) -> tuple[Floats, Floats, ActingState]:
        self.packed = pack_screen(self.shades)
        return self._policy.act(
            self.shades, self.packed, self.context, self.crop, self._prev_action, self._prev_reward, self._state
        )
