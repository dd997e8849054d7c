"""The losses, as pure functions: one value for each step, and the weighted mean over the steps that are trained.

The learner calls them with float32 tensors outside autocast. T trained positions, N sequences, K quantiles.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def quantile_huber_loss(predicted: Tensor, targets: Tensor, kappa: float) -> Tensor:
    """Quantile regression with a Huber threshold (Dabney et al. 2018, QR-DQN eq. 10), one value for each step.

    Args:
        predicted: [..., K] quantiles of the taken action; the k-th belongs to tau_k = (k + 1/2) / K.
        targets: [..., K'] samples of the return, without gradient.
        kappa: the error at which the loss turns from quadratic to linear.

    Returns:
        [...]: the mean over target samples, summed over predicted quantiles. tau goes with the PREDICTED axis: on the
        other one all quantiles collapse onto one value.
    """
    assert predicted.shape[:-1] == targets.shape[:-1], (predicted.shape, targets.shape)
    assert predicted.dtype == targets.dtype == torch.float32, (predicted.dtype, targets.dtype)
    count = predicted.shape[-1]
    taus = (torch.arange(count, device=predicted.device, dtype=torch.float32) + 0.5) / count  # [K]
    errors = targets.unsqueeze(-2) - predicted.unsqueeze(-1)  # [..., K, K']
    # One fused operation; a zero that is expanded costs no memory.
    huber = functional.huber_loss(errors, errors.new_zeros(()).expand_as(errors), reduction="none", delta=kappa) / kappa
    asymmetry = torch.where(errors.detach() < 0, 1.0 - taus.unsqueeze(-1), taus.unsqueeze(-1))  # [..., K, K']
    return (asymmetry * huber).mean(-1).sum(-1)


def auxiliary_loss(logits: Tensor, future: Tensor) -> Tensor:
    """Cross entropy of predicted future context slots: logits and future (0..1) [..., S] -> [...], mean over slots.

    Context slots are flags or fractions, so a logistic output fits both.
    """
    assert logits.shape == future.shape, (logits.shape, future.shape)
    return functional.binary_cross_entropy_with_logits(logits, future, reduction="none").mean(-1)


def weighted_step_mean(step_losses: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    """Sum over trained steps of weight times loss, over the number of trained steps of the batch: a scalar.

    step_losses [T, N], mask [T, N] bool, weights [N] importance weights. Masked steps are cut out, not multiplied by
    zero, so that whatever they hold cannot reach the result.
    """
    assert step_losses.shape == mask.shape, (step_losses.shape, mask.shape)
    assert weights.shape == mask.shape[1:], (weights.shape, mask.shape)
    counted = torch.where(mask, step_losses * weights, torch.zeros_like(step_losses))
    return counted.sum() / mask.sum()
