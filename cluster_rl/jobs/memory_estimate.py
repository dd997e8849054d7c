"""How much memory a run will need, from its config alone: of a GPU for the learner, of disk and RAM for the replay.

`--dry-run` shows it before a job is queued. In: a config and the shape of the observation. Out: bytes. Nothing here
needs a GPU. Sizes that follow from shapes are added up. What an update allocates on its way is noted while the update
itself runs, under the autocast of the GPU, on tensors that have shapes and no contents (`ShapesOnly`): the bytes alive
after each tensor operation, of which the most counts. The weights too are shapes alone. So no size of batch or network
makes it need memory, and no processor makes it slow.

What cannot be seen this way is an allowance: the CUDA context, workspaces of the libraries, losses of the allocator.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from cluster_rl.config import Config
from cluster_rl.learning.batch import Batch
from cluster_rl.learning.r2d2 import R2D2
from cluster_rl.model import ObservationSpec, build_model
from cluster_rl.replay_buffer import BATCHES_KEPT

CONTEXT_BYTES = 512 * 2**20
"""The CUDA context with the kernels that get loaded. 300 to 400 MB are reported since CUDA 11.7 loads kernels lazily
(pytorch/pytorch issues 107667 and 109888); not measured by us."""
WORKSPACE_BYTES = 512 * 2**20
"""cuBLAS and cuBLASLt take 32 MiB each at most (PyTorch's choice for Hopper). The rest is room for cuDNN's convolutions
and its own layout of the recurrent cell, whose need depends on the card; not measured by us."""
ALLOCATOR_LOSS = 0.10
"""Part of the tensors' bytes: rounding and fragmentation of the caching allocator, and layer norms, which autocast runs
in float32 on a GPU and in bfloat16 on the CPU, whose operations are counted."""

BATCHES_ON_DEVICE = 2  # the one being trained on, and the next
# How much of the recurrent kernel's work is done to see what it keeps, and of how wide a cell.
_KERNEL_POSITIONS, _KERNEL_WIDTH = 64, 1024
# Where the states end, and where the number of units is, among the arguments of PyTorch's mkldnn_rnn_layer.
_STATES_END, _UNITS = 7, 10

# Bytes of one position in the log without its recurrent state: the smallest log of a real run on the cartridge (98.6
# bytes a transition with 125 positions for 80 transitions and states of 512 units; other shapes had 56 to 68), and
# the noise of `scripts/bench/replay.py --synthetic` in docs/results.md (224, 65 for 40, 128 units).
_POSITION_BYTES = (46, 129)
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
    log: tuple[int, int]  # disk: at least, as pictures compress well, and at most


@dataclass(frozen=True)
class UpdateMemory:
    """What one update allocates, in bytes, beyond networks and batch."""

    peak: int  # most that is alive after any tensor operation, gradients included
    left: int  # alive at its end: gradients, and frames that the batch keeps
    saved: int  # kept for the backward pass


def estimate_gpu(config: Config, spec: ObservationSpec) -> GpuEstimate:
    """What the learner of this config takes of a GPU. A second or two, most of it imports of PyTorch's own."""
    shapes = ShapesOnly()
    learner = _LearnerOfShapes(config, spec, shapes)
    with shapes:
        update = measure_update(learner, full_batch(config, spec, config.batch_size))
    weights = tensor_bytes(learner.online.parameters())
    return GpuEstimate(
        parameters=learner.parameter_count,
        networks=3 * (weights + tensor_bytes(learner.online.buffers())),
        optimizer=2 * weights,
        batches=BATCHES_ON_DEVICE * config.batch_size * _sequence_bytes(config, spec),
        update=update.peak,
        saved=update.saved,
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


def measure_update(learner: R2D2, batch: Batch) -> UpdateMemory:
    """Forward and backward pass of `learner`, which is on the CPU, over `batch`.

    Encoders run under autocast if the config asks for it, as they would on a GPU. Gradients are taken away again,
    weights do not change.
    """
    learner.online.zero_grad(set_to_none=True)
    given = [*learner.online.parameters(), *learner.online.buffers(), *learner.target.parameters()]
    given += [*learner.target.buffers(), *batch.tensors]
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
        return UpdateMemory(peak=meter.peak, left=meter.live, saved=sum(saved.values()))
    finally:
        learner.autocast = configured
        learner.online.zero_grad(set_to_none=True)


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
        greedy=torch.zeros(steps, dtype=torch.bool),
        reward=torch.zeros(steps),
        visits=torch.zeros(steps, dtype=torch.uint8),
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


def parameter_bytes(config: Config, spec: ObservationSpec) -> int:
    """Bytes of the weights of one network."""
    with torch.device("meta"):
        return tensor_bytes(build_model(config, spec).parameters())


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the elements of all `tensors`."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _sequence_bytes(config: Config, spec: ObservationSpec) -> int:
    """Bytes of one sequence in a batch."""
    return tensor_bytes(full_batch(config, spec, 1).tensors)


class ShapesOnly(TorchDispatchMode):
    """Runs tensor operations of the CPU for the shapes, types and storages of their results alone: no arithmetic.

    PyTorch's fake tensors do it, and what is given true they take as it is. Two things stay true, because operations
    read their contents: results of true tensors alone, and integers made of nothing. Lengths of sequences and the
    indices for packing them are of both kinds.
    """

    def __init__(self) -> None:
        super().__init__()
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)

    def take(self, module: nn.Module) -> None:
        """Has a module that was built on the meta device be one of the CPU, its tensors shapes alone."""
        for part in module.modules():
            for name, weight in list(part.named_parameters(recurse=False)):
                setattr(part, name, nn.Parameter(self._like(weight), requires_grad=weight.requires_grad))
            for name, buffer in list(part.named_buffers(recurse=False)):
                setattr(part, name, self._like(buffer))

    def _like(self, meta: Tensor) -> Tensor:
        with self._fake:
            return torch.empty_strided(meta.shape, meta.stride(), dtype=meta.dtype)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._pack_padded_sequence.default:
            return self._pack(*args)
        are_fake = [isinstance(each, FakeTensor) for each in tree_iter((args, kwargs)) if isinstance(each, Tensor)]
        if are_fake and not any(are_fake):
            return func(*args, **kwargs)
        with self._fake:
            results = func(*args, **kwargs)
        if not are_fake and isinstance(results, Tensor) and results.dtype == torch.int64:
            return func(*args, **kwargs)
        if func is torch.ops.aten.mkldnn_rnn_layer.default and torch.is_grad_enabled():
            return (*results[:3], self._rnn_workspace(func, args))
        return results

    def _pack(self, padded: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
        """Fake tensors know no packing: [T, N, F] -> [sum of lengths, F], and the number of items at each step."""
        assert not batch_first
        steps, count = int(lengths.max()), int(lengths.sum())
        with self._fake:
            packed = padded.new_empty(count, *padded.shape[2:])
        return packed, (torch.arange(steps).unsqueeze(1) < lengths).sum(1)

    def _rnn_workspace(self, func: Any, args: Any) -> Tensor:
        """What oneDNN's recurrent kernel keeps for the backward pass: only running it tells, so it runs for few steps.

        Every step adds the same, but for the memory pages that it rounds to: these count where sequences are few. What
        a wide cell keeps grows with its width, so that a narrower one tells it.
        """
        inputs, units, rest = args[0], args[_UNITS], args[_UNITS + 1 :]
        steps, count, width = inputs.shape
        times = max(1, max(units, width) // _KERNEL_WIDTH)
        units, width = units // times, width // times
        weights = [torch.zeros(4 * units, width), torch.zeros(4 * units, units), *torch.zeros(2, 4 * units)]
        states = [torch.zeros(1, count, units)] * 2
        others = [*weights, *states, *args[_STATES_END:_UNITS], units, *rest]
        few = max(1, _KERNEL_POSITIONS // count)
        less, more = (len(func(torch.zeros(length, count, width), *others)[3]) for length in (few, 2 * few))
        with self._fake:
            return torch.empty(times * (less + (steps - few) * (more - less) // few), dtype=torch.uint8)


class _LearnerOfShapes(R2D2):
    """A learner that can go through an update's loss and gradients, all its tensors being shapes alone."""

    def __init__(self, config: Config, spec: ObservationSpec, shapes: ShapesOnly) -> None:
        self.config, self.spec = config, spec
        self.device, self.autocast = torch.device("cpu"), False
        with torch.device("meta"):
            self.online, self.target = build_model(config, spec), build_model(config, spec).requires_grad_(False)
        for network in (self.online, self.target):
            shapes.take(network)


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that were made since and are still alive, after each tensor operation."""

    def __init__(self, given: Iterable[Tensor]) -> None:
        super().__init__()
        self.given = frozenset(tensor.untyped_storage()._cdata for tensor in given)
        self.live = 0
        self.peak = 0
        self._known = set(self.given)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        for result in tree_iter(results):
            if isinstance(result, Tensor):
                self._add(result.untyped_storage())
        self.peak = max(self.peak, self.live)
        return results

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.live += size
            weakref.finalize(storage, self._drop, key, size).atexit = False

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size
