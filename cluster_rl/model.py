"""The recurrent Q-networks, unified and slim: compact observations in, quantiles of every action's return out.

Actors run it step by step through `acting.policy.Policy`; the learner runs `encode`, `recur`, `head` and `aux` over
whole sequences. Both get the same network from `build_model` and exchange its weights as bytes. Inputs stay as small as
they are stored (2-bit screens, bytes) until they are on the device that computes.

Both kinds: screen, context and crop are encoded and joined in a trunk; the trunk's output, the one-hot previous action
and the previous reward go through one LSTM or GRU (or, for comparison, a feed-forward layer that remembers nothing); a
dueling head of noisy layers gives K quantiles for each action, of each of S streams of reward (`learning/targets.py`).
There is no BatchNorm and no Dropout: one item's result never depends on its batch. Noise comes only after the
recurrent cell, so that a stored state is a function of history and weights. An auxiliary head predicts, from the
recurrent output at a position, slots of the context at the position that its return bootstraps from. Most of them
change seldom, so the present value is a good guess: what is left to learn is when they change.

Names: M frames, T steps, N sequences or emulators, A actions, S streams, K quantiles of each, H recurrent units, F
trunk output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from cluster_rl.config import Config
from cluster_rl.errors import UserError
from cluster_rl.networks.encoders import (
    context_encoder,
    crop_encoder,
    initialise_for_relu,
    residual_tower,
    small_tower,
)
from cluster_rl.networks.frames import (
    SCREEN_HEIGHT,
    SCREEN_WIDTH,
    Frames,
    prepare_frames,
    screens_of_packed,
    screens_of_shades,
)
from cluster_rl.networks.noisy_linear import NoisyLinear
from cluster_rl.networks.recurrent_cell import FeedForwardCell, recurrent_cell

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
    place_slots: tuple[int, ...] = ()  # context slots that tell where the player is
    map_slots: tuple[int, ...] = ()  # of these, the bits of the map's number, the lowest first: each 0 or 255


class QNetwork(nn.Module):
    """The network of one run; see the module's text. Build it with `build_model`."""

    def __init__(self, config: Config, spec: ObservationSpec) -> None:
        super().__init__()
        self.spec = spec
        self.kind = config.model.kind
        self.hidden_size = config.lstm_hidden_size
        self.head_outputs = config.head_outputs

        tower = residual_tower(config) if config.model.kind == "unified" else small_tower(config)
        self.screen_encoder: nn.Sequential = tower.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.context_encoder = context_encoder(config, spec.context_size)
        self.crop_encoder = crop_encoder(config, spec.crop_size)
        with torch.no_grad():
            screen_features = tower(torch.zeros(1, 1, SCREEN_HEIGHT, SCREEN_WIDTH)).shape[1]
        joined = screen_features + 2 * config.model.context_width
        self.trunk = nn.Sequential(
            nn.Linear(joined, config.model.trunk_width), nn.LayerNorm(config.model.trunk_width), nn.ReLU(inplace=True)
        )
        for encoder in (self.screen_encoder, self.context_encoder, self.crop_encoder, self.trunk):
            encoder.apply(initialise_for_relu)
        self.feature_size = config.model.trunk_width + spec.num_actions + 1

        self.cell = recurrent_cell(config, self.feature_size)

        sigma = config.model.noisy_sigma
        self.head_hidden = NoisyLinear(self.hidden_size, 2 * self.hidden_size, sigma)
        self.head_value = NoisyLinear(self.hidden_size, self.head_outputs, sigma)
        self.head_advantage = NoisyLinear(self.hidden_size, spec.num_actions * self.head_outputs, sigma)
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
        screens = screens_of_packed(screen_packed)
        return self.encode_frames(
            prepare_frames(screens, context, crop, prev_action, prev_reward, self.spec.num_actions)
        )

    def encode_shades(
        self, shades: Tensor, context: Tensor, crop: Tensor, prev_action: Tensor, prev_reward: Tensor
    ) -> Tensor:
        """`encode` with screens as they come from the emulator: [M, 72, 80] uint8, shades 0-3."""
        return self.encode_frames(
            prepare_frames(screens_of_shades(shades), context, crop, prev_action, prev_reward, self.spec.num_actions)
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
        """Quantiles of every action's return: outputs [..., H] -> [..., A, S K], in h-space if values are rescaled.

        Dueling, the advantages centred over all actions, valid or not. With `noise`, that of the last `resample_noise`.
        """
        hidden = functional.relu(self.head_hidden(outputs, noise))
        for_value, for_advantage = hidden.chunk(2, dim=-1)
        value: Tensor = self.head_value(for_value, noise).unsqueeze(-2)  # [..., 1, S K]
        advantage: Tensor = self.head_advantage(for_advantage, noise)
        advantage = advantage.unflatten(-1, (self.spec.num_actions, self.head_outputs))
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
