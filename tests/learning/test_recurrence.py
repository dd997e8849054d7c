"""The learner, whole, learns a task that needs memory, and fails it when its recurrent state is taken away.

A memory chain: the first observation shows a cue, four blank ones follow, then a query asks for the action that the cue
named: reward 1 if right, -1 if wrong, and the episode ends. Only the query leaves a choice of actions. Data come from
random play, in windows that span the chain. Judged by the gap of Q between right and wrong action at the query, because
the accuracy of a net that knows nothing can be anything.
"""

from __future__ import annotations

import numpy as np
import torch

from cluster_rl.config import Config, ModelConfig
from cluster_rl.learning import targets
from cluster_rl.learning.batch import Batch
from cluster_rl.learning.r2d2 import R2D2
from cluster_rl.model import ObservationSpec, QNetwork, State

CHAIN = 6  # rows: the cue, four blank ones, the query
BATCH = 16
UPDATES = 300
SPEC = ObservationSpec(context_size=4, crop_size=3, num_actions=2)
CONFIG = Config(
    burn_in=0,
    unroll_length=CHAIN,
    n_step=1,
    gamma=0.99,
    lstm_hidden_size=32,
    num_quantiles=8,
    batch_size=BATCH,
    learning_rate=3e-3,
    adam_epsilon=1e-6,
    target_update_interval=20,
    aux_loss_weight=0.0,
    model=ModelConfig(kind="slim", conv_channels=[2], context_width=64, trunk_width=64, noisy_sigma=0.0),
)


def play(rng: np.random.Generator) -> tuple[Batch, torch.Tensor]:
    """A batch of whole episodes of random play, and the right answers [N]."""
    rows, last = CHAIN + CONFIG.n_step, CHAIN
    cue = rng.integers(0, 2, BATCH)
    action = np.zeros((rows, BATCH), dtype=np.int64)
    action[CHAIN - 1] = rng.integers(0, 2, BATCH)
    mask = np.zeros((rows, BATCH, 2), dtype=np.bool_)
    mask[..., 0] = mask[CHAIN - 1] = True
    context = np.zeros((rows, BATCH, 4), dtype=np.uint8)
    context[0, np.arange(BATCH), cue] = 255
    context[CHAIN - 1, :, 2] = 255
    reward = np.zeros((rows, BATCH), dtype=np.float32)
    reward[CHAIN - 1] = np.where(action[CHAIN - 1] == cue, 1.0, -1.0)
    arrays = {
        "screen_packed": np.zeros((rows, BATCH, 72, 20), dtype=np.uint8),
        "context": context,
        "crop": np.zeros((rows, BATCH, 2, 3, 3), dtype=np.uint8),
        "mask": mask,
        "action": action,
        "reward": reward,
        "prev_action": np.concatenate([np.full((1, BATCH), 2), action[:-1]]),
        "prev_reward": np.concatenate([np.zeros((1, BATCH), dtype=np.float32), reward[:-1]]),
        "burn_in_length": np.zeros(BATCH, dtype=np.int64),
        "train_length": np.full(BATCH, CHAIN),
        "last": np.full(BATCH, last),
        "terminated": np.ones(BATCH, dtype=np.bool_),
        "state_h": np.zeros((1, BATCH, CONFIG.lstm_hidden_size), dtype=np.float32),
        "state_c": np.zeros((1, BATCH, CONFIG.lstm_hidden_size), dtype=np.float32),
        "weights": np.ones(BATCH, dtype=np.float32),
        "ids": np.arange(BATCH),
    }
    return Batch.from_numpy(arrays, torch.device("cpu")), torch.from_numpy(cue)


def forgetful(network: QNetwork) -> None:
    """Takes the network's memory: every step starts from a zero state."""
    whole = network.recur

    def recur(features: torch.Tensor, state: State, lengths: torch.Tensor | None = None) -> tuple[torch.Tensor, State]:
        steps = [whole(row.unsqueeze(0), network.initial_state(row.shape[0]))[0] for row in features]
        return torch.cat(steps), state

    network.recur = recur  # type: ignore[method-assign]


def query_gap(remembers: bool) -> float:
    """Trains, then returns the mean over episodes of Q(right) - Q(wrong) at the query."""
    learner = R2D2(CONFIG, SPEC, "cpu", seed=1)
    if not remembers:
        forgetful(learner.online)
        forgetful(learner.target)
    rng = np.random.default_rng(1)
    for _ in range(UPDATES):
        learner.update(play(rng)[0])
    batch, cue = play(rng)
    with torch.no_grad():
        frames = (batch.screen_packed, batch.context, batch.crop, batch.prev_action, batch.prev_reward)
        features = learner.online.encode(*(x.flatten(0, 1) for x in frames)).unflatten(0, (-1, BATCH))
        outputs, _ = learner.online.recur(features, (batch.state_h, batch.state_c))
        values = targets.expected_values(learner.online.head(outputs[CHAIN - 1], noise=False), rescaling=True)
    right = values.gather(1, cue.unsqueeze(1))
    wrong = values.gather(1, 1 - cue.unsqueeze(1))
    return (right - wrong).mean().item()


def test_memory_is_learned_through_the_recurrent_state() -> None:
    """The true gap is 2."""
    assert query_gap(remembers=True) > 1.0


def test_without_recurrent_state_the_same_learner_knows_nothing() -> None:
    assert abs(query_gap(remembers=False)) < 0.5
