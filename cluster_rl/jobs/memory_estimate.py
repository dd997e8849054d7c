"""How much memory a run will need, from its config alone: of a GPU for the learner, of disk and RAM for the replay.

`--dry-run` shows it before a job is queued. In: a config and the shape of the observation. Out: bytes. Nothing here
needs a GPU. Sizes that follow from shapes are added up. What an update allocates on its way is measured: it runs on the
CPU with one and with two sequences, under the autocast of the GPU, and the bytes alive after each tensor operation are
noted. An update is the same row of operations for every batch size, and each one's bytes grow linearly with the batch,
so two small runs give all of them for a large batch, and the largest counts. (The meta device would need no memory for
this, but autocast does not reach its tensors.)

What the CPU cannot show is an allowance: the CUDA context, workspaces of the libraries, losses of the allocator.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from cluster_rl.config import Config
from cluster_rl.learning.batch import Batch
from cluster_rl.learning.r2d2 import R2D2
from cluster_rl.model import ObservationSpec
from cluster_rl.replay_buffer import BATCHES_KEPT

CONTEXT_BYTES = 512 * 2**20
"""The CUDA context with the kernels that get loaded. 300 to 400 MB are reported since CUDA 11.7 loads kernels lazily
(pytorch/pytorch issues 107667 and 109888); not measured by us."""
WORKSPACE_BYTES = 512 * 2**20
"""cuBLAS and cuBLASLt take 32 MiB each at most (PyTorch's choice for Hopper). The rest is room for cuDNN's convolutions
and its own layout of the recurrent cell, whose need depends on the card; not measured by us."""
ALLOCATOR_LOSS = 0.10
"""Part of the tensors' bytes: rounding and fragmentation of the caching allocator, and layer norms, which autocast runs
in float32 on a GPU and in bfloat16 on the CPU, where they are measured."""

BATCHES_ON_DEVICE = 2  # the one being trained on, and the next
_PROBE_SIZES = (1, 2)

# Bytes of one position in the log without its recurrent state. Taken from the figures of scripts/bench/replay.py in
# docs/results.md: 118 and 223 bytes a transition with 65 positions for 40 transitions and states of 128 units.
_POSITION_BYTES = (64, 129)  # play on the cartridge, scrolling noise
INDEX_ENTRY_BYTES = 40  # of the replay's index and its tree, for each slot


@dataclass(frozen=True)
class GpuEstimate:
    """Memory of the learner's GPU, in bytes."""

    parameters: int  # count, of one network
    networks: int  # weights and noise, online, target and averaged
    optimizer: int  # Adam's two moments
    batches: int  # `BATCHES_ON_DEVICE` of them
    update: int  # most that lives at once in an update beyond the above: activations, gradients, temporaries
    saved: int  # of that, what the forward pass keeps for the backward pass

    @property
    def tensors(self) -> int:
        """Bytes of all tensors at the peak."""
        return self.networks + self.optimizer + self.batches + self.update

    @property
    def allowance(self) -> int:
        """What is added to the tensors for everything that was not measured."""
        return CONTEXT_BYTES + WORKSPACE_BYTES + round(ALLOCATOR_LOSS * self.tensors)

    @property
    def total(self) -> int:
        """What the process will take of the GPU."""
        return self.tensors + self.allowance


@dataclass(frozen=True)
class ReplayEstimate:
    """Memory of a full replay, in bytes."""

    index: int  # RAM
    batches: int  # RAM: the kept batches
    log: tuple[int, int]  # disk: for pictures that compress well and badly


@dataclass(frozen=True)
class UpdateMemory:
    """What one update on a batch of some size allocates, in bytes, beyond networks and batch."""

    live: npt.NDArray[np.int64]  # [operations]: alive after each tensor operation, gradients included
    saved: int  # kept for the backward pass


def estimate_gpu(config: Config, spec: ObservationSpec) -> GpuEstimate:
    """What the learner of this config takes of a GPU. Runs two small updates on the CPU, a few seconds at most."""
    learner = R2D2(config, spec, "cpu", seed=0)
    small, large = (measure_update(learner, size) for size in _PROBE_SIZES)
    assert len(small.live) == len(large.live), "an update's operations depend on the batch size"
    steps = (config.batch_size - _PROBE_SIZES[0]) / (_PROBE_SIZES[1] - _PROBE_SIZES[0])
    live = small.live + steps * (large.live - small.live)
    weights = tensor_bytes(learner.online.parameters())
    return GpuEstimate(
        parameters=learner.parameter_count,
        networks=3 * (weights + tensor_bytes(learner.online.buffers())),
        optimizer=2 * weights,
        batches=BATCHES_ON_DEVICE * config.batch_size * _sequence_bytes(config, spec),
        update=round(live.max()),
        saved=round(small.saved + steps * (large.saved - small.saved)),
    )


def estimate_replay(config: Config, spec: ObservationSpec) -> ReplayEstimate:
    """What a full replay of this config takes, as long as most sequences have their full length."""
    sequences = -(-config.replay_capacity_transitions // config.unroll_length)
    slots = max(64, 1 << (sequences - 1).bit_length())  # the index grows by doubling
    positions = config.burn_in + config.unroll_length + config.n_step
    state = 2 * 2 * config.lstm_hidden_size  # two vectors of float16, which hardly compress
    low, high = (sequences * (positions * each + state) for each in _POSITION_BYTES)
    return ReplayEstimate(
        index=slots * INDEX_ENTRY_BYTES,
        batches=BATCHES_KEPT * config.batch_size * _sequence_bytes(config, spec),
        log=(low, high),
    )


def measure_update(learner: R2D2, size: int) -> UpdateMemory:
    """Forward and backward pass of `learner`, which is on the CPU, over a batch of `size` full sequences of zeros.

    Encoders run under autocast if the config asks for it, as they would on a GPU. Gradients are taken away again,
    weights do not change.
    """
    batch = full_batch(learner.config, learner.spec, size)
    learner.online.zero_grad(set_to_none=True)
    given = [*learner.online.parameters(), *learner.online.buffers(), *learner.target.parameters()]
    given += [*learner.target.buffers(), *(getattr(batch, field.name) for field in fields(batch))]
    meter = _LiveBytes(given)
    saved: dict[int, int] = {}  # storages, since many of the saved tensors are views of one

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in meter.given:
            saved[storage._cdata] = storage.nbytes()
        return tensor

    configured, learner.autocast = learner.autocast, learner.config.mixed_precision
    try:
        with meter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            learner.loss(batch).total.backward()
    finally:
        learner.autocast = configured
        learner.online.zero_grad(set_to_none=True)
    return UpdateMemory(np.array(meter.live, np.int64), sum(saved.values()))


def full_batch(config: Config, spec: ObservationSpec, size: int) -> Batch:
    """A batch of `size` sequences of full length, all zeros, every action valid; on the CPU."""
    rows = config.burn_in + config.unroll_length + config.n_step
    steps = (rows, size)
    state = (1, size, config.lstm_hidden_size)
    return Batch(
        screen_packed=torch.zeros(*steps, 72, 20, dtype=torch.uint8),
        context=torch.zeros(*steps, spec.context_size, dtype=torch.uint8),
        crop=torch.zeros(*steps, 2, spec.crop_size, spec.crop_size, dtype=torch.uint8),
        mask=torch.ones(*steps, spec.num_actions, dtype=torch.bool),
        action=torch.zeros(steps, dtype=torch.int64),
        reward=torch.zeros(steps),
        prev_action=torch.zeros(steps, dtype=torch.int64),
        prev_reward=torch.zeros(steps),
        burn_in_length=torch.full((size,), config.burn_in),
        train_length=torch.full((size,), config.unroll_length),
        last=torch.full((size,), config.unroll_length + config.n_step - 1),
        terminated=torch.zeros(size, dtype=torch.bool),
        state_h=torch.zeros(state),
        state_c=torch.zeros(state),
        weights=torch.ones(size),
        ids=torch.zeros(size, dtype=torch.int64),
    )


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the elements of all `tensors`."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _sequence_bytes(config: Config, spec: ObservationSpec) -> int:
    """Bytes of one sequence in a batch."""
    batch = full_batch(config, spec, 1)
    return tensor_bytes(getattr(batch, field.name) for field in fields(batch))


class _LiveBytes(TorchDispatchMode):
    """Notes, after each tensor operation, the bytes of all storages that were made since and are still alive."""

    def __init__(self, given: Iterable[Tensor]) -> None:
        super().__init__()
        self.given = frozenset(tensor.untyped_storage()._cdata for tensor in given)
        self.live: list[int] = []
        self._known = set(self.given)
        self._bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        for result in tree_iter(results):
            if isinstance(result, Tensor):
                self._add(result.untyped_storage())
        self.live.append(self._bytes)
        return results

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self._bytes += size
            weakref.finalize(storage, self._drop, key, size).atexit = False

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._bytes -= size
