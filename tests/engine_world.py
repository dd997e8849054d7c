"""A world that has each thing the cartridge's engine can do, in one room: a sign for each, along its north wall.

Tests compile it where the compiler is installed, once a session.
"""

from __future__ import annotations

import functools
import tomllib
from pathlib import Path
from typing import Any

from cartridge_player import Player

from cluster_rl.cartridge import CONTENT_DIR, build
from cluster_rl.cartridge.compile_content import compile_world
from cluster_rl.errors import UserError
from cluster_rl.game import ram

ROOM, CAVE, DEN, YARD = 37, 38, 39, 12
KINDS = 21
LAMP, BALM, CHARM, FIRST_KIND = 1, 2, 3, 10
SECRET_COMBINATIONS = 4 * 24
SIGNS = {
    "flags": """
      ifset SEEN again
      set SEEN
      say "First."
      end
    again:
      clear SEEN
      say "Again." """,
    "items": """
      ifitem CHARM has
      give CHARM 2
      say "Here is a charm."
      end
    has:
      take CHARM 5
      say "It is gone." """,
    "kinds": "\n".join(f"give KIND {i} 1 else full".replace("KIND ", "KIND") for i in range(KINDS))
    + '\n say "All."\n end\nfull:\n set FULL\n give LAMP 1\n say "Never said." ',
    "money": """
      money 999
      pay 2000 else poor
      say "Paid."
      end
    poor:
      say "Poor." """,
    "ask": """
      ask "Do you see me?" else no
      say "Yes."
      end
    no:
      say "No." """,
    "shop": """
      say "Welcome!"
      shop BALM KIND0 KIND1 KIND2 KIND3 CHARM
      say "Bye!" """,
    "friend": """
      iffriend more
      friend FENNO 9
      say "One."
      end
    more:
      friend TUMBLO 12 else full
      say "One more."
      end
    full:
      friend TUMBLO 12
      say "Never said." """,
    "battle": """
      battle TRIO
      set WON
      say "Well done." """,
    "chance": """
      random 0 never
      random 255 often
      goto never
    often:
      badge 2
      ifbadge 2 done
    never:
      say "Never said."
      end
    done:
      say "Badge." """,
    "walk": """
      say "Come."
      face GUARD left
      walk down 2
      walk right 9
      face PLAYER up
      say "There." """,
    "people": """
      ifset GHOST_SHOWN gone
      show GHOST
      hide GUARD
      set GHOST_SHOWN
      say "Shown."
      end
    gone:
      hide GHOST
      show GUARD
      clear GHOST_SHOWN
      say "Hidden." """,
    "warp": """
      say "Off you go."
      warp YARD 3 3
      set WARPED """,
    "told": """
      say "{secret:word} and {order:levers:1} {order:levers:2} {order:levers:3} {order:levers:4}." """,
    "pull": """
      ifpulled levers done
      pull levers RED else wrong
      pull levers 1 else half
      pull levers BLUE else wrong
      pull levers 3 else wrong
      say "Clack."
      end
    half:
      say "Half."
      end
    wrong:
      say "Wrong."
      end
    done:
      say "All done." """,
    "rest": """
      rest
      finish
      goto script SHARED """,
    "secret": """
      ifsecret word NORTH north
      ifsecret word 1 south
      say "Neither."
      end
    north:
      say "North."
      end
    south:
      say "South." """,
}

_FILE = Path(__file__).parent / "data" / "engine_world.toml"


def engine_toml() -> str:
    """The world file."""
    scripts = [f"  {{ at = [{x}, 0], script = '''{source}''' }},\n" for x, source in enumerate(SIGNS.values())]
    items = [f'[[item]]\nname = "KIND{i}"\nid = {FIRST_KIND + i}\nprice = {10 * i}\n' for i in range(KINDS)]
    text = _FILE.read_text(encoding="utf-8")
    return text.replace("# SIGNS\n", f"signs = [\n{''.join(scripts)}]\n") + "".join(items)


def engine_source() -> dict[str, Any]:
    """The world as `compile_world` takes it."""
    cells = tomllib.loads((CONTENT_DIR / "cells.toml").read_text(encoding="utf-8"))
    return cells | tomllib.loads(engine_toml())


def has_compiler() -> bool:
    """Whether the cartridge's compiler is installed."""
    try:
        build.compiler_version()
    except UserError:
        return False
    return True


@functools.cache
def engine_build() -> build.Built:
    """The world, built."""
    return build.build(compile_world(engine_source()))


class EnginePlayer(Player):
    """A game of that world."""

    def __init__(self, school: int | None = None, frames: int = 120) -> None:
        super().__init__(engine_build().rom, boot_frames=0)
        if school is not None:
            keys = ["b", *(key for bit, key in enumerate(("a", "select", "start")) if school >> bit & 1)]
            for key in keys:
                self.pyboy.button_press(key)
            self.run(110)
            for key in keys:
                self.pyboy.button_release(key)
        self.run(frames)

    def at_sign(self, name: str) -> None:
        """From anywhere in the room's second row to before a sign."""
        x = list(SIGNS).index(name)
        _, here, _ = self.place()
        self.walk(("r" if x > here else "l") * abs(x - here))
        self.tap("up")
        assert self.place() == (ROOM, x, 1)

    def read(self, name: str) -> str:
        """What a sign says, all pages with A."""
        self.at_sign(name)
        self.tap("a", 4, 20)
        return self.read_text()

    def choose(self, *buttons: str) -> None:
        """Presses buttons one after another, slowly enough for menus."""
        for button in buttons:
            self.tap(button, 6, 18)

    def give_friend(self) -> None:
        """The first of the team, from its sign."""
        assert self.read("friend") == "One."

    def set_hp(self, member: int, hp: int) -> None:
        """Hit points of one of the team."""
        at = ram.wPartyMons + 44 * member + 1
        self.memory[at], self.memory[at + 1] = hp >> 8, hp & 255

    def fill_bag(self, *pairs: int) -> None:
        """Items and how many of each, instead of what is there."""
        self.memory[ram.wNumBagItems] = len(pairs) // 2
        for offset, value in enumerate((*pairs, 0xFF)):
            self.memory[ram.wBagItems + offset] = value

    def go_to_yard(self) -> None:
        """From anywhere in the room to the yard's door, the welcome read."""
        _, x, y = self.place()
        self.walk("u" * (y - 1) + "l" * (x - 3) + "r" * (3 - x) + "dddd")
        self.run(30)
        assert self.place() == (YARD, 1, 5)
        self.read_text()

    def symbol(self, name: str) -> int:
        """Address of one of the engine's own variables."""
        line = next(line for line in engine_build().symbols.splitlines() if line.endswith(f" {name}"))
        return int(line[3:7], 16)
