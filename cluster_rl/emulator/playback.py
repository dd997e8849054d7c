"""An episode log played again in the emulator, each step compared with what was recorded.

The replayer's worker processes use it. In: a log and its ROM. Out: every frame, and the state after every step, to
whoever draws them; `Diverged` where the replay left its recording.
"""

from __future__ import annotations

from collections.abc import Callable

from cluster_rl.emulator.console import BUTTONS, Console, Frame, live_check
from cluster_rl.emulator.rom import Rom, pyboy_version
from cluster_rl.errors import UserError
from cluster_rl.game.state import GameState
from cluster_rl.runs.episode_log import EpisodeLog


class Diverged(Exception):
    """A replay left its recording; the message says where."""


class Stopped(Exception):
    """The main process wants the work to end."""


def replay(
    log: EpisodeLog,
    rom: Rom,
    source: str,
    stopping: Callable[[], bool],
    on_frame: Callable[[Frame], None] | None = None,
    on_step: Callable[[GameState], None] | None = None,
) -> None:
    """Emulates an episode and compares RAM with its recording after every step.

    `on_frame` gets every frame, uint8 [144, 160, 3]; without it hardly any is drawn, which is several times faster.
    `on_step` gets the state after every step, once it was compared.
    Raises `Diverged` at the first difference, `UserError` where the log does not fit the ROM or the emulator, `Stopped`
    once `stopping` says so.
    """
    header = log.header
    check_fits(log, rom, source)
    interval_steps = header.ram_hash_interval_steps
    with Console(rom, header.frame_skip) as console:
        console.load(log.snapshot, source=f"episode log {source}")
        for index, action in enumerate(log.actions.tolist()):
            console.step(action, on_frame)
            step = index + 1
            if stopping():
                raise Stopped
            image = console.image()
            if live_check(image) != log.checks[index]:
                raise Diverged(f"{source}: the replay left the recording at step {step} of {header.steps}: RAM differs")
            if step % interval_steps == 0 and console.ram_hash() != log.ram_hashes[step // interval_steps - 1]:
                raise Diverged(
                    f"{source}: the replay left the recording at step {step} of {header.steps}, or up to "
                    f"{interval_steps - 1} steps before: the hash of all RAM differs"
                )
            if on_step is not None:
                on_step(GameState(image))


def check_fits(log: EpisodeLog, rom: Rom, source: str) -> None:
    """Raises `UserError` for a log of another ROM, another PyBoy, or with buttons that do not exist."""
    header = log.header
    if header.rom_sha1 != rom.sha1:
        raise UserError(
            f"episode log {source}: recorded with the {header.rom_kind} ROM of SHA-1 {header.rom_sha1}, but "
            f"{rom.path or 'the embedded cartridge'} has {rom.sha1}; give its ROM with --rom"
        )
    if header.pyboy_version != pyboy_version():
        raise UserError(
            f"episode log {source}: recorded with PyBoy {header.pyboy_version}, but {pyboy_version()} is installed; "
            f"install pyboy=={header.pyboy_version} to render it"
        )
    if int(log.actions.max()) >= len(BUTTONS):
        raise UserError(
            f"episode log {source}: has button {log.actions.max()}, but there are {len(BUTTONS)}; remove it"
        )
