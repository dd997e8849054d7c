"""School starts: episodes of the embedded cartridge that begin in a lesson instead of a new game.

`python -m cluster_rl.emulator.school password OUT.state` writes one; the config's `initial_state` takes the file, or
`school:password` for the same without a file. The lesson `password`: someone tells one of four words, drawn from the
frame in which the player asks to hear it (so the random wait at an episode's start decides it, all four equally often),
the floor carries the player out of sight, and one of four doors, one step away, is the right one. Right or wrong, the
task is then over; the event flags PASSWORD_RIGHT and PASSWORD_WRONG tell which, and the first is a milestone too.
"""

from __future__ import annotations

from pathlib import Path

from cluster_rl.config import SCHOOL_PREFIX
from cluster_rl.emulator.console import BUTTON_HELD_FRAMES, Console
from cluster_rl.emulator.snapshot import load_savestate_file
from cluster_rl.errors import EXIT_OK, UserError, run_command
from cluster_rl.game.buttons import BUTTONS
from cluster_rl.game.state import GameState
from cluster_rl.game.world import World
from cluster_rl.rom import Rom, load_rom
from cluster_rl.runs.arguments import Arguments
from cluster_rl.runs.atomic import write_atomic

SCHOOL_MAPS = {"password": "ECHO_HALL"}
"""Lessons, and the map that each begins on."""

_HELD_FROM_FRAME = 77
"""The cartridge looks once whether B is held, at the end of this frame or in one of the eight around it."""
_TALK_FRAMES = 120
"""Enough for the first text to stand and wait."""


def start_snapshot(initial_state: str, rom: Rom) -> bytes:
    """The snapshot that the config's `initial_state` (not empty) names: a savestate file, or a school start.

    Raises `UserError` where there is none, or it does not fit the ROM.
    """
    if initial_state.startswith(SCHOOL_PREFIX):
        return school_snapshot(initial_state.removeprefix(SCHOOL_PREFIX), rom)
    return load_savestate_file(initial_state, rom)


def school_snapshot(lesson: str, rom: Rom) -> bytes:
    """A lesson's start, before its first text's button: nothing is drawn yet.

    Raises `UserError` for an unknown lesson and for a ROM other than the embedded cartridge.
    """
    if lesson not in SCHOOL_MAPS:
        raise UserError(f"{SCHOOL_PREFIX}{lesson}: unknown lesson; known are {', '.join(SCHOOL_MAPS)}")
    world = World.for_rom(rom.sha1)
    if world is not World.cartridge():
        raise UserError(f"{SCHOOL_PREFIX}{lesson}: only the embedded cartridge has lessons; leave `rom` empty")
    with Console(rom, BUTTON_HELD_FRAMES + 1) as console:
        console.idle(_HELD_FROM_FRAME)
        console.step(BUTTONS.index("b"))
        console.idle(_TALK_FRAMES)
        state = GameState(console.image())
        if world.map_name(state.map_id) != SCHOOL_MAPS[lesson] or not state.text_open:
            raise RuntimeError("the cartridge did not hear B at its start; was its start-up code changed?")
        return console.save()


def main() -> int:
    """`python -m cluster_rl.emulator.school`."""
    parser = Arguments(
        prog="python -m cluster_rl.emulator.school", description="Write a lesson's start as a savestate."
    )
    parser.add_argument("lesson", help=f"one of: {', '.join(SCHOOL_MAPS)}")
    parser.add_argument("out", type=Path, help="the file to write, for the config's initial_state")
    options = parser.parse_args()
    data = school_snapshot(options.lesson, load_rom(""))
    try:
        write_atomic(options.out, data)
    except OSError as error:
        raise UserError(f"{options.out}: cannot be written: {error.strerror or error}") from None
    return EXIT_OK


if __name__ == "__main__":
    run_command(main)
