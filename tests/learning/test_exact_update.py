"""What must not change an update, and how one is made: burn-in, padding, weights, clip, Adam, noise, resume."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import msgspec
import pytest
import torch
from learner_fixtures import CONFIG, CPU, SPEC, gradients, items, make, random_batch
from learner_oracle import oracle, warm
from torch import Tensor, nn

from cluster_rl.learning.batch import Batch
from cluster_rl.learning.r2d2 import R2D2
from cluster_rl.model import QNetwork, State
from cluster_rl.networks.frames import Frames


def largest_gradients(learner: R2D2, batch: Batch) -> dict[str, float]:
    """Of d loss / d(features) of the burn-in, of the trained rows and of the tail."""
    leaves: list[Tensor] = []
    encode = learner.online.encode_frames

    def remembering(frames: Frames) -> Tensor:
        leaves.append(encode(frames).detach().requires_grad_())
        return leaves[-1]

    learner.online.encode_frames = remembering  # type: ignore[method-assign]
    learner.loss(batch).total.backward()
    learner.online.encode_frames = encode  # type: ignore[method-assign]
    before, behind, trained = (0.0 if leaf.grad is None else leaf.grad.abs().max().item() for leaf in leaves)
    return {"burn-in": before, "trained": trained, "tail": behind}


def train_burn_in(learner: R2D2, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mistake: gradient through the burn-in."""

    def features_with_gradient(batch: Batch) -> Tensor:
        begin, end = CONFIG.burn_in, CONFIG.burn_in + CONFIG.unroll_length
        rows = (slice(0, begin), slice(end, None), slice(begin, end))
        before, behind, trained = (learner.encode(learner.online, batch, part) for part in rows)
        return torch.cat([before, trained, behind])

    def warm_state(network: QNetwork, batch: Batch, features: Tensor, lengths: Tensor) -> State:
        with torch.enable_grad():
            return network.recur(features[: CONFIG.burn_in], (batch.state_h, batch.state_c), lengths)[1]

    monkeypatch.setattr(learner, "_trained_features", features_with_gradient)
    monkeypatch.setattr(learner, "warm_state", warm_state)


def warm_state(learner: R2D2, network: QNetwork, batch: Batch) -> State:
    with torch.no_grad():
        return learner.warm_state(network, batch, learner.encode(network, batch), batch.burn_in_length)


def test_no_gradient_reaches_the_burn_in(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, batch = make(), random_batch()
    mine = gradients(learner, batch)
    loss, _ = oracle(learner, batch, gradient_through_burn_in=True)
    through = torch.autograd.grad(loss, list(learner.online.parameters()))
    largest = max((a - b).abs().max().item() for a, b in zip(mine, through, strict=True))
    assert largest > 1e-4  # a learner that trains its burn-in has other gradients

    largest_of = largest_gradients(learner, batch)
    assert (largest_of["burn-in"], largest_of["tail"]) == (0, 0)
    assert largest_of["trained"] > 0
    train_burn_in(learner, monkeypatch)
    assert largest_gradients(learner, batch)["burn-in"] > 0


def test_each_network_warms_the_state_with_its_own_weights() -> None:
    learner, batch = make(), random_batch(8)
    states = {}
    for name, network in (("online", learner.online), ("target", learner.target)):
        states[name] = warm_state(learner, network, batch)
        for item in range(batch.size):
            hidden, memory = warm(learner, network, batch, item)
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
    names = [f.name for f in fields(batch) if f.name != "curiosity"]
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


def test_importance_weights_scale_the_gradient_and_not_the_priority() -> None:
    learner, batch = make(), random_batch(2)
    weightless = replace(batch, weights=torch.tensor([1.0, 0.0]))
    first = items(replace(batch, weights=torch.ones(2)), slice(0, 1))
    share = first.train_length.sum() / batch.train_length.sum()
    for mine, alone in zip(gradients(learner, weightless), gradients(learner, first), strict=True):
        torch.testing.assert_close(mine, alone * share, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(learner.loss(weightless).priorities, learner.loss(batch).priorities)


def step_size(learner: R2D2, batch: Batch) -> float:
    """Norm of what one update by plain gradient descent of rate 1 changes."""
    learner.optimizer = torch.optim.SGD(learner.online.parameters(), lr=1.0)  # type: ignore[assignment]
    before = [parameter.detach().clone() for parameter in learner.online.parameters()]
    learner.update(batch)
    moved = [(a.detach() - b).norm() for a, b in zip(learner.online.parameters(), before, strict=True)]
    return float(torch.stack(moved).norm())


def test_gradients_are_clipped_after_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    config = msgspec.structs.replace(CONFIG, max_grad_norm=1.0)
    batch = replace(random_batch(), weights=torch.full((6,), 1e6))
    assert step_size(make(config), batch) == pytest.approx(1.0, rel=1e-3)
    # Clipped before backward, when there is no gradient yet, the step is as large as the loss makes it.
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda parameters, max_norm: torch.zeros(()))
    assert step_size(make(config), batch) > 1e4


@pytest.mark.parametrize("epsilon", [1e-6, 0.1])
def test_an_update_is_a_step_of_adam_with_the_configs_rate_and_epsilon(epsilon: float) -> None:
    """The first one of Kingma & Ba 2015 by hand: both moments, corrected, are the gradient and its square."""
    learner = make(msgspec.structs.replace(CONFIG, adam_epsilon=epsilon, learning_rate=0.01))
    before = [parameter.detach().clone() for parameter in learner.online.parameters()]
    learner.update(random_batch())
    for old, parameter in zip(before, learner.online.parameters(), strict=True):
        assert parameter.grad is not None
        step = 0.01 * parameter.grad / (parameter.grad.abs() + epsilon)
        torch.testing.assert_close(old - parameter.detach(), step, rtol=1e-3, atol=1e-6)


def clean_quantiles(learner: R2D2, batch: Batch) -> Tensor:
    """The online network's quantiles of all rows from the trained ones on, [T + n, N, A, K]."""
    with torch.no_grad():
        state = warm_state(learner, learner.online, batch)
        features = learner.encode(learner.online, batch)
        outputs, _ = learner.online.recur(features[CONFIG.burn_in :], state)
        return learner.online.head(outputs, noise=False)


def depends_on_its_batch(learner: R2D2, batch: Batch) -> bool:
    whole = clean_quantiles(learner, batch)
    alone = clean_quantiles(learner, items(batch, slice(7, 8)))
    return not torch.allclose(alone[:, 0], whole[:, 7], rtol=1e-4, atol=1e-5)


def repeats_itself(learner: R2D2, batch: Batch) -> bool:
    return torch.equal(clean_quantiles(learner, batch), clean_quantiles(learner, batch))


def test_an_item_is_worth_the_same_alone_and_twice_over() -> None:
    batch = random_batch(64)
    assert not depends_on_its_batch(make(), batch)
    assert repeats_itself(make(), batch)
    # With BatchNorm or Dropout among the layers, in the mode in which a learner trains, it is not.
    normed, dropping = make(), make()
    normed.online.trunk[1] = nn.BatchNorm1d(CONFIG.model.trunk_width)
    dropping.online.trunk[2] = nn.Sequential(nn.ReLU(), nn.Dropout(0.1))
    assert depends_on_its_batch(normed, batch)
    assert not repeats_itself(dropping, batch)


def test_every_update_draws_noise_anew_and_apart_for_the_two_networks() -> None:
    learner = R2D2(CONFIG, SPEC, CPU, 1)
    seen: list[Tensor] = []
    for _ in range(3):
        learner.update(random_batch())
        for network in (learner.online, learner.target):
            layers = (network.head_hidden, network.head_value, network.head_advantage)
            seen.append(torch.cat([x for layer in layers for x in (layer.noise_in, layer.noise_out)]))
    for index, one in enumerate(seen):
        for other in seen[:index]:
            assert not torch.equal(one, other)
            # As far apart as independent draws: the correlation of several dozen numbers.
            assert torch.corrcoef(torch.stack([one, other]))[0, 1].abs() < 5 / len(one) ** 0.5


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
    pairs = zip(resumed.averaged.parameters(), straight.averaged.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)

    # Without any one part the rest of the run is another one.
    fresh = R2D2(CONFIG, SPEC, CPU, 77).state_dict()["tensors"]
    for part in ("online.", "target.", "rng.online_noise", "rng.target_noise"):
        tensors = {name: fresh[name] if name.startswith(part) else x for name, x in saved["tensors"].items()}
        resumed.load_state_dict({"tensors": tensors, "updates": 4})
        assert trail(resumed, 4, 8) != expected[4:], part
    # The averaged network trains nothing, and is itself another one.
    tensors = {name: fresh[name] if name.startswith("averaged.") else x for name, x in saved["tensors"].items()}
    resumed.load_state_dict({"tensors": tensors, "updates": 4})
    assert trail(resumed, 4, 8) == expected[4:]
    assert resumed.params_bytes() == straight.params_bytes()
    pairs = zip(resumed.averaged.parameters(), straight.averaged.parameters(), strict=True)
    assert not all(torch.equal(one, other) for one, other in pairs)
    for key in ("step", "exp_avg", "exp_avg_sq"):
        tensors = {
            name: torch.zeros_like(x) if name.startswith("optimizer.") and name.endswith(f".{key}") else x
            for name, x in saved["tensors"].items()
        }
        resumed.load_state_dict({"tensors": tensors, "updates": 4})
        assert trail(resumed, 4, 8) != expected[4:], key
    resumed.load_state_dict({"tensors": saved["tensors"], "updates": 5})  # the target would be copied elsewhere
    assert trail(resumed, 4, 8) != expected[4:]
