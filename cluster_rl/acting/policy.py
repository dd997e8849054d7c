"""Policy: a network as actors run it, one step of a few emulators at a time.

The actor process uses it. In: a `QNetwork` with weights and noise, then what each emulator shows. Out: quantiles and
the next recurrent state. With so few rows, a network costs what reading its weights and starting its operations cost:
between two steps the emulators have taken the processor's caches. So there are fewer operations here than in the
learner's form, on weights that are made ready once. The results are the same but for rounding.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from cluster_rl.model import QNetwork, State
from cluster_rl.networks.frames import expand_crop
from cluster_rl.networks.noisy_linear import NoisyLinear
from cluster_rl.networks.recurrent_cell import FeedForwardCell


class Policy:
    """One network at one moment. Make a new one after its weights or its noise have changed."""

    @torch.inference_mode()
    def __init__(self, network: QNetwork) -> None:
        self._network = network
        self._encode = _SlimEncoder(network) if network.kind == "slim" else network.encode_shades
        names = [name for name, _ in network.cell.named_parameters()]  # a cell's are in the order that its step takes
        self._cell = [_for_few_rows(network.cell.get_parameter(name)) for name in names]
        # The clean head and the noisy one, if there is noise, side by side.
        heads = [_folded_head(network, noise) for noise in ((False, True) if network.head_value.is_noisy else (False,))]
        self._hidden_weight = _for_few_rows(torch.cat([head[0] for head in heads]))
        self._hidden_bias = torch.cat([head[1] for head in heads])
        self._out_weight = torch.stack([head[2].t() for head in heads])  # [heads, 2H, A K]
        self._out_bias = torch.stack([head[3] for head in heads]).unsqueeze(1)  # [heads, 1, A K]

    @torch.inference_mode()
    def act(
        self, shades: Tensor, context: Tensor, crop: Tensor, prev_action: Tensor, prev_reward: Tensor, state: State
    ) -> tuple[Tensor, Tensor, State]:
        """One step of N emulators: inputs as for `QNetwork.encode_shades` with M = N, and the state before.

        Returns (noisy quantiles, clean quantiles, new state), quantiles [N, A, K]. Act on the noisy ones; initial
        priorities are computed from the clean ones.
        """
        features = self._encode(shades, context, crop, prev_action, prev_reward)
        outputs, state = self._step_cell(features, state)
        count, heads = len(outputs), len(self._out_weight)
        hidden = torch.addmm(self._hidden_bias, outputs, self._hidden_weight.t()).relu_()  # [N, heads 2H]
        hidden = hidden.view(count, heads, -1).transpose(0, 1)
        quantiles = torch.baddbmm(self._out_bias, hidden, self._out_weight)  # [heads, N, A K]
        quantiles = quantiles.view(heads, count, self._network.spec.num_actions, -1)
        return quantiles[-1], quantiles[0], state

    def _step_cell(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        """One step of the cell: features [N, F] -> outputs [N, H], state."""
        if isinstance(self._network.cell, nn.LSTM):
            hidden, memory = torch.lstm_cell(features, (state[0][0], state[1][0]), *self._cell)
            return hidden, (hidden.unsqueeze(0), memory.unsqueeze(0))
        if isinstance(self._network.cell, FeedForwardCell):
            weight, bias = self._cell
            return torch.addmm(bias, features, weight.t()).relu_(), state
        hidden = torch.gru_cell(features, state[0][0], *self._cell)
        return hidden, (hidden.unsqueeze(0), state[1])


class _SlimEncoder:
    """`QNetwork.encode_shades` of the slim network in half as many operations: scales and orders are in the weights."""

    def __init__(self, network: QNetwork) -> None:
        convs = [layer for layer in network.screen_encoder if isinstance(layer, nn.Conv2d)]
        self._convs = [(conv.weight, conv.bias, conv.stride, conv.padding) for conv in convs]
        self._convs[0] = (convs[0].weight * (1.0 / 3.0), *self._convs[0][1:])
        context, crop = network.context_encoder[0], network.crop_encoder[1]
        trunk, self._norm = network.trunk[0], network.trunk[1]
        assert isinstance(context, nn.Linear)
        assert isinstance(crop, nn.Linear)
        assert isinstance(trunk, nn.Linear)
        self._side_weight = torch.block_diag(context.weight * (1.0 / 255.0), crop.weight).t().contiguous()
        self._side_bias = torch.cat([context.bias, crop.bias])
        # The convs leave their features cell by cell; the network counts them channel by channel.
        screen, side = trunk.weight.split([trunk.in_features - len(self._side_bias), len(self._side_bias)], dim=1)
        screen = screen.unflatten(1, (convs[-1].out_channels, -1)).transpose(1, 2).flatten(1)
        self._trunk_weight = torch.cat([screen, side], dim=1).t().contiguous()
        self._trunk_bias = trunk.bias
        self._actions = np.eye(network.spec.num_actions + 1, network.spec.num_actions, dtype=np.float32)

    def __call__(
        self, shades: Tensor, context: Tensor, crop: Tensor, prev_action: Tensor, prev_reward: Tensor
    ) -> Tensor:
        screen = shades.unsqueeze(1).float()
        for weight, bias, stride, padding in self._convs:
            screen = torch.conv2d(screen, weight, bias, stride, padding).relu_()  # [N, channels, rows, columns]
        side = torch.cat([context.float(), expand_crop(crop).flatten(1)], dim=1)  # [N, C + 6 S S]
        side = torch.addmm(self._side_bias, side, self._side_weight).relu_()
        joined = torch.cat([screen.permute(0, 2, 3, 1).flatten(1), side], dim=1)
        features = torch.addmm(self._trunk_bias, joined, self._trunk_weight)
        features = self._norm(features).relu_()
        action = torch.from_numpy(self._actions[prev_action.numpy()])
        reward = torch.from_numpy(np.sign(prev_reward.numpy()) * np.log1p(np.abs(prev_reward.numpy())))
        return torch.cat([features, action, reward.unsqueeze(1)], dim=1)  # [N, F]


def _for_few_rows(weight: Tensor) -> Tensor:
    """The same weight [out, in], column by column in memory: a product with few rows is then half again as fast."""
    return weight.t().contiguous().t() if weight.dim() == 2 else weight


def _folded_head(network: QNetwork, noise: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The dueling head as two linear layers: weights [2H, H] and [A K, 2H], each followed by its bias.

    The second gives value + advantage - mean advantage: centring is linear, so it is done to the weights.
    """
    actions, quantiles = network.spec.num_actions, network.num_quantiles
    hidden_weight, hidden_bias = _weights(network.head_hidden, noise)
    value_weight, value_bias = _weights(network.head_value, noise)
    weight, bias = _weights(network.head_advantage, noise)
    by_action, bias_by_action = weight.view(actions, quantiles, -1), bias.view(actions, quantiles)
    advantage_weight = by_action - by_action.mean(0)
    out_weight = torch.cat([value_weight.expand_as(advantage_weight), advantage_weight], dim=2)
    out_bias = value_bias + bias_by_action - bias_by_action.mean(0)
    return hidden_weight, hidden_bias, out_weight.flatten(0, 1), out_bias.flatten()


def _weights(layer: NoisyLinear, noise: bool) -> tuple[Tensor, Tensor]:
    """Weight and bias of a noisy layer, with its present noise or without."""
    if not noise:
        return layer.weight, layer.bias
    weight = layer.weight + layer.weight_sigma * torch.outer(layer.noise_out, layer.noise_in)
    return weight, layer.bias + layer.bias_sigma * layer.noise_out
