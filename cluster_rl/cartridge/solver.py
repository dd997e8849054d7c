"""Proves that a world with gates can be played, in the order of its gates and with no dead end; and how to play it.

The build runs `check_gates`, tests play `plan` on the ROM. In: a world file whose `[[gate]]`s name event flags in
order. Out: nothing, or a `UserError` that says in one line which gate is open early, out of reach or shut; or a plan.

What is not in a `Closure` cannot happen: that proves the order of the gates. That the end can be had is proved by a
plan, act by act. Battles count as won by whoever has a friend.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import permutations, product
from typing import Any, Final

from cluster_rl.cartridge.checks import MAX_BAG_KINDS, Cell
from cluster_rl.cartridge.closure import Closure
from cluster_rl.cartridge.story import Fact, Secrets, State, Story, Thing, Way
from cluster_rl.errors import UserError

MOST_ACTS: Final = 400
PLAYOUTS, PLAYOUT_ACTS = 12, 60
"""Of `check_gates`: random plays of optional acts, and how many acts each."""


@dataclass(frozen=True)
class Act:
    """One act of a plan: walk `route` (letters `u d l r`) to `cell`; then do something there.

    kind: `talk` (look in direction `facing` and press A), `step` (the walk itself ends on a spot), `use` (an item from
    the bag), `toss` (an item). `choices` are what is answered then, in order: YES, NO, BUY item, LEAVE, FIGHT trainer.
    """

    kind: str
    route: str
    cell: Cell
    facing: str = ""
    item: str = ""
    choices: tuple[str, ...] = ()


def all_secrets(story: Story) -> list[Secrets]:
    """Everything that could be drawn."""
    drawn: list[list[tuple[int, ...]]] = []
    for entry in story.secrets.values():
        values = range(entry["values"])
        drawn.append(list(permutations(values)) if entry.get("kind") == "order" else [(value,) for value in values])
    return [dict(zip(story.secrets, values, strict=True)) for values in product(*drawn)]


def few_secrets(story: Story) -> list[Secrets]:
    """As few draws as have each value of each secret, of an order at each place."""
    draws = max((entry["values"] for entry in story.secrets.values()), default=1)
    return [{name: _turned(entry, by) for name, entry in story.secrets.items()} for by in range(draws)]


def _turned(entry: Mapping[str, Any], by: int) -> tuple[int, ...]:
    values = entry["values"]
    return tuple((by + place) % values for place in range(values if entry.get("kind") == "order" else 1))


# ---------------------------------------------------------------- plans


def possible_acts(story: Story, state: State, secrets: Secrets) -> Iterator[tuple[Act, Way, State]]:
    """All acts that can be done now, with what they lead to; those by chance and lost battles too."""
    routes = story.routes(state, secrets)
    for thing in story.things:
        for way in thing.ways:
            done = _do(story, state, secrets, routes, thing, way)
            if done is not None:
                yield done[0], way, done[1]
    for item, count in state.bag:
        if item not in story.key_items:
            yield Act("toss", "", state.cell, item=item), Way(()), story.carrying(state, item, -count)


def _do(
    story: Story, state: State, secrets: Secrets, routes: Mapping[Cell, str], thing: Thing, way: Way
) -> tuple[Act, State] | None:
    """A way gone from the nearest place where it can be; None where it cannot be now."""
    if thing.place.kind == "item":
        if not state.count(thing.place.name):
            return None
        # Where it is used may count: here, or on the nearest cell of another map.
        nearest = {cell[0]: cell for cell in sorted(routes, key=lambda cell: -len(routes[cell]))} | {
            state.cell[0]: state.cell
        }
        stands = sorted(nearest.values(), key=lambda cell: len(routes[cell]))
    else:
        stands = [cell for cell in thing.stands if cell in routes and (thing.place.kind != "spot" or routes[cell])]
        if thing.place.kind == "object" and thing.place.name in state.gone:
            return None
    for cell in sorted(stands, key=lambda cell: len(routes[cell])):
        after = story.run(_at(story, state, cell, routes[cell]), way, secrets)
        if after is not None:
            kind = {"item": "use", "spot": "step"}.get(thing.place.kind, "talk")
            facing = next((d for d, other in story.beside(cell) if other == thing.cell), "") if kind == "talk" else ""
            item = thing.place.name if kind == "use" else ""
            return Act(kind, routes[cell], cell, facing, item, way.choices), after
    return None


def _at(story: Story, state: State, cell: Cell, route: str) -> State:
    """The state after a walk: a lit lamp goes out on a map that is not dark, even one that is only passed."""
    lit = state.lit
    if lit and route:
        here = state.cell
        for letter in route:
            beside = next(other for direction, other in story.beside(here) if direction[0] == letter)
            end = story.slide(story.doors.get(beside, beside), state)
            assert end is not None
            here = end
            lit = lit and bool(story.maps[here[0]].get("dark"))
    return replace(state, cell=cell, lit=lit)


def plan(story: Story, state: State, secrets: Secrets, event: str) -> tuple[list[Act], State]:
    """Acts that lead to an event flag, and the state then. Leaves nothing to chance and loses no battle.

    Raises UserError where it finds none: then the flag is out of reach, or more tangled than this planner can see.
    """
    found = _plan(story, state, secrets, event)
    return list(found.acts), found.after


@dataclass(frozen=True)
class _Plan:
    """`used` is what was drawn, of those secrets that decided anything on the way."""

    acts: tuple[Act, ...]
    after: State
    used: tuple[tuple[str, tuple[int, ...]], ...]


def _plan(story: Story, state: State, secrets: Secrets, event: str) -> _Plan:
    acts: list[Act] = []
    used: set[str] = set()
    seen = {state}
    while event not in state.flags:
        steps = _steps_toward(story, state, secrets, ("flag", event, True))
        step = next((step for step in steps if step[2] not in seen), None)
        if step is None:
            raise UserError(f"solver: no way to {event} from {state.cell} after {len(acts)} acts")
        act, way, state = step
        acts.append(act)
        used |= way.secrets
        seen.add(state)
        if len(acts) > MOST_ACTS:
            raise UserError(f"solver: no way to {event} in {MOST_ACTS} acts")
    return _Plan(tuple(acts), state, tuple((name, secrets[name]) for name in sorted(used)))


class Planner:
    """`plan` that keeps what it found, as most of a game is the same whatever was drawn."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self._found: dict[tuple[State, str], list[_Plan]] = {}

    def plan(self, state: State, secrets: Secrets, event: str) -> tuple[list[Act], State]:
        """As the function `plan`."""
        known = self._found.setdefault((state, event), [])
        for found in known:
            if all(secrets[name] == value for name, value in found.used):
                return list(found.acts), found.after
        found = _plan(self.story, state, secrets, event)
        known.append(found)
        return list(found.acts), found.after


def goals(story: Story, gates: list[dict[str, Any]]) -> list[str]:
    """Event flags in the order of a good game: each gate's, and what has to be `told` for one as soon as it can be."""
    events = [gate["event"] for gate in gates]
    for gate in reversed(gates):
        if "told" in gate:
            early = (e for e in events if Closure(story, story.start(), forbidden=e).flag(gate["told"]))
            events.insert(events.index(next(early)), gate["told"])
    return events


def _steps_toward(story: Story, state: State, secrets: Secrets, goal: Fact) -> Iterator[tuple[Act, Way, State]]:
    """Acts that can be done now and that the goal needs, the first first."""
    closure = Closure(story, state, secrets)
    if goal not in closure:
        return
    routes = story.routes(state, secrets)
    full = len(state.bag) >= MAX_BAG_KINDS
    for thing, way in closure.acts_for(goal):
        if way.by_chance or way.lost:
            continue
        if full and any(effect[0] == "give" for effect in way.effects):
            junk = next((item for item, _ in state.bag if item not in story.key_items), None)
            if junk is not None:
                yield Act("toss", "", state.cell, item=junk), Way(()), story.carrying(state, junk, -state.count(junk))
        done = _do(story, state, secrets, routes, thing, way)
        if done is not None:
            yield done[0], way, done[1]


# ---------------------------------------------------------------- the proofs


def check_gates(world: Mapping[str, Any]) -> None:
    """Raises UserError where a gate opens early, is out of reach, stays open after a wrong answer, an act on the way
    leads to a dead end, or a milestone is wrongly required or optional. A world without gates passes."""
    gates = world.get("gate", [])
    if not gates:
        return
    story = Story(world)
    check_order(story, gates)
    check_required(story, gates, world.get("milestone", []))
    check_reachable(story, gates)
    check_wrong_answers(story, gates)
    check_no_dead_end(story, gates)


def check_order(story: Story, gates: list[dict[str, Any]]) -> None:
    """With one gate's event forbidden, no later one can be had."""
    for number, gate in enumerate(gates):
        closure = Closure(story, story.start(), forbidden=gate["event"])
        for later in gates[number + 1 :]:
            if closure.flag(later["event"]):
                raise UserError(f"gate {later['name']} can be opened without {gate['name']}")


def check_required(story: Story, gates: list[dict[str, Any]], milestones: list[dict[str, Any]]) -> None:
    """A milestone of an event is required where no way to the last gate leads round it, and only there: episodes are
    sent to where the first required one is missing."""
    for milestone in milestones:
        if milestone["kind"] != "event":
            continue
        without = Closure(story, story.start(), forbidden=milestone["event"])
        needed = not without.flag(gates[-1]["event"])
        if needed != milestone["required"]:
            way = "no way leads round it" if needed else "a way leads round it"
            raise UserError(f"milestone {milestone['name']}: {way}, so required = {str(needed).lower()}")


def check_reachable(story: Story, gates: list[dict[str, Any]]) -> None:
    """A plan from a new game to the last gate's event, for all that can be drawn."""
    planner, events = Planner(story), goals(story, gates)
    for secrets in all_secrets(story):
        state = story.start()
        for event in events:
            _, state = planner.plan(state, secrets, event)


def check_wrong_answers(story: Story, gates: list[dict[str, Any]]) -> None:
    """A gate whose way reads a secret has a `wrong` flag: whatever tries the secret in vain sets it, and it shuts the
    gate for good, whatever was done before."""
    for gate in gates:
        opens = ("set", gate["event"])
        read = {name for thing in story.things for way in thing.ways if opens in way.effects for name in way.secrets}
        if not read:
            continue
        if "wrong" not in gate:
            raise UserError(f"gate {gate['name']}: reads the secret {min(read)} and has no `wrong`")
        over = {("if", ("flag", flag, True)) for flag in (gate["event"], gate["wrong"])}
        tries = [(thing, way) for thing in story.things for way in thing.ways if _fails(thing, way, opens) & read]
        for thing, way in tries:
            if ("set", gate["wrong"]) not in way.effects and not over & set(way.lines):
                raise UserError(f"gate {gate['name']}: a wrong answer does not set {gate['wrong']} {_where(thing)}")
        before = Closure(story, story.start(), forbidden=gate["event"])
        if not tries or not before.flag(gate["wrong"]):
            raise UserError(f"gate {gate['name']}: {gate['wrong']} cannot be had")
        if Closure(story, story.start(), wrong=(before, gate["wrong"])).flag(gate["event"]):
            raise UserError(f"gate {gate['name']} can be opened after {gate['wrong']}")


def _fails(thing: Thing, way: Way, opens: Fact) -> set[str]:
    """The secrets that a way tries in vain: a wrong pull, or a wrong value of what elsewhere opens the gate."""
    asked = {value for way in thing.ways if opens in way.effects for kind, value in way.lines if kind == "if"}
    return {
        value[1]
        for kind, value in way.lines
        if kind == "if"
        and not value[-1]
        and (value[0] == "next" or (value[0] == "secret" and (*value[:-1], True) in asked))
    }


def _where(thing: Thing) -> str:
    place = thing.place
    return f"at {place.at[0]}, {place.at[1]} on {place.map}" if place.at is not None else f"by {place.name}"


def check_no_dead_end(
    story: Story, gates: list[dict[str, Any]], playouts: int = PLAYOUTS, acts: int = PLAYOUT_ACTS
) -> None:
    """From whatever optional acts lead to, wrong answers apart, the last gate's event can still be had.

    For each of a few draws all acts that take something away are tried from where they can first be done, and a bag
    full of trifles; and random plays of all acts, losing battles and bad luck among them, the draws in turn, are
    followed for as long as the end stays in reach.
    """
    events, draws, planner = [gate["event"] for gate in gates], few_secrets(story), Planner(story)
    wrong = {gate["wrong"] for gate in gates if "wrong" in gate}
    trifles = [item for item in story.prices if item not in story.key_items][:MAX_BAG_KINDS]
    full = story.start()
    for item in trifles:
        full = story.carrying(full, item, 1)
    for secrets in draws:
        _check_end(planner, full, secrets, events, "a new game with a full bag")
        _check_losses(planner, secrets, events, wrong)
    for seed in range(playouts):
        _play_out(planner, draws[seed % len(draws)], events, wrong, random.Random(seed), acts)


def _check_losses(planner: Planner, secrets: Secrets, events: list[str], wrong: set[str]) -> None:
    """Tries each act that takes something away where the way to the end first comes by it."""
    story, end = planner.story, events[-1]
    tried: set[Way | str] = set()
    state = story.start()
    while end not in state.flags:
        for act, way, after in possible_acts(story, state, secrets):
            what: Way | str = act.item if act.kind == "toss" else way
            if (way.loses or act.kind == "toss") and what not in tried and not wrong & after.flags:
                tried.add(what)
                _check_end(planner, after, secrets, events, _told(act))
        state = next(
            after for _, _, after in _steps_toward(story, state, secrets, ("flag", end, True)) if after != state
        )


def _play_out(
    planner: Planner, secrets: Secrets, events: list[str], wrong: set[str], rng: random.Random, count: int
) -> None:
    story, end = planner.story, events[-1]
    state = story.start()
    for _ in range(count):
        options = [(act, after) for act, _, after in possible_acts(story, state, secrets) if not wrong & after.flags]
        fresh = [option for option in options if option[1] != state]
        act, state = rng.choice(fresh or options)
        if end in state.flags:
            return
        if ("flag", end, True) not in Closure(story, state, secrets):
            raise UserError(f"dead end: {end} is out of reach after {_told(act)}")
    _check_end(planner, state, secrets, events, f"{count} acts at random")


def _check_end(planner: Planner, state: State, secrets: Secrets, events: list[str], what: str) -> None:
    try:
        for event in events:
            _, state = planner.plan(state, secrets, event)
    except UserError as error:
        raise UserError(f"dead end after {what}: {error}") from None


def _told(act: Act) -> str:
    name, x, y = act.cell
    what = " ".join((act.kind, *([act.item] if act.item else []), *act.choices))
    return f"{what} at {x}, {y} on {name}"
