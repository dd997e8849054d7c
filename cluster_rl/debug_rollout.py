"""A short rollout, random or a model's, to see that a game, an emulator and this program work together.

Run by hand: `python -m cluster_rl.debug_rollout --steps 200 --flags`. In: a ROM (the small world by default) and
maybe a savestate, or a run or its `online_params.pt`, which then plays greedily. Out: the rate, the share of masked
decisions, the decoded state, what curiosity (RND) gives, what the run knows of its quests, videos and pictures, or all
of it as JSON. With `--steps 0 --state FILE` it decodes a PyBoy savestate, and needs neither a ROM nor the emulator.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cluster_rl.errors import end_quietly

    end_quietly()

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec
import numpy as np

from cluster_rl.config import Config, load_config
from cluster_rl.emulator import snapshot
from cluster_rl.errors import EXIT_FAILURE, EXIT_OK, UserError, run_command
from cluster_rl.game.buttons import BUTTONS
from cluster_rl.game.savestate import ram_image
from cluster_rl.game.state import GameState
from cluster_rl.game.world import World
from cluster_rl.report.bars import Bar
from cluster_rl.report.overlay import Narrator, chances_of
from cluster_rl.report.recording import Recording
from cluster_rl.rom import load_rom, preflight
from cluster_rl.runs.arguments import Arguments, add_run_name, whole_number
from cluster_rl.runs.identity import read_identity, warn_of_other_environment
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.small_file import UnreadableError, read_bytes

if TYPE_CHECKING:
    from cluster_rl.emulator.env import Env, Step
    from cluster_rl.exploration.bayes_quests import QuestRow
    from cluster_rl.exploration.rnd import Rnd

OnFrame = Callable[[np.ndarray[Any, np.dtype[np.uint8]]], None]

MP4, GIF, PNG = Path("debug_rollout.mp4"), Path("debug_rollout.gif"), Path("debug_rollout_png")
_VIDEOS = {"mp4": [MP4], "gif": [GIF], "both": [MP4, GIF]}
_MP4_FPS = 60
_GIF_FPS = 30
_MAX_FRAMES = 500
_SCORED_TOGETHER = 256  # steps: few enough for any memory


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
    report = _rollout(load_config(config, overrides), model, options)
    _print_report(report, options.json)
    bad = report.get("rnd", {}).get("not_finite", 0)
    if bad:
        rnd = report["rnd"]
        print(f"error: {bad} of {rnd['steps']} RND bonuses are not finite, by {rnd['networks']}", file=sys.stderr)
    return EXIT_FAILURE if bad else EXIT_OK


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
        *("--checkpoint", "--params"),
        type=Path,
        metavar="FILE",
        help="play greedily by this online_params.pt of a run",
    )
    parser.add_argument(
        "--rnd", action="store_true", help="score what is played with RND, also where the config's w_rnd is 0"
    )
    parser.add_argument(
        "--video",
        nargs="?",
        const="mp4",
        metavar="mp4|gif|both|OUT.mp4|OUT.gif",
        help=f"record the game at its own speed, as {MP4}, {GIF} or the file named",
    )
    parser.add_argument(
        "--png",
        nargs="?",
        const=PNG,
        type=Path,
        metavar="FOLDER",
        help=f"record the same frames as frame-000001.png and so on, in {PNG} or the folder named, new or empty",
    )
    parser.add_argument(
        "--overlay",
        action="store_true",
        help="beside the game, in videos and PNGs: button and its value, place, badges, rewards, milestones, quests",
    )
    parser.add_argument(
        "--video-fps",
        type=whole_number(1, _MP4_FPS),
        help=f"frames recorded of a second of the game (default {_MP4_FPS}; with a GIF {_GIF_FPS})",
    )
    parser.add_argument("--max-frames", type=whole_number(1), help=f"frames recorded at most (default {_MAX_FRAMES})")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument("--state", default="", metavar="FILE", help="start from this snapshot or PyBoy savestate")
    parser.add_argument(
        "--rom", default="", help="path of the ROM, or an embedded world's name; the small world if not given"
    )
    parser.add_argument("--config", default=None, help="configuration file or preset")
    parser.add_argument("--seed", type=whole_number(0), default=1, help="seed of the game's start and of the policy")
    options = parser.parse_args(arguments)
    for name in ("video", "png", "rnd"):
        if getattr(options, name) not in (None, False) and not options.steps:
            raise UserError(f"--{name} needs --steps of 1 or more")
    for name in ("overlay", "video_fps", "max_frames"):
        if getattr(options, name) and options.video is None and options.png is None:
            raise UserError(f"--{name.replace('_', '-')} needs --video or --png: nothing is recorded")
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


class _Played(NamedTuple):
    """A step, and how it came: the button, and what the network thinks that pressing it is worth."""

    step: Step
    action: int
    value: float | None


class _Player(Protocol):
    chosen: str
    """How it chooses buttons, in words."""

    def start(self) -> None: ...

    def step(self, on_frame: OnFrame | None) -> _Played: ...


class _RandomPlayer:
    """Presses any valid button."""

    chosen = "random choice"

    def __init__(self, env: Env, seed: int) -> None:
        self._env = env
        self._random = random.Random(seed)

    def start(self) -> None:
        self._env.start()

    def step(self, on_frame: OnFrame | None) -> _Played:
        action = int(self._random.choice(np.flatnonzero(self._env.observation.mask)))
        return _Played(self._env.advance(action, on_frame), action, None)


class _GreedyPlayer:
    """Presses what a trained network values most, as `evaluate` does."""

    chosen = "greedy choice"

    def __init__(self, env: Env, config: Config, params: Path) -> None:
        import torch  # takes seconds, and random play needs none

        from cluster_rl.acting.rollout import Rollout, load_network

        torch.set_num_threads(1)
        self._value_form = config.value_rescaling, config.stream_weights
        self._rollout = Rollout([env], load_network(config, params))
        self._rng = np.random.default_rng(config.base_seed)

    def start(self) -> None:
        self._rollout.start(0)

    def step(self, on_frame: OnFrame | None) -> _Played:
        from cluster_rl.acting.exploration import acting_values, select_actions

        _, quantiles = self._rollout.act()
        values = acting_values(quantiles, *self._value_form)
        actions = select_actions(values, self._rollout.mask, np.zeros(1), self._rng).tolist()
        [(_, step)] = self._rollout.play(actions, [0], on_frame)
        return _Played(step, actions[0], float(values[0, actions[0]]))


def _rollout(config: Config, model: Path | None, options: argparse.Namespace) -> dict[str, Any]:
    from cluster_rl.emulator.env import make_env  # only here: decoding a savestate works without PyBoy
    from cluster_rl.emulator.puffer_env import environment_of

    quests = _newest_quests(options)
    if options.run_name is not None:
        identity = read_identity(RunDir(options.runs, options.run_name).identity)
        warn_of_other_environment(identity, options.run_name, environment_of(config))
    with ExitStack() as stack:
        env = make_env(config, 0)
        stack.callback(env.close)
        report: dict[str, Any] = {"preflight": preflight(env.console.rom)}
        report["policy"] = "random" if model is None else f"greedy, {model}"
        player: _Player = _RandomPlayer(env, options.seed) if model is None else _GreedyPlayer(env, config, model)
        rnd = _Curiosity(config, model) if options.steps and (options.rnd or config.w_rnd) else None
        bar = stack.enter_context(Bar("playing", options.steps, "steps"))
        recording = _recording(options, stack)
        chances = {} if quests is None else chances_of(quests.frontier, quests.quests, env.world)
        narrator = Narrator(env.world, chances) if options.overlay else None
        tally = _Tally()

        def start() -> None:
            player.start()
            if narrator is not None:
                narrator.start(env.state, env.latch.reached)

        start()
        flags = _FlagWatch(env) if options.flags else None
        began = time.perf_counter()
        for step_number in range(1, options.steps + 1):
            tally.decision(env)
            before = env.reward_terms
            step, action, value = player.step(recording.on_frame if recording and not recording.full else None)
            tally.step(step)
            if rnd is not None:
                rnd.step(step)
            if flags is not None:
                flags.look(step_number, env, quiet=options.json)
            if recording is not None and narrator is not None:
                during = narrator.press(BUTTONS[action], player.chosen, value)
                parts = {name: total - before[name] for name, total in env.reward_terms.items()}
                after = narrator.look(config.frame_skip, env.state, step.milestones, parts, env.episode_return)
                recording.step(during, after)
            elif recording is not None:
                recording.step()
            if step.summary is not None:
                start()
            bar.to(step_number, f"{recording.frames:,} frames recorded" if recording is not None else "")
        seconds = time.perf_counter() - began
        report |= {"steps": options.steps, "seconds": round(seconds, 3)}
        if options.steps:
            report["steps_per_sec"] = round(options.steps / seconds, 1)
        report |= tally.report()
        if rnd is not None:
            report["rnd"] = rnd.report()
        if flags is not None:
            report |= {"state": env.world.describe(env.state), "flag_changes": flags.changes}
    if options.run_name is not None:
        report["quests"] = _plain(quests)
    if recording is not None:
        report["videos"] = recording.report()
    return report


def _recording(options: argparse.Namespace, stack: ExitStack) -> Recording | None:
    """What `--video` and `--png` ask for, kept if the stack ends well; None for nothing."""
    if options.video is None and options.png is None:
        return None
    videos = [] if options.video is None else _VIDEOS.get(options.video) or [Path(options.video)]
    gif = any(path.suffix == ".gif" for path in videos)
    fps = options.video_fps or (_GIF_FPS if gif else _MP4_FPS)
    recording = Recording(videos, options.png, fps, options.max_frames or _MAX_FRAMES, options.overlay)
    return stack.enter_context(recording)


def _newest_quests(options: argparse.Namespace) -> QuestRow | None:
    if options.run_name is None:
        return None
    from cluster_rl.training.quest_rows import newest_quests  # scipy takes most of a second

    return newest_quests(RunDir(options.runs, options.run_name))


def _plain(quests: QuestRow | None) -> dict[str, Any] | None:
    return None if quests is None else msgspec.to_builtins(quests)


class _Curiosity:
    """RND's bonuses for what is played: by the newest checkpoint beside a model, else by untrained networks."""

    def __init__(self, config: Config, model: Path | None) -> None:
        """Raises `UserError` where the checkpoints are damaged, or do not fit the config."""
        from cluster_rl.emulator.spaces import observation_spec
        from cluster_rl.exploration.rnd import Rnd
        from cluster_rl.runs.checkpoint import load_checkpoint, unflatten_state

        self._rnd: Rnd = Rnd(config, observation_spec(config), "cpu", config.base_seed + 1)
        found = load_checkpoint(model.with_name("checkpoint")) if model is not None else None
        state = unflatten_state(found.tensors, found.meta["state"]) if found is not None else {}
        if "rnd" in state:
            self._rnd.load_state_dict(state["rnd"])
        self._source = str(found.path) if found is not None and "rnd" in state else "untrained networks"
        self._waiting: list[Step] = []
        self._bonuses: list[np.ndarray[Any, np.dtype[np.float32]]] = []
        self._not_finite = 0

    def step(self, step: Step) -> None:
        self._waiting.append(step)
        if len(self._waiting) == _SCORED_TOGETHER:
            self._score()

    def _score(self) -> None:
        import torch

        from cluster_rl.networks.frames import pack_screen

        steps, self._waiting = self._waiting, []
        seen = [step.observation for step in steps]
        bonuses = self._rnd.score(
            torch.from_numpy(pack_screen(np.stack([look.screen for look in seen]))),
            torch.from_numpy(np.stack([look.context for look in seen])),
            torch.tensor([step.visits for step in steps]),
        )
        self._not_finite += int((~bonuses.isfinite()).sum())
        self._bonuses.append(bonuses.numpy())

    def report(self) -> dict[str, Any]:
        """Of the finite bonuses, before their weight."""
        if self._waiting:
            self._score()
        bonuses = np.concatenate(self._bonuses)
        finite = bonuses[np.isfinite(bonuses)].astype(np.float64)
        figures = (finite.mean(), finite.min(), finite.max()) if len(finite) else (None,) * 3
        named = zip(("bonus_mean", "bonus_min", "bonus_max"), figures, strict=True)
        shown = {name: None if value is None else round(float(value), 6) for name, value in named}
        return {"networks": self._source, "steps": len(bonuses), **shown, "not_finite": self._not_finite}


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


def _print_report(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(report))
        return
    for name, value in report.items():
        if name in _TEXTS:
            print("\n".join(_TEXTS[name](value)))
            continue
        text = json.dumps(value, ensure_ascii=False, indent=1) if isinstance(value, dict | list) and value else value
        print(f"{name}: {text}")


def _quest_lines(quests: dict[str, Any] | None) -> list[str]:
    """A table: of each quest the posterior's mean and 95 % interval, its episodes, how many reached it, its alarm."""
    if quests is None:
        return ["quests: none yet; the learner tells of them when the run's first episode has ended"]
    lines = [f"quests after {quests['episodes']:,} episodes, {quests['env_steps']:,} steps of the run:"]
    width = max(map(len, quests["quests"]), default=0)
    for name, quest in quests["quests"].items():
        figures = f"{quest['mean']:.3f} ({quest['low']:.3f} to {quest['high']:.3f})"
        episodes = f"{quest['reached']:,} of {quest['trials']:,} episodes"
        alarm = f"alarm {quest['alarm']:.2f} {quest['level']}"
        frontier = ", frontier" if name in quests["frontier"] else ""
        lines.append(f"  {name:{width}}  {figures}, {episodes}, {alarm}{frontier}")
    return lines


def _video_lines(videos: list[dict[str, Any]]) -> list[str]:
    return [
        f"{video['kind']}: {video['path']}, {video['frames']:,} frames, {video['fps']} fps, {video['seconds']:.2f} s, "
        f"{video['bytes']:,} bytes, written in {video['encode_seconds']:.2f} s"
        for video in videos
    ]


_TEXTS: dict[str, Callable[[Any], list[str]]] = {"quests": _quest_lines, "videos": _video_lines}


def command() -> None:
    """`cluster-rl-debug-rollout`."""
    run_command(main)


if __name__ == "__main__":
    command()
