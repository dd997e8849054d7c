"""Loss, gradient and priorities against the slow oracle, and ablations: each, a well-known mistake, must disagree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import torch
from learner_fixtures import CONFIG, SPEC, gradients, make, random_batch
from learner_oracle import oracle, step, warm
from torch import Tensor

from cluster_rl.config import RewardWeights
from cluster_rl.learning import losses, priorities, targets
from cluster_rl.learning.batch import Batch
from cluster_rl.learning.r2d2 import R2D2
from cluster_rl.model import QNetwork, State

STREAMS: dict[str, Any] = {"intrinsic_gamma": 0.6, "rewards": RewardWeights(novelty=0.12), "w_rnd": 0.08}
SETTINGS: list[dict[str, Any]] = [
    *({}, {"value_rescaling": False}, {"huber_kappa": 0.25}, {"priority_eta": 0.4}),
    *({"return_cut": "watkins"}, {"return_cut": "soft_watkins"}),
    {"target_encoder": "online"},
    *({"advantage_alpha": 0.7}, {"advantage_alpha": 0.7, "value_rescaling": False}),
    *(STREAMS, STREAMS | {"advantage_alpha": 0.7}, STREAMS | {"value_rescaling": False, "return_cut": "soft_watkins"}),
]


@pytest.mark.parametrize("changes", SETTINGS, ids=lambda changes: "".join(map(str, changes.values())) or "defaults")
def test_loss_gradient_and_priorities_equal_the_oracle(changes: dict[str, Any]) -> None:
    learner, batch = make(msgspec.structs.replace(CONFIG, **changes)), random_batch(seed=len(changes))
    if "w_rnd" in changes:
        batch = curious(batch)
    loss = learner.loss(batch)
    expected, expected_priorities = oracle(learner, batch)
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(loss.priorities, torch.tensor(expected_priorities), rtol=1e-4, atol=1e-6)
    parameters = list(learner.online.parameters())
    for mine, theirs in zip(gradients(learner, batch), torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)


def curious(batch: Batch) -> Batch:
    """With what RND would pay for each step."""
    return replace(batch, curiosity=torch.rand(batch.reward.shape, generator=torch.Generator().manual_seed(7)))


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
        monkeypatch.setattr(learner, "warm_state", lambda network, batch, *_: state_of(learner, network, batch))

    return apply


def warm_by_learner(learner: R2D2, network: QNetwork, batch: Batch, lengths: Tensor | None = None) -> State:
    """The learner's own way, and features that the network made itself."""
    with torch.no_grad():
        features = learner.encode(network, batch)
    return R2D2.warm_state(learner, network, batch, features, batch.burn_in_length if lengths is None else lengths)


def target_only(state_of: Callable[[R2D2, Batch], State]) -> Ablation:
    """The mistake in the target network's state alone."""
    return change_warming(
        lambda learner, network, batch: (
            state_of(learner, batch) if network is learner.target else warm_by_learner(learner, network, batch)
        )
    )


def run_through_unused_slots(learner: R2D2, network: QNetwork, batch: Batch) -> State:
    full = torch.full_like(batch.burn_in_length, CONFIG.burn_in)
    return warm_by_learner(learner, network, batch, full)


def change(module: Any, name: str, changed: Callable[..., Any]) -> Ablation:
    """Replaces a function of a module."""
    return lambda monkeypatch, learner: monkeypatch.setattr(module, name, changed)


def wrong_axis_loss(predicted: Tensor, samples: Tensor, kappa: float) -> Tensor:
    """tau goes with the target samples."""
    taus = (torch.arange(predicted.shape[-1]) + 0.5) / predicted.shape[-1]
    errors = samples.unsqueeze(-2) - predicted.unsqueeze(-1)
    huber = torch.where(errors.abs() <= kappa, 0.5 * errors.square() / kappa, errors.abs() - 0.5 * kappa)
    return ((taus - (errors.detach() < 0).float()).abs() * huber).mean(-1).sum(-1)


def mean_in_h_space(quantiles: Tensor, rescaling: bool, weights: Sequence[float]) -> Tensor:
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
        lambda learner, batch: warm_by_learner(learner, learner.online, batch)
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


CUT_ABLATIONS: dict[str, Callable[..., Any]] = {
    "no cut": lambda goes_on: None,
    "a cut everywhere (n = 1)": torch.zeros_like,
    "the bit of the row before": lambda goes_on: goes_on.roll(1, 0),
    "the bit the other way round": lambda goes_on: ~goes_on,
}


@pytest.mark.parametrize("cut", ["watkins", "soft_watkins"])
@pytest.mark.parametrize("name", CUT_ABLATIONS)
def test_every_other_cut_disagrees_with_the_oracle(name: str, cut: str, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, batch = make(msgspec.structs.replace(CONFIG, return_cut=cut)), random_batch(12)
    expected = oracle(learner, batch)
    assert agrees(learner, batch, expected)
    whole = targets.return_goes_on
    monkeypatch.setattr(targets, "return_goes_on", lambda *args: CUT_ABLATIONS[name](whole(*args)))
    assert not agrees(learner, batch, expected)


Penalties = Callable[..., Tensor]
PENALTY_ABLATIONS: dict[str, Callable[[Penalties, R2D2, Any], Tensor | None]] = {
    "none": lambda whole, learner, given: None,
    "of the row before": lambda whole, learner, given: whole(*given).roll(1, 1),
    "against actions that are masked": lambda whole, learner, given: whole(
        *given[:3], torch.ones_like(given[3]), *given[4:]
    ),
    "in h-space": lambda whole, learner, given: whole(*given[:4], False, given[5]),
    "of another action": lambda whole, learner, given: whole(*given[:2], (given[2] + 1) % SPEC.num_actions, *given[3:]),
    "all of it": lambda whole, learner, given: whole(1.0, *given[1:]),
}


@pytest.mark.parametrize("name", PENALTY_ABLATIONS)
def test_every_other_penalty_disagrees_with_the_oracle(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, batch = make(msgspec.structs.replace(CONFIG, advantage_alpha=0.7)), random_batch(12)
    expected = oracle(learner, batch)
    assert agrees(learner, batch, expected)
    whole = targets.advantage_penalties
    monkeypatch.setattr(targets, "advantage_penalties", lambda *given: PENALTY_ABLATIONS[name](whole, learner, given))
    assert not agrees(learner, batch, expected)


def test_penalties_by_the_online_network_disagree_with_the_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, batch = make(msgspec.structs.replace(CONFIG, advantage_alpha=0.7)), random_batch(12)
    expected, online = oracle(learner, batch), bootstrap_values(learner, batch)["online"]
    whole = targets.advantage_penalties
    monkeypatch.setattr(targets, "advantage_penalties", lambda alpha, _, *rest: whole(alpha, online, *rest))
    assert not agrees(learner, batch, expected)


def own_best(part: int) -> Callable[..., Tensor]:
    """Bootstraps from the action that is best by one stream alone."""
    return lambda quantiles, rescaling, weights: targets.stream_values(quantiles, rescaling, len(weights))[..., part]


def all_novelty_stays(rewards: Tensor, visits: Tensor, curiosity: Tensor, novelty: float, weights: Any) -> Tensor:
    return torch.stack([rewards, stream_rewards(rewards, visits, curiosity, novelty, weights)[1]])


def unscaled(*given: Any) -> Tensor:
    game, intrinsic = stream_rewards(*given)
    return torch.stack([game, intrinsic * given[-1][1]])


stream_rewards = targets.stream_rewards
STREAM_ABLATIONS: dict[str, Ablation] = {
    "one discount": change_targets(gammas=lambda given: (CONFIG.gamma, CONFIG.gamma)),
    "discounts the other way round": change_targets(gammas=lambda given: given["gammas"][::-1]),
    "a* by the game's stream": change(targets, "expected_values", own_best(0)),
    "a* by the intrinsic stream": change(targets, "expected_values", own_best(1)),
    "streams weigh alike": change_targets(weights=lambda given: (1.0, 1.0)),
    "no curiosity": change(targets, "stream_rewards", lambda *given: stream_rewards(*given[:2], None, *given[3:])),
    "what is paid for tiles counts in both": change(targets, "stream_rewards", all_novelty_stays),
    "in units of reward": change(targets, "stream_rewards", unscaled),
    "priorities of the game's stream": change(
        priorities, "weighted_sum", lambda by_stream, weights: by_stream[..., 0] * weights[0]
    ),
}


@pytest.mark.parametrize("name", STREAM_ABLATIONS)
def test_every_other_use_of_two_streams_disagrees_with_the_oracle(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, batch = make(msgspec.structs.replace(CONFIG, **STREAMS)), curious(random_batch(12))
    expected = oracle(learner, batch)
    assert agrees(learner, batch, expected)
    STREAM_ABLATIONS[name](monkeypatch, learner)
    assert not agrees(learner, batch, expected)


def test_another_networks_encoders_disagree_with_the_oracle() -> None:
    whose = [make(msgspec.structs.replace(CONFIG, target_encoder=encoder)) for encoder in ("own", "online")]
    batch = random_batch(12)
    for learner in whose:
        assert [agrees(learner, batch, oracle(other, batch)) for other in whose] == [learner is it for it in whose]


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
            state = warm(learner, network, batch, item)
            for t in range(int(batch.last[item]) + 1):
                output, state = step(learner, network, batch, CONFIG.burn_in + t, item, state)
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
        recur, batch = learner.online.recur, random_batch(12)

        def changed(features: Tensor, state: State, lengths: Tensor | None = None) -> tuple[Tensor, State]:
            is_tail = lengths is None and len(features) == CONFIG.n_step
            return recur(features, state_of(learner, batch) if is_tail else state, lengths)

        monkeypatch.setattr(learner.online, "recur", changed)

    return apply


@pytest.mark.parametrize(
    "state_of",
    [
        pytest.param(
            lambda learner, batch: warm_by_learner(learner, learner.online, batch),
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
