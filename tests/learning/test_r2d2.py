"""The learner beyond its mathematics: metrics, the target's copies, bad numbers, checkpoints, published weights."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from learner_fixtures import CONFIG, CPU, SPEC, items, make, random_arrays, random_batch, replace_model
from torch import Tensor

from cluster_rl.errors import UserError
from cluster_rl.learning.batch import Batch
from cluster_rl.learning.r2d2 import R2D2
from cluster_rl.model import QNetwork, load_params


def test_a_sequence_alone_is_the_same_as_in_a_batch() -> None:
    learner, batch = make(), random_batch(64)
    together = learner.loss(batch).priorities
    for item in (0, 31, 63):
        alone = learner.loss(items(batch, slice(item, item + 1))).priorities
        torch.testing.assert_close(alone[0], together[item], rtol=1e-4, atol=1e-6)


def test_update_reports_and_learns() -> None:
    config = msgspec.structs.replace(CONFIG, learning_rate=1e-2, model=replace_model(noisy_sigma=0.0))
    learner, batch = R2D2(config, SPEC, CPU, 0), random_batch(4)
    results = [learner.update(batch) for _ in range(60)]
    assert learner.updates == 60
    assert results[0].priorities.shape == (4,)
    assert results[0].priorities.dtype == np.float32
    losses = {"loss", "quantile_loss", "aux_loss", "grad_norm", "grad_norm_clipped"}
    values = {"td_abs_mean", "td_abs_max", "q_mean", "target_mean", "masked_actions"}
    values |= {"greedy_actions", "return_steps"}
    assert set(results[0].metrics) == losses | values
    assert all(np.isfinite(list(result.metrics.values())).all() for result in results)
    assert results[-1].metrics["td_abs_mean"] < 0.5 * results[0].metrics["td_abs_mean"]
    assert results[-1].metrics["aux_loss"] < results[0].metrics["aux_loss"]


def test_target_is_copied_at_its_interval_only() -> None:
    learner, batch = make(), random_batch()
    same = []
    for _ in range(6):
        learner.update(batch)
        pairs = zip(learner.online.parameters(), learner.target.parameters(), strict=True)
        same.append(all(torch.equal(a, b) for a, b in pairs))
    assert same == [False, False, True, False, False, True]


def test_aux_weight_zero_turns_it_off() -> None:
    config = msgspec.structs.replace(CONFIG, aux_loss_weight=0.0)
    learner, batch = make(config), random_batch()
    assert learner.update(batch).metrics["aux_loss"] == 0
    assert learner.online.aux_head is not None
    assert all(parameter.grad is None for parameter in learner.online.aux_head.parameters())
    # A checkpoint of it has no optimiser state for the unused head, and loads.
    again = make(config, seed=9)
    again.load_state_dict(learner.state_dict())
    assert again.update(batch).metrics == learner.update(batch).metrics


@pytest.mark.parametrize("name", ["reward", "state_h"])
def test_non_finite_numbers_stop_the_learner_before_the_weights_change(name: str) -> None:
    learner, batch = make(), random_batch()
    learner.update(batch)
    before = learner.params_bytes()
    broken = getattr(batch, name).clone()
    broken[broken.shape[0] // 2, 0] = float("nan")
    with pytest.raises(RuntimeError, match=r"update 2: .*not finite"):
        learner.update(replace(batch, **{name: broken}))
    assert learner.params_bytes() == before
    assert learner.updates == 1


def test_foreign_checkpoints_are_refused() -> None:
    learner = make()
    state = learner.state_dict()
    other = make(msgspec.structs.replace(CONFIG, lstm_hidden_size=16)).state_dict()
    with pytest.raises(UserError, match=r"checkpoint of the learner: .* has shape"):
        learner.load_state_dict(other)
    tensors = {name: x for name, x in state["tensors"].items() if not name.startswith("rng")}
    with pytest.raises(UserError, match="noise is missing"):
        learner.load_state_dict({**state, "tensors": tensors})
    with pytest.raises(UserError, match="unknown"):
        learner.load_state_dict({**state, "tensors": {**state["tensors"], "scheduler.x": torch.zeros(1)}})


def flat(network: QNetwork) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()]).clone()


def test_averaged_weights_are_the_mean_that_the_config_asks_for() -> None:
    learner, batch = make(), random_batch()
    assert torch.equal(flat(learner.averaged), flat(learner.online))  # before any update there is nothing else
    newest = []
    for _ in range(5):
        learner.update(batch)
        newest.append(flat(learner.online))
    first = (newest[0] + newest[1] + newest[2]) / 3  # equally up to `averaging_updates`, without the untrained weights
    expected = 1 / 3 * newest[4] + 2 / 3 * (1 / 3 * newest[3] + 2 / 3 * first)
    torch.testing.assert_close(flat(learner.averaged), expected)
    assert not torch.allclose(flat(learner.averaged), newest[-1])  # the test would not see it otherwise

    alone = make(msgspec.structs.replace(CONFIG, averaging_updates=1))
    for _ in range(3):
        alone.update(batch)
    assert torch.equal(flat(alone.averaged), flat(alone.online))


def test_averaged_weights_do_not_train_and_actors_get_the_newest() -> None:
    learner, same, batch = make(), make(msgspec.structs.replace(CONFIG, averaging_updates=50)), random_batch()
    for _ in range(4):
        assert learner.update(batch).metrics == same.update(batch).metrics
    other = make(seed=2)
    load_params(other.online, learner.params_bytes())
    assert torch.equal(flat(other.online), flat(learner.online))
    assert other.parameter_count == flat(other.online).numel()


def test_same_seed_same_weights_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = R2D2(CONFIG, SPEC, CPU, 5).params_bytes()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(1)
    assert R2D2(CONFIG, SPEC, CPU, 5).params_bytes() == first
    assert R2D2(CONFIG, SPEC, CPU, 6).params_bytes() != first


def test_half_precision_encoders_keep_the_rest_in_float32() -> None:
    learner, batch = make(), random_batch()
    exact = learner.loss(batch)
    learner.autocast = True
    mixed = learner.loss(batch)
    assert mixed.total.dtype == mixed.priorities.dtype == torch.float32
    assert not torch.equal(mixed.total, exact.total)
    torch.testing.assert_close(mixed.total, exact.total, rtol=0.02, atol=0.0)


def test_batch_is_checked_at_the_seam() -> None:
    learner, batch = make(), random_batch()
    with pytest.raises(AssertionError):
        learner.update(replace(batch, action=batch.action[1:]))
    with pytest.raises(AssertionError):
        learner.update(replace(batch, reward=batch.reward.double()))
    missing = random_arrays(CONFIG, 2, 0)
    del missing["ids"]
    with pytest.raises(KeyError, match="ids"):
        Batch.from_numpy(missing, CPU)
