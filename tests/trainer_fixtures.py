"""A real `Trainer` on a real replay log, small enough for milliseconds, and made-up episodes for it to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from sequence_fixtures import (
    action_of,
    make_builder,
    observation,
    play,
    reward_of,
    small_spec,
    visits_of,
)

from cluster_rl.config import Config, ModelConfig
from cluster_rl.exploration.bayes_quests import Quest
from cluster_rl.learning.sequences import Sequence
from cluster_rl.model import ObservationSpec, QNetwork
from cluster_rl.runs.layout import RunDir
from cluster_rl.training.trainer import Trainer
from cluster_rl.wire.codec import encode_block

BLOCK = small_spec()
OBSERVATION = ObservationSpec(
    context_size=BLOCK.context_size, crop_size=BLOCK.crop_side, num_actions=BLOCK.num_actions, aux_slots=(0, 3)
)
MILESTONES = frozenset({"town", "badge"})
QUESTS = (Quest("town", True, 0), Quest("badge", True, 2))  # the context has a step and an episode's number there
CONFIG = Config(
    device="cpu",
    occupancy_crop_radius=1,
    unroll_length=BLOCK.unroll_length,
    burn_in=BLOCK.burn_in,
    n_step=BLOCK.n_step,
    lstm_hidden_size=BLOCK.hidden_size,
    num_quantiles=4,
    batch_size=4,
    learning_rate=1e-3,
    target_update_interval=3,
    averaging_updates=5,
    min_replay_transitions=40,
    model=ModelConfig(kind="slim", conv_channels=[2], context_width=8, trunk_width=8, noisy_sigma=0.5),
)


def changed(**changes: Any) -> Config:
    return msgspec.structs.replace(CONFIG, **changes)


def open_trainer(folder: Path, config: Config = CONFIG) -> Trainer:
    """The trainer of the run in `folder`, new or gone on with."""
    return Trainer(config, RunDir(folder, "run").create(), OBSERVATION, BLOCK, MILESTONES, "job", QUESTS)


def ingest(trainer: Trainer, sequences: list[Sequence]) -> None:
    """Hands sequences to the trainer as their actor would, with the numbers that come next."""
    for sequence in sequences:
        seq = trainer.replay.expected_seq(sequence.actor, sequence.incarnation)
        trainer.ingest(sequence.actor, sequence.incarnation, seq, encode_block(sequence))


def episodes(first: int, count: int, length: int = 18) -> list[Sequence]:
    """Sequences of whole made-up episodes, numbered from `first`, with the states that tell their step."""
    builder = make_builder(BLOCK)
    return [sequence for episode in range(first, first + count) for sequence in play(builder, episode, length)]


def train(trainer: Trainer, updates: int) -> None:
    for _ in range(updates):
        trainer.update(trainer.sample())


def played(network: QNetwork, length: int, episode: int = 0, params_version: int = 0) -> list[Sequence]:
    """An episode whose stored states are those that `network` reaches, as an actor's are."""
    builder = make_builder(BLOCK)
    builder.params_version = params_version
    builder.begin(episode)
    state = network.initial_state(1)
    action, reward = BLOCK.num_actions, 0.0
    sequences: list[Sequence] = []
    for step in range(length):
        frame = observation(BLOCK, episode, step)
        hidden, memory = (part[0, 0].numpy() for part in state)
        taken, gained = action_of(step), reward_of(episode, step)
        sequences += builder.add(
            *frame, action=taken, greedy=True, reward=gained, visits=visits_of(step), state_h=hidden, state_c=memory
        )
        with torch.no_grad():
            columns = [torch.from_numpy(part[None]) for part in frame[:3]]
            features = network.encode(*columns, torch.tensor([action]), torch.tensor([reward], dtype=torch.float32))
            _, state = network.recur(features.unsqueeze(0), state)
        action, reward = taken, float(np.float32(gained))
    return sequences + list(builder.end(*observation(BLOCK, episode, length), terminated=True))
