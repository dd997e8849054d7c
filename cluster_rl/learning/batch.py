"""`Batch`: what one update of the learner trains on, as time-major tensors on its device.

The replay fills numpy arrays of the same names; `Batch.from_numpy` moves them. With B burn-in rows, T trained rows, n
tail rows, N sequences, L = B + T + n: an item's burn-in of length b lies in rows [0, b), rows [b, B) are unused, its t
trained positions lie in rows [B, B + t), its tail in rows [B + t, B + last], the rest is unused. Unused rows may hold
anything that is a valid value of its field (an action below A, a previous action up to A, finite numbers).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster_rl.config import Config
from cluster_rl.networks.frames import Frames, prepare_frames, screens_of_packed


@dataclass(frozen=True)
class Batch:
    """Tensors of one batch; every time-indexed one is [L, N, ...]."""

    screen_packed: Tensor  # [L, N, 72, 20] uint8: 4 pixels a byte, pixel j in bits 2j and 2j + 1, shades 0-3
    context: Tensor  # [L, N, C] uint8: value / 255
    crop: Tensor  # [L, N, 2, S, S] uint8: value / 255
    mask: Tensor  # [L, N, A] bool: valid actions
    action: Tensor  # [L, N] int64: 0 where unused
    greedy: Tensor  # [L, N] bool: whether the action was the best valid one by the values it was chosen by
    reward: Tensor  # [L, N] float32: of the step taken at this row
    visits: Tensor  # [L, N] uint8: how often the map tile that the step entered had been in the episode; 0: none was
    prev_action: Tensor  # [L, N] int64: A where there is none
    prev_reward: Tensor  # [L, N] float32
    burn_in_length: Tensor  # [N] int64: b, 0..B
    train_length: Tensor  # [N] int64: t, 1..T
    last: Tensor  # [N] int64: the last recorded position, counted from row B
    terminated: Tensor  # [N] bool: the segment ended there by termination
    state_h: Tensor  # [1, N, H] float32: the actor's state before row 0
    state_c: Tensor  # [1, N, H] float32: zeros for a GRU
    weights: Tensor  # [N] float32: importance weights
    ids: Tensor  # [N] int64: of the sequences, for the priority update
    curiosity: Tensor | None = None  # [L, N] float32: what RND pays for the step taken at this row; None: nothing

    @classmethod
    def from_numpy(cls, arrays: Mapping[str, NDArray[Any]], device: torch.device) -> Batch:
        """Moves arrays of the fields' names to `device`: through pinned memory, asynchronously, where that is CUDA.

        On the CPU the tensors share the arrays' memory: leave the arrays alone until the update is done.
        """
        names = [field.name for field in fields(cls) if field.name != "curiosity"]
        return cls(**{name: _to_device(arrays[name], device) for name in names})

    @cached_property
    def frames(self) -> Frames:
        """All frames, M = L N, ready for any network's encoders: made once, however many networks see them."""
        return prepare_frames(
            screens_of_packed(self.screen_packed.flatten(0, 1)),
            self.context.flatten(0, 1),
            self.crop.flatten(0, 1),
            self.prev_action.flatten(0, 1),
            self.prev_reward.flatten(0, 1),
            self.mask.shape[-1],
        )

    @property
    def tensors(self) -> list[Tensor]:
        """All that there are."""
        return [value for field in fields(self) if (value := getattr(self, field.name)) is not None]

    @property
    def size(self) -> int:
        """Number of sequences, N."""
        return self.action.shape[1]

    def check(self, config: Config, num_actions: int) -> None:
        """Asserts shapes and types against the config; costs no transfer from the device."""
        rows = config.burn_in + config.unroll_length + config.n_step
        steps = (rows, self.size)
        state = (1, self.size, config.lstm_hidden_size)
        assert self.screen_packed.shape == (*steps, 72, 20), self.screen_packed.shape
        assert self.context.shape[:2] == steps, self.context.shape
        assert self.crop.shape[:3] == (*steps, 2), self.crop.shape
        assert self.mask.shape == (*steps, num_actions), self.mask.shape
        for name in ("action", "greedy", "reward", "visits", "prev_action", "prev_reward"):
            assert getattr(self, name).shape == steps, (name, getattr(self, name).shape)
        for name in ("burn_in_length", "train_length", "last", "terminated", "weights", "ids"):
            assert getattr(self, name).shape == (self.size,), (name, getattr(self, name).shape)
        assert self.state_h.shape == self.state_c.shape == state, (self.state_h.shape, state)
        for name, dtype in _DTYPES.items():
            assert getattr(self, name).dtype == dtype, (name, getattr(self, name).dtype)


_DTYPES = {
    **dict.fromkeys(("screen_packed", "context", "crop", "visits"), torch.uint8),
    **dict.fromkeys(("mask", "greedy", "terminated"), torch.bool),
    **dict.fromkeys(("reward", "prev_reward", "state_h", "state_c", "weights"), torch.float32),
    **dict.fromkeys(("action", "prev_action", "burn_in_length", "train_length", "last", "ids"), torch.int64),
}


def _to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
