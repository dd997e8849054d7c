"""Policy: a network as actors run it, one step of a few emulators at a time.

The actor process uses it. In: a `QNetwork` with weights and noise, then what each emulator shows. Out: quantiles and
the next recurrent state. The results are those of the learner's form but for rounding, at less cost:

- a screen is encoded once: actors see the same one again and again, in front of a wall, in a text or on the way back,
  and several emulators of one actor see the same ones. What follows from a screen alone is kept until the weights
  change;
- with so few rows, a network costs what reading its weights and starting its operations cost. So weights are made ready
  once, and small products are numpy's, which starts an operation in a third of the time.

Names: N emulators, n screens, A actions, S streams, K quantiles of each, H recurrent units, F the trunk's
output, I the cell's input.
"""

from __future__ import annotations

import copy
import functools

import numpy as np
import numpy.typing as npt
import threadpoolctl
import torch
from torch import Tensor, nn

from cluster_rl.model import QNetwork
from cluster_rl.networks.frames import CROP_CODE_STEP, CROP_CODES, CROP_PLANES, expand_crop
from cluster_rl.networks.noisy_linear import NoisyLinear
from cluster_rl.networks.recurrent_cell import FeedForwardCell

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
ActingState = tuple[Floats, Floats]
"""Hidden and cell state, [N, H] each, as `model.State` has them."""

_MAX_SCREENS = 1024
"""Screens that are remembered: more than an actor of 16 emulators sees in 80 steps, and a few MB."""

_FEW_WEIGHTS = 200_000
"""Up to so many weights (0.8 MB) numpy multiplies faster than torch does; they then fit the processor's caches."""


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16; without them it takes longer than float32."""
    questions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, question, bool)() for question in questions)


@functools.cache
def _use_one_blas_thread() -> None:
    """For this process from now on: numpy's threads wait for each other longer than such small products take."""
    threadpoolctl.threadpool_limits(1, user_api="blas")


class Policy:
    """One network at one moment. Make a new one after its weights or its noise have changed.

    With `bfloat16`, the unified network's screen encoder and all large products compute in it, as the learner's
    encoders do on a GPU: their weights are then read in half the time.
    """

    @torch.inference_mode()
    def __init__(self, network: QNetwork, bfloat16: bool = False) -> None:
        _use_one_blas_thread()
        spec = network.spec
        self._encoder = _SlimEncoder(network) if network.kind == "slim" else _UnifiedEncoder(network, bfloat16)
        self._known: dict[bytes, int] = {}  # packed screen to its row of `_parts`
        self._parts = np.empty((_MAX_SCREENS, self._encoder.width), np.float32)
        self._one_hot = np.eye(spec.num_actions + 1, spec.num_actions, dtype=np.float32)
        self._cell = _cell(network.cell, bfloat16)
        self._hidden_size = network.hidden_size
        # The clean head and the noisy one, if there is noise.
        noises = (False, True) if network.head_value.is_noisy else (False,)
        self._heads = [_folded_head(network, noise, bfloat16) for noise in noises]
        self._shape = (-1, spec.num_actions, network.head_outputs)

    def act(
        self,
        shades: Bytes,
        packed: Bytes,
        context: Bytes,
        crop: Bytes,
        prev_action: npt.NDArray[np.int64],
        prev_reward: Floats,
        state: ActingState,
    ) -> tuple[Floats, Floats, ActingState]:
        """One step of N emulators: inputs as for `QNetwork.encode_shades` with M = N, and the state before.

        `packed` are the same screens as `shades`, packed. Returns (noisy quantiles, clean quantiles, new state),
        quantiles [N, A, S K]. Act on the noisy ones; initial priorities are computed from the clean ones.
        """
        features = self._encoder.join(self._screen_parts(shades, packed), context, crop)
        reward = np.log1p(np.abs(prev_reward))[:, np.newaxis]
        np.copysign(reward, prev_reward[:, np.newaxis], out=reward)
        outputs, state = self._cell((features, self._one_hot[prev_action], reward), state)
        quantiles = [out(np.maximum(hidden(outputs), 0.0)).reshape(self._shape) for hidden, out in self._heads]
        return quantiles[-1], quantiles[0], state

    def _screen_parts(self, shades: Bytes, packed: Bytes) -> Floats:
        """The screens' share of the trunk's sums, [N, width]; screens that are not known yet are encoded."""
        if len(self._known) + len(packed) > _MAX_SCREENS:
            self._known.clear()
        before, known = len(self._known), self._known
        rows = [known.setdefault(screen.tobytes(), len(known)) for screen in packed]
        if len(known) > before:
            first: dict[int, int] = {}  # row of `_parts` to the first emulator that shows it
            for emulator, row in enumerate(rows):
                if row >= before:
                    first.setdefault(row, emulator)
            self._parts[before : len(known)] = self._encoder.screens(shades[list(first.values())])
        return self._parts[rows]


class _Dense:
    """A linear layer on a few rows."""

    def __init__(self, weight: Tensor, bias: Tensor | None, bfloat16: bool = False) -> None:
        assert bias is not None
        self._few = weight.numel() <= _FEW_WEIGHTS
        self._bias = bias.detach().numpy()
        if self._few:
            self._columns = weight.detach().t().contiguous().numpy()  # [in, out]
        else:
            self._precision = torch.bfloat16 if bfloat16 else torch.float32
            self._weight = weight.detach().to(self._precision)

    def __call__(self, inputs: Floats) -> Floats:
        """[..., in] -> [..., out]; [N, in] -> [N, out] where the weights are many."""
        if self._few:
            outputs: Floats = inputs @ self._columns
            outputs += self._bias
            return outputs
        # The weights first: with few rows of inputs, the other order copies all weights into another form each time.
        columns = torch.from_numpy(inputs).to(self._precision).t()
        product = torch.mm(self._weight, columns).t().to(torch.float32, memory_format=torch.contiguous_format)
        outputs = product.numpy()
        outputs += self._bias
        return outputs


class _Trunk:
    """The trunk, its sums taken apart: those over the screen's features, and those over all the rest."""

    def __init__(
        self, trunk: nn.Sequential, screen_features: int, screen_order: Tensor | None = None, bfloat16: bool = False
    ) -> None:
        """`screen_order`: the encoder's features are these ones of the network's, [screen_features] int64."""
        linear, norm = trunk[0], trunk[1]
        assert isinstance(linear, nn.Linear)
        assert isinstance(norm, nn.LayerNorm)
        self.width = linear.out_features
        screen, side = linear.weight.split([screen_features, linear.in_features - screen_features], dim=1)
        screen = screen if screen_order is None else screen[:, screen_order]
        self.screen = _Dense(screen, torch.zeros_like(linear.bias), bfloat16)
        self.side = _Dense(side, linear.bias)
        self._scale, self._shift, self._epsilon = norm.weight.detach().numpy(), norm.bias.detach().numpy(), norm.eps

    def join(self, screen_part: Floats, side: Floats) -> Floats:
        """The trunk's output: [N, F] each -> [N, F]."""
        sums = self.side(side)
        sums += screen_part
        sums -= sums.mean(1, keepdims=True)
        scale = np.einsum("nf,nf->n", sums, sums)[:, np.newaxis]
        scale /= np.float32(sums.shape[1])
        scale += np.float32(self._epsilon)
        sums /= np.sqrt(scale)
        sums *= self._scale
        sums += self._shift
        return np.maximum(sums, np.float32(0.0), out=sums)


class _SlimEncoder:
    """`QNetwork.encode_shades` of the slim network."""

    def __init__(self, network: QNetwork) -> None:
        layers = [layer for layer in network.screen_encoder if isinstance(layer, nn.Conv2d)]
        self._first = _Dense(layers[0].weight.flatten(1) * (1.0 / 3.0), layers[0].bias)
        self._window = layers[0].kernel_size[0]
        self._convs: list[_Conv] = []
        size = (72 // self._window, 80 // self._window)
        for layer in layers[1:]:
            self._convs.append(_Conv(layer, size))
            size = self._convs[-1].size
        channels, cells = layers[-1].out_channels, size[0] * size[1]
        # The convs leave their features cell by cell; the network counts them channel by channel.
        order = torch.arange(channels * cells).view(channels, cells).t().flatten()
        self._trunk = _Trunk(network.trunk, channels * cells, order)
        self.width = self._trunk.width
        context, crop = network.context_encoder[0], network.crop_encoder[1]
        assert isinstance(context, nn.Linear)
        assert isinstance(crop, nn.Linear)
        self._context = _Dense(context.weight * (1.0 / 255.0), context.bias)
        by_plane = crop.weight.unflatten(1, (CROP_PLANES, -1))
        scaled = torch.cat([by_plane[:, :1] * (1.0 / 255.0), by_plane[:, 1:]], dim=1)
        self._crop = _Dense(scaled.flatten(1), crop.bias)
        self._codes = np.arange(1, CROP_CODES + 1, dtype=np.uint8)[:, np.newaxis] * np.uint8(CROP_CODE_STEP)

    def screens(self, shades: Bytes) -> Floats:
        """Screens' share of the trunk's sums: [n, 72, 80] -> [n, F]."""
        count, side = len(shades), self._window
        windows = shades.reshape(count, 72 // side, side, 80 // side, side).transpose(0, 1, 3, 2, 4)
        cells = self._first(windows.astype(np.float32).reshape(-1, side * side))
        np.maximum(cells, 0.0, out=cells)
        for conv in self._convs:
            cells = conv(cells.reshape(count, -1, cells.shape[-1]))
        return self._trunk.screen(cells.reshape(count, -1))

    def join(self, screen_part: Floats, context: Bytes, crop: Bytes) -> Floats:
        """The trunk's output: [N, F] of `screens`, [N, C], [N, 2, S, S] -> [N, F]."""
        count = len(crop)
        planes = np.empty((count, CROP_PLANES, crop[0, 0].size), np.float32)
        planes[:, 0] = crop[:, 0].reshape(count, -1)
        planes[:, 1:] = crop[:, 1].reshape(count, 1, -1) == self._codes
        parts = self._context(context.astype(np.float32)), self._crop(planes.reshape(count, -1))
        side = np.concatenate(parts, axis=1)
        np.maximum(side, 0.0, out=side)
        return self._trunk.join(screen_part, side)


class _Conv:
    """A conv followed by ReLU, as one product: [n, cells, channels] -> [n, cells, channels]."""

    def __init__(self, layer: nn.Conv2d, size: tuple[int, int]) -> None:
        (height, width), pad, stride = size, int(layer.padding[0]), layer.stride[0]
        # Of each output cell, the input cells that it sees; those outside count as one more cell, of zeros.
        inside = np.full((height + 2 * pad, width + 2 * pad), height * width)
        inside[pad : pad + height, pad : pad + width] = np.arange(height * width).reshape(height, width)
        seen = np.lib.stride_tricks.sliding_window_view(inside, layer.kernel_size)[::stride, ::stride]
        self.size = seen.shape[:2]
        self._seen = seen.reshape(-1)
        self._cells = seen.shape[0] * seen.shape[1]
        self._dense = _Dense(layer.weight.permute(0, 2, 3, 1).flatten(1), layer.bias)

    def __call__(self, cells: Floats) -> Floats:
        count, height, channels = cells.shape
        padded = np.empty((count, height + 1, channels), np.float32)
        padded[:, :-1], padded[:, -1] = cells, 0.0
        outputs = self._dense(padded.take(self._seen, axis=1).reshape(count * self._cells, -1))
        np.maximum(outputs, 0.0, out=outputs)
        return outputs.reshape(count, self._cells, -1)


class _UnifiedEncoder:
    """`QNetwork.encode_shades` of the unified network."""

    def __init__(self, network: QNetwork, bfloat16: bool) -> None:
        self._network = network
        self._tower = copy.deepcopy(network.screen_encoder).bfloat16() if bfloat16 else network.screen_encoder
        self._precision = torch.bfloat16 if bfloat16 else torch.float32
        linear, context = network.trunk[0], network.context_encoder[0]
        assert isinstance(linear, nn.Linear)
        assert isinstance(context, nn.Linear)
        self._trunk = _Trunk(network.trunk, linear.in_features - 2 * context.out_features, bfloat16=bfloat16)
        self.width = self._trunk.width

    @torch.inference_mode()
    def screens(self, shades: Bytes) -> Floats:
        """Screens' share of the trunk's sums: [n, 72, 80] -> [n, F]."""
        screen = torch.from_numpy(shades).unsqueeze(1).to(self._precision).mul_(1.0 / 3.0)
        features = self._tower(screen.contiguous(memory_format=torch.channels_last))
        return self._trunk.screen(features.float().numpy())

    @torch.inference_mode()
    def join(self, screen_part: Floats, context: Bytes, crop: Bytes) -> Floats:
        """The trunk's output: [N, F] of `screens`, [N, C], [N, 2, S, S] -> [N, F]."""
        for_context = self._network.context_encoder(torch.from_numpy(context) * (1.0 / 255.0))
        for_crop = self._network.crop_encoder(expand_crop(torch.from_numpy(crop)))
        return self._trunk.join(screen_part, torch.cat([for_context, for_crop], dim=1).numpy())


class _Lstm:
    """One step of an LSTM."""

    def __init__(self, cell: nn.LSTM, bfloat16: bool) -> None:
        weight = torch.cat([cell.get_parameter("weight_ih_l0"), cell.get_parameter("weight_hh_l0")], dim=1)
        bias = cell.get_parameter("bias_ih_l0") + cell.get_parameter("bias_hh_l0")
        # sigmoid(x) = (1 + tanh(x / 2)) / 2: with halved sums, one tanh serves the gates and the new memory.
        size = cell.hidden_size
        halves = torch.full((4, size), 0.5).index_fill_(0, torch.tensor(2), 1.0).flatten()
        self._gates = _Dense(weight * halves.unsqueeze(1), bias * halves, bfloat16)
        self._size = size

    def __call__(self, inputs: tuple[Floats, ...], state: ActingState) -> tuple[Floats, ActingState]:
        """Parts of the input [N, I], together all of it, and the state -> outputs [N, H], state."""
        gates = self._gates(np.concatenate([*inputs, state[0]], axis=1))
        np.tanh(gates, out=gates)
        for_input, for_memory, new, for_output = (
            gates[:, at : at + self._size] for at in range(0, 4 * self._size, self._size)
        )
        for_memory += np.float32(1.0)
        for_input += np.float32(1.0)
        for_input *= new
        memory = for_memory * state[1]
        memory += for_input
        memory *= np.float32(0.5)
        hidden = np.tanh(memory)
        for_output += np.float32(1.0)
        hidden *= for_output
        hidden *= np.float32(0.5)
        return hidden, (hidden, memory)


class _Gru:
    """One step of a GRU."""

    def __init__(self, cell: nn.GRU) -> None:
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        self._weights = [cell.get_parameter(name).detach() for name in names]

    def __call__(self, inputs: tuple[Floats, ...], state: ActingState) -> tuple[Floats, ActingState]:
        """As `_Lstm`; the cell state passes through."""
        joined = torch.from_numpy(np.concatenate(inputs, axis=1))
        hidden = torch.gru_cell(joined, torch.from_numpy(state[0]), *self._weights).numpy()
        return hidden, (hidden, state[1])


class _NoMemory:
    """One step of the layer without memory."""

    def __init__(self, cell: FeedForwardCell) -> None:
        self._dense = _Dense(cell.weight, cell.bias)

    def __call__(self, inputs: tuple[Floats, ...], state: ActingState) -> tuple[Floats, ActingState]:
        """As `_Lstm`; the state passes through."""
        return np.maximum(self._dense(np.concatenate(inputs, axis=1)), np.float32(0.0)), state


def _cell(cell: nn.LSTM | nn.GRU | FeedForwardCell, bfloat16: bool) -> _Lstm | _Gru | _NoMemory:
    if isinstance(cell, nn.LSTM):
        return _Lstm(cell, bfloat16)
    return _Gru(cell) if isinstance(cell, nn.GRU) else _NoMemory(cell)


def _folded_head(network: QNetwork, noise: bool, bfloat16: bool) -> tuple[_Dense, _Dense]:
    """The dueling head as two linear layers, [H] -> [2H] and, after ReLU, -> [A K].

    The second gives value + advantage - mean advantage: centring is linear, so it is done to the weights.
    """
    actions, quantiles = network.spec.num_actions, network.head_outputs
    value_weight, value_bias = _weights(network.head_value, noise)
    weight, bias = _weights(network.head_advantage, noise)
    by_action, bias_by_action = weight.view(actions, quantiles, -1), bias.view(actions, quantiles)
    advantage_weight = by_action - by_action.mean(0)
    out_weight = torch.cat([value_weight.expand_as(advantage_weight), advantage_weight], dim=2)
    out_bias = value_bias + bias_by_action - bias_by_action.mean(0)
    hidden = _Dense(*_weights(network.head_hidden, noise), bfloat16)
    return hidden, _Dense(out_weight.flatten(0, 1), out_bias.flatten(), bfloat16)


def _weights(layer: NoisyLinear, noise: bool) -> tuple[Tensor, Tensor]:
    """Weight and bias of a noisy layer, with its present noise or without."""
    if not noise:
        return layer.weight, layer.bias
    weight = layer.weight + layer.weight_sigma * torch.outer(layer.noise_out, layer.noise_in)
    return weight, layer.bias + layer.bias_sigma * layer.noise_out
