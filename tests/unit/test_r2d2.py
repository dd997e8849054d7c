"""The update as a whole against a slow oracle that steps one item at a time, and what must not change it."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from cluster_rl.config import Config, ModelConfig
from cluster_rl.errors import UserError
from cluster_rl.learning import targets
from cluster_rl.learning.batch import Batch
from cluster_rl.learning.r2d2 import R2D2
from cluster_rl.model import ObservationSpec, QNetwork, State, pack_screen

SPEC = ObservationSpec(context_size=5, crop_size=3, num_actions=3, aux_slots=(0, 3))
CONFIG = Config(
    burn_in=3,
    unroll_length=4,
    n_step=2,
    gamma=0.9,
    lstm_hidden_size=8,
    num_quantiles=4,
    learning_rate=1e-3,
    target_update_interval=3,
    max_grad_norm=1e9,
    model=ModelConfig(kind="slim", conv_channels=[2], context_width=8, trunk_width=8),
)
CPU = torch.device("cpu")


def replace_model(**changes: Any) -> ModelConfig:
    return msgspec.structs.replace(CONFIG.model, **changes)


def random_arrays(config: Config, size: int, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """A valid batch of every kind of item; unused rows hold random, valid filler."""
    rng = np.random.default_rng(seed)
    rows = (config.burn_in + config.unroll_length + config.n_step, size)
    mask = rng.random((*rows, SPEC.num_actions)) < 0.6
    mask[..., 1] |= ~mask.any(-1)
    train_length = rng.integers(1, config.unroll_length + 1, size)
    train_length[0] = config.unroll_length
    tail = rng.integers(1, config.n_step + 1, size)
    return {
        "screen_packed": pack_screen(rng.integers(0, 4, (*rows, 72, 80), dtype=np.uint8)),
        "context": rng.integers(0, 256, (*rows, SPEC.context_size), dtype=np.uint8),
        "crop": rng.integers(0, 256, (*rows, 2, 3, 3), dtype=np.uint8),
        "mask": mask,
        "action": rng.integers(0, SPEC.num_actions, rows),
        "reward": rng.normal(size=rows).astype(np.float32),
        "prev_action": rng.integers(0, SPEC.num_actions + 1, rows),
        "prev_reward": rng.normal(size=rows).astype(np.float32),
        "burn_in_length": rng.integers(0, config.burn_in + 1, size),
        "train_length": train_length,
        "last": train_length + tail - 1,
        "terminated": rng.random(size) < 0.5,
        "state_h": rng.normal(size=(1, size, config.lstm_hidden_size)).astype(np.float32) * 0.5,
        "state_c": rng.normal(size=(1, size, config.lstm_hidden_size)).astype(np.float32),
        "weights": rng.uniform(0.2, 1.0, size).astype(np.float32),
        "ids": np.arange(size),
    }


def random_batch(size: int = 6, seed: int = 0, config: Config = CONFIG) -> Batch:
    return Batch.from_numpy(random_arrays(config, size, seed), CPU)


def make(config: Config = CONFIG, seed: int = 1) -> R2D2:
    """A learner whose target network has other weights than the online one, and noise drawn."""
    learner = R2D2(config, SPEC, CPU, seed)
    learner.target.load_state_dict(R2D2(config, SPEC, CPU, seed + 50).online.state_dict())
    learner.online.resample_noise(torch.Generator().manual_seed(5))
    learner.target.resample_noise(torch.Generator().manual_seed(6))
    return learner


def items(batch: Batch, indices: slice) -> Batch:
    """Some of a batch's sequences."""
    flat = ("burn_in_length", "train_length", "last", "terminated", "weights", "ids")
    parts = {f.name: getattr(batch, f.name) for f in fields(batch)}
    return Batch(**{name: x[indices] if name in flat else x[:, indices] for name, x in parts.items()})


def gradients(learner: R2D2, batch: Batch) -> list[Tensor]:
    parameters = list(learner.online.parameters())
    return list(torch.autograd.grad(learner.loss(batch).total, parameters))


def step(network: QNetwork, batch: Batch, row: int, item: int, state: State) -> tuple[Tensor, State]:
    """One row of one item through the network: recurrent output [H] and the state after it."""
    names = ("screen_packed", "context", "crop", "prev_action", "prev_reward")
    frame = [getattr(batch, name)[row, item : item + 1] for name in names]
    outputs, state = network.recur(network.encode(*frame).unsqueeze(0), state)
    return outputs[0, 0], state


def warm(network: QNetwork, batch: Batch, item: int) -> State:
    """The item's stored state, stepped over its own burn-in."""
    state = (batch.state_h[:, item : item + 1], batch.state_c[:, item : item + 1])
    for row in range(int(batch.burn_in_length[item])):
        _, state = step(network, batch, row, item, state)
    return state


def quantile_loss_by_hand(predicted: Tensor, samples: Tensor) -> Tensor:
    """Pair by pair, kappa 1."""
    total = torch.zeros(())
    count = len(predicted)
    for k in range(count):
        for sample in samples:
            error = sample - predicted[k]
            huber = 0.5 * error**2 if abs(error) <= 1 else abs(error) - 0.5
            total = total + abs((k + 0.5) / count - float(error < 0)) * huber / count
    return total


def oracle(learner: R2D2, batch: Batch, gradient_through_burn_in: bool = False) -> tuple[Tensor, list[float]]:
    """Total loss and priorities by stepping each item alone, written from the specification."""
    total, aux_total, trained = torch.zeros(()), torch.zeros(()), 0
    sequence_priorities = []
    for item in range(batch.size):
        last, length = int(batch.last[item]), int(batch.train_length[item])
        unrolled: dict[str, list[Tensor]] = {}
        for name, network in (("online", learner.online), ("target", learner.target)):
            with torch.set_grad_enabled(gradient_through_burn_in):
                state = warm(network, batch, item)
            unrolled[name] = []
            for t in range(last + 1):
                output, state = step(network, batch, CONFIG.burn_in + t, item, state)
                unrolled[name].append(output)
        errors = []
        for t in range(length):
            row = CONFIG.burn_in + t
            predicted = learner.online.head(unrolled["online"][t], noise=True)[batch.action[row, item]]
            m = min(CONFIG.n_step, last - t)
            online = learner.online.head(unrolled["online"][t + m], noise=True)
            target = learner.target.head(unrolled["target"][t + m], noise=True)
            values = targets.h_inv(online).mean(-1).masked_fill(~batch.mask[row + m, item], -1e9)
            returned = sum(CONFIG.gamma**j * batch.reward[row + j, item] for j in range(m))
            future = CONFIG.gamma**m * targets.h_inv(target[values.argmax()])
            ended = bool(batch.terminated[item]) and t + m == last
            samples = targets.h(returned + (0.0 if ended else 1.0) * future).detach()
            total = total + batch.weights[item] * quantile_loss_by_hand(predicted, samples)
            errors.append(abs(float(samples.mean() - predicted.detach().mean())))
            aux = torch.sigmoid(learner.online.aux(unrolled["online"][t]))
            seen = batch.context[row + m, item, list(SPEC.aux_slots)].float() / 255
            cross_entropy = -(seen * aux.log() + (1 - seen) * (1 - aux).log())
            aux_total = aux_total + batch.weights[item] * cross_entropy.mean()
            trained += 1
        sequence_priorities.append(0.9 * max(errors) + 0.1 * sum(errors) / len(errors))
    return (total + CONFIG.aux_loss_weight * aux_total) / trained, sequence_priorities


@pytest.mark.parametrize("seed", [0, 1])
def test_loss_gradient_and_priorities_equal_the_oracle(seed: int) -> None:
    learner, batch = make(), random_batch(seed=seed)
    loss = learner.loss(batch)
    expected, expected_priorities = oracle(learner, batch)
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(loss.priorities, torch.tensor(expected_priorities), rtol=1e-4, atol=1e-6)
    parameters = list(learner.online.parameters())
    for mine, theirs in zip(gradients(learner, batch), torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)


def test_no_gradient_reaches_the_burn_in() -> None:
    learner, batch = make(), random_batch()
    mine = gradients(learner, batch)
    loss, _ = oracle(learner, batch, gradient_through_burn_in=True)
    through = torch.autograd.grad(loss, list(learner.online.parameters()))
    largest = max((a - b).abs().max().item() for a, b in zip(mine, through, strict=True))
    assert largest > 1e-4  # a learner that trains its burn-in has other gradients

    seen: list[Tensor] = []
    encode = learner.online.encode
    learner.online.encode = lambda *frames: seen.append(encode(*frames)) or seen[-1]  # type: ignore[func-returns-value,method-assign]
    learner.loss(batch).total.backward()
    assert [features.requires_grad for features in seen] == [False, True]


def test_each_network_warms_the_state_with_its_own_weights() -> None:
    learner, batch = make(), random_batch(8)
    states = {}
    for name, network in (("online", learner.online), ("target", learner.target)):
        states[name] = learner.warm_state(network, batch, batch.burn_in_length)
        for item in range(batch.size):
            hidden, memory = warm(network, batch, item)
            torch.testing.assert_close(states[name][0][:, item : item + 1], hidden)
            torch.testing.assert_close(states[name][1][:, item : item + 1], memory)
    warmed = batch.burn_in_length > 0
    assert warmed.any()
    assert not warmed.all()
    differ = (states["online"][0] - states["target"][0]).abs().amax(-1)[0] > 1e-3
    assert torch.equal(differ, warmed)  # one network's state used for both would show


def test_loss_reads_only_observations_of_the_burn_in() -> None:
    learner, batch = make(), random_batch()
    before = learner.loss(batch)
    reward, action, mask = batch.reward.clone(), batch.action.clone(), batch.mask.clone()
    reward[: CONFIG.burn_in], action[: CONFIG.burn_in], mask[: CONFIG.burn_in] = 1e6, 0, True
    after = learner.loss(replace(batch, reward=reward, action=action, mask=mask))
    assert torch.equal(before.total, after.total)
    assert torch.equal(before.priorities, after.priorities)
    context = batch.context.clone()
    context[: CONFIG.burn_in] = 255 - context[: CONFIG.burn_in]
    assert not torch.equal(learner.loss(replace(batch, context=context)).total, before.total)


def unused_rows(batch: Batch) -> Tensor:
    """[L, N] bool: rows that hold no position."""
    row = torch.arange(batch.action.shape[0]).unsqueeze(1)
    in_burn_in = row < CONFIG.burn_in
    return torch.where(in_burn_in, row >= batch.burn_in_length, row > CONFIG.burn_in + batch.last)


def test_padding_changes_nothing() -> None:
    """Other filler in unused rows gives the same loss, gradient and priorities; in used rows it does not."""
    learner, batch, other = make(), random_batch(seed=0), random_batch(seed=100)
    names = ("screen_packed", "context", "crop", "mask", "action", "reward", "prev_action", "prev_reward")

    def with_filler(rows: Tensor) -> Batch:
        changed = {}
        for name in names:
            mine, theirs = getattr(batch, name), getattr(other, name)
            changed[name] = torch.where(rows.view(*rows.shape, *[1] * (mine.dim() - 2)), theirs, mine)
        return replace(batch, **changed)

    unused = unused_rows(batch)
    assert unused.any(0).sum() > 2
    filled = with_filler(unused)
    before, after = learner.loss(batch), learner.loss(filled)
    torch.testing.assert_close(after.total, before.total)
    torch.testing.assert_close(after.priorities, before.priorities)
    for mine, theirs in zip(gradients(learner, filled), gradients(learner, batch), strict=True):
        torch.testing.assert_close(mine, theirs)
    last_used = torch.zeros_like(unused)
    last_used[CONFIG.burn_in + batch.last, torch.arange(batch.size)] = True
    assert not torch.allclose(learner.loss(with_filler(last_used)).total, before.total)


def test_a_sequence_padded_to_a_longer_unroll_is_the_same() -> None:
    longer = msgspec.structs.replace(CONFIG, unroll_length=7)
    learner, padded = make(), make(longer)
    batch = random_batch()
    filler = random_batch(config=longer, seed=3)
    rows = batch.action.shape[0]
    names = [f.name for f in fields(batch)]
    extended = {
        name: torch.cat([getattr(batch, name), getattr(filler, name)[rows:]])
        if getattr(batch, name).shape[0] == rows
        else getattr(batch, name)
        for name in names
    }
    long_batch = Batch(**extended)
    torch.testing.assert_close(padded.loss(long_batch).total, learner.loss(batch).total)
    torch.testing.assert_close(padded.loss(long_batch).priorities, learner.loss(batch).priorities)
    for mine, theirs in zip(gradients(padded, long_batch), gradients(learner, batch), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_sequence_alone_is_the_same_as_in_a_batch() -> None:
    learner, batch = make(), random_batch(64)
    together = learner.loss(batch).priorities
    for item in (0, 31, 63):
        alone = learner.loss(items(batch, slice(item, item + 1))).priorities
        torch.testing.assert_close(alone[0], together[item], rtol=1e-4, atol=1e-6)


def test_importance_weights_scale_the_gradient_and_not_the_priority() -> None:
    learner, batch = make(), random_batch(2)
    weightless = replace(batch, weights=torch.tensor([1.0, 0.0]))
    first = items(replace(batch, weights=torch.ones(2)), slice(0, 1))
    share = first.train_length.sum() / batch.train_length.sum()
    for mine, alone in zip(gradients(learner, weightless), gradients(learner, first), strict=True):
        torch.testing.assert_close(mine, alone * share, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(learner.loss(weightless).priorities, learner.loss(batch).priorities)


def test_gradients_are_clipped_after_backward() -> None:
    learner = make(msgspec.structs.replace(CONFIG, max_grad_norm=1.0))
    batch = replace(random_batch(), weights=torch.full((6,), 1e6))
    result = learner.update(batch)
    stepped = torch.stack([p.grad.norm() for p in learner.online.parameters() if p.grad is not None]).norm()
    assert stepped.item() == pytest.approx(1.0, rel=1e-3)
    # Clipping before backward would have stepped with the raw gradient, which the metric shows:
    assert result.metrics["grad_norm"] > 1e4


def test_update_reports_and_learns() -> None:
    config = msgspec.structs.replace(CONFIG, learning_rate=1e-2, model=replace_model(noisy_sigma=0.0))
    learner, batch = R2D2(config, SPEC, CPU, 0), random_batch(4)
    results = [learner.update(batch) for _ in range(60)]
    assert learner.updates == 60
    assert results[0].priorities.shape == (4,)
    assert results[0].priorities.dtype == np.float32
    assert set(results[0].metrics) == {
        *("loss", "aux_loss", "grad_norm", "td_abs_mean", "td_abs_max"),
        *("q_mean", "q_start", "target_mean", "weight_mean", "weight_min"),
    }
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


def trail(learner: R2D2, start: int, stop: int) -> list[Any]:
    """What updates on batches number start..stop leave behind."""
    results = [learner.update(random_batch(4, seed=number)) for number in range(start, stop)]
    return [(r.priorities.tolist(), r.metrics) for r in results]


def test_resume_is_equal_bit_by_bit() -> None:
    straight = R2D2(CONFIG, SPEC, CPU, 3)
    expected = trail(straight, 0, 8)
    first = R2D2(CONFIG, SPEC, CPU, 3)
    trail(first, 0, 4)
    saved = first.state_dict()
    trail(first, 4, 5)  # what was saved is a copy
    resumed = R2D2(CONFIG, SPEC, CPU, 77)
    resumed.load_state_dict(saved)
    assert resumed.updates == 4
    assert trail(resumed, 4, 8) == expected[4:]
    assert resumed.params_bytes() == straight.params_bytes()

    # Without any one part the rest of the run is another one.
    fresh = R2D2(CONFIG, SPEC, CPU, 77).state_dict()["tensors"]
    for part in ("online.", "target.", "rng.online_noise", "rng.target_noise"):
        tensors = {name: fresh[name] if name.startswith(part) else x for name, x in saved["tensors"].items()}
        resumed.load_state_dict({"tensors": tensors, "updates": 4})
        assert trail(resumed, 4, 8) != expected[4:], part
    for key in ("step", "exp_avg", "exp_avg_sq"):
        tensors = {
            name: torch.zeros_like(x) if name.startswith("optimizer.") and name.endswith(f".{key}") else x
            for name, x in saved["tensors"].items()
        }
        resumed.load_state_dict({"tensors": tensors, "updates": 4})
        assert trail(resumed, 4, 8) != expected[4:], key
    resumed.load_state_dict({"tensors": saved["tensors"], "updates": 5})  # the target would be copied elsewhere
    assert trail(resumed, 4, 8) != expected[4:]


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


def test_published_weights_load_elsewhere() -> None:
    learner, other = make(seed=1), make(seed=2)
    other.load_params_bytes(learner.params_bytes())
    assert other.params_bytes() == learner.params_bytes()
    assert other.parameter_count == sum(p.numel() for p in other.online.parameters())


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
    learner._autocast = True
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
