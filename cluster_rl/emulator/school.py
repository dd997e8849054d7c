"""School starts: episodes of an embedded world that begin in a lesson, or at a later place of the game.

`python -m cluster_rl.emulator.school password OUT.state` writes one; the config's `initial_state` takes the file, or
`school:password` for the same without a file. The game itself makes them: it is started with B and a number held, and
the names table says which there are. The small world has one, the lesson `password`: someone tells one of four words,
drawn from the frame in which the player asks to hear it (so the random wait at an episode's start decides it, all four
equally often), the floor carries the player out of sight, and one of four doors, one step away, is the right one. Right
or wrong, the task is then over; the event flags PASSWORD_RIGHT and PASSWORD_WRONG tell which, and the first is a
milestone too.
"""

from __future__ import annotations

from pathlib import Path

from cluster_rl.config import SCHOOL_PREFIX
from cluster_rl.emulator.console import BUTTON_HELD_FRAMES, Console
from cluster_rl.emulator.snapshot import load_savestate_file
from cluster_rl.errors import EXIT_OK, UserError, as_text, run_command
from cluster_rl.game.world import World, embedded
from cluster_rl.learning.sequences import MAX_NAME, StartTag
from cluster_rl.rom import Rom, load_rom
from cluster_rl.runs.arguments import Arguments
from cluster_rl.runs.atomic import write_atomic

_NUMBER_KEYS = ("a", "select", "start", "right", "left", "up", "down")
"""The keys that say a school's number, its lowest bit first; B is held besides."""
_HELD_FRAMES = 110
"""From power-on; the game looks once, some 80 frames after it."""
_TALK_FRAMES = 120
"""Enough for a first text to stand and wait."""


def start_snapshot(initial_state: str, rom: Rom) -> bytes:
    """The snapshot that the config's `initial_state` (not empty) names: a savestate file, or a school start.

    Raises `UserError` where there is none, or it does not fit the ROM.
    """
    if initial_state.startswith(SCHOOL_PREFIX):
        return school_snapshot(initial_state.removeprefix(SCHOOL_PREFIX), rom)
    return load_savestate_file(initial_state, rom)


def start_of(initial_state: str) -> tuple[str, StartTag]:
    """The id and tag of an `EpisodeStart` with this `initial_state` of the config."""
    if initial_state.startswith(SCHOOL_PREFIX):
        return initial_state.removeprefix(SCHOOL_PREFIX), "school"
    return as_text(Path(initial_state).name)[:MAX_NAME] or "boot", "beginning"


def start_words(initial_state: str) -> str:
    """Where episodes with this `initial_state` of the config begin, in words."""
    name, tag = start_of(initial_state)
    if tag == "school":
        return f"from the lesson {name}"
    return f"from {name}" if initial_state else "from the beginning"


def school_snapshot(name: str, rom: Rom) -> bytes:
    """A school start, before its first button: nothing is drawn yet.

    Raises `UserError` for a name that the world does not have and for a ROM that is not embedded.
    """
    world = World.for_rom(rom.sha1)
    if world not in embedded():
        raise UserError(f"{SCHOOL_PREFIX}{name}: only the embedded worlds have schools; leave `rom` empty")
    if name not in world.schools:
        known = ", ".join(world.schools)
        raise UserError(f"{SCHOOL_PREFIX}{name}: unknown school; {rom.path or 'the small world'} has {known}")
    number = list(world.schools).index(name)
    with Console(rom, BUTTON_HELD_FRAMES + 1) as console:
        console.hold(["b", *(key for bit, key in enumerate(_NUMBER_KEYS) if number >> bit & 1)], _HELD_FRAMES)
        console.idle(_TALK_FRAMES)
        if console.position() != world.schools[name]:
            raise RuntimeError("the game did not hear B at its start; was its start-up code changed?")
        return console.save()


def main() -> int:
    """`python -m cluster_rl.emulator.school`."""
    parser = Arguments(prog="python -m cluster_rl.emulator.school", description="Write a school start as a savestate.")
    parser.add_argument("--rom", default="", help="name of the embedded world; the small one if not given")
    parser.add_argument("school", help="its name, as the world's [[school]] has it")
    parser.add_argument("out", type=Path, help="the file to write, for the config's initial_state")
    options = parser.parse_args()
    data = school_snapshot(options.school, load_rom(options.rom))
    try:
        write_atomic(options.out, data)
    except OSError as error:
        raise UserError(f"{options.out}: cannot be written: {error.strerror or error}") from None
    return EXIT_OK


if __name__ == "__main__":
    run_command(main)
