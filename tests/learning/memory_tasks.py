"""Small tasks that cannot be solved without memory, and the training of the project's own learner on them.

Used by `test_recurrence.py`, `test_memory_*.py` and `scripts/bench/memory_seeds.py`. A chain of L steps: the first
observation shows a cue, blank ones follow, the last one is the query. Either the query asks for the action that the cue
named (reward 1 if right, -1 if wrong), or nothing is asked and the cue alone decides the last reward. Only a query that
asks leaves a choice of actions, and play is random, so that the result tells of memory and not of exploration.

Everything between the chain and the result is the project's: a `Policy` with published parameters carries the recurrent
state, `SequenceBuilder` cuts the windows, blocks go through the log of the `Replay`, `R2D2` trains on its batches. Each
row of the table proves one way in which the learner keeps or rebuilds memory, and has an ablation that takes just that
way and must then fail. Judged is the gap between values that only the cue can tell apart, because the accuracy of a net
that knows nothing can be anything.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from cluster_rl.acting.exploration import acting_values, actor_epsilons, best_actions, select_actions
from cluster_rl.acting.policy import Policy
from cluster_rl.config import Config, ModelConfig
from cluster_rl.learning import targets
from cluster_rl.learning.batch import Batch
from cluster_rl.learning.r2d2 import R2D2
from cluster_rl.learning.sequences import SCREEN_PACKED_SHAPE, BlockSpec, Sequence, SequenceBuilder
from cluster_rl.model import ObservationSpec, QNetwork, State, build_model, load_params
from cluster_rl.networks.frames import SCREEN_HEIGHT, SCREEN_WIDTH
from cluster_rl.replay_buffer import Replay
from cluster_rl.wire.codec import encode_block

PASS_GAP = 0.5  # at least this much of the true gap (2, discounted) is memory
FAIL_GAP = 0.25  # at most this much is none
# Slots of the context that tell the same: one alone would be lost beside what never changes.
_CUE_SLOTS = (slice(0, 24), slice(24, 48))
_QUERY_SLOTS = slice(48, 64)
CONTEXT_SIZE = 64
NUM_ACTIONS = 2
CROP_SIDE = 3
SPEC = ObservationSpec(context_size=CONTEXT_SIZE, crop_size=CROP_SIDE, num_actions=NUM_ACTIONS)

_CONFIG = Config(
    num_actors=1,
    envs_per_actor=16,
    epsilon_base=1.0,  # random play
    occupancy_crop_radius=1,
    burn_in=0,
    replay_capacity_transitions=1_000,
    n_step=1,
    gamma=0.99,
    lstm_hidden_size=128,
    num_quantiles=8,
    batch_size=32,
    learning_rate=5e-4,
    adam_epsilon=1e-6,
    max_grad_norm=0.5,  # so that no single batch wipes out what nothing teaches to keep
    target_update_interval=20,
    publish_interval=4,
    aux_loss_weight=0.0,
    # The screen stays blank; the context tells all.
    model=ModelConfig(
        kind="slim", conv_channels=[1, 1, 1], context_width=64, trunk_width=64, noisy_sigma=0.0, memory_steps=40
    ),
)
_UPDATES_PER_EPISODE = 4  # of all emulators: each position is trained four to eight times


@dataclass(frozen=True)
class Variant:
    """One training: a chain, the learner's settings, and what is taken away from it."""

    length: int  # L, steps of an episode
    asks: bool  # whether the query asks for an action
    config: Config
    updates: int
    forgetful_online: bool = False  # the recurrent state is zeroed before each step of training
    forgetful_target: bool = False
    zero_stored_state: bool = False  # of the batches


@dataclass(frozen=True)
class Row:
    """A row of the table: what it proves, the training that must show it, and the one that must not."""

    name: str
    proves: str
    whole: Variant
    ablation: Variant


def _settings(**changes: Any) -> Config:
    return msgspec.structs.replace(_CONFIG, **changes)


# One window spans the chain.
_RECURRENCE = Variant(10, asks=True, config=_settings(unroll_length=10), updates=120)
_TARGET = Variant(8, asks=False, config=_settings(unroll_length=8), updates=280)
# Windows [0, 4) and [4, 7): no window holds both the cue at 0 and the query at 6. The gates' first biases keep
# the cue in a state that no gradient ever teaches to keep it.
_STORED = Variant(7, asks=True, config=_settings(unroll_length=4), updates=250)
_BURN_IN = replace(_STORED, config=_settings(unroll_length=4, burn_in=4), zero_stored_state=True)
# A burn-in of 2 begins behind the cue: only a stored state carries it, and only through the burn-in.
_BOTH = replace(_STORED, config=_settings(unroll_length=4, burn_in=2))
_NEITHER = replace(_STORED, zero_stored_state=True)

ROWS = {
    row.name: row
    for row in (
        Row(
            "recurrence",
            "memory is learned through time",
            _RECURRENCE,
            replace(_RECURRENCE, forgetful_online=True, forgetful_target=True),
        ),
        Row(
            "target's own state",
            "the target's values know the past",
            _TARGET,
            replace(_TARGET, forgetful_target=True),
        ),
        Row("stored state", "the actor's state bridges windows", _STORED, _NEITHER),
        Row("burn-in", "a burn-in rebuilds the state", _BURN_IN, _NEITHER),
        Row("both", "a burn-in goes on from the stored state", _BOTH, replace(_BOTH, zero_stored_state=True)),
    )
}


def observation(variant: Variant, step: int, cue: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Context uint8 [C] and mask bool [A] of a step, 0..L; step L is the final observation, blank."""
    context = np.zeros(CONTEXT_SIZE, np.uint8)
    if step == 0:
        context[_CUE_SLOTS[cue]] = 255
    if step == variant.length - 1:
        context[_QUERY_SLOTS] = 255
    return context, np.array([True, variant.asks and step == variant.length - 1])


def reward(variant: Variant, step: int, cue: int, action: int) -> float:
    """0 before the last step; then 1 or -1."""
    if step < variant.length - 1:
        return 0.0
    good = action == cue if variant.asks else cue == 1
    return 1.0 if good else -1.0


class Player:
    """The actor's side: some emulators' chains played in step by one network, cut into sequences."""

    def __init__(self, variant: Variant, seed: int) -> None:
        config = variant.config
        self._variant = variant
        self._network = build_model(config, SPEC)  # the weights come with `load`
        self._epsilons = actor_epsilons(config, 0)
        self._rng = np.random.default_rng(seed)
        spec = BlockSpec.from_config(config, CONTEXT_SIZE, NUM_ACTIONS)
        self._builders = [
            SequenceBuilder(spec, actor=0, incarnation=1, emulator=row, epsilon=float(epsilon))
            for row, epsilon in enumerate(self._epsilons)
        ]
        self._episode = 0

    def load(self, params: bytes) -> None:
        """Acts with these weights from now on."""
        load_params(self._network, params)
        self._policy = Policy(self._network)

    def play_episode(self) -> list[Sequence]:
        """One episode of every emulator."""
        variant, count = self._variant, len(self._builders)
        cues = self._rng.integers(0, 2, count).tolist()
        screens = np.zeros(SCREEN_PACKED_SHAPE, np.uint8)
        crop = np.zeros((2, CROP_SIDE, CROP_SIDE), np.uint8)
        shades = np.zeros((count, SCREEN_HEIGHT, SCREEN_WIDTH), np.uint8)
        packed = np.zeros((count, *SCREEN_PACKED_SHAPE), np.uint8)
        crops = np.zeros((count, 2, CROP_SIDE, CROP_SIDE), np.uint8)
        actions = np.full(count, NUM_ACTIONS, np.int64)  # none yet
        rewards = np.zeros(count, np.float32)
        state = tuple(part[0].numpy() for part in self._network.initial_state(count))
        for builder in self._builders:
            builder.begin(self._episode)
        finished: list[Sequence] = []
        for step in range(variant.length):
            seen = [observation(variant, step, cue) for cue in cues]
            contexts, masks = (np.stack(part) for part in zip(*seen, strict=True))
            state_h, state_c = state
            quantiles, _, state = self._policy.act(shades, packed, contexts, crops, actions, rewards, state)
            values = acting_values(quantiles, variant.config.value_rescaling, variant.config.stream_weights)
            actions = select_actions(values, masks, self._epsilons, self._rng)
            greedy = actions == best_actions(values, masks)
            rewards = np.array(
                [reward(variant, step, cue, action) for cue, action in zip(cues, actions.tolist(), strict=True)],
                np.float32,
            )
            for row, builder in enumerate(self._builders):
                finished += builder.add(
                    screens,
                    contexts[row],
                    crop,
                    masks[row],
                    int(actions[row]),
                    bool(greedy[row]),
                    float(rewards[row]),
                    0,
                    state_h[row],
                    state_c[row],
                )
        for builder, cue in zip(self._builders, cues, strict=True):
            context, mask = observation(variant, variant.length, cue)
            finished += builder.end(screens, context, crop, mask, terminated=True)
        self._episode += 1
        return finished


def forgetful(network: QNetwork) -> None:
    """Takes the network's memory: every step starts from a zero state."""
    whole = network.recur

    def recur(features: torch.Tensor, state: State, lengths: torch.Tensor | None = None) -> tuple[torch.Tensor, State]:
        assert lengths is None, "used without burn-in only"
        steps = features.flatten(0, 1).unsqueeze(0)  # all steps of all items beside each other
        outputs, _ = whole(steps, network.initial_state(steps.shape[1]))
        return outputs[0].unflatten(0, features.shape[:2]), state

    network.recur = recur  # type: ignore[method-assign]


def train(variant: Variant, seed: int) -> R2D2:
    """Trains on a replay that fills as the player goes on; returns the learner."""
    config = variant.config
    learner = R2D2(config, SPEC, "cpu", seed)
    if variant.forgetful_online:
        forgetful(learner.online)
    if variant.forgetful_target:
        forgetful(learner.target)
    player = Player(variant, seed)
    rng = np.random.default_rng([seed, 1])
    spec = BlockSpec.from_config(config, CONTEXT_SIZE, NUM_ACTIONS)
    with tempfile.TemporaryDirectory() as folder:
        replay = Replay(config, spec, Path(folder), "memory", frozenset())
        logged = 0
        while learner.updates < variant.updates:
            if learner.updates % config.publish_interval == 0:
                player.load(learner.params_bytes())
            if learner.updates % _UPDATES_PER_EPISODE == 0:
                for sequence in player.play_episode():
                    replay.append(0, 1, logged, encode_block(sequence))
                    logged += 1
            arrays = replay.sample(rng, config.batch_size)
            if variant.zero_stored_state:
                arrays = arrays | {name: np.zeros_like(arrays[name]) for name in ("state_h", "state_c")}
            result = learner.update(Batch.from_numpy(arrays, learner.device))
            replay.update_priorities(arrays["ids"], result.priorities)
        replay.close()
    if variant.forgetful_online:
        del learner.online.recur  # judged whole: without its state it could not know the cue, whatever it had learned
    return learner


def value_gaps(learner: R2D2, variant: Variant) -> list[float]:
    """What the trained online network makes of the cue, on one episode for each cue, its state carried all the way.

    Where the query asks: one figure, Q(right) - Q(wrong) at the query, mean over the cues. Where it does not: at each
    of the L steps the value with the good cue less that with the bad one.
    """
    steps = variant.length
    contexts = np.stack([[observation(variant, step, cue)[0] for cue in (0, 1)] for step in range(steps)])
    prev_action = torch.zeros((steps, 2), dtype=torch.int64)
    prev_action[0] = NUM_ACTIONS
    frames = (
        torch.zeros((steps, 2, *SCREEN_PACKED_SHAPE), dtype=torch.uint8),
        torch.from_numpy(contexts),
        torch.zeros((steps, 2, 2, CROP_SIDE, CROP_SIDE), dtype=torch.uint8),
        prev_action,
        torch.zeros((steps, 2)),
    )
    network = learner.online
    with torch.no_grad():
        features = network.encode(*(part.flatten(0, 1) for part in frames)).unflatten(0, (steps, 2))
        outputs, _ = network.recur(features, network.initial_state(2))
        quantiles = network.head(outputs, noise=False)
        values = targets.expected_values(
            quantiles, variant.config.value_rescaling, variant.config.stream_weights
        )  # [L, cues, A]
    if variant.asks:
        query = values[-1]
        return [((query[0, 0] - query[0, 1] + query[1, 1] - query[1, 0]) / 2).item()]
    gaps: list[float] = (values[:, 1, 0] - values[:, 0, 0]).tolist()
    return gaps


def judged(variant: Variant, gaps: list[float]) -> list[float]:
    """The gaps that prove something. Where nothing is asked, the last step is left out: it needs no bootstrapping."""
    return gaps if variant.asks else gaps[:-1]


def pass_gap(row: Row, seed: int) -> float:
    """The smallest judged gap after the whole learner's training: at least `PASS_GAP` where the row passes."""
    return min(judged(row.whole, value_gaps(train(row.whole, seed), row.whole)))


def ablation_gap(row: Row, seed: int) -> float:
    """The largest judged gap, whatever its sign, after the ablation's training: below `FAIL_GAP` where that fails."""
    return max(abs(gap) for gap in judged(row.ablation, value_gaps(train(row.ablation, seed), row.ablation)))
