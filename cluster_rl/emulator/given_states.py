"""A user's own savestates, the config's `start_states`: a folder of files in which episodes may begin.

The launcher reads them before a job starts, and puts them into the run's archive. In: a folder and a ROM. Out: states,
each with the milestones that were reached there, or an error with a line for each file that is unfit.
"""

from __future__ import annotations

from pathlib import Path

from cluster_rl.config import Config
from cluster_rl.emulator.console import Console
from cluster_rl.emulator.snapshot import load_savestate_file
from cluster_rl.errors import UserError, as_text, read_error
from cluster_rl.exploration.archive import ArchiveDir, StateHeader, pack_state
from cluster_rl.game.flags import ProgressLatch
from cluster_rl.game.state import GameState
from cluster_rl.game.world import World
from cluster_rl.learning.sequences import MAX_NAME
from cluster_rl.rom import Rom
from cluster_rl.runs.atomic import write_atomic


def read_given_states(config: Config, rom: Rom) -> dict[str, bytes]:
    """The `.start` files of the savestates in `config.start_states`, by the savestate's name; none where it is empty.

    A savestate is a snapshot or one of PyBoy's own, as for `initial_state`. Raises `UserError` where the folder cannot
    be read, has no file, or has one that is no savestate for this ROM: every such file has a line.
    """
    if not config.start_states:
        return {}
    folder = Path(config.start_states)
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise read_error(error, folder, "start_states") from None
    if not paths:
        raise UserError(f"start_states {folder}: holds no savestate; put some there, or leave start_states out")
    latch = ProgressLatch(World.for_rom(rom.sha1).milestones)
    found: dict[str, bytes] = {}
    problems: list[str] = []
    with Console(rom, config.frame_skip) as console:
        for path in paths:
            try:
                found[path.name] = _state(path, rom, console, latch)
            except UserError as error:
                problems.append(str(error))
    if problems:
        raise UserError(f"start_states {folder}: {len(problems)} of {len(paths)} files are unfit", problems)
    return found


def place_given_states(states: dict[str, bytes], archive: Path) -> None:
    """Puts them into a run's archive, in the place of those of earlier jobs. Before the learner starts; raises
    `UserError`."""
    places = ArchiveDir(archive)
    if not states and not places.states.is_dir():
        return
    places.create()
    names = {places.state("state", name) for name in states}
    for path in places.states.glob("given-*"):
        if path not in names:
            path.unlink()
    for name, data in states.items():
        write_atomic(places.state("state", name), data)


def _state(path: Path, rom: Rom, console: Console, latch: ProgressLatch) -> bytes:
    name = path.name
    if len(name) > MAX_NAME or as_text(name) != name:
        raise UserError(f"savestate {path}: its name must be text of at most {MAX_NAME} characters; rename it")
    snapshot = load_savestate_file(str(path), rom)
    console.load(snapshot, f"savestate {path}")
    state = GameState(console.image())
    latch.start(state)
    header = StateHeader(
        key=name,
        tag="state",
        rom_sha1=rom.sha1,
        milestones=list(latch.reached),
        map_id=state.map_id,
        x=state.x,
        y=state.y,
        steps=0,
        start_id=name,
    )
    return pack_state(header, b"", snapshot)
