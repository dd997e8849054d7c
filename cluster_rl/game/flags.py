"""Conditions on a GameState, milestones, and the latch that remembers which were reached.

The actor's environments and commands that read savestates use it. In: GameStates. Out: names of milestones newly
reached and the number of event flags newly set. Both are latched, because the game clears some flags again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from cluster_rl.errors import UserError
from cluster_rl.game import ram
from cluster_rl.game.state import BATTLE_NONE, GameState

_ARGUMENTS = {
    "event": ("event",),
    "map": ("map",),
    "badge": ("bit",),
    "missable": ("index",),
    "bit": ("address", "bit"),
    "byte": ("address", "equals"),
    "battle": (),
    "experience": ("above",),
}


_RULES: dict[str, Callable[..., bool]] = {
    "event": GameState.has_event,
    "map": lambda state, map_id: state.map_id == map_id,
    "badge": lambda state, bit: bool(state.badges >> bit & 1),
    "missable": GameState.has_missable,
    "bit": lambda state, address, bit: bool(state.u8(address) >> bit & 1),
    "byte": lambda state, address, value: state.u8(address) == value,
    "battle": lambda state: state.in_battle != BATTLE_NONE,
    "experience": lambda state, above: sum(mon.experience for mon in state.party) > above,
}


# The bytes of an image that decide a condition, beside the size of the map.
_READS: dict[str, Callable[..., slice]] = {
    "event": lambda event: ram.image_slice(ram.wEventFlags + event // 8, 1),
    "map": lambda _: ram.image_slice(ram.wCurMap, 1),
    "badge": lambda _: ram.image_slice(ram.wObtainedBadges, 1),
    "missable": lambda index: ram.image_slice(ram.wMissableObjectFlags + index // 8, 1),
    "bit": lambda address, _: ram.image_slice(address, 1),
    "byte": lambda address, _: ram.image_slice(address, 1),
    "battle": lambda: ram.image_slice(ram.wIsInBattle, 1),
    "experience": lambda _: ram.PARTY,
}
_MAP_SIZE = ram.image_slice(ram.wCurMapHeight, 2)
_EVENT_FLAGS = ram.image_slice(ram.wEventFlags, ram.EVENT_BYTES)


@dataclass(frozen=True)
class Condition:
    """Something that one RAM image decides. Kinds and their arguments:

    event `event`: the flag is set; map `map`: the player is there; badge `bit`: it is in the player's possession;
    missable `index`: the object is gone; bit `address` `bit` and byte `address` `equals`: about raw RAM; battle: one
    is going on; experience `above`: that of the whole party.
    """

    kind: str
    arguments: tuple[int, ...]

    @classmethod
    def from_table(cls, entry: Mapping[str, Any]) -> Condition:
        """Reads `{"kind": ..., argument: number}`; other keys are not its business. Raises UserError."""
        kind = entry.get("kind")
        if kind not in _ARGUMENTS:
            raise UserError(f"game table: unknown kind of condition {kind!r}; known are {', '.join(_ARGUMENTS)}")
        try:
            return cls(kind, tuple(int(entry[name]) for name in _ARGUMENTS[kind]))
        except KeyError as error:
            raise UserError(f"game table: a condition of kind {kind} needs {error}") from None

    def holds(self, state: GameState) -> bool:
        """Whether it is true in this state; never before a game has started."""
        return state.in_game and _RULES[self.kind](state, *self.arguments)

    @property
    def reads(self) -> slice:
        """The bytes of an image that decide it, beside the size of the map, which says whether a game has started."""
        return _READS[self.kind](*self.arguments)

    @property
    def addresses(self) -> tuple[int, ...]:
        """The raw addresses that it reads, beyond what GameState decodes."""
        return self.arguments[:1] if self.kind in ("bit", "byte") else ()


def bytes_read(conditions: Iterable[Condition], *also: slice) -> Callable[[bytes], Any]:
    """A function that takes out of an image all that decides the conditions, and what lies in the slices `also`.

    Most steps change none of these bytes, and to compare them is much quicker than to look at each condition.
    """
    slices = {(part.start, part.stop) for part in (_MAP_SIZE, *also, *(condition.reads for condition in conditions))}
    return itemgetter(*(slice(*ends) for ends in sorted(slices)))


@dataclass(frozen=True)
class Milestone:
    """A step of the game's story, in the order of play."""

    name: str
    title: str
    required: bool
    condition: Condition
    lesson: str = ""  # which lesson it belongs to, empty for the game itself


class ProgressLatch:
    """Which milestones and event flags were ever reached since `start`.

    In: a game's milestones, in the order of play. `reached` holds the names of those reached, in the same order.
    """

    def __init__(self, milestones: tuple[Milestone, ...]) -> None:
        self.milestones = milestones
        # A flag's byte is in `_EVENT_FLAGS`.
        self._reads = bytes_read((m.condition for m in milestones if m.condition.kind != "event"), _EVENT_FLAGS)
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self.new_events = 0
        self._seen: object = None  # what `_reads` gave last
        self._events = 0
        self._remember(())

    def start(self, state: GameState, before: Mapping[str, Any] | None = None) -> None:
        """Begins at this state: what is set in it counts as reached, and is not reported.

        So does what `before` says, the `state_dict` of the episode that came by there, though the game may have cleared
        it again. Of a state without that, its player's way is known as far as no other leads there: a required map
        before a required milestone that is reached has been entered, or the way back to it would be paid for. Raises
        as `load_state_dict` does.
        """
        self.reset()
        if before is not None:
            self.load_state_dict(before)
        self.update(state)
        self.new_events = 0
        if before is not None:
            return
        reached = set(self.reached)
        required = [m for m in self.milestones if m.required]
        furthest = max((place for place, m in enumerate(required) if m.name in reached), default=0)
        passed = [m.name for m in required[:furthest] if m.condition.kind == "map"]
        if not reached.issuperset(passed):
            self._remember((*self.reached, *passed))

    def update(self, state: GameState) -> list[str]:
        """Names of the milestones reached for the first time, in the order of play.

        `new_events` is then the number of event flags that were set for the first time.
        """
        self.new_events = 0
        seen = self._reads(state.image)
        if seen == self._seen:
            return []
        self._seen = seen
        if not state.in_game:
            return []
        fresh = state.event_bits & ~self._events
        self.new_events = fresh.bit_count()
        self._events |= fresh
        # Most milestones are event flags, and seldom does one of those change.
        candidates = self._open if fresh else self._open_without_flag
        new = [m.name for m in candidates if m.condition.holds(state)]
        if new:
            self._remember((*self.reached, *new))
        return new

    def _remember(self, names: Iterable[str]) -> None:
        """Makes these the milestones reached; what follows from them is worked out here, as it seldom changes."""
        known = set(names)
        self.reached = tuple(m.name for m in self.milestones if m.name in known)
        self._open = tuple(m for m in self.milestones if m.name not in known)
        self._open_without_flag = tuple(m for m in self._open if m.condition.kind != "event")

    @property
    def event_count(self) -> int:
        """Event flags ever set."""
        return self._events.bit_count()

    def state_dict(self) -> dict[str, Any]:
        """Plain data: names, and the event flags as hexadecimal digits."""
        return {"milestones": list(self.reached), "events": f"{self._events:x}"}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` gave. Raises UserError for milestones that this game does not have."""
        unknown = set(state["milestones"]) - {m.name for m in self.milestones}
        if unknown:
            raise UserError(f"saved progress: milestone {min(unknown)} is unknown; was it saved in another game?")
        events = int(state["events"], 16)
        if events >> ram.EVENT_COUNT:
            raise UserError(f"saved progress: more than {ram.EVENT_COUNT} event flags")
        self._remember(state["milestones"])
        self._events = events
        self._seen = None
        self.new_events = 0
