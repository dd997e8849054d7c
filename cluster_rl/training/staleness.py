"""Staleness of recurrent states: how far Q-values from a replayed state lie from those of the true state.

A state stored in the replay was computed by older weights, from an older idea of what a state means. The learner's
Q-values after it are therefore not those that its own weights would give at that point of the episode. The measure is
that of Kapturowski et al. 2019, section 3; there it is taken at the first and the last trained position of a sequence.
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_VALUE = 1e-6
"""In reward units: keeps the measure finite where every true value is 0."""


def q_discrepancy(replayed: Tensor, true: Tensor) -> Tensor:
    """Delta Q = ||q(replayed state) - q(true state)||_2 / |max_a q(true state)|, without gradient.

    Args:
        replayed: [..., A] float32, Q-values in reward units and without noise (`targets.expected_values` of the clean
            quantiles) of the present weights, from the state that training starts with (stored or zero, with or without
            burn-in).
        true: [..., A] float32, those of the same weights at the same observation, from the state that they reach when
            they play the whole episode again from its start.

    Returns:
        [...] float32 >= 0, a fraction: 0 if the states are as good as each other. Positions are not averaged: the first
        and the last trained one tell different things. A maximum smaller than `SMALLEST_VALUE` counts as that.

    Raises:
        AssertionError: if shapes differ.
    """
    assert replayed.shape == true.shape, (replayed.shape, true.shape)
    with torch.no_grad():
        distance = (replayed - true).square().sum(-1).sqrt()
        return distance / true.amax(-1).abs().clamp(min=SMALLEST_VALUE)
