"""An episode log played again in the emulator, each step compared with what was recorded.

The replayer's worker processes and `start_state` use it. In: a log and its ROM. Out: every frame, and the state after
every step, to whoever draws them, or what each step was paid for; `Diverged` where the replay left its recording.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator

from cluster_rl.config import RewardWeights
from cluster_rl.emulator import snapshot
from cluster_rl.emulator.console import BUTTONS, Console, Frame, live_check
from cluster_rl.emulator.script import unpack_script
from cluster_rl.errors import UserError
from cluster_rl.game.flags import ProgressLatch
from cluster_rl.game.savestate import ram_image
from cluster_rl.game.state import GameState
from cluster_rl.game.world import World
from cluster_rl.rewards import TERMS, RewardCalculator
from cluster_rl.rom import Rom, pyboy_version
from cluster_rl.runs.episode_log import EpisodeHeader, EpisodeLog


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
    with _at_start(log, rom, source) as console:
        for image in _images(console, log, source, on_frame):
            if stopping():
                raise Stopped
            if on_step is not None:
                on_step(GameState(image))


def first_state(log: EpisodeLog, source: str) -> GameState:
    """The state before the first step. Raises `UserError` for a snapshot that is damaged."""
    return GameState(ram_image(snapshot.unpack(log.snapshot, None, source)))


def knows_rewards(header: EpisodeHeader) -> bool:
    """Whether `reward_parts` can tell what was paid, be it nothing."""
    return bool(header.terms) and (header.start is None or header.start.tag != "archive")


def reward_parts(
    log: EpisodeLog, rom: Rom, world: World, source: str, stopping: Callable[[], bool]
) -> list[dict[str, float]]:
    """What each step of an episode was paid for, by reward term; the game is played for it, undrawn.

    A log has each term's sum alone, whose weight follows from how much there was of it: none where it has no sums, as
    of an episode that was not finished, and none of one that began with the memory of another. Raises as `replay` does.
    """
    header = log.header
    if not knows_rewards(header):
        return [{} for _ in log.actions]
    before = first_state(log, source)
    latch, rewards = ProgressLatch(world.milestones), RewardCalculator(RewardWeights(**dict.fromkeys(TERMS, 1.0)))
    latch.start(before)
    rewards.start(before)
    parts: list[dict[str, float]] = []

    paid_by_it = (unpack_script(script, source).reward for script in log.scripts)

    def on_step(state: GameState) -> None:
        nonlocal before
        sums = dict(rewards.terms)
        milestones = latch.update(state)
        rewards.step(before, state, latch.new_events, milestones, next(paid_by_it, 0.0))
        parts.append({name: total - sums[name] for name, total in rewards.terms.items() if total != sums[name]})
        before = state

    replay(log, rom, source, stopping, on_step=on_step)
    weights = {name: header.terms.get(name, 0.0) / total for name, total in rewards.terms.items() if total}
    return [{name: weights[name] * amount for name, amount in step.items()} for step in parts]


def state_after(log: EpisodeLog, rom: Rom, source: str, step: int) -> bytes:
    """The snapshot after `step` steps of an episode, 0 being its start.

    Raises `Diverged` as `replay` does, `UserError` where the log has no such step or does not fit ROM or emulator.
    """
    last = log.header.steps
    if not 0 <= step <= last:
        raise UserError(f"--step {step}: episode log {source} has {last} steps; give 0 to {last}")
    with _at_start(log, rom, source) as console:
        for _ in itertools.islice(_images(console, log, source), step):
            pass
        return console.save()


@contextlib.contextmanager
def _at_start(log: EpisodeLog, rom: Rom, source: str) -> Iterator[Console]:
    check_fits(log, rom, source)
    with Console(rom, log.header.frame_skip) as console:
        console.load(log.snapshot, source=f"episode log {source}")
        yield console


def _images(
    console: Console, log: EpisodeLog, source: str, on_frame: Callable[[Frame], None] | None = None
) -> Iterator[bytes]:
    """Plays an episode from its start; the live image after each step, once it was compared with the recording."""
    steps, interval_steps = log.header.steps, log.header.ram_hash_interval_steps
    for step, action in enumerate(log.actions.tolist(), start=1):
        if log.scripts:
            console.perform(unpack_script(log.scripts[step - 1], f"{source}: the script of step {step}"), on_frame)
        else:
            console.step(action, on_frame)
        image = console.image()
        if live_check(image) != log.checks[step - 1]:
            raise Diverged(f"{source}: the replay left the recording at step {step} of {steps}: RAM differs")
        if step % interval_steps == 0 and console.ram_hash() != log.ram_hashes[step // interval_steps - 1]:
            raise Diverged(
                f"{source}: the replay left the recording at step {step} of {steps}, or up to "
                f"{interval_steps - 1} steps before: the hash of all RAM differs"
            )
        yield image


def check_fits(log: EpisodeLog, rom: Rom, source: str) -> None:
    """Raises `UserError` for a log of another ROM, another PyBoy, or with buttons that do not exist."""
    header = log.header
    if header.rom_sha1 != rom.sha1:
        raise UserError(
            f"episode log {source}: recorded with the {header.rom_kind} ROM of SHA-1 {header.rom_sha1}, but "
            f"{rom.path or 'the small world'} has {rom.sha1}; give its ROM with --rom"
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
