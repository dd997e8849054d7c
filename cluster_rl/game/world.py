"""World: the names and tables of one game.

Any process uses it. In: `tables/red.json` (facts about Pokémon Red) or one of the others, which the build of the
embedded worlds writes, all in one format. Out: names, map places, milestones, and when the task is done.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from cluster_rl.game.flags import Condition, Milestone, ProgressLatch, bytes_read
from cluster_rl.game.maps import MapTable
from cluster_rl.game.state import GameState

TABLE_DIR = Path(__file__).resolve().parent / "tables"
_MAX_NO_ENDS = 1000


class School(NamedTuple):
    """Where a school start puts the player."""

    map_id: int
    x: int
    y: int


class World:
    """Names and tables of one game. Get one by `red()`, `cartridge()` or `for_rom()`; they are shared and constant.

    `schools` are the starts that the game itself offers, in the order of their numbers; Red has none.
    """

    def __init__(self, name: str, table: Mapping[str, Any]) -> None:
        self.name = name
        self.title: str = table["title"]
        self.rom_sha1s = frozenset(table["rom_sha1s"])
        self.first_map: int = table["first_map"]
        self.schools = {entry["name"]: School(entry["map"], entry["x"], entry["y"]) for entry in table["schools"]}
        self.maps = MapTable(table["maps"], (table["canvas"][0], table["canvas"][1]))
        self.items = _numbered(table["items"])
        self.species = _numbered(table["species"])
        self.moves = _numbered(table["moves"])
        self.tilesets = _numbered(table["tilesets"])
        self.badges: tuple[str, ...] = tuple(table["badges"])
        self.key_items = frozenset(table["key_items"])
        self.event_names = _numbered(table["events"])
        self.milestones = tuple(
            Milestone(
                entry["name"], entry["title"], entry["required"], Condition.from_table(entry), entry.get("lesson", "")
            )
            for entry in table["milestones"]
        )
        self._titles = {milestone.name: milestone.title for milestone in self.milestones}
        self.task_end = Condition.from_table(table["task_end"])
        other_ends = (Condition.from_table(entry) for entry in table["task_end"].get("or", ()))
        self._ends = (self.task_end, *other_ends)
        self._end_reads = bytes_read(self._ends)
        self._no_ends: set[object] = set()  # bytes that were seen and are no end

    @staticmethod
    def red() -> World:
        """Pokémon Red."""
        return _load("red")

    @staticmethod
    def cartridge() -> World:
        """The embedded cartridge's small world, which an empty `rom` plays."""
        return _load("cartridge")

    @staticmethod
    def for_rom(sha1: str) -> World:
        """The world of a ROM. One that is not known, such as a translation or a hack, gets Red's tables."""
        return next((world for world in embedded() if sha1.lower() in world.rom_sha1s), World.red())

    @property
    def canvas_size(self) -> tuple[int, int]:
        """(width, height) in cells of the canvas of `global_position`."""
        return self.maps.canvas_size

    def global_position(self, map_id: int, x: int, y: int) -> tuple[int, int] | None:
        """The canvas cell of cell (x, y) of a map, None where the map has no place."""
        return self.maps.global_position(map_id, x, y)

    def map_name(self, map_id: int) -> str:
        return self.maps.name(map_id)

    def map_category(self, map_id: int) -> str:
        return self.maps.category(map_id)

    def item_name(self, item: int) -> str:
        return self.items.get(item, f"ITEM_{item}")

    def species_name(self, species: int) -> str:
        """Name of an internal species id (not a dex number)."""
        return self.species.get(species, f"SPECIES_{species}")

    def move_name(self, move: int) -> str:
        return self.moves.get(move, f"MOVE_{move}")

    def event_name(self, event: int) -> str:
        return self.event_names.get(event, f"EVENT_{event}")

    def badge_names(self, badges: int) -> list[str]:
        """Names of the badges in a bit mask."""
        return [name for bit, name in enumerate(self.badges) if badges >> bit & 1]

    def milestone_title(self, name: str) -> str:
        """What a milestone is called for people; its name where the game has none of that name."""
        return self._titles.get(name, name)

    def milestones_ahead(self, state: GameState) -> tuple[Milestone, ...]:
        """Those that an episode from this state can reach: it has not, and they belong to the game if it is in the
        game, or to the lesson that it is in, as no way leads from the one to the other."""
        lesson = self.maps.lesson(state.map_id) if state.in_game else ""
        latch = ProgressLatch(self.milestones)
        latch.start(state)
        return tuple(m for m in self.milestones if m.lesson == lesson and m.name not in latch.reached)

    def milestones_from(self, school: str) -> tuple[Milestone, ...]:
        """Those of the part of the game where this school start is; without one that is known, of the game itself."""
        start = self.schools.get(school)
        lesson = self.maps.lesson(start.map_id) if start is not None else ""
        return tuple(m for m in self.milestones if m.lesson == lesson)

    def task_ended(self, state: GameState) -> bool:
        """Whether the game's task is done in this state, or a lesson's is over, well or badly."""
        seen = self._end_reads(state.image)
        if seen in self._no_ends:
            return False
        ended = any(end.holds(state) for end in self._ends)
        if not ended and len(self._no_ends) < _MAX_NO_ENDS:
            self._no_ends.add(seen)
        return ended

    def describe(self, state: GameState) -> dict[str, Any]:
        """Everything a person wants to know of one state, by name, as plain data for JSON."""
        latch = ProgressLatch(self.milestones)
        latch.start(state)
        menu, enemy = state.menu, state.enemy
        hours, minutes, seconds = state.play_time
        return {
            "game": self.title,
            "in_game": state.in_game,
            "player": state.player_name,
            "play_time": f"{hours}:{minutes:02}:{seconds:02}",
            "map": {"id": state.map_id, "name": self.map_name(state.map_id), "x": state.x, "y": state.y},
            "facing": state.facing,
            "badges": self.badge_names(state.badges),
            "party": [
                {
                    "species": self.species_name(mon.species),
                    "level": mon.level,
                    "hp": mon.hp,
                    "max_hp": mon.max_hp,
                    "status": mon.status,
                    "experience": mon.experience,
                    "moves": [
                        {"name": self.move_name(move), "pp": pp}
                        for move, pp in zip(mon.moves, mon.pp, strict=True)
                        if move
                    ],
                }
                for mon in state.party
            ],
            "bag": [{"item": self.item_name(item), "count": count} for item, count in state.bag],
            "money": state.money,
            "dex": {"owned": len(state.dex_owned), "seen": len(state.dex_seen)},
            "milestones": list(latch.reached),
            "events": [self.event_name(event) for event in state.events_set()],
            "task_ended": self.task_ended(state),
            "battle": None
            if enemy is None
            else {
                "kind": {1: "wild", 2: "trainer"}.get(state.in_battle, "lost"),
                "enemy": {"species": self.species_name(enemy.species), "level": enemy.level}
                | {"hp": enemy.hp, "max_hp": enemy.max_hp},
            },
            "menu": None if menu is None else {"choice": menu.choice, "kind": menu.kind},
            "text": list(state.text_lines),
        }


@cache
def embedded() -> tuple[World, ...]:
    """All embedded worlds."""
    return tuple(_load(path.stem) for path in sorted(TABLE_DIR.glob("*.json")) if path.stem != "red")


@cache
def _load(name: str) -> World:
    return World(name, json.loads((TABLE_DIR / f"{name}.json").read_text(encoding="utf-8")))


def _numbered(names: Mapping[str, str]) -> dict[int, str]:
    return {int(number): name for number, name in names.items()}
