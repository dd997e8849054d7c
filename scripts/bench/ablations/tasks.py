"""What is trained to find out what a part of our agent is worth: tasks, and for each the agents with and without it.

A lesson begins at a school start of Lanternvale, so that a training of a few hundred thousand env steps tells
something; a game is a whole world from its beginning. The first arm of a task is the whole agent, to which the others
are held.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from cluster_rl.cartridge.compile_content import read_world
from cluster_rl.config import Config, load_config

PRESET = "lanternvale"
WHOLE = "whole"
"""The arm with all parts."""
LESSON_STEPS, GAME_STEPS = 300_000, 3_000_000
"""Env steps of a training, if nothing else is said."""


@dataclasses.dataclass(frozen=True)
class Arm:
    """One agent of a task: in words, by its name in `scripts.bench.learning`, and in what its config differs."""

    title: str
    agent: str = "r2d2"
    overrides: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Task:
    """A start, the milestone that tells of success, and the arms by name.

    `gates` are the milestones of a game in their order; the last one that a training reached tells how far it came.
    `greedy_steps` are those of a greedy episode where they are not those of training, which may begin all over a game.
    `noise` is where a box of flickering pixels stands that leads nowhere, as (map id, x, y): the share of greedy steps
    that see it is told, for agents that stare.
    """

    title: str
    milestone: str
    overrides: tuple[str, ...]
    arms: Mapping[str, Arm]
    greedy_steps: int = 0
    noise: tuple[int, int, int] | None = None
    gates: tuple[str, ...] = ()

    @property
    def env_steps(self) -> int:
        """Of a training, if nothing else is said."""
        return GAME_STEPS if self.gates else LESSON_STEPS

    def config(self, arm: str, more: Sequence[str] = ()) -> Config:
        """What an arm is trained with; `more` is given to all arms alike, as `key=value`, but for what makes an arm."""
        return load_config(PRESET, [*self.overrides, *more, *self.arms[arm].overrides])


_NO_CURIOSITY = ("w_rnd=0", "rewards.novelty=0", "rewards.talk=0")
_WHOLE = Arm("the whole agent")
_FORGETFUL = Arm("no recurrence", overrides=("model.recurrent_cell=none",))
_GREEDY_STEPS = 4000  # of a game, twice what a good player takes
_PLAYERS = {
    WHOLE: _WHOLE,
    "uniform": Arm("start states drawn alike", overrides=("start_weighting=uniform",)),
    "no_archive": Arm(
        "every episode from the beginning", overrides=("archive_entries=0", f"episode_max_steps={_GREEDY_STEPS}")
    ),
    "ppo": Arm("MaskablePPO with our random actions and the archive", "maskable_ppo_prior"),
    "go_explore": Arm("Go-Explore: the archive and our random actions", "explore"),
}


def _lesson(
    title: str,
    milestone: str,
    start: str,
    episode_max_steps: int,
    arms: Mapping[str, Arm],
    noise: tuple[int, int, int] | None = None,
) -> Task:
    """From a school start."""
    begins = (f"initial_state=school:{start}", f"episode_max_steps={episode_max_steps}")
    return Task(title, milestone, begins, arms, noise=noise)


def _game(title: str, world: str) -> Task:
    """From a new game to the end; a player who knows the way into the second gym knows most of what there is."""
    gates = tuple(gate["name"] for gate in read_world(world)["gate"])
    return Task(title, "BADGE_1", (f"rom={world}",), _PLAYERS, greedy_steps=_GREEDY_STEPS, gates=gates)


LESSONS = {
    "forest": _lesson(
        "through Firefly Wood",
        "FOREST",
        *("forest", 1000),
        {
            WHOLE: _WHOLE,
            "one_value": Arm("curiosity not a value of its own", overrides=("intrinsic_gamma=0",)),
            "no_rnd": Arm("counts alone, no RND", overrides=("w_rnd=0",)),
            "no_curiosity": Arm("neither RND nor counts", overrides=_NO_CURIOSITY),
        },
    ),
    "noisy_tv": _lesson(
        "past a box that flickers",
        "CAVE",
        *("cave", 1000),
        {
            WHOLE: Arm("RND by counts"),
            "no_counts": Arm("RND alone", overrides=("rnd_by_counts=false", "rewards.novelty=0")),
        },
        noise=(13, 19, 14),
    ),
    "masks": _lesson(
        "the first badge",
        "BADGE_0",
        *("badge_0", 1000),
        {WHOLE: _WHOLE, "no_masks": Arm("no masks, but in greedy play", agent="r2d2_unmasked")},
    ),
    "password": _lesson(
        "the door that the bells named",
        "PASSWORD_DOOR",
        *("bells", 1500),
        {WHOLE: _WHOLE, "no_memory": _FORGETFUL},
    ),
    "levers": _lesson(
        "four levers in the order that the miller told",
        "LEVERS",
        *("miller", 1500),
        {WHOLE: _WHOLE, "no_memory": _FORGETFUL},
    ),
}
GAMES = {
    "lanternvale": _game("the whole of Lanternvale", "lanternvale"),
    "world_b": _game("the whole of world B", "world_b"),
}
TASKS = LESSONS | GAMES
