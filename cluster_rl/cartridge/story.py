"""A world file as a story: where one can walk, what can be done there, and what it changes.

The solver and the tests' player use it. In: a world file. Out: a `Story` (nodes that connected cells fall into, things
to talk to, step on or use, each with the ways its script can go), and `State`s that it leads from one to the next. No
emulator: battles are won by whoever has a friend, wild ones left out, and health is not counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

from cluster_rl.cartridge.checks import (
    MAX_BAG_KINDS,
    MAX_PARTY,
    MOST_OF_A_KIND,
    STEPS,
    Cell,
    door_ends,
    walkable_cells,
    warp_cell,
)
from cluster_rl.cartridge.scripts import Word, secret_place
from cluster_rl.cartridge.sources import Place, all_scripts
from cluster_rl.errors import UserError

Fact = tuple[Any, ...]
"""Something that is or is not so, its last part says which: ("flag", NAME, True), ("gone", NAME, False), ..."""
Line = tuple[str, Any]
"""One line of a way through a script: ("if", fact), ("do", effect), ("choose", what is answered), ("chance", bool)."""

_IFS: Final = {"ifset": "flag", "ifbadge": "badge", "ifitem": "item", "iffriend": "friend", "ifdark": "dark"} | {
    "ifpulled": "pulled"
}
_EFFECTS: Final = frozenset(("set", "clear", "badge", "take", "rest", "money", "warp", "show", "hide", "walk", "light"))
SECRET_FACTS: Final = ("secret", "next", "pulled")
_LOSSES: Final = frozenset(("clear", "take", "money-", "show", "hide", "warp"))


@dataclass(frozen=True, eq=False)
class Way:
    """One way through a script, from its first word to its end."""

    lines: tuple[Line, ...]

    @cached_property
    def effects(self) -> tuple[Fact, ...]:
        return tuple(value for kind, value in self.lines if kind == "do")

    @cached_property
    def choices(self) -> tuple[str, ...]:
        """What the player answers: YES, NO, BUY an item, LEAVE a shop, FIGHT or LOSE to a trainer."""
        return tuple(value for kind, value in self.lines if kind == "choose")

    @cached_property
    def secrets(self) -> frozenset[str]:
        """Those that decide whether it is gone."""
        return frozenset(value[1] for kind, value in self.lines if kind == "if" and value[0] in SECRET_FACTS)

    @cached_property
    def by_chance(self) -> bool:
        return any(kind == "chance" for kind, _ in self.lines)

    @cached_property
    def lost(self) -> bool:
        return any(choice.startswith("LOSE ") for choice in self.choices)

    @cached_property
    def moves(self) -> bool:
        """Whether the player is elsewhere afterwards."""
        return self.lost or any(effect[0] in ("warp", "walk") for effect in self.effects)

    @cached_property
    def loses(self) -> bool:
        """Whether it takes something away that another way may need."""
        return self.lost or any(effect[0] in _LOSSES for effect in self.effects)


@dataclass(frozen=True, eq=False)
class Thing:
    """A sign, a person, a spot or an item that can be used; `stands` are the cells it is reached from."""

    place: Place
    ways: tuple[Way, ...]
    stands: tuple[Cell, ...]

    @property
    def cell(self) -> Cell | None:
        return None if self.place.at is None else (self.place.map, *self.place.at)


@dataclass(frozen=True)
class State:
    """A moment of the game. `gone` are named people and objects that are not there."""

    cell: Cell
    rest: Cell
    money: int
    flags: frozenset[str] = frozenset()
    badges: frozenset[int] = frozenset()
    bag: tuple[tuple[str, int], ...] = ()
    party: int = 0
    gone: frozenset[str] = frozenset()
    lit: bool = False
    pulled: tuple[tuple[str, int], ...] = ()

    def count(self, item: str) -> int:
        return dict(self.bag).get(item, 0)


Secrets = Mapping[str, tuple[int, ...]]
"""What was drawn: one value of a plain secret, all values in order of an order."""


class Story:
    """A world file, ready to be walked through.

    Raises KeyError for a name that there is not, and UserError for what a story cannot tell, and a world with gates may
    not have: scripts on arriving, jumps back, and other ways onto a spot than the player's own step.
    """

    def __init__(self, world: Mapping[str, Any]) -> None:
        self.world = world
        self.walkable = walkable_cells(world)
        self.maps = {entry["name"]: entry for entry in world["map"]}
        self.prices = {entry["name"]: entry.get("price", 0) for entry in world["item"]}
        self.key_items = {entry["name"] for entry in world["item"] if entry.get("key")}
        self.prizes = {entry["name"]: entry["prize"] for entry in world.get("trainer", [])}
        self.secrets = {entry["name"]: entry for entry in world.get("secret", [])}
        self.words = {
            entry["name"]: {word: value for value, word in enumerate(entry.get("words", []))}
            for entry in world.get("secret", [])
        }
        carry = {cell["key"]: cell["carry"] for cell in world["cells"] if "carry" in cell}
        self.carry = {cell: STEPS[carry[key]] for cell, key in self.walkable.items() if key in carry}
        self.doors = door_ends(world)
        self._nears: dict[Cell, list[tuple[str, Cell, Cell]]] = {}
        self.people: dict[Cell, str] = {}  # "" for those who are always there
        for name, entry in self.maps.items():
            for person in entry.get("object", []):
                self.people[name, *person["at"]] = person.get("name", "")
        scripts = list(all_scripts(world))
        self._check(scripts)
        self._named = {place.name: words for place, words in scripts if place.kind == "script"}
        self._schools = {place.name: words for place, words in scripts if place.kind == "school"}
        self.things = tuple(self._thing(place, words) for place, words in scripts if place.kind not in _NOT_THINGS)
        self.spots = {thing.cell: thing for thing in self.things if thing.place.kind == "spot"}

    def _check(self, scripts: list[tuple[Place, tuple[Word, ...]]]) -> None:
        spots = {(place.map, *place.at) for place, _ in scripts if place.kind == "spot" and place.at is not None}
        arrivals = {
            (entry["map"], *entry["at"]) for entry in (self.world["game"]["start"], *self.world.get("school", []))
        }
        for cell in spots & (self.doors.keys() | set(self.doors.values()) | self.carry.keys() | arrivals):
            raise UserError(f"map {cell[0]}: gates cannot be proved with a door, start or carrying floor at a spot")
        named = [place.name for place, _ in scripts if place.kind == "script"]
        for place, words in scripts:
            where = f"script of {place.name or place.kind} on map {place.map}" if place.map else f"script {place.name}"
            if place.kind == "enter":
                raise UserError(f"map {place.map}: gates cannot be proved in a world with `enter` scripts")
            for at, word in enumerate(words):
                back = word.target is not None and word.target <= at
                if word.name == "chain" and place.kind == "script":
                    back = named.index(word.operands[0]) <= named.index(place.name)
                if back:
                    raise UserError(f"{where}: gates cannot be proved with a jump back, or to an earlier script")
                if word.name == "warp" and warp_cell(word.operands) in spots:
                    raise UserError(f"{where}: gates cannot be proved with a warp onto a spot")
                if place.kind == "item" and word.name in ("rest", "walk", "chain"):
                    raise UserError(f"{where}: gates cannot be proved with {word.name} in the script of an item")

    def start(self) -> State:
        """A new game."""
        game = self.world["game"]
        cell = (game["start"]["map"], *game["start"]["at"])
        hidden = {
            person["name"] for entry in self.maps.values() for person in entry.get("object", []) if person.get("hidden")
        }
        bag = tuple(sorted((name, count) for name, count in game.get("bag", [])))
        return State(cell, cell, game["money"], bag=bag, party=int("starter" in game), gone=frozenset(hidden))

    def school(self, entry: Mapping[str, Any]) -> State:
        """The state that a `[[school]]` makes of a new game."""
        state = self.start()
        # Nothing is asked in it, and there is room for all: the first way is the one that gives everything.
        lines = next(self._ways(self._schools.get(entry["name"], ()), 0))
        for kind, value in lines:
            if kind == "do":
                state = self._do(state, value)
        return replace(state, cell=(entry["map"], *entry["at"]))

    # Scripts as ways.

    def _thing(self, place: Place, words: tuple[Word, ...]) -> Thing:
        stands: tuple[Cell, ...] = ()
        if place.at is not None:
            cell = (place.map, *place.at)
            stands = (cell,) if place.kind == "spot" else tuple(c for _, c in self.beside(cell) if c in self.walkable)
        return Thing(place, tuple(Way(lines) for lines in self._ways(words, 0)), stands)

    def _ways(self, words: tuple[Word, ...], at: int) -> Iterator[tuple[Line, ...]]:
        """All ways from a word on. No word jumps back, so each ends."""
        if at >= len(words) or words[at].name == "end":
            yield ()
            return
        word = words[at]
        if word.name == "chain":
            yield from self._ways(self._named[word.operands[0]], 0)
            return
        for lines, goes_on in self._branches(word, at + 1, len(words)):
            for rest in self._ways(words, goes_on):
                yield lines + rest

    def _branches(self, word: Word, after: int, end: int) -> Iterator[tuple[tuple[Line, ...], int]]:
        """(lines, the word to go on at) of each way that one word can go; `after` is the next one, `end` the end."""
        name, operands, jump = word.name, word.operands, end if word.target is None else word.target
        if name in _IFS or name == "ifsecret":
            fact: Fact = (_IFS[name], *operands) if name in _IFS else self._secret_fact(*operands)
            yield (("if", (*fact, False)),), after
            yield (("if", (*fact, True)),), jump
        elif name == "goto":
            yield (), jump
        elif name == "ask":
            yield (("choose", "YES"),), after
            yield (("choose", "NO"),), jump
        elif name in ("random", "iflot"):
            yield (("chance", True),), jump
            yield (("chance", False),), after
        elif name == "pay":
            yield (("if", ("money", int(operands[0]), True)), ("do", ("money-", int(operands[0])))), after
            yield (("if", ("money", int(operands[0]), False)),), jump
        elif name in ("give", "friend"):
            room: Fact = ("room", operands[0]) if name == "give" else ("party",)
            yield (("if", (*room, True)), ("do", (name, *operands))), after
            yield (("if", (*room, False)),), jump
        elif name == "battle":
            friend: Line = ("if", ("friend", True))
            yield (friend, ("choose", f"FIGHT {operands[0]}"), ("do", ("money", self.prizes[operands[0]]))), after
            yield (friend, ("choose", f"LOSE {operands[0]}")), end
            yield (("if", ("friend", False)),), end
        elif name == "pull":
            value = self._value(*operands)
            yield (("if", ("next", operands[0], value, True)), ("do", ("pull", operands[0], value))), after
            yield (("if", ("next", operands[0], value, False)),), jump
        elif name == "shop":
            yield (("choose", "LEAVE"),), after
            for item in operands:
                price = self.prices[item]
                yield (
                    (
                        ("choose", f"BUY {item}"),
                        ("if", ("money", price, True)),
                        ("if", ("room", item, True)),
                        *(("do", ("money-", price)), ("do", ("give", item, "1"))),
                    ),
                    after,
                )
        elif name in _EFFECTS:
            yield (("do", (name, *(int(o) if name == "money" else o for o in operands))),), after
        else:
            yield (), after

    def _value(self, secret: str, word: str) -> int:
        return self.words[secret][word] if word in self.words[secret] else int(word)

    def _secret_fact(self, operand: str, word: str) -> Fact:
        name, place = secret_place(operand)
        return ("secret", name, int(place or 1) - 1, self._value(name, word))

    # Walking.

    def beside(self, cell: Cell) -> list[tuple[str, Cell]]:
        """(direction, cell) of the four next to one, walls included."""
        name, x, y = cell
        return [(direction, (name, x + dx, y + dy)) for direction, (dx, dy) in STEPS.items()]

    def _near(self, cell: Cell) -> list[tuple[str, Cell, Cell]]:
        """(letter, cell, where it leads if it is a door) of the cells beside one that are no walls."""
        near = self._nears.get(cell)
        if near is None:
            near = self._nears[cell] = [
                (direction[0], beside, self.doors.get(beside, beside))
                for direction, beside in self.beside(cell)
                if beside in self.walkable
            ]
        return near

    def blocked(self, cell: Cell, state: State) -> bool:
        """Whether there is a wall or somebody."""
        return cell not in self.walkable or (cell in self.people and self.people[cell] not in state.gone)

    def routes(self, state: State, secrets: Secrets) -> dict[Cell, str]:
        """Cells where the player can come to stand, nothing done on the way, with the shortest ways in letters
        `u d l r`. A letter onto a door is through it. Spots that would do something are ends."""
        found, todo = {state.cell: ""}, deque([state.cell])
        while todo:
            cell = todo.popleft()
            if cell in self.spots and found[cell] and self._stirs(cell, state, secrets):
                continue
            for letter, beside, onto in self._near(cell):
                if onto in found or (beside in self.people and self.blocked(beside, state)):
                    continue
                end = onto if onto not in self.carry else self.slide(onto, state)
                if end is not None and end not in found:
                    found[end] = found[cell] + letter
                    todo.append(end)
        return found

    def slide(self, cell: Cell, state: State) -> Cell | None:
        """Where the floor carries whoever steps there; None where it never lets go."""
        for _ in range(200):
            if cell not in self.carry:
                return cell
            name, x, y = cell
            dx, dy = self.carry[cell]
            after = (name, x + dx, y + dy)
            if self.blocked(after, state):
                return None
            cell = self.doors.get(after, after)
        return None

    def _stirs(self, cell: Cell, state: State, secrets: Secrets) -> bool:
        thing = self.spots.get(cell)
        return thing is not None and any(
            way.lines and (way.effects or way.choices or way.moves)
            for way in thing.ways
            if self.run(replace(state, cell=cell), way, secrets) is not None
        )

    # What a way does.

    def holds(self, fact: Fact, state: State, secrets: Secrets) -> bool:
        """Whether a fact is so, its last part left out of account."""
        kind, *rest = fact[:-1]
        match kind:
            case "flag":
                return rest[0] in state.flags
            case "badge":
                return int(rest[0]) in state.badges
            case "item":
                return state.count(rest[0]) > 0
            case "friend":
                return state.party > 0
            case "party":
                return state.party < MAX_PARTY
            case "dark":
                return bool(self.maps[state.cell[0]].get("dark")) and not state.lit
            case "money":
                return bool(state.money >= rest[0])
            case "room":
                count = state.count(rest[0])
                return 0 < count < MOST_OF_A_KIND or (not count and len(state.bag) < MAX_BAG_KINDS)
            case "gone":
                return rest[0] in state.gone
            case "secret":
                return bool(secrets[rest[0]][rest[1]] == rest[2])
            case "next":
                done, order = dict(state.pulled).get(rest[0], 0), secrets[rest[0]]
                return bool(done < len(order) and order[done] == rest[1])
            case "pulled":
                return dict(state.pulled).get(rest[0], 0) == len(secrets[rest[0]])
        raise KeyError(kind)

    def run(self, state: State, way: Way, secrets: Secrets) -> State | None:
        """The state after a way, None where the script does not go it now."""
        for kind, value in way.lines:
            if kind == "if" and self.holds(value, state, secrets) != value[-1]:
                return None
            if kind == "do":
                state = self._do(state, value)
        if way.lost:
            state = replace(state, cell=state.rest, money=after_blackout(state.money))
        if not self.maps[state.cell[0]].get("dark"):
            state = replace(state, lit=False)
        return state

    def _do(self, state: State, effect: Fact) -> State:
        kind, *rest = effect
        match kind:
            case "set":
                return replace(state, flags=state.flags | {rest[0]})
            case "clear":
                return replace(state, flags=state.flags - {rest[0]})
            case "badge":
                return replace(state, badges=state.badges | {int(rest[0])})
            case "give":
                return self.carrying(state, rest[0], int(rest[1]))
            case "take":
                return self.carrying(state, rest[0], -int(rest[1]))
            case "friend":
                return replace(state, party=state.party + 1)
            case "money":
                return replace(state, money=min(state.money + rest[0], 999_999))
            case "money-":
                return replace(state, money=state.money - rest[0])
            case "rest":
                return replace(state, rest=state.cell)
            case "show":
                return replace(state, gone=state.gone - {rest[0]})
            case "hide":
                return replace(state, gone=state.gone | {rest[0]})
            case "light":
                return replace(state, lit=True)
            case "pull":
                pulled = dict(state.pulled)
                pulled[rest[0]] = pulled.get(rest[0], 0) + 1
                return replace(state, pulled=tuple(sorted(pulled.items())))
            case "warp":
                return replace(state, cell=warp_cell(rest))
            case "walk":
                return replace(state, cell=self._walked(state, rest[0], int(rest[1])))
        raise KeyError(kind)

    def carrying(self, state: State, item: str, more: int) -> State:
        """The state with more or less of an item in the bag."""
        bag = dict(state.bag)
        bag[item] = min(bag.get(item, 0) + more, MOST_OF_A_KIND)
        return replace(state, bag=tuple(sorted((name, count) for name, count in bag.items() if count > 0)))

    def _walked(self, state: State, direction: str, steps: int) -> Cell:
        name, x, y = state.cell
        dx, dy = STEPS[direction]
        for _ in range(steps):
            if self.blocked((name, x + dx, y + dy), state):
                break
            x, y = x + dx, y + dy
        return name, x, y


def after_blackout(money: int) -> int:
    """What a blackout leaves: half of the hundreds and thousands, as the engine halves them."""
    hundreds = money // 100 % 100
    return money - 100 * (hundreds - hundreds // 2)


_NOT_THINGS: Final = ("script", "school")
