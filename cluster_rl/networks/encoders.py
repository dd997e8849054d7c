"""Encoders of single frames: screen, map-memory crop and context, for the unified and the slim network.

Actors and the learner run them. In: one part of `Frames` each. Out: features, which the network joins. How they start
is here as well.

Names: M frames, C context slots, S side of the map-memory crop.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from cluster_rl.config import Config
from cluster_rl.errors import UserError
from cluster_rl.networks.frames import CROP_PLANES


class ResidualBlock(nn.Module):
    """Two 3x3 convs around a skip connection, activation first (IMPALA's residual block)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(functional.relu(inputs))
        out: Tensor = inputs + self.second(functional.relu(hidden))
        return out


class SpatialAttention(nn.Module):
    """Self-attention over the cells of a feature map, with a learned vector for each position and a skip connection."""

    def __init__(self, channels: int, cells: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.position = nn.Parameter(torch.randn(cells, channels) * 0.02)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, inputs: Tensor) -> Tensor:
        frames, channels, height, width = inputs.shape
        tokens = inputs.flatten(2).transpose(1, 2)  # [M, cells, C]
        hidden = self.qkv(self.norm(tokens) + self.position)
        hidden = hidden.view(frames, height * width, 3, self.heads, channels // self.heads)
        query, key, value = hidden.permute(2, 0, 3, 1, 4)  # [M, heads, cells, C / heads] each
        mixed = functional.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.out(mixed.transpose(1, 2).flatten(2))
        out: Tensor = tokens.transpose(1, 2).reshape(frames, channels, height, width)
        return out


def residual_tower(config: Config) -> nn.Sequential:
    """Screen encoder of the unified network: [M, 1, 72, 80] -> [M, features].

    Cells follow the console's grid: the stem and first pooling leave 18 x 20 cells, one for each 8-pixel tile of the
    full screen; the second stage's pooling leaves 9 x 10, one for each 16-pixel square that the player walks on. Later
    stages keep that. The last, adaptive max-pooling keeps where things are, in 5 x 5 regions.
    """
    channels = config.model.conv_channels
    layers: list[nn.Module] = []
    for stage, width in enumerate(channels):
        if stage == 0:
            layers.append(nn.Conv2d(1, width, 4, stride=2, padding=1))
        else:
            layers.append(nn.Conv2d(channels[stage - 1], width, 3, padding=1))
        if stage < 2:
            layers.append(nn.MaxPool2d(3, stride=2, padding=1))
        layers += [ResidualBlock(width) for _ in range(config.model.residual_blocks)]
    if config.use_spatial_attention:
        heads = config.model.attention_heads
        if channels[-1] % heads:
            raise UserError(
                f"model.attention_heads: {heads} heads do not divide the last of model.conv_channels ({channels[-1]})"
            )
        cells = 9 * 10 if len(channels) > 1 else 18 * 20
        layers.append(SpatialAttention(channels[-1], cells, heads))
    return nn.Sequential(*layers, nn.ReLU(inplace=True), nn.AdaptiveMaxPool2d((5, 5)), nn.Flatten())


def small_tower(config: Config) -> nn.Sequential:
    """Screen encoder of the slim network: [M, 1, 72, 80] -> [M, features].

    The first conv's windows are the 16-pixel squares of the full screen that the player walks on, each seen once: 9 x
    10 cells, at a third of the cost of overlapping windows. The second halves that to 5 x 5; later ones keep it.
    """
    layers: list[nn.Module] = []
    previous = 1
    for stage, width in enumerate(config.model.conv_channels):
        kernel, stride, padding = (8, 8, 0) if stage == 0 else (3, 2 if stage == 1 else 1, 1)
        layers += [nn.Conv2d(previous, width, kernel, stride=stride, padding=padding), nn.ReLU(inplace=True)]
        previous = width
    return nn.Sequential(*layers, nn.Flatten())


def crop_encoder(config: Config, crop_size: int) -> nn.Sequential:
    """[M, 6, S, S] -> [M, context_width]; the unified network looks at neighbourhoods first."""
    cells = crop_size**2
    width = config.model.context_width
    if config.model.kind == "slim":
        return nn.Sequential(nn.Flatten(), nn.Linear(CROP_PLANES * cells, width), nn.ReLU(inplace=True))
    convs = [
        nn.Conv2d(CROP_PLANES, 16, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(inplace=True),
    ]
    return nn.Sequential(*convs, nn.Flatten(), nn.Linear(16 * cells, width), nn.ReLU(inplace=True))


def context_encoder(config: Config, context_size: int) -> nn.Sequential:
    """[M, C] -> [M, context_width]; the unified network has a second layer."""
    width = config.model.context_width
    layers = [nn.Linear(context_size, width), nn.ReLU(inplace=True)]
    if config.model.kind == "unified":
        layers += [nn.Linear(width, width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def initialise_for_relu(layer: nn.Module) -> None:
    """He et al. 2015. PyTorch's own start shrinks differences between pictures to a tenth before the recurrent cell."""
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
