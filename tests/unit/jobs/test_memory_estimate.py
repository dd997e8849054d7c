"""The estimate of a run's memory, against what updates on the CPU really keep."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch

from cluster_rl.config import Config, ModelConfig, load_config
from cluster_rl.emulator.spaces import observation_spec
from cluster_rl.jobs.memory_estimate import (
    BATCHES_ON_DEVICE,
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


@pytest.mark.parametrize("config", [UNIFIED, SLIM, FLOAT32], ids=["unified", "slim", "float32"])
def test_estimate_is_what_an_update_takes(config: Config) -> None:
    estimate = estimate_gpu(config, SPEC)
    measured = measure_update(R2D2(config, SPEC, "cpu", seed=3), config.batch_size)
    # With few sequences the CPU's recurrent kernel rounds its workspace up, which the estimate then extrapolates.
    assert estimate.saved == pytest.approx(measured.saved, rel=0.04)
    assert estimate.update == pytest.approx(measured.live.max(), rel=0.04)


def test_update_ends_with_its_gradients() -> None:
    learner = R2D2(UNIFIED, SPEC, "cpu", seed=0)
    before = {name: tensor.clone() for name, tensor in learner.online.state_dict().items()}
    measured = measure_update(learner, 4)
    # All activations are gone by then; what is left beside gradients and frames is the result of the loss.
    kept = tensor_bytes(learner.online.parameters()) + tensor_bytes(full_batch(UNIFIED, SPEC, 4).frames)
    assert measured.live[-1] == pytest.approx(kept, rel=0.05)
    assert measured.saved < measured.live.max()
    assert all(parameter.grad is None for parameter in learner.online.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.online.state_dict().items())


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
    assert config.num_actors + 2 <= 8
    assert config.max_runtime_seconds <= 4 * 3600 - 900


def test_replay(tmp_path: Path) -> None:
    config = load_config(
        None,
        ["unroll_length=40", "burn_in=20", "n_step=5", "lstm_hidden_size=128", "replay_capacity_transitions=1000000"],
    )
    spec = observation_spec(config)
    estimate = estimate_replay(config, spec)
    # What scripts/bench/replay.py measured, with the index of a transition in it.
    assert [each / 1e6 for each in estimate.log] == pytest.approx([118, 223], rel=0.03)
    block = BlockSpec.from_config(config, spec.context_size, spec.num_actions)
    replay = Replay(config, block, tmp_path, "r")
    few = msgspec.structs.replace(config, replay_capacity_transitions=40 * 64)
    assert estimate_replay(few, spec).index == replay.index_bytes
    assert estimate.index == replay.index_bytes * 32768 // 64
    replay.close()
