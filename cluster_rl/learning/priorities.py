"""Sequence priorities and importance weights, as pure functions.

The learner turns the TD errors of its own forward pass into new priorities; the actors compute the initial ones from
the quantiles that they recorded while acting; the replay computes importance weights. T trained positions, n the n-step
length, R = T + n rows, N sequences, A actions, S streams of reward, K quantiles
of each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster_rl.config import Config
from cluster_rl.learning.targets import (
    advantage_penalties,
    loss_mask,
    quantile_targets,
    return_goes_on,
    stream_rewards,
    stream_values,
    taken_quantiles,
    weighted_sum,
)

# Keeps a perfectly predicted sequence in the draw; typical errors in h-space are 1e-2 to 1.
PRIORITY_FLOOR = 1e-4


def td_errors(taken: Tensor, targets: Tensor, weights: Sequence[float]) -> Tensor:
    """Mean of the targets less mean of the prediction, in the space that is trained, and over streams their weighted
    sum: [T, N, S K] each -> [T, N]."""
    streams = len(weights)
    by_stream = stream_values(targets, False, streams) - stream_values(taken, False, streams)  # [T, N, S]
    return weighted_sum(by_stream, weights)


def sequence_priorities(errors: Tensor, mask: Tensor, eta: float) -> Tensor:
    """eta max + (1 - eta) mean of a sequence's absolute TD errors, at least the floor (Kapturowski et al. 2019).

    errors [T, N], of either sign; mask [T, N] bool with at least one trained step a sequence. Returns [N].
    """
    assert errors.shape == mask.shape, (errors.shape, mask.shape)
    counted = torch.where(mask, errors.abs(), torch.zeros_like(errors))
    mean = counted.sum(0) / mask.sum(0)
    return (eta * counted.amax(0) + (1.0 - eta) * mean).clamp(min=PRIORITY_FLOOR)


def actor_priorities(
    quantiles: Tensor,
    masks: Tensor,
    actions: Tensor,
    greedy: Tensor,
    rewards: Tensor,
    visits: Tensor,
    train_length: Tensor,
    last: Tensor,
    terminated: Tensor,
    config: Config,
) -> Tensor:
    """Initial priorities of finished windows from what the actor computed while it acted.

    The same targets, cuts, rescaling, mix and masks as the learner's, with the actor's own quantiles on both sides.

    Args:
        quantiles: [R, N, A, S K] float32, without noise, row 0 the first trained position; unused rows zero.
        masks: [R, N, A] bool.
        actions: [R, N] int64, 0 where unused.
        greedy: [R, N] bool, as `Batch` has it.
        rewards: [R, N] float32.
        visits: [R, N] uint8, as `Batch` has them.
        train_length: [N] int64, 1..T.
        last: [N] int64, the last recorded row.
        terminated: [N] bool.

    Returns:
        [N] float32.
    """
    unroll_length, weights = quantiles.shape[0] - config.n_step, config.stream_weights
    targets = quantile_targets(
        quantiles,
        quantiles,
        masks,
        stream_rewards(rewards, visits, None, config.rewards.novelty, weights),
        last,
        terminated,
        n_step=config.n_step,
        gammas=config.stream_gammas,
        weights=weights,
        rescaling=config.value_rescaling,
        goes_on=return_goes_on(config.return_cut, greedy, actions, quantiles, masks, config.value_rescaling, weights),
        penalties=advantage_penalties(
            config.advantage_alpha, quantiles, actions, masks, config.value_rescaling, weights
        ),
    )
    taken = taken_quantiles(quantiles[:unroll_length], actions[:unroll_length])
    mask = loss_mask(train_length, unroll_length)
    return sequence_priorities(td_errors(taken, targets, weights), mask, config.priority_eta)


def importance_weights(probabilities: NDArray[np.float64], beta: float) -> NDArray[np.float32]:
    """(N P(i))^-beta over the largest of the batch (Schaul et al. 2016).

    Probabilities of the draw, [batch] > 0 -> weights [batch] in (0, 1]. The replay's size N cancels out.
    """
    weights: NDArray[np.float32] = ((probabilities.min() / probabilities) ** beta).astype(np.float32)
    return weights
