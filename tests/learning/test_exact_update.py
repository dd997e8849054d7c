"""The update as a whole against a slow oracle that steps one item at a time; what must not change it, and ablations.

The oracle is written from the specification and shares nothing with the learner but the network's layers and h. Every
ablation is a well-known mistake; each must disagree with the oracle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import msgspec
import pytest
import torch
from learner_fixtures import CONFIG, CPU, SPEC, gradients, items, make, random_batch
from torch import Tensor, nn

from cluster_rl.learning import losses, priorities, targets
from cluster_rl.learning.batch import Batch
from cluster_rl.learning.r2d2 import R2D2
from cluster_rl.model import QNetwork, State
from cluster_rl.networks.frames import Frames


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


def quantile_loss_by_hand(predicted: Tensor, samples: Tensor, kappa: float) -> Tensor:
    """Pair by pair."""
    total = torch.zeros(())
    count = len(predicted)
    for k in range(count):
        for sample in samples:
            error = sample - predicted[k]
            huber = 0.5 * error**2 / kappa if abs(error) <= kappa else abs(error) - 0.5 * kappa
            total = total + abs((k + 0.5) / count - float(error < 0)) * huber / count
    return total


def oracle(learner: R2D2, batch: Batch, gradient_through_burn_in: bool = False) -> tuple[Tensor, list[float]]:
    """Total loss and priorities by stepping each item alone, written from the specification."""
    config = learner.config
    h, h_inv = (targets.h, targets.h_inv) if config.value_rescaling else (torch.clone, torch.clone)
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
            values = h_inv(online).mean(-1).masked_fill(~batch.mask[row + m, item], -1e9)
            returned = sum(CONFIG.gamma**j * batch.reward[row + j, item] for j in range(m))
            future = CONFIG.gamma**m * h_inv(target[values.argmax()])
            ended = bool(batch.terminated[item]) and t + m == last
            samples = h(returned + (0.0 if ended else 1.0) * future).detach()
            total = total + batch.weights[item] * quantile_loss_by_hand(predicted, samples, config.huber_kappa)
            errors.append(abs(float(samples.mean() - predicted.detach().mean())))
            aux = torch.sigmoid(learner.online.aux(unrolled["online"][t]))
            seen = batch.context[row + m, item, list(SPEC.aux_slots)].float() / 255
            cross_entropy = -(seen * aux.log() + (1 - seen) * (1 - aux).log())
            aux_total = aux_total + batch.weights[item] * cross_entropy.mean()
            trained += 1
        eta = config.priority_eta
        sequence_priorities.append(eta * max(errors) + (1 - eta) * sum(errors) / len(errors))
    return (total + CONFIG.aux_loss_weight * aux_total) / trained, sequence_priorities


SETTINGS: list[dict[str, Any]] = [{}, {"value_rescaling": False}, {"huber_kappa": 0.25}, {"priority_eta": 0.4}]


@pytest.mark.parametrize("changes", SETTINGS, ids=lambda changes: "".join(changes) or "defaults")
def test_loss_gradient_and_priorities_equal_the_oracle(changes: dict[str, Any]) -> None:
    learner, batch = make(msgspec.structs.replace(CONFIG, **changes)), random_batch(seed=len(changes))
    loss = learner.loss(batch)
    expected, expected_priorities = oracle(learner, batch)
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(loss.priorities, torch.tensor(expected_priorities), rtol=1e-4, atol=1e-6)
    parameters = list(learner.online.parameters())
    for mine, theirs in zip(gradients(learner, batch), torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)


Ablation = Callable[[pytest.MonkeyPatch, R2D2], None]


def change_targets(**changes: Callable[[dict[str, Any]], Any]) -> Ablation:
    """Calls the real target function with some arguments replaced by functions of all of them."""

    def apply(monkeypatch: pytest.MonkeyPatch, learner: R2D2) -> None:
        whole = targets.quantile_targets
        names = ("online", "target", "masks", "rewards", "last", "terminated")

        def changed(*args: Tensor, **kwargs: Any) -> Tensor:
            given = dict(zip(names, args, strict=True)) | kwargs
            return whole(**(given | {name: change(given) for name, change in changes.items()}))

        monkeypatch.setattr(targets, "quantile_targets", changed)

    return apply


def change_warming(state_of: Callable[[R2D2, QNetwork, Batch], State]) -> Ablation:
    """Replaces how a network comes to its state at the first trained row."""

    def apply(monkeypatch: pytest.MonkeyPatch, learner: R2D2) -> None:
        monkeypatch.setattr(learner, "warm_state", lambda network, batch, _: state_of(learner, network, batch))

    return apply


def target_only(state_of: Callable[[R2D2, Batch], State]) -> Ablation:
    """The mistake in the target network's state alone."""
    warm_up = R2D2.warm_state
    return change_warming(
        lambda learner, network, batch: (
            state_of(learner, batch)
            if network is learner.target
            else warm_up(learner, network, batch, batch.burn_in_length)
        )
    )


def run_through_unused_slots(learner: R2D2, network: QNetwork, batch: Batch) -> State:
    full = torch.full_like(batch.burn_in_length, CONFIG.burn_in)
    return R2D2.warm_state(learner, network, batch, full)


def change(module: Any, name: str, changed: Callable[..., Any]) -> Ablation:
    """Replaces a function of a module."""
    return lambda monkeypatch, learner: monkeypatch.setattr(module, name, changed)


def wrong_axis_loss(predicted: Tensor, samples: Tensor, kappa: float) -> Tensor:
    """tau goes with the target samples."""
    taus = (torch.arange(predicted.shape[-1]) + 0.5) / predicted.shape[-1]
    errors = samples.unsqueeze(-2) - predicted.unsqueeze(-1)
    huber = torch.where(errors.abs() <= kappa, 0.5 * errors.square() / kappa, errors.abs() - 0.5 * kappa)
    return ((taus - (errors.detach() < 0).float()).abs() * huber).mean(-1).sum(-1)


def mean_in_h_space(quantiles: Tensor, rescaling: bool) -> Tensor:
    return quantiles.mean(-1)


def everything_counts(train_length: Tensor, unroll_length: int) -> Tensor:
    return torch.ones(unroll_length, len(train_length), dtype=torch.bool)


def unweighted(step_losses: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    return losses_weighted_step_mean(step_losses, mask, torch.ones_like(weights))


losses_weighted_step_mean = losses.weighted_step_mean

ABLATIONS: dict[str, Ablation] = {
    "target from a zero state": target_only(lambda learner, batch: learner.target.initial_state(batch.size)),
    "target without burn-in": target_only(lambda learner, batch: (batch.state_h, batch.state_c)),
    "target's burn-in with the online weights (Acme TF)": target_only(
        lambda learner, batch: R2D2.warm_state(learner, learner.online, batch, batch.burn_in_length)
    ),
    "zero state for both": change_warming(lambda learner, network, batch: network.initial_state(batch.size)),
    "no burn-in for both": change_warming(lambda learner, network, batch: (batch.state_h, batch.state_c)),
    "unused burn-in slots are run through": change_warming(run_through_unused_slots),
    "mask left out of a*": change_targets(masks=lambda given: torch.ones_like(given["masks"])),
    "mask of the row before": change_targets(masks=lambda given: given["masks"].roll(1, 0)),
    "a* by the target (no double Q)": change_targets(online=lambda given: given["target"]),
    "value by the online net": change_targets(target=lambda given: given["online"]),
    "truncation as termination": change_targets(terminated=lambda given: torch.ones_like(given["terminated"])),
    "termination as truncation": change_targets(terminated=lambda given: torch.zeros_like(given["terminated"])),
    "no rescaling": change_targets(rescaling=lambda given: False),
    "gamma^(m-1)": change_targets(target=lambda given: targets.h(targets.h_inv(given["target"]) / CONFIG.gamma)),
    "a* by the mean in h-space": change(targets, "expected_values", mean_in_h_space),
    "tau on the targets' axis": change(losses, "quantile_huber_loss", wrong_axis_loss),
    "padding in the loss": change(targets, "loss_mask", everything_counts),
    "importance weights left out": change(losses, "weighted_step_mean", unweighted),
    "priority of the mean alone": change(
        priorities, "sequence_priorities", lambda errors, mask, eta: (errors.abs() * mask).sum(0) / mask.sum(0)
    ),
}


def agrees(learner: R2D2, batch: Batch, expected: tuple[Tensor, list[float]]) -> bool:
    """Whether the learner's loss and priorities are the oracle's."""
    loss = learner.loss(batch)
    total = torch.allclose(loss.total, expected[0], rtol=1e-4)
    return total and torch.allclose(loss.priorities, torch.tensor(expected[1]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_disagrees_with_the_oracle(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, batch = make(), random_batch(12)
    # One action is safe and one risky, so that it matters where h is undone; the networks disagree on which.
    shapes = torch.tensor([[3.0, 3.0, 3.0, 3.0], [-4.0, 0.0, 2.0, 13.0], [0.0, 0.0, 0.0, 0.0]])
    with torch.no_grad():
        learner.online.head_advantage.bias.copy_(shapes.flatten())
        learner.target.head_advantage.bias.copy_(shapes.roll(1, 0).flatten())
    expected = oracle(learner, batch)
    assert agrees(learner, batch, expected)
    ABLATIONS[name](monkeypatch, learner)
    assert not agrees(learner, batch, expected)


def bootstrap_values(learner: R2D2, batch: Batch) -> dict[str, Tensor]:
    """Both networks' quantiles [T + n, N, A, K] that the learner makes its targets of."""
    found: dict[str, Tensor] = {}
    whole = targets.quantile_targets

    def remembering(online: Tensor, target: Tensor, *rest: Tensor, **kwargs: Any) -> Tensor:
        found.update(online=online.detach(), target=target)
        return whole(online, target, *rest, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(targets, "quantile_targets", remembering)
        learner.loss(batch)
    return found


@torch.no_grad()
def stepped_values(learner: R2D2, batch: Batch) -> dict[str, Tensor]:
    """The same by stepping each item alone from its stored state on, NaN behind its last row."""
    found = {}
    for name, network in (("online", learner.online), ("target", learner.target)):
        shape = (CONFIG.unroll_length + CONFIG.n_step, batch.size, SPEC.num_actions, CONFIG.num_quantiles)
        found[name] = torch.full(shape, float("nan"))
        for item in range(batch.size):
            state = warm(network, batch, item)
            for t in range(int(batch.last[item]) + 1):
                output, state = step(network, batch, CONFIG.burn_in + t, item, state)
                found[name][t, item] = network.head(output, noise=True)
    return found


def wrong_rows(found: Tensor, expected: Tensor) -> list[int]:
    """Rows, counted from the first trained one, where some item's values are not as expected; NaN expects nothing."""
    right = torch.isclose(found, expected, rtol=1e-4, atol=1e-5) | expected.isnan()
    return (~right).flatten(1).any(1).nonzero().flatten().tolist()


def test_the_values_of_every_row_tail_included_come_from_the_state_before_it() -> None:
    learner, batch = make(), random_batch(12)
    found, expected = bootstrap_values(learner, batch), stepped_values(learner, batch)
    for name in ("online", "target"):
        assert not expected[name][-1].isnan().all()
        assert wrong_rows(found[name], expected[name]) == []


def tail_from(state_of: Callable[[R2D2, Batch], State]) -> Ablation:
    """The mistake in the state that the online network's unroll of the tail begins with."""

    def apply(monkeypatch: pytest.MonkeyPatch, learner: R2D2) -> None:
        tail = slice(CONFIG.burn_in + CONFIG.unroll_length, None)

        def changed(network: QNetwork, batch: Batch, state: State, rows: slice) -> tuple[Tensor, State]:
            wrong = network is learner.online and rows == tail
            return R2D2._unroll(learner, network, batch, state_of(learner, batch) if wrong else state, rows)

        monkeypatch.setattr(learner, "_unroll", changed)

    return apply


@pytest.mark.parametrize(
    "state_of",
    [
        pytest.param(
            lambda learner, batch: learner.warm_state(learner.online, batch, batch.burn_in_length),
            id="before the trained rows",
        ),
        pytest.param(lambda learner, batch: learner.online.initial_state(batch.size), id="zero"),
    ],
)
def test_a_tail_from_another_state_disagrees_with_the_oracle(
    state_of: Callable[[R2D2, Batch], State], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tail's rows only say which action to bootstrap from: what is best there must depend on the state."""
    learner, batch = make(), random_batch(12)
    whole, last = CONFIG.unroll_length, CONFIG.unroll_length + CONFIG.n_step - 1
    batch = replace(  # every window reaches the tail's end, and no mask narrows the choice
        batch,
        train_length=torch.full_like(batch.train_length, whole),
        last=torch.full_like(batch.last, last),
        mask=torch.ones_like(batch.mask),
    )
    values, expected = stepped_values(learner, batch), oracle(learner, batch)
    assert agrees(learner, batch, expected)
    tail_from(state_of)(monkeypatch, learner)
    assert wrong_rows(bootstrap_values(learner, batch)["online"], values["online"]) == list(range(whole, last + 1))
    assert not agrees(learner, batch, expected)


def burn_in_gradient(learner: R2D2, batch: Batch) -> list[Tensor | None]:
    """d loss / d(features) of the burn-in, of the trained rows and of the tail, by the online network's calls."""
    leaves: list[Tensor] = []
    encode = learner.online.encode_frames

    def remembering(frames: Frames) -> Tensor:
        leaves.append(encode(frames).detach().requires_grad_())
        return leaves[-1]

    learner.online.encode_frames = remembering  # type: ignore[method-assign]
    learner.loss(batch).total.backward()
    learner.online.encode_frames = encode  # type: ignore[method-assign]
    return [leaf.grad for leaf in leaves]


def trained_burn_in(learner: R2D2, network: QNetwork, batch: Batch, lengths: Tensor) -> State:
    """The mistake: gradient through the burn-in."""
    with torch.enable_grad():
        features = learner._encode(network, batch, slice(0, CONFIG.burn_in))
        return network.recur(features, (batch.state_h, batch.state_c), lengths)[1]


def test_no_gradient_reaches_the_burn_in(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, batch = make(), random_batch()
    mine = gradients(learner, batch)
    loss, _ = oracle(learner, batch, gradient_through_burn_in=True)
    through = torch.autograd.grad(loss, list(learner.online.parameters()))
    largest = max((a - b).abs().max().item() for a, b in zip(mine, through, strict=True))
    assert largest > 1e-4  # a learner that trains its burn-in has other gradients

    before, trained, tail = burn_in_gradient(learner, batch)
    assert before is None
    assert tail is None
    assert trained is not None
    assert trained.abs().max() > 0
    monkeypatch.setattr(
        learner, "warm_state", lambda network, batch, lengths: trained_burn_in(learner, network, batch, lengths)
    )
    before, _, _ = burn_in_gradient(learner, batch)
    assert before is not None
    assert before.abs().max() > 0


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
        state = learner.warm_state(learner.online, batch, batch.burn_in_length)
        outputs, _ = learner._unroll(learner.online, batch, state, slice(CONFIG.burn_in, None))
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
