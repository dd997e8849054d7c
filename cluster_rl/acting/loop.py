"""Actor: several emulators, one batched policy, finished sequences out.

`Actor` runs in the actor process (`cluster_rl/actor.py`) and, through another `Link`, inside the serial mode of
train_slim. In: parameters. Out: sequence blocks, each with the initial priority computed from the values the actor
acted on, and episode logs.

All emulators of an actor share one step clock: every `unroll_length` steps it cuts their sequences and takes the newest
parameters, so that a sequence's trained part was acted by one version.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from cluster_rl.acting.exploration import EntropySums, Exploration, acting_epsilons, acting_values, actor_epsilons
from cluster_rl.acting.policy import multiplies_bfloat16
from cluster_rl.acting.rollout import Rollout
from cluster_rl.acting.wandering import wander_weights
from cluster_rl.config import Config
from cluster_rl.emulator.env import Env, Step
from cluster_rl.emulator.puffer_env import environment_of
from cluster_rl.emulator.spaces import block_spec, observation_spec
from cluster_rl.exploration.archive import StartStates
from cluster_rl.game.buttons import NUM_BUTTONS
from cluster_rl.game.world import World
from cluster_rl.learning.priorities import actor_priorities
from cluster_rl.learning.sequences import EpisodeSummary, Sequence, SequenceBuilder, StepStore, is_elsewhere
from cluster_rl.model import build_model, load_params
from cluster_rl.rom import load_rom, pyboy_version
from cluster_rl.runs.crash_points import crash_point
from cluster_rl.runs.episode_log import EpisodeIdentity, EpisodeRecorder
from cluster_rl.wire.codec import encode_block

_PRIORITIES_AT_ONCE = 8


class Link(Protocol):
    """What an actor needs from whoever trains: the wire's `ActorChannel`, or serial mode's direct line."""

    def send(self, block: bytes) -> None:
        """Hands over one sequence; may wait for credit."""

    def take_params(self) -> tuple[int, bytes] | None:
        """(version, safetensors bytes) if others than those taken last have come, else None."""


class Actor:
    """`envs_per_actor` emulators driven by one network.

    `incarnation` tells apart the starts of the same actor and seeds it together with `base_seed` and `index`: a
    restarted actor does not play the same games again.
    """

    def __init__(
        self,
        config: Config,
        index: int,
        incarnation: int,
        link: Link,
        episode_log_dir: Path | None = None,
        run_name: str = "",
        archive_dir: Path | None = None,
    ) -> None:
        self.config = config
        self.link = link
        self.params_version = -1
        self.env_steps = 0
        self.last_actions: npt.NDArray[np.int64] = np.zeros(config.envs_per_actor, np.int64)
        self._clock = 0
        self._network = build_model(config, observation_spec(config)).eval()
        self._ladder = actor_epsilons(config, index)
        self._epsilons = self._ladder.copy()
        self._explores = np.zeros(config.envs_per_actor, np.bool_)  # all of the episode's actions are random ones
        self._exploration = Exploration(
            config.envs_per_actor, config.epsilon_hold_steps_max, config.wander_every_steps, config.wander_steps
        )
        seeds = np.random.SeedSequence([config.base_seed, index, incarnation])
        env_seed, action_seed, noise_seed = seeds.spawn(3)
        self._rng = np.random.default_rng(action_seed)
        self._noise = torch.Generator().manual_seed(int(noise_seed.generate_state(1)[0]))
        env_seeds = env_seed.generate_state(config.envs_per_actor)
        spec = block_spec(config)
        rom = load_rom(config.rom)
        world = World.for_rom(rom.sha1)
        environment = environment_of(config)
        self._stream_weights = config.stream_weights
        self._store = StepStore(spec, config.envs_per_actor, config.head_outputs)
        self._rows = np.arange(config.envs_per_actor)
        starts = None
        if config.starts_elsewhere and archive_dir is not None:
            starts = StartStates(archive_dir, index, config.start_share, config.archive_entries > 0)
        self._ids = (index, incarnation)
        self._entropy = EntropySums(config.envs_per_actor, NUM_BUTTONS, config.unroll_length)
        self.slots: list[_Slot] = []
        for emulator, seed in enumerate(env_seeds):
            recorder = None
            if episode_log_dir is not None:
                identity = EpisodeIdentity(
                    rom_sha1=rom.sha1,
                    rom_kind=rom.kind,
                    pyboy_version=pyboy_version(),
                    frame_skip=config.frame_skip,
                    run=run_name,
                    actor=index,
                    incarnation=incarnation,
                    emulator=emulator,
                    environment=environment,
                )
                interval_steps = config.ram_hash_interval_steps
                recorder = EpisodeRecorder(episode_log_dir, identity, interval_steps, needed=False)
            builder = SequenceBuilder(
                spec,
                actor=index,
                incarnation=incarnation,
                emulator=emulator,
                store=self._store,
            )
            env = Env(config, rom, world, int(seed) % 2**31, recorder, starts=starts)
            self.slots.append(_Slot(env, builder, recorder))
        # Where the learner's encoders compute in bfloat16, the actors' do.
        bfloat16 = config.mixed_precision and config.device != "cpu" and multiplies_bfloat16()
        self._rollout = Rollout([slot.env for slot in self.slots], self._network, bfloat16)

    def run(self) -> Iterator[int]:
        """Plays for ever; yields the env steps done after each batched step. Close it with `stop`."""
        for row, slot in enumerate(self.slots):
            self._begin(row, slot)
        while True:
            if self._clock % self.config.unroll_length == 0:
                self._edge()
            self._step()
            self._clock += 1
            yield self.env_steps

    def stop(self) -> None:
        """Ends every open episode as truncated by the job and sends what is open, so that no step is lost."""
        finished: list[Sequence] = []
        quantiles = self._rollout.peek()
        for row, slot in enumerate(self.slots):
            if slot.playing:
                summary = slot.env.stop()
                finished += self._end(row, slot, False, summary, quantiles[row])
        self._send(finished)
        for slot in self.slots:
            slot.env.close()

    def _edge(self) -> None:
        """A sequence edge: cut all sequences, take the newest parameters, draw new noise."""
        newest = self.link.take_params()
        if newest is not None:
            self.params_version, weights = newest
            crash_point("actor.before_params")
            load_params(self._network, weights)
            crash_point("actor.params_loaded")
        self._network.resample_noise(self._noise)
        if newest is not None or self._network.head_value.is_noisy:
            self._rollout.refresh()
        for row, slot in enumerate(self.slots):
            slot.builder.cut()
            self._set_policy(row, slot)

    def _set_policy(self, row: int, slot: _Slot) -> None:
        """Epsilon of one emulator from the next step on, and what its records tell of who plays."""
        ladder = acting_epsilons(self._ladder, self.params_version)
        epsilon = self._epsilons[row] = 1.0 if self._explores[row] else ladder[row]
        slot.builder.params_version, slot.builder.epsilon = self.params_version, float(epsilon)
        if slot.recorder is not None:
            slot.recorder.set_context(self.params_version, float(epsilon))

    def _step(self) -> None:
        play = self._rollout
        state_h, state_c = play.state
        noisy, quantiles = play.act()
        values = acting_values(noisy, self.config.value_rescaling, self._stream_weights)
        self._entropy.add(values, play.mask)
        self.last_actions = self._exploration.select(
            values,
            play.mask,
            lambda rows: wander_weights(
                play.mask[rows], play.crop[rows], play.context[rows], self.config.frontier_weight
            ),
            self._epsilons,
            self._rng,
        )
        # By the action and not by the draw: what follows a random draw of the best action is what its choice leads to.
        greedy = self.last_actions == self._exploration.best
        place = self._rows, np.array([slot.builder.slot for slot in self.slots])
        self._store.put_observation(place, play.packed, play.context, play.crop, play.mask, quantiles)
        self._store.put_action(place, self.last_actions, greedy, state_h, state_c)
        finished: list[Sequence] = []
        ended: list[tuple[int, Step]] = []
        for row, step in play.play(self.last_actions.tolist(), range(len(self.slots))):
            finished += self.slots[row].builder.advance(step.reward, step.visits, step.milestones)
            if step.terminated or step.truncated:
                ended.append((row, step))
        self.env_steps += len(self.slots)
        if ended:
            # A time limit bootstraps from the final observation, so its value is needed too.
            final = play.peek()
            for row, step in ended:
                finished += self._end(row, self.slots[row], step.terminated, step.summary, final[row])
                self._begin(row, self.slots[row])
        self._send(finished)

    def _begin(self, row: int, slot: _Slot) -> None:
        slot.env.episode_id = (*self._ids, row, slot.episode)
        self._rollout.start(row)
        tag = slot.env.episode_start.tag
        share = self.config.start_explore_share if is_elsewhere(tag) else 0.0
        self._explores[row] = share > 0 and self._rng.random() < share
        self._set_policy(row, slot)
        slot.builder.begin(slot.episode, tag)
        self._entropy.begin(row)
        slot.playing = True

    def _end(
        self,
        row: int,
        slot: _Slot,
        terminated: bool,
        summary: EpisodeSummary | None,
        quantiles: npt.NDArray[np.float32],
    ) -> tuple[Sequence, ...]:
        crash_point("actor.episode_ended")
        self._exploration.release(row)
        slot.episode += 1
        slot.playing = False
        if summary is not None and summary.episode_steps:
            entropy = self._entropy.of(row) / summary.episode_steps
            summary = msgspec.structs.replace(summary, entropy=entropy)
        return slot.builder.end(
            self._rollout.packed[row],
            self._rollout.context[row],
            self._rollout.crop[row],
            self._rollout.mask[row],
            terminated=terminated,
            quantiles=quantiles,
            summary=summary,
        )

    def _send(self, finished: list[Sequence]) -> None:
        # Of a few at a time: the arrays of many would not fit the processor's caches.
        for start in range(0, len(finished), _PRIORITIES_AT_ONCE):
            few = finished[start : start + _PRIORITIES_AT_ONCE]
            for sequence, priority in zip(few, self._priorities(few), strict=True):
                sequence.initial_priority = float(priority)
                self.link.send(encode_block(sequence))

    def _priorities(self, sequences: list[Sequence]) -> npt.NDArray[np.float32]:
        """Initial priorities of finished sequences, all in one call with padded rows.

        Without the learner's curiosity (`w_rnd`), which an actor cannot know: the first update sets that right.
        """
        rows, count = self.config.unroll_length + self.config.n_step, len(sequences)
        quantiles = np.zeros((rows, count, NUM_BUTTONS, self.config.head_outputs), np.float32)
        masks = np.ones((rows, count, NUM_BUTTONS), np.bool_)
        actions = np.zeros((rows, count), np.int64)
        greedy = np.zeros((rows, count), np.bool_)
        rewards = np.zeros((rows, count), np.float32)
        visits = np.zeros((rows, count), np.uint8)
        for column, sequence in enumerate(sequences):
            start = sequence.burn_in_length
            used = sequence.positions - start
            assert sequence.quantiles is not None
            quantiles[:used, column] = sequence.quantiles
            masks[:used, column] = sequence.mask[start:]
            actions[:used, column] = sequence.action[start:]
            greedy[:used, column] = sequence.greedy[start:]
            rewards[:used, column] = sequence.reward[start:]
            visits[:used, column] = sequence.visits[start:]
        return actor_priorities(
            torch.from_numpy(quantiles),
            torch.from_numpy(masks),
            torch.from_numpy(actions),
            torch.from_numpy(greedy),
            torch.from_numpy(rewards),
            torch.from_numpy(visits),
            train_length=torch.tensor([s.train_length for s in sequences]),
            last=torch.tensor([s.positions - s.burn_in_length - 1 for s in sequences]),
            terminated=torch.tensor([s.terminated for s in sequences]),
            config=self.config,
        ).numpy()


@dataclasses.dataclass
class _Slot:
    """One emulator of an actor with what belongs to it."""

    env: Env
    builder: SequenceBuilder
    recorder: EpisodeRecorder | None
    episode: int = 0
    playing: bool = False
