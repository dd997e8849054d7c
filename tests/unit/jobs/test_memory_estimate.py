"""The estimate of a run's memory, against what updates on the CPU, with their arithmetic, really keep."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from cluster_rl.config import Config, ModelConfig, load_config
from cluster_rl.configs.files import PRESET_DIR
from cluster_rl.emulator.spaces import observation_spec
from cluster_rl.jobs import memory_estimate
from cluster_rl.jobs.memory_estimate import (
    BATCHES_ON_DEVICE,
    ShapesOnly,
    estimate_gpu,
    estimate_replay,
    full_batch,
    measure_update,
    tensor_bytes,
)
from cluster_rl.learning.r2d2 import R2D2
from cluster_rl.learning.sequences import BlockSpec
from cluster_rl.model import ObservationSpec
from cluster_rl.replay.batch_arrays import empty_batch
from cluster_rl.replay_buffer import Replay

SPEC = ObservationSpec(context_size=11, crop_size=3, num_actions=7, aux_slots=(0, 3))
UNIFIED = Config(
    occupancy_crop_radius=1,
    burn_in=3,
    unroll_length=12,
    n_step=2,
    lstm_hidden_size=64,
    num_quantiles=8,
    batch_size=9,
    model=ModelConfig(kind="unified", conv_channels=[4, 8], context_width=16, trunk_width=32),
)
SLIM = msgspec.structs.replace(
    UNIFIED, model=ModelConfig(kind="slim", conv_channels=[16, 16], context_width=16, trunk_width=32)
)
FLOAT32 = msgspec.structs.replace(UNIFIED, mixed_precision=False)


def _unified(**model: Any) -> Config:
    return msgspec.structs.replace(UNIFIED, model=msgspec.structs.replace(UNIFIED.model, **model))


def _assert_estimate_is_what_an_update_takes(config: Config, spec: ObservationSpec) -> None:
    estimate = estimate_gpu(config, spec)
    measured = measure_update(R2D2(config, spec, "cpu", seed=3), full_batch(config, spec, config.batch_size))
    assert estimate.saved == pytest.approx(measured.saved, rel=0.01)
    assert estimate.update == pytest.approx(measured.peak, rel=0.01)


@pytest.mark.parametrize(
    "config",
    [
        UNIFIED,
        SLIM,
        FLOAT32,
        _unified(recurrent_cell="gru"),
        _unified(recurrent_cell="none", noisy_sigma=0.5),
        msgspec.structs.replace(FLOAT32, use_spatial_attention=False, batch_size=1, unroll_length=40),
        msgspec.structs.replace(UNIFIED, burn_in=0, n_step=1, aux_loss_weight=0.0, batch_size=70),
    ],
    ids=["unified", "slim", "float32", "gru", "no-memory", "one-sequence", "no-burn-in"],
)
def test_estimate_is_what_an_update_takes(config: Config) -> None:
    _assert_estimate_is_what_an_update_takes(config, SPEC)


@pytest.mark.slow
@pytest.mark.parametrize("mixed_precision", ["true", "false"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "none"])
@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESET_DIR.glob("*.yaml")))
def test_estimate_of_presets_is_what_an_update_takes(preset: str, cell: str, mixed_precision: str) -> None:
    overrides = [f"model.recurrent_cell={cell}", f"mixed_precision={mixed_precision}", "batch_size=8"]
    config = load_config(preset, overrides)
    _assert_estimate_is_what_an_update_takes(config, observation_spec(config))


@pytest.fixture
def few_gb() -> Iterator[None]:
    """What would take the machine's memory fails at once."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + 2 * 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.usefixtures("few_gb")
def test_estimate_does_not_need_the_memory() -> None:
    config = load_config("gpu")
    large = msgspec.structs.replace(config, batch_size=64 * config.batch_size)  # 0.2 TB
    spec = observation_spec(config)
    # Weights and their gradients do not grow.
    assert estimate_gpu(large, spec).update == pytest.approx(64 * estimate_gpu(config, spec).update, rel=0.01)
    wide = load_config("gpu", ["model.conv_channels=[1024,1024,1024,1024,1024,1024]", "lstm_hidden_size=4096"])
    estimate = estimate_gpu(wide, spec)
    assert estimate.networks == 3 * 4 * estimate.parameters > 2e9  # more than there is
    assert estimate.update > 20 * estimate_gpu(config, spec).update


def test_what_a_wide_cell_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_estimate, "_KERNEL_WIDTH", 128)
    config = msgspec.structs.replace(UNIFIED, lstm_hidden_size=512)
    _assert_estimate_is_what_an_update_takes(config, SPEC)


def test_update_ends_with_its_gradients() -> None:
    learner = R2D2(UNIFIED, SPEC, "cpu", seed=0)
    before = {name: tensor.clone() for name, tensor in learner.online.state_dict().items()}
    with ShapesOnly():
        measured = measure_update(learner, full_batch(UNIFIED, SPEC, 4))
    # All activations are gone by then; what is left beside gradients and frames is the result of the loss.
    kept = tensor_bytes(learner.online.parameters()) + tensor_bytes(full_batch(UNIFIED, SPEC, 4).frames)
    assert measured.left == pytest.approx(kept, rel=0.05)
    assert measured.saved < measured.peak
    assert all(parameter.grad is None for parameter in learner.online.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.online.state_dict().items())


def test_packing_is_that_of_pytorch() -> None:
    padded, lengths = torch.rand(5, 4, 3), torch.tensor([2, 5, 1, 2])
    truly = pack_padded_sequence(padded, lengths, enforce_sorted=False)
    with ShapesOnly():
        packed = pack_padded_sequence(torch.rand(5, 4, 3), lengths, enforce_sorted=False)
        unpacked, unpacked_lengths = pad_packed_sequence(packed, total_length=6)
    assert packed.data.shape == truly.data.shape
    for index in ("batch_sizes", "sorted_indices", "unsorted_indices"):
        assert torch.equal(getattr(packed, index), getattr(truly, index))
    assert unpacked.shape == (6, 4, 3)
    assert torch.equal(unpacked_lengths, lengths)


def test_autocast_is_counted() -> None:
    half, full = (estimate_gpu(config, SPEC).saved for config in (UNIFIED, FLOAT32))
    frames = (UNIFIED.unroll_length + UNIFIED.n_step) * UNIFIED.batch_size
    # The first conv's output alone, which max-pooling keeps: 4 channels of 36 x 40.
    assert half > frames * 4 * 36 * 40 * 2
    assert full > frames * 4 * 36 * 40 * 4
    assert half < 0.8 * full


def test_sizes_that_follow_from_shapes() -> None:
    estimate = estimate_gpu(UNIFIED, SPEC)
    learner = R2D2(UNIFIED, SPEC, "cpu", seed=0)
    batch = full_batch(UNIFIED, SPEC, UNIFIED.batch_size)
    learner.update(batch)
    moments = [state[name] for state in learner.optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert estimate.optimizer == tensor_bytes(moments)
    assert estimate.parameters == learner.parameter_count
    assert estimate.networks == 3 * 4 * estimate.parameters  # no noise, so no buffers
    sampled = empty_batch(BlockSpec.from_config(UNIFIED, SPEC.context_size, SPEC.num_actions), UNIFIED.batch_size)
    assert estimate.batches == BATCHES_ON_DEVICE * sum(array.nbytes for array in sampled.values())
    assert estimate.total > estimate.tensors > estimate.update + estimate.optimizer


def test_gpu_preset_fits_the_cluster() -> None:
    config = load_config("gpu")
    estimate = estimate_gpu(config, observation_spec(config))
    assert estimate.tensors > 2e9
    assert estimate.total < 10e9
    # As its comment says of a larger network.
    wide = msgspec.structs.replace(config.model, conv_channels=[2 * each for each in config.model.conv_channels])
    assert estimate_gpu(msgspec.structs.replace(config, model=wide), observation_spec(config)).total < 10e9
    assert config.num_actors + 2 <= 8
    assert config.max_runtime_seconds <= 4 * 3600 - 900


def test_replay(tmp_path: Path) -> None:
    config = load_config(
        None,
        ["unroll_length=40", "burn_in=20", "n_step=5", "lstm_hidden_size=128", "replay_capacity_transitions=1000000"],
    )
    spec = observation_spec(config)
    estimate = estimate_replay(config, spec)
    # What scripts/bench/replay.py --synthetic measured, with the index of a transition in it.
    assert estimate.log[1] / 1e6 == pytest.approx(224, rel=0.03)
    block = BlockSpec.from_config(config, spec.context_size, spec.num_actions)
    replay = Replay(config, block, tmp_path, "r", frozenset())
    few = msgspec.structs.replace(config, replay_capacity_transitions=40 * 64)
    assert estimate_replay(few, spec).index == replay.index_bytes
    assert estimate.index == replay.index_bytes * 32768 // 64
    replay.close()


@pytest.mark.parametrize(
    ("unroll", "burn_in", "units", "smallest"),  # bytes a transition of real runs' logs
    [(80, 40, 512, 98.6), (40, 20, 128, 106.9), (40, 5, 128, 89.4), (20, 5, 128, 110.0)],
)
def test_the_least_of_a_replay_is_no_more_than_real_logs_have(
    unroll: int, burn_in: int, units: int, smallest: float
) -> None:
    shape = [f"unroll_length={unroll}", f"burn_in={burn_in}", "n_step=5", f"lstm_hidden_size={units}"]
    config = load_config(None, [*shape, "replay_capacity_transitions=1000000"])
    least, most = (each / 1e6 for each in estimate_replay(config, observation_spec(config)).log)
    assert least <= smallest < most
    assert least > 0.7 * smallest
