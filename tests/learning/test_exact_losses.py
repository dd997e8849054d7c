"""The quantile loss on the right axis, and masks and weights of the mean."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cluster_rl.learning import losses


def test_quantile_huber_by_hand() -> None:
    # tau = 1/4, 3/4; kappa = 1. delta[k][k'] = target[k'] - predicted[k].
    predicted = torch.tensor([[0.0, 1.0]])
    targets = torch.tensor([[0.5, -2.0]])
    first = (0.25 * 0.125 + 0.75 * 1.5) / 2  # delta 0.5: huber 1/8; delta -2: huber 1.5, weight |1/4 - 1|
    second = (0.25 * 0.125 + 0.25 * 2.5) / 2  # delta -0.5, weight |3/4 - 1|; delta -3: huber 2.5
    assert losses.quantile_huber_loss(predicted, targets, 1.0).item() == pytest.approx(first + second)


def test_kappa_moves_the_threshold() -> None:
    predicted, targets = torch.zeros(1, 1), torch.full((1, 1), 4.0)
    # tau = 1/2: 0.5 * kappa (4 - kappa / 2) / kappa, and 0.5 * 8 / kappa once the error is inside.
    assert losses.quantile_huber_loss(predicted, targets, 2.0).item() == pytest.approx(0.5 * 3.0)
    assert losses.quantile_huber_loss(predicted, targets, 8.0).item() == pytest.approx(0.5 * 1.0)


def wrong_axis_loss(predicted: Tensor, targets: Tensor) -> Tensor:
    """The well-known mistake: tau goes with the target samples."""
    count = predicted.shape[-1]
    taus = (torch.arange(count) + 0.5) / count
    errors = targets.unsqueeze(-2) - predicted.unsqueeze(-1)
    huber = torch.where(errors.abs() <= 1, 0.5 * errors.square(), errors.abs() - 0.5)
    return ((taus.unsqueeze(0) - (errors.detach() < 0).float()).abs() * huber).mean(-1).sum(-1)


def fit_mixture(loss_function) -> Tensor:  # type: ignore[no-untyped-def]
    """Fits 10 quantiles to a return of 10 with probability 0.3, else 0."""
    predicted = torch.zeros(10, requires_grad=True)
    targets = torch.tensor([0.0] * 7 + [10.0] * 3)
    optimizer = torch.optim.SGD([predicted], lr=0.5)
    for _ in range(600):
        optimizer.zero_grad()
        loss_function(predicted, targets).backward()
        optimizer.step()
    return predicted.detach()


def test_quantiles_fit_a_mixture_and_the_wrong_axis_collapses() -> None:
    fitted = fit_mixture(lambda predicted, targets: losses.quantile_huber_loss(predicted, targets, 1.0))
    assert fitted[:6].abs().max() < 1.0  # taus up to 0.55 are in the mass at 0
    assert fitted[8:].min() > 9.0
    assert fitted.mean().item() == pytest.approx(3.0, abs=0.5)
    assert fit_mixture(wrong_axis_loss).std() < 1e-4


def test_weighted_step_mean_cuts_out_masked_steps() -> None:
    step_losses = torch.tensor([[1.0, 2.0], [4.0, math.nan]], requires_grad=True)
    mask = torch.tensor([[True, True], [True, False]])
    mean = losses.weighted_step_mean(step_losses, mask, torch.tensor([1.0, 0.5]))
    assert mean.item() == pytest.approx((1 + 4 + 0.5 * 2) / 3)
    mean.backward()
    assert step_losses.grad is not None
    torch.testing.assert_close(step_losses.grad, torch.tensor([[1 / 3, 1 / 6], [1 / 3, 0.0]]))
    assert not torch.isfinite((step_losses * mask).sum())  # multiplying by the mask would let it through


def test_auxiliary_loss_is_the_mean_cross_entropy() -> None:
    logits = torch.tensor([[[0.0, math.log(3.0)]]])  # probabilities 1/2 and 3/4
    expected = -(math.log(0.5) + math.log(0.75)) / 2
    assert losses.auxiliary_loss(logits, torch.tensor([[[0.0, 1.0]]])).item() == pytest.approx(expected)
