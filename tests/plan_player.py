"""Plays a plan of the solver on a real ROM: walks, talks, answers, buys, uses things and fights as a player would.

It drives PyBoy through `Player` and reads nothing but `GameState`, so what it does is what a player sees and can do.
"""

from __future__ import annotations

import json
import warnings
from typing import Any

from cartridge_player import DIRECTIONS, Player

from cluster_rl.cartridge import rom_bytes, symbols_path, table_name
from cluster_rl.cartridge.compile_content import read_world
from cluster_rl.cartridge.solver import Act, Planner, goals
from cluster_rl.cartridge.story import Secrets, Story
from cluster_rl.game.world import TABLE_DIR

YES_NO, LIST, USE_TOSS = 0x14, 0x0D, 0x06
STEP_FRAMES = 24
TRAINER = 2  # of wIsInBattle
MOST_FRAMES = 40_000
LOW_HEALTH = 0.4
TEAMS_IN_THE_HALL = 0xD5A2  # wNumHoFTeams
ITEM_LIST = 0xCF7B  # what a shop has, as in the real game


class PlanPlayer(Player):
    """A game in progress, with the names of its world. `steps` counts presses as an agent would make them."""

    def __init__(self, rom: bytes, table: dict[str, Any], **options: object) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            super().__init__(rom, **options)  # type: ignore[arg-type]
        self.steps = 0
        self.first_on: dict[int, int] = {}
        """Map id to the step that first ended on it."""
        self.heard: list[str] = []
        self.maps = {entry["name"].replace("_", " "): entry["id"] for entry in table["maps"]}
        self.items = {name: int(number) for number, name in table["items"].items()}

    def press(self, button: str) -> None:
        """One step of an agent: 24 frames."""
        self.tap(button, 8, STEP_FRAMES - 8)
        self.steps += 1
        self.first_on.setdefault(self.place()[0], self.steps)

    def play(self, act: Act) -> None:
        """Does one act of a plan. Raises AssertionError where the game does not go as planned."""
        last = len(act.route) - 1
        for number, letter in enumerate(act.route):
            if act.kind == "step" and number == last:
                self.press(DIRECTIONS[letter])
                self.converse(list(act.choices))
                return
            self._step(DIRECTIONS[letter])
        name, x, y = act.cell
        assert self.place() == (self.maps[name], x, y), (act, self.place())
        if act.kind == "talk":
            for _ in range(2):
                if self.state().facing != act.facing:
                    self.press(act.facing)
            assert self.state().facing == act.facing, act
            self.press("a")
            self.converse(list(act.choices))
        elif act.kind in ("use", "toss"):
            self._from_bag(act)

    def _step(self, button: str) -> None:
        """One cell; a first press may only turn, and a wild one may come."""
        before = self.place()
        for _ in range(6):
            self.press(button)
            self.run_until_free()
            if self.state().in_battle:
                self.converse([])
            if self.place() != before:
                return
        raise AssertionError(f"the way {button} is blocked at {before}")

    def run_until_free(self) -> None:
        """Waits for walking, carrying floors and doors."""
        for _ in range(600):
            state = self.state()
            if state.interface_up or not (state.walk_counter or state.joy_ignore):
                return
            self.run(2)
        raise AssertionError(f"no button is heard at {self.place()}")

    def converse(self, choices: list[str]) -> None:
        """Reads on, answers and fights until the map is free again; all choices must then have been asked for."""
        free, fighting = 0, False
        for _ in range(MOST_FRAMES // 2):
            state = self.state()
            if state.in_battle == TRAINER and not fighting:
                assert "".join(choices[:1]).startswith("FIGHT "), choices
                choices.pop(0)
            fighting = state.in_battle == TRAINER
            if state.text_waiting:
                self.heard += state.text_lines
                self.press("a")
                free = 0
            elif state.menu is not None:
                self._answer(choices)
                free = 0
            elif not state.interface_up and not state.joy_ignore and not state.walk_counter:
                free += 1
                if free > 20:
                    assert not choices, (choices, self.heard[-6:])
                    return
                self.run(1)
            else:
                self.run(2)
        raise AssertionError(f"the talk never ended: {self.heard[-6:]}")

    def _answer(self, choices: list[str]) -> None:
        state = self.state()
        menu = state.menu
        assert menu is not None
        if menu.in_battle:
            self._fight()
        elif menu.text_box_id == YES_NO:
            answer = choices.pop(0)
            self._point(0 if answer == "YES" else 1)
            self.press("a")
        elif menu.text_box_id == LIST and choices and choices[0].startswith("BUY "):
            item = choices[0].removeprefix("BUY ")
            listed = bytes(self.memory[ITEM_LIST : ITEM_LIST + 16])
            self._point(list(listed[1 : 1 + listed[0]]).index(self.items[item]))
            choices[0] = "YES"
            choices.insert(1, "LEAVE")
            self.press("a")
        else:
            assert menu.text_box_id == LIST, menu
            if choices[:1] == ["LEAVE"]:
                choices.pop(0)
            self.press("b")

    def _point(self, entry: int) -> None:
        """Moves the cursor of a menu or list."""
        for _ in range(40):
            menu = self.state().menu
            assert menu is not None
            at = menu.choice
            if at == entry:
                return
            self.press("down" if at < entry else "up")
        raise AssertionError(f"entry {entry} cannot be pointed at")

    def _fight(self) -> None:
        """One press in a battle's menus: the first move, or away from a wild one when health is low."""
        state = self.state()
        menu = state.menu
        assert menu is not None
        if menu.is_battle_menu:
            active = next(mon for mon in state.party if mon.hp)
            flees = state.in_battle == 1 and active.hp < LOW_HEALTH * active.max_hp
            self._point_battle(3 if flees else 0)
        self.press("a")

    def _point_battle(self, entry: int) -> None:
        for _ in range(8):
            menu = self.state().menu
            assert menu is not None
            if menu.choice == entry:
                return
            if (menu.choice ^ entry) & 2:
                self.press("right" if entry & 2 else "left")
            else:
                self.press("down" if entry & 1 else "up")
        raise AssertionError("the battle menu does not move")

    def _from_bag(self, act: Act) -> None:
        self.press("start")
        self._point(1)
        self.press("a")
        bag = [item for item, _ in self.state().bag]
        self._point(bag.index(self.items[act.item]))
        self.press("a")
        menu = self.state().menu
        assert menu is not None
        assert menu.text_box_id == USE_TOSS, menu
        self._point(0 if act.kind == "use" else 1)
        self.press("a")
        while act.kind == "toss" and self.items[act.item] in [item for item, _ in self.state().bag]:
            self.press("a")
        for _ in range(60):
            state = self.state()
            if not state.interface_up:
                break
            self.press("a" if state.text_waiting else "b")
        self.converse([])


def play_game(world: str, secrets: Secrets) -> dict[str, int]:
    """Plays the plan of a whole new game in which these secrets were drawn, as far as the last gate.

    Returns at which step each event of the plan came, and under `on MAP` the first on each map. What is told is heard,
    and must be what was drawn.
    """
    story = Story(read_world(world))
    gates = story.world["gate"]
    table = json.loads((TABLE_DIR / table_name(world)).read_text(encoding="utf-8"))
    events = {name: int(number) for number, name in table["events"].items()}
    planner, state, came = Planner(story), story.start(), {}
    with PlanPlayer(rom_bytes(world), table) as player:
        draw(player, world, secrets)
        for event in goals(story, gates):
            acts, state = planner.plan(state, secrets, event)
            heard = len(player.heard)
            for act in acts:
                player.play(act)
            assert player.state().has_event(events[event]), (event, player.heard[-6:])
            came[event] = player.steps
            if any(gate.get("told") == event for gate in gates):
                said = " ".join(player.heard[heard:])
                assert any(is_told(said, story, name, values) for name, values in secrets.items()), said
        assert player.memory[TEAMS_IN_THE_HALL] == 1
        return came | {
            f"on {name}": player.first_on[number] for name, number in player.maps.items() if number in player.first_on
        }


def draw(player: PlanPlayer, world: str, secrets: Secrets) -> None:
    """Presses a first button, with which the game draws, and puts these in the place of what it drew."""
    player.tap("b", 4, 20)
    symbols = dict(reversed(line.split()) for line in symbols_path(world).read_text().splitlines())
    at = int(symbols["secrets"].split(":")[1], 16)
    for number, values in enumerate(secrets.values()):
        for place, value in enumerate(values):
            player.memory[at + 4 * number + place] = value


def is_told(said: str, story: Story, secret: str, values: tuple[int, ...]) -> bool:
    """Whether the secret's words are said in the order drawn, each once or again and again, and no others."""
    words = story.secrets[secret]["words"]
    spoken = [word for word in said.replace(":", " ").split() if word in words]
    return [word for i, word in enumerate(spoken) if i == 0 or word != spoken[i - 1]] == [words[v] for v in values]
