"""A short rollout, random or a model's, to see that a game, an emulator and this program work together.

Run by hand: `python -m cluster_rl.debug_rollout --steps 200 --flags`. In: a ROM (the small world by default) and
maybe a savestate, or a run or its `online_params.pt`, which then plays greedily. Out: the rate, the share of masked
decisions, the decoded state, videos, or all of it as JSON. With `--steps 0 --state FILE` it decodes a PyBoy savestate,
and needs neither a ROM nor the emulator.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cluster_rl.errors import end_quietly

    end_quietly()

import argparse
import json
import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cluster_rl.config import Config, load_config
from cluster_rl.emulator import snapshot
from cluster_rl.errors import EXIT_OK, UserError, run_command
from cluster_rl.game.buttons import BUTTONS
from cluster_rl.game.savestate import ram_image
from cluster_rl.game.state import GameState
from cluster_rl.game.world import World
from cluster_rl.report.bars import Bar
from cluster_rl.rom import load_rom, preflight
from cluster_rl.runs.arguments import Arguments, add_run_name, whole_number
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.small_file import UnreadableError, read_bytes

if TYPE_CHECKING:
    from cluster_rl.emulator.env import Env, Step

OnFrame = Callable[[np.ndarray[Any, np.dtype[np.uint8]]], None]

MP4, GIF = Path("debug_rollout.mp4"), Path("debug_rollout.gif")
_VIDEOS = {"mp4": [MP4], "gif": [GIF], "both": [MP4, GIF]}
_MP4_FPS = 60
_GIF_FPS = 30
_GIF_FPS_MAX = 50


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Raises `UserError` for bad input."""
    options = _parse(arguments)
    if options.steps == 0 and options.state:
        _print_report(_decode_savestate(Path(options.state), options.rom), options.json)
        return EXIT_OK
    overrides = [f"base_seed={options.seed}", *(["rom=" + options.rom] if options.rom else [])]
    if options.state:
        overrides.append("initial_state=" + options.state)
    model = _find_model(options)
    config = options.config
    if model is not None and config is None:
        config = model.with_name("config.json")
        if not config.exists():
            raise UserError(f"{config}: not there, and says how the network is built; give it with --config")
    _print_report(_rollout(load_config(config, overrides), model, options), options.json)
    return EXIT_OK


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Arguments(prog="python -m cluster_rl.debug_rollout", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--steps", type=whole_number(0), default=200, help="steps to play; 0 only decodes the first state"
    )
    parser.add_argument(
        "--flags", action="store_true", help="print the decoded state, and each event flag as it changes"
    )
    add_run_name(parser, "play at random")
    parser.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="play greedily by this online_params.pt of a run"
    )
    parser.add_argument(
        "--video",
        nargs="?",
        const="mp4",
        metavar="mp4|gif|both|OUT.mp4|OUT.gif",
        help=f"record the game at its own speed, as {MP4}, {GIF} or the file named",
    )
    parser.add_argument(
        "--video-fps",
        type=whole_number(1, _MP4_FPS),
        help=f"frames a second of the video (default {_MP4_FPS}; with a GIF {_GIF_FPS})",
    )
    parser.add_argument(
        "--max-frames", type=whole_number(1), default=500, help="frames of the video at most (default 500)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument("--state", default="", metavar="FILE", help="start from this snapshot or PyBoy savestate")
    parser.add_argument(
        "--rom", default="", help="path of the ROM, or an embedded world's name; the small world if not given"
    )
    parser.add_argument("--config", default=None, help="configuration file or preset")
    parser.add_argument("--seed", type=whole_number(0), default=1, help="seed of the game's start and of the policy")
    options = parser.parse_args(arguments)
    if options.video is not None and not options.steps:
        raise UserError("--video needs --steps of 1 or more")
    if options.checkpoint is not None and options.run_name is not None:
        raise UserError("--checkpoint and --run-name both name a model; give one of them")
    return options


def _find_model(options: argparse.Namespace) -> Path | None:
    """The file of parameters to play by; None to play at random. Raises `UserError` for a run or file not there."""
    model: Path | None = options.checkpoint
    if model is not None and not model.is_file():
        raise UserError(f"--checkpoint {model}: no such file; give the online_params.pt of a run")
    if options.run_name is None:
        return model
    return RunDir(options.runs, options.run_name).require_config().with_name("online_params.pt")


def _decode_savestate(path: Path, rom: str) -> dict[str, Any]:
    try:
        data = read_bytes(path)
    except UnreadableError as error:
        raise UserError(f"savestate {error}") from None
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


class _Player(Protocol):
    def start(self) -> None: ...

    def step(self, on_frame: OnFrame | None) -> Step: ...


class _RandomPlayer:
    """Presses any valid button."""

    def __init__(self, env: Env, seed: int) -> None:
        self._env = env
        self._random = random.Random(seed)

    def start(self) -> None:
        self._env.start()

    def step(self, on_frame: OnFrame | None) -> Step:
        return self._env.advance(int(self._random.choice(np.flatnonzero(self._env.observation.mask))), on_frame)


class _GreedyPlayer:
    """Presses what a trained network values most, as `evaluate` does."""

    def __init__(self, env: Env, config: Config, params: Path) -> None:
        import torch  # takes seconds, and random play needs none

        from cluster_rl.acting.rollout import Rollout, load_network

        torch.set_num_threads(1)
        self._rescaled = config.value_rescaling
        self._rollout = Rollout([env], load_network(config, params))
        self._rng = np.random.default_rng(config.base_seed)

    def start(self) -> None:
        self._rollout.start(0)

    def step(self, on_frame: OnFrame | None) -> Step:
        from cluster_rl.acting.exploration import acting_values, select_actions

        _, quantiles = self._rollout.act()
        values = acting_values(quantiles, self._rescaled)
        actions = select_actions(values, self._rollout.mask, np.zeros(1), self._rng).tolist()
        [(_, step)] = self._rollout.play(actions, [0], on_frame)
        return step


def _rollout(config: Config, model: Path | None, options: argparse.Namespace) -> dict[str, Any]:
    from cluster_rl.emulator.env import make_env  # only here: decoding a savestate works without PyBoy

    with ExitStack() as stack:
        env = make_env(config, 0)
        stack.callback(env.close)
        report: dict[str, Any] = {"preflight": preflight(env.console.rom)}
        report["policy"] = "random" if model is None else f"greedy, {model}"
        player: _Player = _RandomPlayer(env, options.seed) if model is None else _GreedyPlayer(env, config, model)
        bar = stack.enter_context(Bar("playing", options.steps, "steps"))
        video = stack.enter_context(_Video(options)) if options.video is not None else None
        tally = _Tally()
        player.start()
        flags = _FlagWatch(env) if options.flags else None
        began = time.perf_counter()
        for step_number in range(1, options.steps + 1):
            tally.decision(env)
            step = player.step(video.on_frame if video and not video.full else None)
            tally.step(step)
            if flags is not None:
                flags.look(step_number, env, quiet=options.json)
            if step.summary is not None:
                player.start()
            bar.to(step_number, f"{video.frames:,} frames of video" if video is not None else "")
        seconds = time.perf_counter() - began
        report |= {"steps": options.steps, "seconds": round(seconds, 3)}
        if options.steps:
            report["steps_per_sec"] = round(options.steps / seconds, 1)
        report |= tally.report()
        if flags is not None:
            report |= {"state": env.world.describe(env.state), "flag_changes": flags.changes}
    if video is not None:
        report["videos"] = video.report()
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
    """The first `--max-frames` frames, at the game's speed, as the files that `--video` asks for."""

    def __init__(self, options: argparse.Namespace) -> None:
        from cluster_rl.report.video import ENCODERS, VideoWriter

        self._paths = _VIDEOS.get(options.video) or [Path(options.video)]
        gif = any(path.suffix == ".gif" for path in self._paths)
        self._fps = options.video_fps if options.video_fps is not None else _GIF_FPS if gif else _MP4_FPS
        self._max_frames: int = options.max_frames
        self._game_frames = 0
        if gif and self._fps > _GIF_FPS_MAX:
            raise UserError(f"--video-fps {self._fps}: must be at most {_GIF_FPS_MAX} with a GIF")
        for path in self._paths:
            if path.suffix not in ENCODERS:
                raise UserError(f"video {path}: give mp4, gif, both, or the name of a file that ends in .mp4 or .gif")
            if not path.parent.is_dir():
                raise UserError(f"video {path}: its folder does not exist; make it first")
            if path.is_dir():
                raise UserError(f"video {path}: is a folder; give the name of a file")
            if not os.access(path.parent, os.W_OK | os.X_OK):
                raise UserError(f"video {path}: its folder may not be written to; give another")
        self._open = ExitStack()
        self._writers = [self._open.enter_context(VideoWriter(path, self._fps)) for path in self._paths]

    @property
    def frames(self) -> int:
        return self._writers[0].frames

    @property
    def full(self) -> bool:
        return self.frames >= self._max_frames

    def on_frame(self, frame: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        from cluster_rl.report.video import video_frames

        self._game_frames += 1
        while not self.full and self._writers[0].frames < video_frames(self._game_frames, self._fps):
            for writer in self._writers:
                writer.write(frame)

    def report(self) -> list[dict[str, Any]]:
        """To be called when the files are closed."""
        return [
            {"path": str(path), "frames": writer.frames, "fps": self._fps, "bytes": path.stat().st_size}
            for path, writer in zip(self._paths, self._writers, strict=True)
        ]

    def __enter__(self) -> _Video:
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)


def _print_report(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(report))
        return
    for name, value in report.items():
        text = json.dumps(value, ensure_ascii=False, indent=1) if isinstance(value, dict | list) and value else value
        print(f"{name}: {text}")


def command() -> None:
    """`cluster-rl-debug-rollout`."""
    run_command(main)


if __name__ == "__main__":
    command()
