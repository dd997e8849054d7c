"""A sampled batch as numpy arrays: their names and shapes, and how one sequence fills its column.

Runs in the learner. In: decoded sequence blocks. Out: time-major arrays, named as in `learning.batch.Batch`, whose rows
`learning/batch.py` explains.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cluster_rl.learning.sequences import SCREEN_PACKED_SHAPE, BlockSpec
from cluster_rl.wire.codec import BlockArrays, SequenceHeader


def empty_batch(spec: BlockSpec, batch_size: int) -> dict[str, npt.NDArray[Any]]:
    """A batch of nothing: zeros, with every action valid."""
    steps = (spec.max_positions, batch_size)
    return {
        "screen_packed": np.zeros((*steps, *SCREEN_PACKED_SHAPE), np.uint8),
        "context": np.zeros((*steps, spec.context_size), np.uint8),
        "crop": np.zeros((*steps, 2, spec.crop_side, spec.crop_side), np.uint8),
        "mask": np.ones((*steps, spec.num_actions), np.bool_),
        "action": np.zeros(steps, np.int64),
        "greedy": np.zeros(steps, np.bool_),
        "reward": np.zeros(steps, np.float32),
        "visits": np.zeros(steps, np.uint8),
        "prev_action": np.zeros(steps, np.int64),
        "prev_reward": np.zeros(steps, np.float32),
        "burn_in_length": np.zeros(batch_size, np.int64),
        "train_length": np.zeros(batch_size, np.int64),
        "last": np.zeros(batch_size, np.int64),
        "terminated": np.zeros(batch_size, np.bool_),
        "state_h": np.zeros((1, batch_size, spec.hidden_size), np.float32),
        "state_c": np.zeros((1, batch_size, spec.hidden_size), np.float32),
        "weights": np.zeros(batch_size, np.float32),
        "ids": np.zeros(batch_size, np.int64),
    }


def fill_column(
    batch: dict[str, npt.NDArray[Any]], column: int, header: SequenceHeader, arrays: BlockArrays, spec: BlockSpec
) -> None:
    """Writes one sequence into its column: burn-in in rows [0, b), the rest from row `burn_in` on, padding between."""
    b = header.burn_in_length
    end = spec.burn_in + header.positions - b
    prev_action, prev_reward = arrays.previous(header)
    for name, values in (
        ("screen_packed", arrays.screen_packed),
        ("context", arrays.context),
        ("crop", arrays.crop),
        ("mask", arrays.mask),
        ("action", arrays.action),
        ("greedy", arrays.greedy),
        ("reward", arrays.reward),
        ("visits", arrays.visits),
        ("prev_action", prev_action),
        ("prev_reward", prev_reward),
    ):
        rows = batch[name][:, column]
        padding = name == "mask"
        rows[:b] = values[:b]
        rows[b : spec.burn_in] = padding
        rows[spec.burn_in : end] = values[b:]
        rows[end:] = padding
    batch["burn_in_length"][column] = b
    batch["train_length"][column] = header.train_length
    batch["last"][column] = header.train_length + header.tail_length - 1
    batch["terminated"][column] = header.terminated
    batch["state_h"][0, column] = arrays.state_h
    batch["state_c"][0, column] = arrays.state_c
