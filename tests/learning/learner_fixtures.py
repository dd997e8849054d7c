"""A small learner, and batches that hold every kind of item, for the tests of the learner."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from cluster_rl.config import Config, ModelConfig
from cluster_rl.learning.batch import Batch
from cluster_rl.learning.r2d2 import R2D2
from cluster_rl.model import ObservationSpec
from cluster_rl.networks.frames import pack_screen

SPEC = ObservationSpec(context_size=5, crop_size=3, num_actions=3, aux_slots=(0, 3))
CONFIG = Config(
    burn_in=3,
    unroll_length=4,
    n_step=2,
    gamma=0.9,
    lstm_hidden_size=8,
    num_quantiles=4,
    learning_rate=1e-3,
    target_update_interval=3,
    averaging_updates=3,
    max_grad_norm=1e9,
    model=ModelConfig(kind="slim", conv_channels=[2], context_width=8, trunk_width=8, noisy_sigma=0.5),
)
CPU = torch.device("cpu")


def replace_model(**changes: Any) -> ModelConfig:
    return msgspec.structs.replace(CONFIG.model, **changes)


def random_arrays(config: Config, size: int, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """A valid batch of every kind of item; unused rows hold random, valid filler."""
    rng = np.random.default_rng(seed)
    rows = (config.burn_in + config.unroll_length + config.n_step, size)
    mask = rng.random((*rows, SPEC.num_actions)) < 0.6
    mask[..., 1] |= ~mask.any(-1)
    train_length = rng.integers(1, config.unroll_length + 1, size)
    train_length[0] = config.unroll_length
    tail = rng.integers(1, config.n_step + 1, size)
    return {
        "screen_packed": pack_screen(rng.integers(0, 4, (*rows, 72, 80), dtype=np.uint8)),
        "context": rng.integers(0, 256, (*rows, SPEC.context_size), dtype=np.uint8),
        "crop": rng.integers(0, 256, (*rows, 2, 3, 3), dtype=np.uint8),
        "mask": mask,
        "action": rng.integers(0, SPEC.num_actions, rows),
        "visits": np.random.default_rng([seed, 2]).integers(0, 4, rows, np.uint8),
        "greedy": np.random.default_rng([seed, 1]).random(rows) < 0.6,
        "reward": rng.normal(size=rows).astype(np.float32),
        "prev_action": rng.integers(0, SPEC.num_actions + 1, rows),
        "prev_reward": rng.normal(size=rows).astype(np.float32),
        "burn_in_length": rng.integers(0, config.burn_in + 1, size),
        "train_length": train_length,
        "last": train_length + tail - 1,
        "terminated": rng.random(size) < 0.5,
        "state_h": rng.normal(size=(1, size, config.lstm_hidden_size)).astype(np.float32) * 0.5,
        "state_c": rng.normal(size=(1, size, config.lstm_hidden_size)).astype(np.float32),
        "weights": rng.uniform(0.2, 1.0, size).astype(np.float32),
        "ids": np.arange(size),
    }


def random_batch(size: int = 6, seed: int = 0, config: Config = CONFIG) -> Batch:
    return Batch.from_numpy(random_arrays(config, size, seed), CPU)


def make(config: Config = CONFIG, seed: int = 1) -> R2D2:
    """A learner whose target network has other weights than the online one, and noise drawn.

    Advantages are steep, so that which action is best depends on the recurrent state.
    """
    learner = R2D2(config, SPEC, CPU, seed)
    learner.target.load_state_dict(R2D2(config, SPEC, CPU, seed + 50).online.state_dict())
    with torch.no_grad():
        for network in (learner.online, learner.averaged, learner.target):
            network.head_advantage.weight.mul_(10.0)
    learner.online.resample_noise(torch.Generator().manual_seed(5))
    learner.target.resample_noise(torch.Generator().manual_seed(6))
    return learner


def items(batch: Batch, indices: slice) -> Batch:
    """Some of a batch's sequences."""
    flat = ("burn_in_length", "train_length", "last", "terminated", "weights", "ids")
    parts = {f.name: getattr(batch, f.name) for f in fields(batch) if f.name != "curiosity"}
    return Batch(**{name: x[indices] if name in flat else x[:, indices] for name, x in parts.items()})


def gradients(learner: R2D2, batch: Batch) -> list[Tensor]:
    parameters = list(learner.online.parameters())
    return list(torch.autograd.grad(learner.loss(batch).total, parameters))
