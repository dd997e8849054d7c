"""A linear layer with noise on its weights, by which a head can explore.

Actors and the learner run it. In: activations, and noise that `QNetwork.resample_noise` draws. Out: activations.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class NoisyLinear(nn.Module):
    """Linear layer with factorised Gaussian noise on its weights (Fortunato et al. 2018); sigma 0 makes it plain."""

    noise_in: Tensor
    noise_out: Tensor

    def __init__(self, in_features: int, out_features: int, sigma: float) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.is_noisy = sigma > 0
        bound = 1.0 / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.empty(out_features, in_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_features).uniform_(-bound, bound))
        if self.is_noisy:
            self.weight_sigma = nn.Parameter(torch.full((out_features, in_features), sigma * bound))
            self.bias_sigma = nn.Parameter(torch.full((out_features,), sigma * bound))
            # Not part of the weights: the noise is drawn anew before use, from a generator that is checkpointed.
            self.register_buffer("noise_in", torch.zeros(in_features), persistent=False)
            self.register_buffer("noise_out", torch.zeros(out_features), persistent=False)

    def forward(self, inputs: Tensor, noise: bool) -> Tensor:
        """[..., in] -> [..., out], with the noise drawn last or without any."""
        clean = functional.linear(inputs, self.weight, self.bias)
        if not (noise and self.is_noisy):
            return clean
        # The noise of a weight is a product, so it can be moved to inputs and outputs: no noisy weights are built,
        # which would cost an actor with few rows more than the rest of the head.
        return clean + self.noise_out * functional.linear(inputs * self.noise_in, self.weight_sigma, self.bias_sigma)
