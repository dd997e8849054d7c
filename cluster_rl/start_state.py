"""Makes the savestate that episodes start from: of a new game's first room, or of a step of a recorded episode.

    python -m cluster_rl.start_state [--rom ROM] [--name NAME] OUT.state
    python -m cluster_rl.start_state [--rom ROM] --from LOG --step N OUT.state

Run by hand. In: a ROM (the small world by default), and maybe an episode log. Out: a file for the config's
`initial_state`. A new game is played by buttons from power-on, through title, speech and names (`game/new_game.py`),
until a step moves the player about the room; the state is the one before that step. A log is a start and buttons, so
that the state after any of its steps is had exactly, and is compared with the recording on the way.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cluster_rl.errors import end_quietly

    end_quietly()

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from cluster_rl.emulator.console import Console
from cluster_rl.emulator.playback import Diverged, state_after
from cluster_rl.errors import EXIT_OK, UserError, run_command
from cluster_rl.game.buttons import BUTTONS
from cluster_rl.game.new_game import NewGame, check_name, screen_text
from cluster_rl.game.state import GameState
from cluster_rl.game.world import World
from cluster_rl.report.bars import Bar
from cluster_rl.rom import game_warning, load_rom
from cluster_rl.runs.arguments import Arguments, whole_number
from cluster_rl.runs.atomic import write_atomic
from cluster_rl.runs.episode_log import read_log

_FRAME_SKIP = 24
_STEPS_MAX = 1500
"""36,000 frames, ten minutes of the game; a person needs two or three."""
_WALK_STEPS = 2
"""A press in a new direction may only turn the player."""
_SHOWN_CHARACTERS = 150


class Game(Protocol):
    """What playing asks of a `Console`."""

    def step(self, button: int | None) -> None: ...
    def image(self) -> bytes: ...
    def save(self) -> bytes: ...
    def load(self, data: bytes) -> None: ...


def new_game(game: Game, world: World, name: str) -> bytes:
    """Plays from power-on to the first room; the snapshot from which a step was seen to move the player.

    Prints each screen as it comes. Raises `UserError` where no step is made in `_STEPS_MAX` steps, and where the player
    has another name than the one asked for.
    """
    way = NewGame(name, world.first_map)
    told = ""
    for step in range(_STEPS_MAX):
        state = GameState(game.image())
        if way.in_room(state):
            start = game.save()
            if _walks(game, state, start):
                if name and state.player_name != name:
                    raise UserError(f"--name {name}: the game took no name but {state.player_name!r}; leave it out")
                return start
        button = way.next_button(state)
        if way.seen != told:
            told = way.seen
            print(f"frame {step * _FRAME_SKIP}: {told}", flush=True)
        game.step(None if button is None else BUTTONS.index(button))
    shown = " / ".join(" ".join(row.split()) for row in screen_text(GameState(game.image())) if row.strip())
    shown = shown[:_SHOWN_CHARACTERS]
    raise UserError(
        f"no first step in {_STEPS_MAX * _FRAME_SKIP} frames; last there was {way.seen}, on its screen {shown!r}: play "
        "to the room by hand in PyBoy, and save a state there (key Z)"
    )


def _walks(game: Game, state: GameState, start: bytes) -> bool:
    """Whether a direction moves the player. The game is at `start` again afterwards."""
    for direction in ("down", "left", "right", "up"):
        for _ in range(_WALK_STEPS):
            game.step(BUTTONS.index(direction))
        after = GameState(game.image())
        game.load(start)
        if after.map_id == state.map_id and (after.x, after.y) != (state.x, state.y):
            return True
    return False


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Raises `UserError` for bad input."""
    options = _parse(arguments)
    rom = load_rom(options.rom)
    world = World.for_rom(rom.sha1)
    warning = game_warning(rom.sha1, rom.title)
    if warning:
        print(warning, file=sys.stderr, flush=True)
    if options.log is None:
        with Console(rom, _FRAME_SKIP) as console:
            data = new_game(console, world, options.name)
    else:
        try:
            with Bar("replaying the log"):
                data = state_after(read_log(options.log), rom, str(options.log), options.step)
        except Diverged as error:
            raise UserError(f"--from {error}; its states cannot be had again") from None
    with Console(rom, _FRAME_SKIP) as console:
        console.load(data)
        state = GameState(console.image())
    write_atomic(options.out, data)
    name = f"{state.player_name} " if state.player_name else ""
    print(f"{options.out}: {name}in {world.map_name(state.map_id)} at ({state.x}, {state.y})")
    print(f"start episodes there with --initial_state {options.out}")
    return EXIT_OK


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Arguments(
        prog="python -m cluster_rl.start_state",
        description="Write a savestate to start episodes from: a new game's first room, or a step of an episode.",
    )
    parser.add_argument("out", type=Path, metavar="OUT.state", help="the file to write; it must not be there yet")
    parser.add_argument(
        "--rom", default="", help="path of the ROM, or an embedded world's name; the small world if not given"
    )
    parser.add_argument("--name", default="", help="the player's, 1 to 7 letters A to Z (default: the game's first)")
    parser.add_argument("--from", dest="log", type=Path, metavar="LOG", help="an episode log (*.eplog) instead")
    parser.add_argument(
        "--step", type=whole_number(0), metavar="N", help="the state after this step of it; 0 is its start"
    )
    options = parser.parse_args(arguments)
    if (options.log is None) != (options.step is None):
        raise UserError("--from LOG and --step N belong together; give both, or neither for a new game")
    if options.log is not None and options.name:
        raise UserError("--name is for a new game; a recorded one has its name")
    if options.name:
        check_name(options.name)
    if options.out.exists():
        raise UserError(f"{options.out}: is there already; give another name, or remove it first")
    if not options.out.parent.is_dir():
        raise UserError(f"{options.out}: its folder does not exist; make it first")
    return options


def command() -> None:
    """`cluster-rl-start-state`."""
    run_command(main)


if __name__ == "__main__":
    command()
