"""Rewards: one small function for each term, and the weighted sum of them.

The environment of an actor uses it. In: the state before and after a step, and what the episode has seen. Out: a
float a step, and each term's sum over the episode, so that a report can show what paid. `novelty` and `talk` are
intrinsic: bonuses by counts of the episode (Kolter and Ng 2009), of map tiles entered and of places that were spoken
to, which the return leaves out. A term counts gains beyond the best so far: what was lost and won back, cleared and set
again, or put away and fetched, pays nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from cluster_rl.config import RewardWeights
from cluster_rl.game import ram
from cluster_rl.game.state import GameState
from cluster_rl.game.whereabouts import Whereabouts

_MEMBERS = tuple(ram.image_index(ram.wPartyMons + ram.PARTY_MON_BYTES * slot) for slot in range(ram.PARTY_SLOTS))

TERMS = tuple(field.name for field in msgspec.structs.fields(RewardWeights))
INTRINSIC_TERMS = ("novelty", "talk")
"""Paid to make the agent explore, not for what it achieves: learned from, logged, and left out of the return."""


class RewardState(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What `EpisodeMemory` keeps, as plain data, for an episode that begins where another one came by."""

    maps: set[int]
    visits: dict[tuple[int, int, int], int]
    here: tuple[int, int, int] | None
    texts: dict[tuple[int, int, int, str], int]
    items: set[int]
    badges: int
    species: str  # a number of more than 64 bits, in hexadecimal digits
    best_levels_total: int
    was_fainted: bool


@dataclass
class EpisodeMemory:
    """What an episode has seen so far; the terms read it and bring it up to date."""

    whereabouts: Whereabouts = field(default_factory=Whereabouts)
    maps: set[int] = field(default_factory=set)
    visits: dict[tuple[int, int, int], int] = field(default_factory=dict)
    here: tuple[int, int, int] | None = None
    texts: dict[tuple[int, int, int, str], int] = field(default_factory=dict)
    items: set[int] = field(default_factory=set)
    badges: int = 0
    species: int = 0
    best_levels_total: int = 0
    was_fainted: bool = False

    @classmethod
    def at(cls, state: GameState) -> EpisodeMemory:
        """The memory of an episode that begins in this state: what is there already pays nothing."""
        memory = cls()
        for term in (new_map, item, badge, species):
            term(state, state, memory)
        arrival(state, memory)
        memory.best_levels_total = levels_total(state)
        memory.was_fainted = party_fainted(state)
        return memory

    def state(self) -> RewardState:
        """All of it but what follows from the next look at the game."""
        kept = {name: getattr(self, name) for name in RewardState.__struct_fields__}
        return RewardState(**kept | {"species": f"{self.species:x}"})

    @classmethod
    def from_state(cls, state: RewardState) -> EpisodeMemory:
        """The inverse. Raises ValueError for digits that are none."""
        kept = msgspec.structs.asdict(state)
        return cls(**kept | {"species": int(state.species, 16)})


def new_map(_: GameState, state: GameState, memory: EpisodeMemory) -> int:
    """1 where a map is entered for the first time."""
    if state.map_id in memory.maps or not memory.whereabouts.known(state):
        return 0
    memory.maps.add(state.map_id)
    return 1


def arrival(state: GameState, memory: EpisodeMemory) -> int:
    """How often the cell that was just entered has been entered, 0 where none was: standing still enters nothing."""
    here = (state.map_id, state.x, state.y)
    if here == memory.here or not memory.whereabouts.known(state):
        return 0
    memory.here = here
    memory.visits[here] = memory.visits.get(here, 0) + 1
    return memory.visits[here]


def talk(before: GameState, state: GameState, memory: EpisodeMemory) -> int:
    """How often a text was opened from this cell in this direction, 0 where none was opened now.

    A battle's words do not count: neither those in it nor those before and after it.
    """
    if not state.interface_up or state.in_battle or before.in_battle or not state.in_game:
        return 0
    if not state.text_open or before.text_open:
        return 0
    place = (state.map_id, state.x, state.y, state.facing)
    memory.texts[place] = memory.texts.get(place, 0) + 1
    return memory.texts[place]


def badge(_: GameState, state: GameState, memory: EpisodeMemory) -> int:
    """Badges never held before."""
    fresh = state.badges & ~memory.badges if state.in_game else 0
    memory.badges |= fresh
    return fresh.bit_count()


def level(before: GameState, state: GameState, memory: EpisodeMemory) -> int:
    """Levels the party gained beyond its best total. A member that joins or leaves moves the best with it: catching
    pays under `species`, and boxing and fetching a member pays nothing."""
    total = levels_total(state)
    if before.party_count != state.party_count:
        memory.best_levels_total += total - levels_total(before)
        return 0
    gained = max(0, total - memory.best_levels_total)
    memory.best_levels_total += gained
    return gained


def species(_: GameState, state: GameState, memory: EpisodeMemory) -> int:
    """Species caught that were never caught before."""
    owned = int.from_bytes(state.slice(ram.wPokedexOwned, ram.DEX_BYTES), "little") if state.in_game else 0
    fresh = owned & ~memory.species
    memory.species |= fresh
    return fresh.bit_count()


def item(_: GameState, state: GameState, memory: EpisodeMemory) -> int:
    """Kinds of items that were never in the bag before."""
    fresh = {kind for kind, _ in state.bag} - memory.items if state.in_game else set()
    memory.items |= fresh
    return len(fresh)


def blackout(_: GameState, state: GameState, memory: EpisodeMemory) -> int:
    """1 where the last member faints. That lasts until the party is healed, through several texts that wait for a
    button, while wIsInBattle's own sign of a lost battle can come and go within one step."""
    fainted = party_fainted(state)
    began = fainted and not memory.was_fainted
    memory.was_fainted = fainted
    return int(began)


def party_fainted(state: GameState) -> bool:
    """Whether there is a party and no member has hit points left."""
    if not state.in_game or not state.party_count:
        return False
    image = state.image  # read directly: decoding the whole party at every step costs as much as all other terms
    for at in _MEMBERS[: state.party_count]:
        hit_points = image[at + 1] | image[at + 2]
        if hit_points or not (image[at + 34] | image[at + 35]):
            return False
    return True


def levels_total(state: GameState) -> int:
    """Sum of the party's levels, 0 before the game."""
    image = state.image
    return sum([image[at + 33] for at in _MEMBERS[: state.party_count]]) if state.in_game else 0


class RewardCalculator:
    """The weighted sum. `start` with an episode's first state, then `step` after each action.

    `terms` holds each term's weighted sum over the episode so far, `visits` how often the map tile that the newest step
    entered has been entered in the episode, 0 where it entered none.
    """

    def __init__(self, weights: RewardWeights) -> None:
        self._weights: dict[str, float] = {name: getattr(weights, name) for name in TERMS}
        self.terms = dict.fromkeys(TERMS, 0.0)
        self.visits = 0
        self.achieved = False
        """Whether the last step gained something that a term is for, intrinsic ones aside."""
        self.blacked_out = False
        """Whether the last member of the party fainted in the last step."""

    @property
    def episode_return(self) -> float:
        """Sum of the terms over the episode so far, without the intrinsic ones."""
        return sum(paid for name, paid in self.terms.items() if name not in INTRINSIC_TERMS)

    @property
    def here(self) -> tuple[int, int, int] | None:
        """Map, x and y of the cell entered last; None before the first."""
        return self._memory.here

    @property
    def memory_state(self) -> RewardState:
        """What the episode has seen so far."""
        return self._memory.state()

    def start(self, state: GameState, memory: RewardState | None = None) -> None:
        """Begins an episode: the sums are zero, and what `state` holds pays nothing.

        With the `memory` of the episode that came by there, nothing pays again that has paid it.
        """
        self._memory = EpisodeMemory.at(state)
        if memory is not None:
            self._memory = EpisodeMemory.from_state(memory)
        self.terms = dict.fromkeys(TERMS, 0.0)
        self.visits = 0

    def step(
        self, before: GameState, state: GameState, new_events: int, new_milestones: Sequence[str], puffer: float = 0.0
    ) -> float:
        """The reward of one step. Event flags and milestones come latched, as counts and names of new ones; `puffer` is
        what pokemonred_puffer's environment paid, where that is played."""
        memory = self._memory
        self.visits = visits = arrival(state, memory)
        texts = talk(before, state, memory)
        maps = new_map(before, state, memory)
        badges = levels = kinds = items = blackouts = 0
        self.achieved = self.blacked_out = False
        # Most steps change nothing that the player has; these terms then pay nothing and have nothing to remember.
        if state.belongings != before.belongings or state.in_game != before.in_game:
            badges = badge(before, state, memory)
            levels = level(before, state, memory)
            kinds = species(before, state, memory)
            items = item(before, state, memory)
            blackouts = blackout(before, state, memory)
            self.blacked_out = blackouts > 0
        elif not (new_events or new_milestones or maps or visits or texts or puffer):
            self.terms["step"] += self._weights["step"]
            return self._weights["step"]
        values = (
            *(new_events, len(new_milestones), badges, maps),
            *(1 / visits if visits else 0.0, 1 / texts if texts else 0.0),
            *(levels, kinds, items, blackouts, 1, puffer),
        )
        self.achieved = any((new_events, new_milestones, badges, maps, levels, kinds, items))
        reward = 0.0
        for name, value in zip(TERMS, values, strict=True):
            if value:
                paid = self._weights[name] * value
                self.terms[name] += paid
                reward += paid
        return reward
