"""A short rollout with a random masked policy, to see that a game, an emulator and this program work together.

Run by hand: `python -m cluster_rl.debug_rollout --steps 200 --flags`. In: a ROM (the embedded cartridge by default) and
maybe a savestate. Out: the rate, the share of masked decisions, the decoded state, an MP4, or all of it as JSON.
With `--steps 0 --state FILE` it decodes a PyBoy savestate, and needs neither a ROM nor the emulator.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster_rl.config import Config, load_config
from cluster_rl.emulator import snapshot
from cluster_rl.emulator.rom import load_rom, preflight
from cluster_rl.errors import EXIT_OK, UserError, run_command
from cluster_rl.game.buttons import BUTTONS
from cluster_rl.game.savestate import ram_image
from cluster_rl.game.state import GameState
from cluster_rl.game.world import World

if TYPE_CHECKING:
    from cluster_rl.emulator.env import Env, Step

FRAMES_PER_SEC = 60
DEFAULT_VIDEO = Path("debug_rollout.mp4")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Raises `UserError` for bad input."""
    options = _parse(arguments)
    if options.steps == 0 and options.state:
        _print_report(_decode_savestate(Path(options.state), options.rom), options.json)
        return EXIT_OK
    overrides = [f"base_seed={options.seed}", *(["rom=" + options.rom] if options.rom else [])]
    if options.state:
        overrides.append("initial_state=" + options.state)
    _print_report(_rollout(load_config(options.config, overrides), options), options.json)
    return EXIT_OK


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m cluster_rl.debug_rollout", description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=200, help="steps to play; 0 only decodes the first state")
    parser.add_argument(
        "--flags", action="store_true", help="print the decoded state, and each event flag as it changes"
    )
    parser.add_argument(
        "--video",
        type=Path,
        nargs="?",
        const=DEFAULT_VIDEO,
        metavar="OUT.mp4",
        help=f"write every frame to this file (default {DEFAULT_VIDEO})",
    )
    parser.add_argument("--max-frames", type=int, default=500, help="frames of the video at most (default 500)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument("--state", default="", metavar="FILE", help="start from this snapshot or PyBoy savestate")
    parser.add_argument("--rom", default="", help="path of the ROM; the embedded cartridge if not given")
    parser.add_argument("--config", default=None, help="configuration file or preset")
    parser.add_argument("--seed", type=int, default=1, help="seed of the game's start and of the policy")
    options = parser.parse_args(arguments)
    if options.steps < 0 or options.max_frames < 1:
        raise UserError("--steps must be 0 or more and --max-frames 1 or more")
    if options.video and not options.steps:
        raise UserError("--video needs --steps of 1 or more")
    return options


def _decode_savestate(path: Path, rom: str) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"savestate {path}: cannot be read: {error.strerror or error}") from None
    world = World.red()
    if snapshot.is_snapshot(data):
        world = World.for_rom(snapshot.read_header(data, f"savestate {path}").rom_sha1)
        data = snapshot.unpack(data, None, f"savestate {path}")
    elif rom:
        world = World.for_rom(load_rom(rom).sha1)
    try:
        image = ram_image(data)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return {"steps": 0, "state": world.describe(GameState(image))}


def _rollout(config: Config, options: argparse.Namespace) -> dict[str, Any]:
    from cluster_rl.emulator.env import make_env  # only here: decoding a savestate works without PyBoy

    with ExitStack() as stack:
        env = make_env(config, 0)
        stack.callback(env.close)
        report: dict[str, Any] = {"preflight": preflight(env.console.rom)}
        frames = stack.enter_context(_Video(options.video, options.max_frames)) if options.video else None
        tally = _Tally()
        env.start()
        flags = _FlagWatch(env) if options.flags else None
        policy = random.Random(options.seed)
        began = time.perf_counter()
        for step_number in range(1, options.steps + 1):
            allowed = np.flatnonzero(env.observation.mask)
            action = int(policy.choice(allowed))
            tally.decision(env)
            step = env.advance(action, frames.on_frame if frames and not frames.full else None)
            tally.step(step)
            if flags is not None:
                flags.look(step_number, env, quiet=options.json)
            if step.summary is not None:
                env.start()
        seconds = time.perf_counter() - began
        report |= {"steps": options.steps, "seconds": round(seconds, 3)}
        if options.steps:
            report["steps_per_sec"] = round(options.steps / seconds, 1)
        report |= tally.report()
        if flags is not None:
            report |= {"state": env.world.describe(env.state), "flag_changes": flags.changes}
    if frames is not None:
        report["video"] = {"path": str(options.video), "frames": frames.written}
    return report


class _Tally:
    """Counts of what came out: masked decisions, rewards, and values that are out of bounds."""

    def __init__(self) -> None:
        self._masked = np.zeros(len(BUTTONS), np.int64)
        self._decisions = 0
        self._not_finite = 0
        self._return = 0.0
        self._milestones: list[str] = []
        self._episodes = 0

    def decision(self, env: Env) -> None:
        self._masked += ~env.observation.mask
        self._decisions += 1

    def step(self, step: Step) -> None:
        self._return += step.reward
        self._milestones += step.milestones
        self._episodes += step.summary is not None
        seen = step.observation
        if not (np.isfinite(step.reward) and seen.mask.any() and int(seen.screen.max()) <= 3):
            self._not_finite += 1

    def report(self) -> dict[str, Any]:
        share = self._masked / max(self._decisions, 1)
        return {
            "episodes_ended": self._episodes,
            "reward": round(self._return, 4),
            "milestones": self._milestones,
            "bad_values": self._not_finite,
            "masked_share": {name: round(float(value), 4) for name, value in zip(BUTTONS, share, strict=True)},
            "masked_share_all": round(float(share.mean()), 4),
        }


class _FlagWatch:
    """Notes each event flag that is set or cleared."""

    def __init__(self, env: Env) -> None:
        self._bits = env.state.event_bits
        self.changes: list[dict[str, Any]] = []

    def look(self, step: int, env: Env, quiet: bool) -> None:
        now = env.state.event_bits
        changed, self._bits = self._bits ^ now, now
        while changed:
            event = (changed & -changed).bit_length() - 1
            changed &= changed - 1
            change = {"step": step, "event": env.world.event_name(event), "set": bool(now >> event & 1)}
            self.changes.append(change)
            if not quiet:
                print(f"step {step}: {change['event']} {'set' if change['set'] else 'cleared'}", flush=True)


class _Video:
    """The first `max_frames` frames as an MP4."""

    def __init__(self, path: Path, max_frames: int) -> None:
        from cluster_rl.report.video import VideoWriter

        if not path.parent.is_dir():
            raise UserError(f"video {path}: its folder does not exist; make it first")
        if path.is_dir():
            raise UserError(f"video {path}: is a folder; give the name of a file")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise UserError(f"video {path}: its folder may not be written to; give another")
        self._max_frames = max_frames
        self._writer = VideoWriter(path, FRAMES_PER_SEC)

    @property
    def written(self) -> int:
        return self._writer.frames

    @property
    def full(self) -> bool:
        return self._writer.frames >= self._max_frames

    def on_frame(self, frame: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        if not self.full:
            self._writer.write(frame)

    def __enter__(self) -> _Video:
        self._writer.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._writer.__exit__(*error)


def _print_report(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(report, ensure_ascii=False))
        return
    for name, value in report.items():
        text = json.dumps(value, ensure_ascii=False, indent=1) if isinstance(value, dict | list) and value else value
        print(f"{name}: {text}")


if __name__ == "__main__":
    run_command(main)
