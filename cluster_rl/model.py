"""The recurrent Q-networks, unified and slim: compact observations in, quantiles of every action's return out.

Actors run it step by step through `acting.policy.Policy`; the learner runs `encode`, `recur`, `head` and `aux` over
whole sequences. Both get the same network from `build_model` and exchange its weights as bytes. Inputs stay as small as
they are stored (2-bit screens, bytes) until they are on the device that computes.

Both kinds: screen, context and crop are encoded and joined in a trunk; the trunk's output, the one-hot previous action
and the previous reward go through one LSTM or GRU (or, for comparison, a feed-forward layer that remembers nothing); a
dueling head of noisy layers gives K quantiles for each action.
There is no BatchNorm and no Dropout: one item's result never depends on its batch. Noise comes only after the
recurrent cell, so that a stored state is a function of history and weights. An auxiliary head predicts, from the
recurrent output at a position, slots of the context at the position that its return bootstraps from. Most of them
change seldom, so the present value is a good guess: what is left to learn is when they change.

Names: M frames, T steps, N sequences or emulators, A actions, K quantiles, H recurrent units, F trunk output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from cluster_rl.config import Config
from cluster_rl.errors import UserError

SCREEN_HEIGHT = 72
SCREEN_WIDTH = 80

# Hidden and cell state, [1, N, H] float32 each. What a cell does not have (a GRU no cell state, a feed-forward layer
# neither) passes through as zeros.
State = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class ObservationSpec:
    """Sizes of the observation that the config does not fix."""

    context_size: int  # C, slots of the context vector
    crop_size: int  # S, side of the map-memory crop
    num_actions: int  # A
    aux_slots: tuple[int, ...] = ()  # context slots that the auxiliary head predicts


def pack_screen(screen: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Packs shades 0-3, uint8 [..., 72, 80], into uint8 [..., 72, 20]: pixel j of a byte in bits 2j and 2j + 1."""
    # In a (little-endian) word of four pixels, one product moves each to its place in the highest byte; no two of its
    # sixteen terms share a bit.
    words = np.ascontiguousarray(screen).view(np.uint32) * np.uint32(1 << 24 | 1 << 18 | 1 << 12 | 1 << 6)
    return (words >> np.uint32(24)).astype(np.uint8)


def unpack_screen(packed: Tensor) -> Tensor:
    """The inverse of `pack_screen` on the tensor's device: uint8 [..., 72, 20] -> uint8 [..., 72, 80]."""
    # Each byte is spread over the four of a (little-endian) 32-bit word: first its halves 16 bits apart, then the
    # pixels of each half 8 apart. On contiguous words this is three times as fast as writing every fourth byte.
    words = packed.to(torch.int32)
    words = words.bitwise_or_(words << 12).bitwise_and_(0x000F000F)
    words = words.bitwise_or_(words << 6).bitwise_and_(0x03030303)
    return words.view(torch.uint8)


CROP_CODES = 5
CROP_CODE_STEP = 51
CROP_PLANES = 1 + CROP_CODES


def expand_crop(crop: Tensor) -> Tensor:
    """Takes the codes of a crop's second plane apart: uint8 [M, 2, S, S] -> float32 [M, 6, S, S].

    Plane 0 / 255, then one plane of 0 and 1 for each code k * 51, k from 1; code 0 has none.
    """
    codes = torch.arange(CROP_CODE_STEP, 256, CROP_CODE_STEP, dtype=torch.uint8, device=crop.device)
    return torch.cat([crop[:, :1] * (1.0 / 255.0), (crop[:, 1:] == codes.view(1, -1, 1, 1)).float()], dim=1)


class Frames(NamedTuple):
    """M frames as encoders take them: all that is the same for every network is done."""

    screen: Tensor  # [M, 1, 72, 80] float32, 0 to 1, channels last
    context: Tensor  # [M, C] float32, 0 to 1
    crop: Tensor  # [M, 6, S, S] float32, see `expand_crop`
    history: Tensor  # [M, A + 1] float32: previous action one-hot, logarithm of the previous reward


def prepare_frames(
    shades: Tensor, context: Tensor, crop: Tensor, prev_action: Tensor, prev_reward: Tensor, num_actions: int
) -> Frames:
    """Compact observations to `Frames`, on their device.

    Args:
        shades: [M, 72, 80] uint8, 0-3.
        context: [M, C] uint8, value / 255.
        crop: [M, 2, S, S] uint8, see `expand_crop`.
        prev_action: [M] int64, `num_actions` where there is none.
        prev_reward: [M] float32.
        num_actions: A.
    """
    screen = shades.unsqueeze(1).float().mul_(1.0 / 3.0).contiguous(memory_format=torch.channels_last)
    # "None" has a class of its own in the one-hot vector, whose column is dropped: zeros.
    action = functional.one_hot(prev_action, num_actions + 1)[:, :-1].float()
    # Rewards span decades; the logarithm keeps a rare large one from swamping the cell.
    reward = (prev_reward.sign() * prev_reward.abs().log1p()).unsqueeze(1)
    return Frames(screen, context.float() * (1.0 / 255.0), expand_crop(crop), torch.cat([action, reward], dim=1))


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


def _residual_tower(config: Config) -> nn.Sequential:
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
    return nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveMaxPool2d((5, 5)), nn.Flatten())


def _small_tower(config: Config) -> nn.Sequential:
    """Screen encoder of the slim network: [M, 1, 72, 80] -> [M, features].

    The first conv's windows are the 16-pixel squares of the full screen that the player walks on, each seen once: 9 x
    10 cells, at a third of the cost of overlapping windows. The second halves that to 5 x 5; later ones keep it.
    """
    layers: list[nn.Module] = []
    previous = 1
    for stage, width in enumerate(config.model.conv_channels):
        kernel, stride, padding = (8, 8, 0) if stage == 0 else (3, 2 if stage == 1 else 1, 1)
        layers += [nn.Conv2d(previous, width, kernel, stride=stride, padding=padding), nn.ReLU()]
        previous = width
    return nn.Sequential(*layers, nn.Flatten())


def _crop_encoder(config: Config, spec: ObservationSpec) -> nn.Sequential:
    """[M, 6, S, S] -> [M, context_width]; the unified network looks at neighbourhoods first."""
    cells = spec.crop_size**2
    width = config.model.context_width
    if config.model.kind == "slim":
        return nn.Sequential(nn.Flatten(), nn.Linear(CROP_PLANES * cells, width), nn.ReLU())
    convs = [nn.Conv2d(CROP_PLANES, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*convs, nn.Flatten(), nn.Linear(16 * cells, width), nn.ReLU())


def _context_encoder(config: Config, spec: ObservationSpec) -> nn.Sequential:
    """[M, C] -> [M, context_width]; the unified network has a second layer."""
    width = config.model.context_width
    layers = [nn.Linear(spec.context_size, width), nn.ReLU()]
    if config.model.kind == "unified":
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers)


class QNetwork(nn.Module):
    """The network of one run; see the module's text. Build it with `build_model`."""

    def __init__(self, config: Config, spec: ObservationSpec) -> None:
        super().__init__()
        self.spec = spec
        self.kind = config.model.kind
        self.hidden_size = config.lstm_hidden_size
        self.num_quantiles = config.num_quantiles

        tower = _residual_tower(config) if config.model.kind == "unified" else _small_tower(config)
        self.screen_encoder: nn.Sequential = tower.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.context_encoder = _context_encoder(config, spec)
        self.crop_encoder = _crop_encoder(config, spec)
        with torch.no_grad():
            screen_features = tower(torch.zeros(1, 1, SCREEN_HEIGHT, SCREEN_WIDTH)).shape[1]
        joined = screen_features + 2 * config.model.context_width
        self.trunk = nn.Sequential(
            nn.Linear(joined, config.model.trunk_width), nn.LayerNorm(config.model.trunk_width), nn.ReLU()
        )
        for encoder in (self.screen_encoder, self.context_encoder, self.crop_encoder, self.trunk):
            encoder.apply(_initialise_for_relu)
        self.feature_size = config.model.trunk_width + spec.num_actions + 1

        self.cell = _recurrent_cell(config, self.feature_size)

        sigma = config.model.noisy_sigma
        self.head_hidden = NoisyLinear(self.hidden_size, 2 * self.hidden_size, sigma)
        self.head_value = NoisyLinear(self.hidden_size, self.num_quantiles, sigma)
        self.head_advantage = NoisyLinear(self.hidden_size, spec.num_actions * self.num_quantiles, sigma)
        self.aux_head = nn.Linear(self.hidden_size, len(spec.aux_slots)) if spec.aux_slots else None

    def encode(
        self, screen_packed: Tensor, context: Tensor, crop: Tensor, prev_action: Tensor, prev_reward: Tensor
    ) -> Tensor:
        """What the recurrent cell sees of single frames.

        Args:
            screen_packed: [M, 72, 20] uint8, see `pack_screen`.
            context: [M, C] uint8, value / 255.
            crop: [M, 2, S, S] uint8, see `expand_crop`.
            prev_action: [M] int64, A where there is none.
            prev_reward: [M] float32.

        Returns:
            [M, F] float32, also under autocast.
        """
        return self.encode_shades(unpack_screen(screen_packed), context, crop, prev_action, prev_reward)

    def encode_shades(
        self, shades: Tensor, context: Tensor, crop: Tensor, prev_action: Tensor, prev_reward: Tensor
    ) -> Tensor:
        """`encode` with screens as they come from the emulator: [M, 72, 80] uint8, shades 0-3."""
        return self.encode_frames(
            prepare_frames(shades, context, crop, prev_action, prev_reward, self.spec.num_actions)
        )

    def encode_frames(self, frames: Frames) -> Tensor:
        """`encode` with frames that are prepared: what several networks see is prepared once."""
        joined = torch.cat(
            [
                self.screen_encoder(frames.screen),
                self.context_encoder(frames.context),
                self.crop_encoder(frames.crop),
            ],
            dim=1,
        )
        features: Tensor = self.trunk(joined)
        return torch.cat([features.float(), frames.history], dim=1)  # [M, F]

    def recur(self, features: Tensor, state: State, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Runs the recurrent cell over time: features [T, N, F] -> outputs [T, N, H] and the state after the end.

        With `lengths` ([N] int64 on the CPU, 0..T), item i stops after lengths[i] steps: its state is the one after
        its own last step, and an item of length 0 keeps the state that it came with. Outputs behind an item's end are
        meaningless.
        """
        if lengths is None:
            outputs, after = self._run_cell(features, state)
            return outputs, after
        # A packed sequence must have a step; items without any take one, which is then undone.
        packed = pack_padded_sequence(features, lengths.clamp(min=1), enforce_sorted=False)
        packed_outputs, after = self._run_cell(packed, state)
        outputs, _ = pad_packed_sequence(packed_outputs, total_length=features.shape[0])
        held = (lengths == 0).to(features.device).view(1, -1, 1)
        return outputs, (torch.where(held, state[0], after[0]), torch.where(held, state[1], after[1]))

    def head(self, outputs: Tensor, noise: bool) -> Tensor:
        """Quantiles of every action's return: outputs [..., H] -> [..., A, K], in h-space if values are rescaled.

        Dueling, the advantages centred over all actions, valid or not. With `noise`, that of the last `resample_noise`.
        """
        hidden = functional.relu(self.head_hidden(outputs, noise))
        for_value, for_advantage = hidden.chunk(2, dim=-1)
        value: Tensor = self.head_value(for_value, noise).unsqueeze(-2)  # [..., 1, K]
        advantage: Tensor = self.head_advantage(for_advantage, noise)
        advantage = advantage.unflatten(-1, (self.spec.num_actions, self.num_quantiles))
        return value + advantage - advantage.mean(-2, keepdim=True)

    def aux(self, outputs: Tensor) -> Tensor:
        """Logits of the future context slots: outputs [..., H] -> [..., number of auxiliary slots], which may be 0."""
        if self.aux_head is None:
            return outputs.new_zeros((*outputs.shape[:-1], 0))
        logits: Tensor = self.aux_head(outputs)
        return logits

    def initial_state(self, count: int) -> State:
        """The state at an episode's start, zeros, for `count` emulators or sequences."""
        device = self.head_value.bias.device
        shape = (1, count, self.hidden_size)
        return torch.zeros(shape, device=device), torch.zeros(shape, device=device)

    def resample_noise(self, generator: torch.Generator) -> None:
        """Draws new noise for all noisy layers from `generator`, which must be a CPU one.

        Drawn on the CPU wherever the network is, so that a checkpoint gives the same noise on any device.
        """
        layers = [layer for layer in (self.head_hidden, self.head_value, self.head_advantage) if layer.is_noisy]
        if not layers:
            return
        sizes = [size for layer in layers for size in (layer.in_features, layer.out_features)]
        drawn = torch.randn(sum(sizes), generator=generator)
        drawn = (drawn.sign() * drawn.abs().sqrt()).to(layers[0].weight.device)
        parts = iter(drawn.split(sizes))
        for layer in layers:
            layer.noise_in.copy_(next(parts))
            layer.noise_out.copy_(next(parts))

    def _run_cell(self, inputs: Any, state: State) -> tuple[Any, State]:
        """The cell over a tensor or a packed sequence, with the state's form the same for all kinds of cell."""
        if isinstance(self.cell, FeedForwardCell):
            if isinstance(inputs, PackedSequence):
                return inputs._replace(data=self.cell(inputs.data)), state
            return self.cell(inputs), state
        if isinstance(self.cell, nn.LSTM):
            outputs, (hidden, memory) = self.cell(inputs, state)
            return outputs, (hidden, memory)
        outputs, hidden = self.cell(inputs, state[0])
        return outputs, (hidden, state[1])


def _initialise_for_relu(layer: nn.Module) -> None:
    """He et al. 2015. PyTorch's own start shrinks differences between pictures to a tenth before the recurrent cell."""
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


class FeedForwardCell(nn.Linear):
    """In the recurrent cell's place, a layer of the same width without memory: [..., F] -> [..., H]."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs).relu()


def _recurrent_cell(config: Config, input_size: int) -> nn.LSTM | nn.GRU | FeedForwardCell:
    """The cell, the biases of an LSTM's gates set for memory.

    With `model.memory_steps` T, units forget over 2 to T steps, evenly spread: the forget gate's part of the chrono
    initialisation (Tallec & Ollivier 2018). The other part, closing input gates by as much, keeps too little of what
    no gradient teaches to take in: it fails the learning test of the stored state.
    """
    hidden, span = config.lstm_hidden_size, config.model.memory_steps
    if config.model.recurrent_cell == "none":
        return FeedForwardCell(input_size, hidden)
    if config.model.recurrent_cell == "gru":
        return nn.GRU(input_size, hidden)
    cell = nn.LSTM(input_size, hidden)
    with torch.no_grad():
        # The cell adds two biases, gates in the order input, forget, cell, output. With PyTorch's start at 0 the cell
        # forgets half at every step, and memory over more than a few steps is not learned.
        cell.get_parameter("bias_hh_l0").zero_()
        _, for_forget, _, _ = cell.get_parameter("bias_ih_l0").zero_().chunk(4)
        if span == 0:
            for_forget.fill_(1.0)
        else:
            for_forget.uniform_(1.0, max(1.0, span - 1.0)).log_()
    return cell


def build_model(config: Config, spec: ObservationSpec) -> QNetwork:
    """The network that the config describes, on the CPU, initialised from torch's global generator.

    Raises `UserError` if sizes of the config do not fit each other.
    """
    return QNetwork(config, spec)


def parameter_count(network: nn.Module) -> int:
    """Number of trained weights."""
    return sum(parameter.numel() for parameter in network.parameters())


def params_to_bytes(network: nn.Module) -> bytes:
    """The weights as a safetensors file: plain float32 tensors by name, from any device."""
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    return safetensors.torch.save(tensors)


def load_params(network: nn.Module, data: bytes) -> None:
    """Copies weights from `params_to_bytes` into the network in place.

    Raises `UserError` if the bytes are damaged or belong to a network of another shape; the network is then unchanged.
    """
    try:
        tensors = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise UserError(f"parameters: the bytes are damaged ({error}); fetch them again") from None
    copy_tensors(tensors, network.state_dict(), "parameters")


def copy_tensors(source: dict[str, Tensor], into: dict[str, Tensor], what: str) -> None:
    """Copies tensors by name, in place, after checking that names and shapes are the same. Raises `UserError`."""
    missing, extra = sorted(into.keys() - source.keys()), sorted(source.keys() - into.keys())
    if missing or extra:
        name = (missing or extra)[0]
        problem = f"{name} is missing" if missing else f"{name} is unknown"
        raise UserError(f"{what}: {problem}; they come from another network; use the config that they were made with")
    for name, tensor in into.items():
        if source[name].shape != tensor.shape:
            shapes = f"{list(source[name].shape)}, here it is {list(tensor.shape)}"
            raise UserError(f"{what}: {name} has shape {shapes}; use the config that they were made with")
    with torch.no_grad():
        for name, tensor in into.items():
            tensor.copy_(source[name])
