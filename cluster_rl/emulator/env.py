"""The environment: a console and a game turned into observations, masks, rewards and episodes.

Actor processes run several of them; `debug_rollout`, notebooks and other libraries use it as a `gymnasium.Env`. In: an
action, an index into `BUTTONS`. Out: a `Step`. Equal seeds and actions give equal steps, byte for byte.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, SupportsIndex

import gymnasium
import msgspec
import numpy as np
import numpy.typing as npt

from cluster_rl import cluster_map_features
from cluster_rl.affordances import Affordances
from cluster_rl.config import Config, load_config
from cluster_rl.emulator.console import SCREEN_SHAPE, Console, Frame, live_check
from cluster_rl.emulator.puffer_env import make_console
from cluster_rl.emulator.school import start_of, start_snapshot
from cluster_rl.emulator.start_memory import StartMemory, check_memory, pack_memory, unpack_memory
from cluster_rl.errors import UserError
from cluster_rl.exploration.archive import StartState, StateHeader
from cluster_rl.exploration.curriculum import CELL_TILES, cell_key
from cluster_rl.exploration.roaming import Roaming
from cluster_rl.game.buttons import BUTTONS, NUM_BUTTONS
from cluster_rl.game.flags import ProgressLatch
from cluster_rl.game.state import GameState
from cluster_rl.game.world import World
from cluster_rl.learning.sequences import EndReason, EpisodeStart, EpisodeSummary
from cluster_rl.occupancy_memory import OccupancyMemory
from cluster_rl.rewards import RewardCalculator
from cluster_rl.rom import Rom, load_rom

SHADE_GREY = np.uint8(85)
"""A shade of gymnasium's screen, of 255."""

_START = BUTTONS.index("start")
_A_AND_B = [BUTTONS.index("a"), BUTTONS.index("b")]
_SEED_LIMIT = 2**31
_FRAMES_PER_SEC = 60
_SAVE_EVERY_STEPS = 256
_RENDER_MODES = ("rgb_array",)


class Observation(NamedTuple):
    """What the agent sees, S being 2 * occupancy_crop_radius + 1. `context` is in bytes: 255 means 1."""

    screen: npt.NDArray[np.uint8]  # [72, 80], shades 0-3, 0 the lightest
    context: npt.NDArray[np.uint8]  # [C], see `cluster_map_features.SLOTS`
    crop: npt.NDArray[np.uint8]  # [2, S, S]
    mask: npt.NDArray[np.bool_]  # [A], never all false


class Step(NamedTuple):
    """What an action led to. `summary` is there with an episode's last step only."""

    observation: Observation
    reward: float
    visits: int  # of the map tile that the step entered, in the episode, this one included; 0 where it entered none
    terminated: bool
    truncated: bool
    milestones: list[str]
    summary: EpisodeSummary | None


class StartChooser(Protocol):
    """Who says where the episodes of one or more environments begin: `exploration.archive.StartStates`."""

    def choose(self, rng: np.random.Generator) -> StartState | None:
        """The state that the next episode begins at; None for where the config says."""

    def refuse(self, path: Path, why: UserError) -> None:
        """A state that was chosen cannot be loaded here."""

    def wants(self, key: str, steps: int) -> bool:
        """Whether a state of this cell, so many steps from the beginning, should be proposed."""

    def propose(self, header: StateHeader, memory: bytes, snapshot: bytes) -> None:
        """Another episode may begin at this state."""


class Recorder(Protocol):
    """Who listens to the episodes of one environment, such as `runs.episode_log.EpisodeRecorder`."""

    def start(self, snapshot: bytes, state: GameState, seed: int, start: EpisodeStart) -> None:
        """An episode begins: the emulator before the first step, the episode's seed, and where it begins."""

    def step(self, action: int, check: int, console: Console) -> None:
        """A step was made; `check` is `live_check` of the image after it."""

    def blackout(self) -> None:
        """In the step that was made last the whole party fainted."""

    def finish(self, summary: EpisodeSummary) -> None:
        """The episode is over."""


class Env(gymnasium.Env[dict[str, Any], np.int64]):
    """One emulator with one agent in it.

    `start` and `advance` are the compact form; `reset` and `step` are gymnasium's, with the same meaning, in the forms
    of `observation_space`. The button memory outlives episodes, everything else the agent knows begins anew with each.
    The observation's mask is for the agent to heed: a button that is masked is pressed all the same, START too, which
    `_observe` takes out of every mask where the config's `start_button` is false.
    """

    metadata = {"render_modes": list(_RENDER_MODES), "render_fps": _FRAMES_PER_SEC}  # noqa: RUF012  (gymnasium's type)

    def __init__(
        self,
        config: Config,
        rom: Rom,
        world: World,
        seed: int,
        recorder: Recorder | None = None,
        render_mode: str | None = None,
        starts: StartChooser | None = None,
    ) -> None:
        """Boots the console, or loads `config.initial_state`. Without `starts` all episodes begin there.

        Raises `UserError` where that does not fit the ROM, and for a render mode that is not `rgb_array`.
        """
        if render_mode is not None and render_mode not in _RENDER_MODES:
            raise UserError(
                f"render_mode {render_mode!r}: there is no window; take 'rgb_array' and draw what render() returns, or "
                "watch a run's episodes with python -m cluster_rl.replayer"
            )
        # Pictures are of steps, not of frames: at this rate a video of one picture a step has the game's speed.
        self.metadata = type(self).metadata | {"render_fps": _FRAMES_PER_SEC / config.frame_skip}
        self._config = config
        self._world = world
        self._recorder = recorder
        self.render_mode = render_mode
        self.console = make_console(config, rom)
        self._start_snapshot = self._make_start_snapshot(rom)
        self._own = start_of(config.initial_state)
        self._starts = starts
        self._since_saved = _SAVE_EVERY_STEPS
        self.episode_id = (0, 0, 0, 0)
        """Whose episode the next one is, for states that are proposed: actor, incarnation, emulator, number."""
        self.recurrent_state: Callable[[], bytes] = bytes
        """What who plays carries from step to step, as of now; kept with states that are proposed."""
        self.start_recurrent = b""
        """What was carried so where the open episode begins; empty where nothing was."""
        self._latch = ProgressLatch(world.milestones)
        self._rewards = RewardCalculator(config.rewards)
        self._occupancy = OccupancyMemory(config.occupancy_crop_radius)
        self._affordances = Affordances(
            config.affordance_fail_threshold,
            config.affordance_expiry_steps,
            config.affordance_retry_probability,
            config.affordance_memory_entries,
            seed,
        )
        self.action_space = gymnasium.spaces.Discrete(NUM_BUTTONS)
        self.observation_space = observation_space(config)
        self._open = False
        self._closed = False
        self._seed(seed)

    @property
    def world(self) -> World:
        """Names and tables of the game."""
        return self._world

    @property
    def latch(self) -> ProgressLatch:
        """What this episode has reached."""
        return self._latch

    @property
    def reward_terms(self) -> dict[str, float]:
        """Each reward term's weighted sum over this episode so far."""
        return dict(self._rewards.terms)

    @property
    def episode_return(self) -> float:
        """The sum of those terms that count for the return, so far."""
        return self._rewards.episode_return

    def start(self) -> Observation:
        """Begins the next episode, ending one that is still open as `stopped`.

        Raises RuntimeError after `close`.
        """
        if self._closed:
            raise RuntimeError("the environment is closed: make another")
        self.stop()
        self.episode_seed = int(self.np_random.integers(_SEED_LIMIT))
        start, memory = self._load_start()
        # The game draws its random numbers as frames pass: waiting makes the episodes of many actors differ.
        self.console.idle(random.Random(self.episode_seed).randint(0, self._config.start_idle_frames_max))
        self.state = GameState(self.console.image())
        self._latch.start(self.state, memory.latch if memory is not None else None)
        self._rewards.start(self.state, memory.rewards if memory is not None else None)
        self._occupancy.start(self.state, memory.occupancy if memory is not None else None)
        self.start_recurrent = memory.recurrent if memory is not None else b""
        id_, tag = self._own if start is None else (start.header.key, start.header.tag)
        self.episode_start = EpisodeStart(id=id_, tag=tag, milestones=list(self._latch.reached))
        self._steps_before = start.header.steps if start is not None else 0
        self._cell: tuple[int, ...] = ()  # looked at last
        self._milestone_waits = False  # for its state to be looked at
        self._roaming = Roaming()
        self._roaming.arrive(self._rewards.here)
        self._milestones: list[tuple[str, int]] = []
        self.episode_steps = 0
        self._open = True
        screen = self.console.screen()
        self.observation = self._observe(screen, self._affordances.start(self.state, screen))
        if self._recorder is not None:
            self._recorder.start(self.console.save(), self.state, self.episode_seed, self.episode_start)
        return self.observation

    def advance(self, action: int, on_frame: Callable[[Frame], None] | None = None) -> Step:
        """Presses a button for one step. Raises as `press` does.

        `on_frame` is handed every frame, as `Console.step` does; the step is the same.
        """
        self.press(action, on_frame)
        return self.look()

    def press(self, action: int, on_frame: Callable[[Frame], None] | None = None) -> None:
        """The first half of `advance`: the emulator runs. `look` must follow.

        An actor does this for all its emulators and then looks at all: taking turns between the emulator's code and
        Python's throws the one out of the processor's caches for the other.
        Raises RuntimeError where no episode is open, `UserError` for what is no index into `BUTTONS`.
        """
        if not self._open:
            raise RuntimeError("no episode is open: call start() or reset() first")
        button = _button(action)
        self.console.step(button, on_frame)
        self._pressed = (button, self.console.image(), self.console.screen())

    def look(self) -> Step:
        """The second half of `advance`: what the press led to."""
        before = self.state
        action, image, screen = self._pressed
        self.state = state = GameState(image)
        self.episode_steps += 1
        if self._recorder is not None:
            self._recorder.step(action, live_check(image), self.console)
        milestones = self._latch.update(state)
        if milestones:
            self._milestones.extend((name, self.episode_steps) for name in milestones)
        reward = self._rewards.step(before, state, self._latch.new_events, milestones, self.console.reward)
        if self._rewards.blacked_out and self._recorder is not None:
            self._recorder.blackout()
        self._roaming.step(self._rewards.here, self._rewards.achieved)
        self._occupancy.step(action, state)
        self.observation = self._observe(screen, self._affordances.step(action, state, screen))
        terminated = self._world.task_ended(state) or self.console.ended
        truncated = not terminated and self.episode_steps >= self._config.episode_max_steps
        if self._starts is not None and not terminated:
            self._visit(self._starts, bool(milestones))
        summary = None
        if terminated or truncated:
            summary = self._finish("terminated" if terminated else "truncated")
        return Step(self.observation, reward, self._rewards.visits, terminated, truncated, milestones, summary)

    def stop(self) -> EpisodeSummary | None:
        """Ends the open episode before its time, as a job's end does; None where none is open."""
        return self._finish("stopped") if self._open else None

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Gymnasium's form of `start`. With a seed, the button memory is emptied too, so that all that follows depends
        on the seed and the actions alone."""
        if seed is not None:
            self._seed(seed)
        observation = self.start()
        return _as_dict(observation), {"seed": self.episode_seed}

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Gymnasium's form of `advance`. `info` holds new milestones, and the summary with the last step."""
        step = self.advance(action)
        info: dict[str, Any] = {"milestones": step.milestones}
        if step.summary is not None:
            info["summary"] = msgspec.to_builtins(step.summary)
        return _as_dict(step.observation), step.reward, step.terminated, step.truncated, info

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """The mask of the last observation, bool [A]; the name is the one that sb3-contrib's MaskablePPO asks for."""
        if not hasattr(self, "observation"):
            raise RuntimeError("no episode has begun: call start() or reset() first")
        return self.observation.mask

    def render(self) -> npt.NDArray[np.uint8] | None:
        """The picture, uint8 [144, 160, 3], in render mode `rgb_array`."""
        return self.console.rgb() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Ends the open episode as `stopped` and frees the emulator; a second call does nothing."""
        self.stop()
        self._closed = True
        self.console.close()

    def _load_start(self) -> tuple[StartState | None, StartMemory | None]:
        """Goes to the state where the next episode begins; which one, None for the config's, and what is known there.

        One that does not fit this ROM, emulator or config is refused, and another one chosen.
        """
        while self._starts is not None and (start := self._starts.choose(self.np_random)) is not None:
            try:
                source = str(start.path)
                memory = unpack_memory(start.memory, source)
                self.console.load(start.snapshot, source)
                if memory is not None:
                    check_memory(memory, self._latch, self._occupancy, source)
            except UserError as error:
                self._starts.refuse(start.path, error)
            else:
                return start, memory
        self.console.load(self._start_snapshot)
        return None, None

    def _visit(self, starts: StartChooser, is_milestone: bool) -> None:
        """Proposes the state of now for others to begin at, if its cell is new and another one than before.

        Saving takes as long as ten to twenty steps: not more often than every so many, but for milestones.
        """
        self._since_saved += 1
        self._milestone_waits |= is_milestone
        state, here = self.state, self._rewards.here
        if not (self._milestone_waits or self._since_saved >= _SAVE_EVERY_STEPS):
            return
        # Not while a map loads: its id stands beside the old coordinates.
        if here is None or here != (state.map_id, state.x, state.y) or not state.in_game:
            return
        self._milestone_waits = False
        cell = (here[0], here[1] // CELL_TILES, here[2] // CELL_TILES, len(self._latch.reached))
        if cell == self._cell:
            return
        self._cell = cell
        key, steps = cell_key(*here, self._latch.reached), self._steps_before + self.episode_steps
        if not starts.wants(key, steps):
            return
        self._since_saved = 0
        header = StateHeader(
            key=key,
            tag="archive",
            rom_sha1=self.console.rom.sha1,
            milestones=list(self._latch.reached),
            map_id=here[0],
            x=here[1],
            y=here[2],
            steps=steps,
            episode=self.episode_id,
            step=self.episode_steps,
            start_id=self.episode_start.id,
        )
        memory = pack_memory(self._latch, self._rewards, self._occupancy, self.recurrent_state())
        starts.propose(header, memory, self.console.save())

    def _make_start_snapshot(self, rom: Rom) -> bytes:
        if self._config.initial_state:
            return start_snapshot(self._config.initial_state, rom)
        self.console.boot()
        return self.console.save()

    def _seed(self, seed: int) -> None:
        super().reset(seed=seed)  # makes `np_random`
        self._affordances.forget(seed)

    def _observe(self, screen: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_]) -> Observation:
        if not self._config.start_button:
            mask[_START] = False
            if not mask.any():
                mask[_A_AND_B] = True  # as `affordances` does where nothing else is left
        context = cluster_map_features.encode(self.state, self._latch, self._world)
        return Observation(screen, context, self._occupancy.crop(self.state), mask)

    def _finish(self, reason: EndReason) -> EpisodeSummary:
        self._open = False
        summary = EpisodeSummary(
            episode_steps=self.episode_steps,
            episode_return=self._rewards.episode_return,
            terms=dict(self._rewards.terms),
            milestones=list(self._milestones),
            final_map=self.state.map_id,
            reason=reason,
            seed=self.episode_seed,
            start=self.episode_start,
            cells=len(self._roaming.cells),
            loop_share=self._roaming.loop_share,
            entropy=None,  # an actor's to tell
        )
        if self._recorder is not None:
            self._recorder.finish(summary)
        return summary


def observation_space(config: Config) -> gymnasium.spaces.Dict:
    """The space of gymnasium observations, in the forms that other libraries' default networks take.

    `screen` is a picture of one channel, 85 times the shade; `context` and `crop` are floats, 255 of their bytes being
    1: a crop of bytes would be taken for a picture too, and given to a convolution that it is too small for. All are
    boxes, which is what can be stacked and normalised.
    """
    side = 2 * config.occupancy_crop_radius + 1
    box = gymnasium.spaces.Box
    return gymnasium.spaces.Dict(
        {
            "screen": box(0, 255, (1, *SCREEN_SHAPE), np.uint8),
            "context": box(0.0, 1.0, (cluster_map_features.CONTEXT_SIZE,), np.float32),
            "crop": box(0.0, 1.0, (2, side, side), np.float32),
            "action_mask": box(0, 1, (NUM_BUTTONS,), np.int8),
        }
    )


def given_config(config: Config | str | Path) -> Config:
    """The config itself, or the one in the preset or file of that name. Raises `UserError` where it is neither."""
    if isinstance(config, str | Path):
        return load_config(config)
    if not isinstance(config, Config):
        raise UserError(f"config {config!r}: give a Config, the name of a preset or the path of a config file")
    return config


def make_env(
    config: Config | str | Path,
    index: int,
    recorder: Recorder | None = None,
    render_mode: str | None = None,
    starts: StartChooser | None = None,
) -> Env:
    """The environment number `index` of a run: its ROM, tables and a seed of its own, from `base_seed`.

    `config` may also be the name of a preset, or the path of a config file. Raises `UserError` for a config that cannot
    be had, an index that is no number from 0, and a ROM or savestate that does not fit.
    """
    config = given_config(config)
    if not isinstance(index, SupportsIndex) or operator.index(index) < 0:
        raise UserError(f"index {index!r}: give the number of the environment in its run: 0, 1, 2, ...")
    rom = load_rom(config.rom)
    seed = int(np.random.SeedSequence([config.base_seed, operator.index(index)]).generate_state(1)[0]) % _SEED_LIMIT
    return Env(config, rom, World.for_rom(rom.sha1), seed, recorder, render_mode, starts)


def _button(action: SupportsIndex) -> int:
    """The action as an index into `BUTTONS`; numpy's integers and arrays of one number without an axis are such too."""
    try:
        button = operator.index(action)
    except TypeError:
        button = -1
    if not 0 <= button < NUM_BUTTONS:
        allowed = ", ".join(f"{number} {name}" for number, name in enumerate(BUTTONS))
        raise UserError(f"action {action!r}: must be one whole number: {allowed}")
    return button


def _as_dict(observation: Observation) -> dict[str, Any]:
    return {
        "screen": observation.screen[np.newaxis] * SHADE_GREY,
        "context": observation.context.astype(np.float32) / np.float32(255),
        "crop": observation.crop.astype(np.float32) / np.float32(255),
        "action_mask": observation.mask.astype(np.int8),
    }
