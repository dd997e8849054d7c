"""The paper's measure of staleness, by hand, and on states that older weights have stored."""

from __future__ import annotations

import functools

import msgspec
import pytest
import torch
from learner_fixtures import CONFIG, CPU, SPEC, random_arrays
from torch import Tensor

from cluster_rl.learning import targets
from cluster_rl.learning.batch import Batch
from cluster_rl.learning.r2d2 import R2D2
from cluster_rl.model import QNetwork, State
from cluster_rl.training.staleness import q_discrepancy

START = 16  # the first trained position of the window within its episode
ROLLED = msgspec.structs.replace(
    CONFIG,
    burn_in=8,
    unroll_length=4,
    n_step=2,
    lstm_hidden_size=16,
    learning_rate=1e-3,
    target_update_interval=10,
    model=msgspec.structs.replace(CONFIG.model, trunk_width=16, noisy_sigma=0.0, memory_steps=40),
)
# A window as long as the whole episode up to the last trained position.
EPISODES = 12
UPDATES_BEFORE, UPDATES_SINCE = 20, 20
WHOLE = msgspec.structs.replace(ROLLED, burn_in=0, unroll_length=START + ROLLED.unroll_length)


def test_by_hand() -> None:
    true = torch.tensor([[3.0, 4.0], [-8.0, -2.0], [0.0, 0.0]])
    replayed = torch.tensor([[6.0, 0.0], [-8.0, -2.0], [1e-6, 0.0]])
    # sqrt(9 + 16) over |max| = 4, not over max |q|; equal values; no value at all is still finite.
    torch.testing.assert_close(q_discrepancy(replayed, true), torch.tensor([1.25, 0.0, 1.0]))
    assert q_discrepancy(torch.tensor([-8.0, -3.0]), torch.tensor([-8.0, -2.0])).item() == 0.5


def test_shapes() -> None:
    assert q_discrepancy(torch.zeros(5, 4, 3), torch.ones(5, 4, 3)).shape == (5, 4)
    with pytest.raises(AssertionError):
        q_discrepancy(torch.zeros(5, 4, 3), torch.zeros(5, 4, 2))


def episodes(seed: int) -> Batch:
    """Whole episodes of random observations, no row unused. A step is worth 1 more if a slot was high a step before."""
    arrays = random_arrays(WHOLE, EPISODES, seed)
    arrays["reward"][0] = 1.0
    arrays["reward"][1:] = 1.0 + (arrays["context"][:-1, :, 0] > 127)
    arrays["prev_reward"][0], arrays["prev_reward"][1:] = 0.0, arrays["reward"][:-1]
    arrays["burn_in_length"][:] = 0
    arrays["train_length"][:] = WHOLE.unroll_length
    arrays["last"][:] = WHOLE.unroll_length + WHOLE.n_step - 1
    for name in ("state_h", "state_c"):
        arrays[name][:] = 0.0
    return Batch.from_numpy(arrays, CPU)


def window_of(rows: slice, batch: Batch, state: State) -> Batch:
    """The rows of a shorter window of the same episodes, beginning with `state`."""
    timed = (
        "screen_packed",
        "context",
        "crop",
        "mask",
        "action",
        "greedy",
        "reward",
        "visits",
        "prev_action",
        "prev_reward",
    )
    parts = {name: getattr(batch, name)[rows] for name in timed}
    return Batch(
        **parts,
        burn_in_length=torch.full((EPISODES,), ROLLED.burn_in),
        train_length=torch.full((EPISODES,), ROLLED.unroll_length),
        last=torch.full((EPISODES,), ROLLED.unroll_length + ROLLED.n_step - 1),
        terminated=batch.terminated,
        state_h=state[0],
        state_c=state[1],
        weights=batch.weights,
        ids=batch.ids,
    )


def features(network: QNetwork, batch: Batch) -> Tensor:
    names = ("screen_packed", "context", "crop", "prev_action", "prev_reward")
    frames: Tensor = network.encode(*(getattr(batch, name).flatten(0, 1) for name in names))
    return frames.view(-1, EPISODES, network.feature_size)


def values(network: QNetwork, seen: Tensor, state: State) -> Tensor:
    """Q-values of all rows, [rows, N, A], from `state` on."""
    outputs, _ = network.recur(seen, state)
    return targets.expected_values(network.head(outputs, noise=False), rescaling=True, weights=(1.0,))


@functools.cache
def discrepancies() -> dict[str, Tensor]:
    """Mean Delta Q at the first and the last trained position, [2], by how the state at the first one is made."""
    learner = R2D2(WHOLE, SPEC, CPU, seed=4)
    for number in range(UPDATES_BEFORE):
        learner.update(episodes(seed=number))
    played = episodes(seed=100)
    first = START - ROLLED.burn_in
    # The actor's weights store two states: where a window with burn-in begins, and where one without it would.
    with torch.no_grad():
        seen = features(learner.online, played)
        zero = learner.online.initial_state(EPISODES)
        _, before_burn_in = learner.online.recur(seen[:first], zero)
        _, before_training = learner.online.recur(seen[:START], zero)

    for number in range(UPDATES_BEFORE, UPDATES_BEFORE + UPDATES_SINCE):
        learner.update(episodes(seed=number))

    trainee = R2D2(ROLLED, SPEC, CPU, seed=4)
    trainee.online.load_state_dict(learner.online.state_dict())
    network = trainee.online
    with torch.no_grad():
        seen = features(network, played)
        true = values(network, seen, zero)[START : START + ROLLED.unroll_length]
        rows = slice(first, START + ROLLED.unroll_length + ROLLED.n_step)
        warmed = {
            name: trainee.warm_state(network, window, trainee.encode(network, window), window.burn_in_length)
            for name, window in (
                ("stored + burn-in", window_of(rows, played, before_burn_in)),
                ("zero + burn-in", window_of(rows, played, zero)),
            )
        }
        starts = {**warmed, "stored": before_training, "zero": zero}
        trained = seen[START : START + ROLLED.unroll_length]
        return {
            name: q_discrepancy(values(network, trained, state), true)[[0, -1]].mean(1)
            for name, state in starts.items()
        }


def test_stored_states_and_burn_in_bring_the_values_nearer_to_the_true_ones() -> None:
    found = discrepancies()
    for position in (0, 1):
        burnt_in, stored, zero = (found[name][position] for name in ("stored + burn-in", "stored", "zero"))
        assert burnt_in < 0.5 * stored  # no burn-in is the ablation
        assert stored < zero
        assert burnt_in < found["zero + burn-in"][position] < zero  # and no stored state the other


def test_later_positions_suffer_less_than_the_first() -> None:
    found = discrepancies()
    for name in ("stored", "zero"):
        assert found[name][1] < found[name][0]


def test_weights_that_have_not_moved_leave_no_discrepancy_but_that_of_a_zero_state() -> None:
    learner, played = R2D2(WHOLE, SPEC, CPU, seed=4), episodes(seed=100)
    with torch.no_grad():
        seen = features(learner.online, played)
        zero = learner.online.initial_state(EPISODES)
        true = values(learner.online, seen, zero)[START:]
        _, stored = learner.online.recur(seen[:START], zero)
        assert q_discrepancy(values(learner.online, seen[START:], stored), true).max() < 1e-4
        assert q_discrepancy(values(learner.online, seen[START:], zero), true)[0].mean() > 1e-2
