"""Sequences: what the learner trains on, and how an actor cuts them out of an episode.

Runs in the actor process, one `SequenceBuilder` for each emulator. In: the steps of an episode. Out: finished
`Sequence` objects, each with the positions of one window, up to `burn_in` positions before it and up to `n_step` after
it. Every real step lies in exactly one window's trained part. Pure numpy: no torch, no game.

Positions of a window that trains steps [start, stop) of an episode whose final observation has index E:

    b = min(burn_in, start)                 the burn-in comes from the same episode only
    last = min(stop - 1 + n_step, E)        so that every trained step has its n-step target, or the episode's end
    P = b + (stop - start) + (last - stop + 1)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from cluster_rl.config import Config

SCREEN_PACKED_SHAPE = (72, 20)
"""One 72 x 80 screen of 2-bit shades, four to a byte."""

MAX_VISITS = 255
"""More visits to a tile are told as so many: what a bonus by count pays is nearly nothing by then."""


Steps = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
MAX_NAME = 64
Name = Annotated[str, msgspec.Meta(max_length=MAX_NAME)]
EndReason = Literal["terminated", "truncated", "stopped"]
Names = Annotated[list[Name], msgspec.Meta(max_length=256)]
StartTag = Literal["beginning", "school", "state", "archive"]


def is_elsewhere(tag: StartTag) -> bool:
    """Whether an episode with this tag began elsewhere than the run's episodes begin by its config."""
    return tag in ("state", "archive")


class EpisodeStart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where an episode began, and the `milestones` that were reached there already: they are not the episode's.

    `tag` is `beginning` (after boot, or at the config's `initial_state`), `school` (a lesson that `initial_state`
    names), `state` (one of the savestates in `start_states`) or `archive` (where another episode came by). `id` says
    which: `boot`, the lesson, the file's name, or the key of the archive's entry.
    """

    id: Name
    tag: StartTag
    milestones: Names


class EpisodeSummary(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an episode went. `milestones` are (name, step counted from 1); `terms` are the weighted sums of the reward
    terms, the intrinsic ones (`rewards.INTRINSIC_TERMS`) included, which the return leaves out.

    `reason` is `terminated` (the game's task is done), `truncated` (the step limit) or `stopped` (the job ended).
    `cells` are the distinct map cells that it stood on. `loop_share` is the share of its steps that ended on a cell
    entered again and again since the last reward (`exploration/roaming.py`). `entropy` is the mean over its steps of
    the entropy of softmax(Q) over the valid actions, in nats; None where nothing was chosen by values.
    """

    episode_steps: Steps
    episode_return: float
    terms: Annotated[dict[Name, float], msgspec.Meta(max_length=64)]
    milestones: Annotated[list[tuple[Name, Steps]], msgspec.Meta(max_length=256)]
    final_map: Annotated[int, msgspec.Meta(ge=0, le=255)]
    reason: EndReason
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**62)]
    start: EpisodeStart
    cells: Steps
    loop_share: Annotated[float, msgspec.Meta(ge=0, le=1)]
    entropy: Annotated[float, msgspec.Meta(ge=0, le=64)] | None

    @property
    def is_whole(self) -> bool:
        """Whether the episode was played to its end, not broken off by the job's."""
        return self.reason != "stopped"


@dataclass(frozen=True)
class BlockSpec:
    """The shapes that both ends of a sequence agree on. All lengths are in env steps (positions)."""

    unroll_length: int
    burn_in: int
    n_step: int
    num_actions: int
    context_size: int
    crop_side: int
    hidden_size: int

    @classmethod
    def from_config(cls, config: Config, context_size: int, num_actions: int) -> BlockSpec:
        """The spec of a run; `context_size` and `num_actions` belong to the game and are not in the config."""
        return cls(
            unroll_length=config.unroll_length,
            burn_in=config.burn_in,
            n_step=config.n_step,
            num_actions=num_actions,
            context_size=context_size,
            crop_side=2 * config.occupancy_crop_radius + 1,
            hidden_size=config.lstm_hidden_size,
        )

    @property
    def max_positions(self) -> int:
        """L, the rows of a batch: burn-in, trained part and tail at their longest."""
        return self.burn_in + self.unroll_length + self.n_step


@dataclass
class Sequence:
    """One window of an episode. P positions; transitions at 0..P-2, the last position only bootstraps.

    `action`, `greedy`, `reward` and `visits` of the last position are 0 and mean nothing. `first_prev_action` is
    `num_actions` where position 0 is an episode's first. `summary` is set in an episode's last sequence, and there
    only.
    """

    actor: int
    incarnation: int
    emulator: int
    episode: int
    first_step: int  # index in the episode of the first trained step
    burn_in_length: int  # b
    train_length: int  # t
    screen_packed: npt.NDArray[np.uint8]  # [P, 72, 20]
    context: npt.NDArray[np.uint8]  # [P, C]
    crop: npt.NDArray[np.uint8]  # [P, 2, S, S]
    mask: npt.NDArray[np.bool_]  # [P, A]
    action: npt.NDArray[np.uint8]  # [P]
    greedy: npt.NDArray[np.bool_]  # [P], whether the action was the best valid one by the values it was chosen by
    reward: npt.NDArray[np.float32]  # [P]
    visits: npt.NDArray[np.uint8]  # [P], of the map tile that the step entered, in its episode; 0: it entered none
    first_prev_action: int
    first_prev_reward: float
    state_h: npt.NDArray[np.float16]  # [H], the actor's before position 0
    state_c: npt.NDArray[np.float16]  # [H]
    terminated: bool = False
    segment_ended: bool = False
    params_version: int = 0
    epsilon: float = 0.0
    initial_priority: float = 1.0
    milestones: list[str] = field(default_factory=list)
    start_tag: StartTag = "beginning"
    summary: EpisodeSummary | None = None
    quantiles: npt.NDArray[np.float32] | None = None  # [t + k, A, S K], for the initial priority; not in the block

    @property
    def positions(self) -> int:
        """P = burn-in + trained + tail."""
        return len(self.action)

    @property
    def tail_length(self) -> int:
        """k, positions after the trained ones."""
        return self.positions - self.burn_in_length - self.train_length


class StepStore:
    """The newest steps of `count` emulators, in rings: all that a window can need when its last tail position arrives.

    One more position lies before those: its action and reward are the first previous ones. An actor writes the steps
    of all its emulators at once, each to the place that its builder names.
    """

    def __init__(self, spec: BlockSpec, count: int, head_outputs: int = 0) -> None:
        self.ring = spec.max_positions + 1
        shape = (count, self.ring)
        self.screen = np.zeros((*shape, *SCREEN_PACKED_SHAPE), np.uint8)
        self.context = np.zeros((*shape, spec.context_size), np.uint8)
        self.crop = np.zeros((*shape, 2, spec.crop_side, spec.crop_side), np.uint8)
        self.mask = np.zeros((*shape, spec.num_actions), np.bool_)
        self.action = np.zeros(shape, np.uint8)
        self.greedy = np.zeros(shape, np.bool_)
        self.reward = np.zeros(shape, np.float32)
        self.visits = np.zeros(shape, np.uint8)
        self.state_h = np.zeros((*shape, spec.hidden_size), np.float16)
        self.state_c = np.zeros((*shape, spec.hidden_size), np.float16)
        self.quantiles = np.zeros((*shape, spec.num_actions, head_outputs), np.float32) if head_outputs else None

    def put_observation(
        self,
        place: _Place,
        screen_packed: npt.NDArray[np.uint8],
        context: npt.NDArray[np.uint8],
        crop: npt.NDArray[np.uint8],
        mask: npt.NDArray[np.bool_],
        quantiles: npt.NDArray[np.float32] | None,
    ) -> None:
        """Copies what was observed to `place`: (emulator, slot), or N of both and arrays [N, ...]."""
        self.screen[place] = screen_packed
        self.context[place] = context
        self.crop[place] = crop
        self.mask[place] = mask
        if self.quantiles is not None:
            # None only where no value is needed: a terminal observation is never bootstrapped from.
            self.quantiles[place] = 0.0 if quantiles is None else quantiles

    def put_action(
        self,
        place: _Place,
        action: int | npt.NDArray[np.int64],
        greedy: bool | npt.NDArray[np.bool_],
        state_h: npt.NDArray[np.floating[Any]],
        state_c: npt.NDArray[np.floating[Any]],
    ) -> None:
        """Copies what was done there and the recurrent state before, as `put_observation`."""
        self.action[place] = action
        self.greedy[place] = greedy
        self.state_h[place] = state_h
        self.state_c[place] = state_c


_Place = tuple[int, int] | tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


class SequenceBuilder:
    """Cuts one emulator's episodes into sequences.

    Call `begin` at an episode's start, `add` for each step, `cut` at every edge of the actor's step clock and `end`
    with the episode's final observation (also when the job stops: then `terminated=False`). A window is handed out by
    the `add` that brings its last tail position, or by `end`. A window that reaches `unroll_length` steps is cut by
    itself. Instead of `add`, an actor writes to the shared `store`, at `slot`, and then calls `advance`.

    Set `params_version` and `epsilon` whenever they change; a sequence carries those of its first trained step.
    With `head_outputs` S K > 0 the per-step quantiles given to `add` and `end` come back in `Sequence.quantiles`.
    """

    def __init__(
        self,
        spec: BlockSpec,
        *,
        actor: int,
        incarnation: int,
        emulator: int,
        epsilon: float = 0.0,
        head_outputs: int = 0,
        store: StepStore | None = None,
    ) -> None:
        """`store` keeps the steps of several builders, this one's as those of `emulator`; by default one of its own."""
        self.spec = spec
        self.params_version = 0
        self._ids = (actor, incarnation, emulator)
        self.epsilon = epsilon
        self._store = store if store is not None else StepStore(spec, 1, head_outputs)
        self._row = emulator if store is not None else 0
        self._ring = self._store.ring
        self._episode = -1
        self._start_tag: StartTag = "beginning"
        self._steps = 0  # transitions of the episode so far
        self._window_start = 0
        self._window_policy = (0, epsilon)  # params version, epsilon
        self._pending: deque[tuple[int, int, tuple[int, float]]] = deque()  # (start, stop, policy): no tail yet
        self._milestones: list[tuple[int, str]] = []

    def begin(self, episode: int, start_tag: StartTag = "beginning") -> None:
        """Starts an episode. `episode` numbers the emulator's episodes. Drops what an unfinished one had open."""
        self._episode = episode
        self._start_tag = start_tag
        self._steps = 0
        self._window_start = 0
        self._pending.clear()
        self._milestones.clear()

    def add(
        self,
        screen_packed: npt.NDArray[np.uint8],
        context: npt.NDArray[np.uint8],
        crop: npt.NDArray[np.uint8],
        mask: npt.NDArray[np.bool_],
        action: int,
        greedy: bool,
        reward: float,
        visits: int,
        state_h: npt.NDArray[np.floating[Any]],
        state_c: npt.NDArray[np.floating[Any]],
        quantiles: npt.NDArray[np.float32] | None = None,
        milestones: Iterable[str] = (),
    ) -> tuple[Sequence, ...]:
        """Records one step: what was observed, what was done there and the reward it gave. Everything is copied.

        screen_packed uint8 [72, 20]; context uint8 [C]; crop uint8 [2, S, S]; mask bool [A]; greedy: whether the action
        was the best valid one, drawn at random or not; visits: how often the map tile that the step entered has been
        entered in the episode, this time included, 0 where it entered none; state_h, state_c [H]: the recurrent state
        before this observation was seen; quantiles float32 [A, S K] of it; milestones reached by the step.
        Returns the sequence that became complete with this position, if any.
        """
        place = (self._row, self.slot)
        self._store.put_observation(place, screen_packed, context, crop, mask, quantiles)
        self._store.put_action(place, action, greedy, state_h, state_c)
        return self.advance(reward, visits, milestones)

    @property
    def slot(self) -> int:
        """Where in the store's rings the next step belongs."""
        return self._steps % self._ring

    def advance(self, reward: float, visits: int, milestones: Iterable[str] = ()) -> tuple[Sequence, ...]:
        """Records the step that is in the store at `slot`, the reward that it gave and `visits`; both as for `add`."""
        if self._episode < 0:
            raise RuntimeError("SequenceBuilder: no episode has begun")
        step = self._steps
        self._store.reward[self._row, step % self._ring] = reward
        self._store.visits[self._row, step % self._ring] = min(visits, MAX_VISITS)
        if step == self._window_start:
            self._window_policy = (self.params_version, self.epsilon)
        for name in milestones:
            self._milestones.append((step, name))
        self._steps = step + 1
        complete: tuple[Sequence, ...] = ()
        if self._pending and self._pending[0][1] - 1 + self.spec.n_step == step:
            complete = (self._emit(*self._pending.popleft(), last=step),)
        if self._steps - self._window_start == self.spec.unroll_length:
            self.cut()
        return complete

    def cut(self) -> None:
        """Ends the open window after the newest step; does nothing if it holds no step."""
        if self._steps > self._window_start:
            self._pending.append((self._window_start, self._steps, self._window_policy))
            self._window_start = self._steps

    def end(
        self,
        screen_packed: npt.NDArray[np.uint8],
        context: npt.NDArray[np.uint8],
        crop: npt.NDArray[np.uint8],
        mask: npt.NDArray[np.bool_],
        *,
        terminated: bool,
        quantiles: npt.NDArray[np.float32] | None = None,
        summary: EpisodeSummary | None = None,
    ) -> tuple[Sequence, ...]:
        """Ends the recorded segment at its final observation (index E) and hands out every sequence still open.

        `terminated` is the end of the game's task; False for a step limit or a stop of the job, where the learner
        bootstraps from this observation. An episode without a step gives nothing.
        """
        if self._episode < 0:
            raise RuntimeError("SequenceBuilder.end: no episode has begun")
        self.cut()
        self._store.put_observation((self._row, self.slot), screen_packed, context, crop, mask, quantiles)
        sequences = []
        for start, stop, policy in self._pending:
            sequence = self._emit(start, stop, policy, last=self._steps)
            sequence.segment_ended = True
            sequence.terminated = terminated
            sequences.append(sequence)
        if sequences:
            sequences[-1].summary = summary
        self._pending.clear()
        self._episode = -1
        return tuple(sequences)

    def _emit(self, start: int, stop: int, policy: tuple[int, float], last: int) -> Sequence:
        """The sequence that trains steps [start, stop) and whose last position is `last`."""
        actor, incarnation, emulator = self._ids
        burn_in = min(self.spec.burn_in, start)
        first = start - burn_in
        slots = np.arange(first, last + 1) % self._ring
        store, row = self._store, self._row
        action, greedy, reward = store.action[row, slots], store.greedy[row, slots], store.reward[row, slots]
        visits = store.visits[row, slots]
        action[-1], greedy[-1], reward[-1], visits[-1] = 0, False, 0.0, 0
        before = (first - 1) % self._ring
        names = [name for step, name in self._milestones if start <= step < stop]
        if names:
            self._milestones = [entry for entry in self._milestones if entry[0] >= stop]
        return Sequence(
            actor=actor,
            incarnation=incarnation,
            emulator=emulator,
            episode=self._episode,
            first_step=start,
            burn_in_length=burn_in,
            train_length=stop - start,
            screen_packed=store.screen[row, slots],
            context=store.context[row, slots],
            crop=store.crop[row, slots],
            mask=store.mask[row, slots],
            action=action,
            greedy=greedy,
            reward=reward,
            visits=visits,
            first_prev_action=int(store.action[row, before]) if first else self.spec.num_actions,
            first_prev_reward=float(store.reward[row, before]) if first else 0.0,
            state_h=store.state_h[row, first % self._ring].copy(),
            state_c=store.state_c[row, first % self._ring].copy(),
            params_version=policy[0],
            epsilon=policy[1],
            milestones=names,
            start_tag=self._start_tag,
            quantiles=store.quantiles[row, slots[burn_in:]] if store.quantiles is not None else None,
        )
