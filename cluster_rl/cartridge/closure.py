"""What could come true in a world: all facts and cells that could be had from a state, with what each of them needs.

The solver uses it. In: a `Story`, a state, what was drawn if that is known. Out: a `Closure`. It errs on one side only:
nothing that was ever true is lost, every question is answered both ways and every chance falls both ways. So what is
not in it cannot happen.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from cluster_rl.cartridge.checks import STEPS, Cell, warp_cell
from cluster_rl.cartridge.story import SECRET_FACTS, Fact, Secrets, State, Story, Thing, Way

_ALWAYS: Final = ("room", "party")
"""Facts that a closure takes as so and as not so: things can be thrown away."""
_HAD_BY_ACTS: Final = ("cell", "put", "way", "earn", "pulls", "never")
_TRUE: Final = ("room", "", True)
_NEVER: Final = ("never", True)


class Closure:
    """All facts and cells that could be had from a state. `secrets` None: whatever was drawn; `forbidden`: a flag that
    no script may set; `wrong`: all that is in another closure is so at first, and this flag is set."""

    def __init__(
        self,
        story: Story,
        state: State,
        secrets: Secrets | None = None,
        forbidden: str = "",
        wrong: tuple[Closure, str] | None = None,
    ) -> None:
        self.story, self.secrets = story, secrets
        self._state, self._forbidden, self._wrong = state, forbidden, wrong
        self._graph = _graph(story)
        self.why: dict[Fact, tuple[Fact, ...]] = {}
        """What each fact needed: facts, and the way that made it so, first had first."""
        self._at_first: dict[Fact, bool] = {}
        self._waiting: dict[Fact, list[tuple[Thing, Way]]] = {}
        self._todo: list[tuple[Thing, Way]] = []
        if wrong is not None:
            self.why.update((fact, ()) for fact in wrong[0].why if fact[0] in ("cell", "put"))
        self._reach(("put", self._graph.node_of[state.cell]), ())
        self._reach(("cell", self._graph.node_of[state.cell]), ())
        self._grow()

    def __contains__(self, fact: Fact) -> bool:
        return fact in self.why or self._initial(fact)

    def flag(self, name: str) -> bool:
        """Whether an event flag could be set."""
        return ("flag", name, True) in self

    def acts_for(self, fact: Fact) -> list[tuple[Thing, Way]]:
        """The ways that were gone to have a fact, first things first."""
        found: dict[Fact, int] = {}
        order = {known: i for i, known in enumerate(self.why)}
        todo = [fact]
        while todo:
            needed = todo.pop()
            if needed in found or needed not in self.why:
                continue
            found[needed] = order[needed]
            todo += self.why[needed]
        return [(known[1], known[2]) for known in sorted(found, key=found.__getitem__) if known[0] == "way"]

    def _initial(self, fact: Fact) -> bool:
        known = self._at_first.get(fact)
        if known is None:
            known = self._at_first[fact] = self._holds_at_first(fact)
        return known

    def _holds_at_first(self, fact: Fact) -> bool:
        kind, value = fact[0], fact[-1]
        if self._wrong is not None:
            before, flag = self._wrong
            return bool(value) if fact[:2] == ("flag", flag) else fact in before
        if kind in _HAD_BY_ACTS:
            return False
        if kind == "dark":
            return bool(value) != self._state.lit
        if kind == "money" or (kind == "pulled" and self.secrets is None):
            return not value or (kind == "money" and self.story.holds(fact, self._state, {}))
        if kind in _ALWAYS or (kind in SECRET_FACTS and self.secrets is None):
            return True
        return bool(self.story.holds(fact, self._state, self.secrets or {}) == value)

    def _reach(self, fact: Fact, needs: tuple[Fact, ...]) -> None:
        if fact not in self.why and not self._initial(fact):
            self.why[fact] = needs
            self._todo += self._waiting.pop(fact, [])

    def _grow(self) -> None:
        self._todo = [(t, way) for t in self.story.things for way in t.ways if not self._is_forbidden(way)]
        while self._walk():
            todo, self._todo = self._todo, []
            for thing, way in todo:
                for fact in self._go(thing, way):
                    self._waiting.setdefault(fact, []).append((thing, way))

    def _is_forbidden(self, way: Way) -> bool:
        return any(effect[0] == "set" and effect[1] == self._forbidden for effect in way.effects)

    def _walk(self) -> bool:
        """Notes all cells that can be walked to; whether there are ways to look at."""
        todo = [fact[1] for fact in self.why if fact[0] == "cell"]
        while todo:
            node = todo.pop()
            spot = self._graph.spots.get(node)
            free: Fact = ("put", node)
            if spot is not None and free not in self.why and self._stays(spot) is None:
                continue
            for other, person in self._graph.edges[node]:
                gone: Fact = ("gone", person, True)
                if ("cell", other) in self.why or (person and gone not in self):
                    continue
                stay = () if spot is None else (free,) if free in self.why else self._stays(spot) or ()
                self._reach(("cell", other), (("cell", node), *stay, *((gone,) if person else ())))
                todo.append(other)
        return bool(self._todo)

    def _stays(self, spot: Thing) -> tuple[Fact, ...] | None:
        """What lets the player stand on a spot and go on; None where nothing does yet."""
        for way in spot.ways:
            needs = self._needs(spot, way)
            if not way.moves and all(fact in self for fact in needs):
                return tuple(needs)
        return None

    def _go(self, thing: Thing, way: Way) -> tuple[Fact, ...]:
        """Notes what a way makes so, if it can be gone already; else gives the facts of which one is missing."""
        stands = self._graph.stands[thing]
        here = next((stand for stand in stands if stand in self.why), None)
        if thing.stands and here is None:
            return stands
        needs = (*_needed_to_meet(thing), *self._needs(thing, way))
        for fact in needs:
            if fact not in self:
                return (fact,)
        done: Fact = ("way", thing, way)
        self._reach(done, (*needs, *((here,) if here else ())))
        for effect in way.effects:
            for fact in self._made_so(effect):
                self._reach(fact, (done,))
        for node in self._put_on(thing, way):
            self._reach(("put", node), (done,))
            self._reach(("cell", node), (done,))
        return ()

    def _put_on(self, thing: Thing, way: Way) -> Iterator[int]:
        """The nodes that a script may put the player on, whatever stands in the way of a walk; no spot runs there."""
        cells = set(thing.stands)
        for kind, *rest in way.effects:
            if kind == "warp":
                cells = {warp_cell(rest)}
            elif kind == "walk":
                cells = {end for cell in cells for end in self._walk_ends(cell, rest[0], int(rest[1]))}
            elif kind == "rest":  # who falls wakes up there; only of a spot does it matter
                cells &= self.story.spots.keys()
            else:
                continue
            yield from {self._graph.node_of[cell] for cell in cells}

    def _walk_ends(self, cell: Cell, direction: str, steps: int) -> Iterator[Cell]:
        """Where a script's walk may end: at its end, a wall, or before whoever may stand on the way."""
        (name, x, y), (dx, dy) = cell, STEPS[direction]
        for n in range(steps + 1):
            here, after = (name, x + n * dx, y + n * dy), (name, x + (n + 1) * dx, y + (n + 1) * dy)
            wall = after not in self._graph.node_of
            if n == steps or wall or after in self.story.people:
                yield here
            if wall:
                return

    def _needs(self, thing: Thing, way: Way) -> list[Fact]:
        """The facts that a way needs and does not make so itself."""
        return [self._translated(thing, fact) for fact in self._graph.needs[way]]

    def _translated(self, thing: Thing, fact: Fact) -> Fact:
        kind, value = fact[0], fact[-1]
        if kind == "dark" and thing.place.map and not self.story.maps[thing.place.map].get("dark"):
            return _TRUE if not value else _NEVER
        if kind == "money" and value and not self._initial(fact):
            return ("earn", True)
        if self.secrets is not None and kind == "next":
            place, pulled = self.secrets[fact[1]].index(fact[2]), dict(self._state.pulled).get(fact[1], 0)
            if value:
                return _NEVER if place < pulled else _TRUE if place == pulled else ("pulls", fact[1], place, True)
            return _TRUE if place != pulled else ("pulls", fact[1], place + 1, True)
        if kind == "pulled" and value:
            count = self.story.secrets[fact[1]]["values"]
            return ("pulls", fact[1], count if self.secrets is not None else 1, True)
        return fact

    def _made_so(self, effect: Fact) -> Iterator[Fact]:
        if effect[0] == "pull":
            place = 0 if self.secrets is None else self.secrets[effect[1]].index(effect[2])
            yield ("pulls", effect[1], place + 1, True)
        else:
            yield from _made_so(effect)


def _made_so(effect: Fact) -> Iterator[Fact]:
    """What an effect makes so, whatever was drawn."""
    kind, *rest = effect
    match kind:
        case "set" | "clear":
            yield ("flag", rest[0], kind == "set")
        case "badge":
            yield ("badge", rest[0], True)
        case "give" | "take":
            yield ("item", rest[0], kind == "give")
        case "friend":
            yield ("friend", True)
        case "show" | "hide":
            yield ("gone", rest[0], kind == "hide")
        case "light":
            yield ("dark", False)
        case "money":
            yield ("earn", True)


def _own_needs(way: Way) -> tuple[Fact, ...]:
    """What a way needs and does not make so itself; the dark of another map counts as either."""
    needs: dict[Fact, None] = {}
    own: set[Fact] = set()
    moved = False
    for kind, value in way.lines:
        if kind == "do":
            own.update(_made_so(value))
            moved |= value[0] == "warp"
        elif kind == "if" and value not in own and not (value[0] == "dark" and moved):
            needs[value] = None
    return tuple(needs)


def _needed_to_meet(thing: Thing) -> tuple[Fact, ...]:
    """An item must be in the bag, somebody with a name must be there."""
    if thing.place.kind == "item":
        return (("item", thing.place.name, True),)
    if thing.place.kind == "object" and thing.place.name:
        return (("gone", thing.place.name, False),)
    return ()


class _Graph:
    """Cells as nodes: those that belong together whatever happens are one; doors, spots, people's and carrying cells
    are each one of their own. An edge names the person who must be gone, if one stands there."""

    def __init__(self, story: Story) -> None:
        own = set(story.doors) | set(story.spots) | set(story.people) | set(story.carry)
        self.node_of: dict[Cell, int] = {}
        members: list[list[Cell]] = []
        for cell in story.walkable:
            if cell in self.node_of:
                continue
            self.node_of[cell] = len(members)
            group, todo = [cell], [] if cell in own else [cell]
            while todo:
                for _, beside in story.beside(todo.pop()):
                    if beside in story.walkable and beside not in own and beside not in self.node_of:
                        self.node_of[beside] = len(members)
                        group.append(beside)
                        todo.append(beside)
            members.append(group)
        self.spots = {self.node_of[cell]: thing for cell, thing in story.spots.items() if cell in self.node_of}
        self.edges: list[set[tuple[int, str]]] = []
        for node, group in enumerate(members):
            edges = set()
            for cell in group:
                for direction, beside in story.beside(cell):
                    if cell in story.carry and STEPS[direction] != story.carry[cell]:
                        continue
                    end = story.doors.get(beside, beside)
                    if beside not in story.walkable or story.people.get(beside, "-") == "" or self.node_of[end] == node:
                        continue
                    edges.add((self.node_of[end], story.people.get(beside, "")))
            self.edges.append(edges)
        self.needs = {way: _own_needs(way) for thing in story.things for way in thing.ways}
        self.stands: dict[Thing, tuple[Fact, ...]] = {
            thing: tuple(dict.fromkeys(("cell", self.node_of[cell]) for cell in thing.stands)) for thing in story.things
        }


@lru_cache(maxsize=4)
def _graph(story: Story) -> _Graph:
    return _Graph(story)
