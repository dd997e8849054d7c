"""The environment: a console and a game turned into observations, masks, rewards and episodes.

Actor processes run several of them; `debug_rollout`, notebooks and other libraries use it as a `gymnasium.Env`. In: an
action, an index into `BUTTONS`. Out: a `Step`. Equal seeds and actions give equal steps, byte for byte.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import gymnasium
import msgspec
import numpy as np
import numpy.typing as npt

from cluster_rl import cluster_map_features
from cluster_rl.affordances import Affordances
from cluster_rl.config import Config
from cluster_rl.emulator.console import SCREEN_SHAPE, Console, Frame, live_check
from cluster_rl.emulator.rom import Rom, load_rom
from cluster_rl.emulator.school import start_snapshot
from cluster_rl.game.buttons import BUTTONS, NUM_BUTTONS
from cluster_rl.game.flags import ProgressLatch
from cluster_rl.game.state import GameState
from cluster_rl.game.world import World
from cluster_rl.occupancy_memory import OccupancyMemory
from cluster_rl.rewards import RewardCalculator

MAX_SHADE = 3
_START = BUTTONS.index("start")
_A_AND_B = [BUTTONS.index("a"), BUTTONS.index("b")]
_SEED_LIMIT = 2**31


class Observation(NamedTuple):
    """What the agent sees, S being 2 * occupancy_crop_radius + 1. `context` is in bytes: 255 means 1."""

    screen: npt.NDArray[np.uint8]  # [72, 80], shades 0-3, 0 the lightest
    context: npt.NDArray[np.uint8]  # [C], see `cluster_map_features.SLOTS`
    crop: npt.NDArray[np.uint8]  # [2, S, S]
    mask: npt.NDArray[np.bool_]  # [A], never all false


class EpisodeSummary(msgspec.Struct, frozen=True, kw_only=True):
    """How an episode went. `milestones` are (name, step counted from 1); `terms` are weighted; all
    but those of `rewards.INTRINSIC_TERMS` add up to the return.

    `reason` is `terminated` (the game's task is done), `truncated` (the step limit) or `stopped` (the job ended).
    """

    episode_steps: int
    episode_return: float
    terms: dict[str, float]
    milestones: list[tuple[str, int]]
    final_map: int
    reason: str
    seed: int


class Step(NamedTuple):
    """What an action led to. `summary` is there with an episode's last step only."""

    observation: Observation
    reward: float
    terminated: bool
    truncated: bool
    milestones: list[str]
    summary: EpisodeSummary | None


class Recorder(Protocol):
    """Who listens to the episodes of one environment, such as `runs.episode_log.EpisodeRecorder`."""

    def start(self, snapshot: bytes, state: GameState, seed: int) -> None:
        """An episode begins: the emulator before the first step, and the episode's seed."""

    def step(self, action: int, check: int, console: Console) -> None:
        """A step was made; `check` is `live_check` of the image after it."""

    def finish(self, summary: EpisodeSummary) -> None:
        """The episode is over."""


class Env(gymnasium.Env[dict[str, Any], np.int64]):
    """One emulator with one agent in it.

    `start` and `advance` are the compact form; `reset` and `step` are gymnasium's, with the same meaning and context as
    float32. The button memory outlives episodes, everything else the agent knows begins anew with each.
    The observation's mask is for the agent to heed: a button that is masked is pressed all the same, START too where
    `start_button` forbids it.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 60}  # noqa: RUF012  (gymnasium's own type)

    def __init__(
        self,
        config: Config,
        rom: Rom,
        world: World,
        seed: int,
        recorder: Recorder | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Boots the console, or loads `config.initial_state`. Raises `UserError` where that does not fit the ROM."""
        self._config = config
        self._world = world
        self._recorder = recorder
        self.render_mode = render_mode
        self.console = Console(rom, config.frame_skip)
        self._start_snapshot = self._make_start_snapshot(rom)
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
        self._seed(seed)

    @property
    def world(self) -> World:
        """Names and tables of the game."""
        return self._world

    @property
    def latch(self) -> ProgressLatch:
        """What this episode has reached."""
        return self._latch

    def start(self) -> Observation:
        """Begins the next episode, ending one that is still open as `stopped`."""
        self.stop()
        self.episode_seed = int(self.np_random.integers(_SEED_LIMIT))
        self.console.load(self._start_snapshot)
        # The game draws its random numbers as frames pass: waiting makes the episodes of many actors differ.
        self.console.idle(random.Random(self.episode_seed).randint(0, self._config.start_idle_frames_max))
        self.state = GameState(self.console.image())
        self._latch.start(self.state)
        self._rewards.start(self.state)
        self._occupancy.start(self.state)
        self._milestones: list[tuple[str, int]] = []
        self.episode_steps = 0
        self._open = True
        screen = self.console.screen()
        self.observation = self._observe(screen, self._affordances.start(self.state, screen))
        if self._recorder is not None:
            self._recorder.start(self.console.save(), self.state, self.episode_seed)
        return self.observation

    def advance(self, action: int, on_frame: Callable[[Frame], None] | None = None) -> Step:
        """Presses a button for one step. Raises RuntimeError where no episode is open.

        `on_frame` is handed every frame, as `Console.step` does; the step is the same.
        """
        self.press(action, on_frame)
        return self.look()

    def press(self, action: int, on_frame: Callable[[Frame], None] | None = None) -> None:
        """The first half of `advance`: the emulator runs. `look` must follow.

        An actor does this for all its emulators and then looks at all: taking turns between the emulator's code and
        Python's throws the one out of the processor's caches for the other.
        """
        if not self._open:
            raise RuntimeError("no episode is open: call start() or reset() first")
        self.console.step(action, on_frame)
        self._pressed = (action, self.console.image(), self.console.screen())

    def look(self) -> Step:
        """The second half of `advance`: what the press led to."""
        before = self.state
        action, image, screen = self._pressed
        self.state = state = GameState(image)
        self.episode_steps += 1
        if self._recorder is not None:
            self._recorder.step(action, live_check(image), self.console)
        milestones = self._latch.update(state)
        self._milestones.extend((name, self.episode_steps) for name in milestones)
        reward = self._rewards.step(before, state, self._latch.new_events, milestones)
        self._occupancy.step(action, state)
        self.observation = self._observe(screen, self._affordances.step(action, state, screen))
        terminated = self._world.task_ended(state)
        truncated = not terminated and self.episode_steps >= self._config.episode_max_steps
        summary = None
        if terminated or truncated:
            summary = self._finish("terminated" if terminated else "truncated")
        return Step(self.observation, reward, terminated, truncated, milestones, summary)

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
        step = self.advance(int(action))
        info: dict[str, Any] = {"milestones": step.milestones}
        if step.summary is not None:
            info["summary"] = msgspec.to_builtins(step.summary)
        return _as_dict(step.observation), step.reward, step.terminated, step.truncated, info

    def render(self) -> npt.NDArray[np.uint8] | None:
        """The picture, uint8 [144, 160, 3], in render mode `rgb_array`."""
        return self.console.rgb() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Ends the open episode as `stopped` and frees the emulator."""
        self.stop()
        self.console.close()

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

    def _finish(self, reason: str) -> EpisodeSummary:
        self._open = False
        summary = EpisodeSummary(
            episode_steps=self.episode_steps,
            episode_return=self._rewards.episode_return,
            terms=dict(self._rewards.terms),
            milestones=list(self._milestones),
            final_map=self.state.map_id,
            reason=reason,
            seed=self.episode_seed,
        )
        if self._recorder is not None:
            self._recorder.finish(summary)
        return summary


def observation_space(config: Config) -> gymnasium.spaces.Dict:
    """The space of gymnasium observations: screen, context as float32, crop, action_mask."""
    side = 2 * config.occupancy_crop_radius + 1
    box = gymnasium.spaces.Box
    return gymnasium.spaces.Dict(
        {
            "screen": box(0, MAX_SHADE, SCREEN_SHAPE, np.uint8),
            "context": box(0.0, 1.0, (cluster_map_features.CONTEXT_SIZE,), np.float32),
            "crop": box(0, 255, (2, side, side), np.uint8),
            "action_mask": gymnasium.spaces.MultiBinary(NUM_BUTTONS),
        }
    )


def make_env(config: Config, index: int, recorder: Recorder | None = None, render_mode: str | None = None) -> Env:
    """The environment number `index` of a run: its ROM, tables and a seed of its own, from `base_seed`.

    Raises `UserError` for a ROM or savestate that does not fit.
    """
    rom = load_rom(config.rom)
    seed = int(np.random.SeedSequence([config.base_seed, index]).generate_state(1)[0]) % _SEED_LIMIT
    return Env(config, rom, World.for_rom(rom.sha1), seed, recorder, render_mode)


def _as_dict(observation: Observation) -> dict[str, Any]:
    return {
        "screen": observation.screen,
        "context": observation.context.astype(np.float32) / np.float32(255),
        "crop": observation.crop,
        "action_mask": observation.mask.astype(np.int8),
    }
