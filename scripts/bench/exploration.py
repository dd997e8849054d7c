"""How far random play gets: the random actions that actors take, against plain ones.

usage: python scripts/bench/exploration.py [--episodes 96] [--seed 1] [--plain] [key=value ...]

Plays episodes of the preset `cpu` with every action a random one, eight emulators at a time, and prints in how many
each milestone was reached, with 95 % intervals. Actors hold random actions for a while (`epsilon_hold_steps_max`) and
rather go to what the episode has not seen (`cluster_rl.acting.wandering`); with `--plain` all valid buttons are equally
likely, each for one step.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from cluster_rl.acting.exploration import Exploration
from cluster_rl.acting.wandering import wander_weights
from cluster_rl.config import Config, load_config
from cluster_rl.emulator.env import Env, Step
from cluster_rl.errors import EXIT_OK, run_command
from cluster_rl.evaluate import milestones_ahead, report
from cluster_rl.game.world import World
from cluster_rl.learning.sequences import EpisodeSummary
from cluster_rl.rom import load_rom

EMULATORS = 8
T = TypeVar("T")


def play_at_random(
    config: Config,
    world: World,
    seed: int,
    emulators: int,
    result: Callable[[int, Env, Step], T | None],
    plain: bool = False,
) -> list[T]:
    """One random episode of each of a few new emulators, which share nothing, until `result` of (its number, the
    emulator, the step) is not None; the results, first ended first."""
    rom, seeds = load_rom(config.rom), np.random.SeedSequence(seed)
    envs = [Env(config, rom, world, int(number) % 2**31) for number in seeds.generate_state(emulators)]
    rng = np.random.default_rng(seeds.spawn(1)[0])
    exploration = Exploration(emulators, 1 if plain else config.epsilon_hold_steps_max, 0, 1)
    observations = [env.start() for env in envs]
    values = np.zeros((emulators, len(observations[0].mask)), np.float32)
    results: dict[int, T] = {}
    while len(results) < emulators:
        masks, crops, contexts = (
            np.stack([getattr(seen, name) for seen in observations]) for name in ("mask", "crop", "context")
        )
        weights = masks.astype(np.float64) if plain else wander_weights(masks, crops, contexts, config.frontier_weight)
        actions = exploration.select(values, masks, weights.__getitem__, np.ones(emulators), rng)
        for row, env in enumerate(envs):
            if row not in results:
                step = env.advance(int(actions[row]))
                observations[row] = step.observation
                found = result(row, env, step)
                if found is not None:
                    results[row] = found
    for env in envs:
        env.close()
    return list(results.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--episodes", type=int, default=96, help=f"at least; whole rounds of {EMULATORS} are played")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plain", action="store_true", help="all valid buttons equally likely, for one step each")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config keys")
    options = parser.parse_intermixed_args()
    config = load_config("cpu", options.overrides)
    world = World.for_rom(load_rom(config.rom).sha1)
    played: list[EpisodeSummary] = []
    while len(played) < options.episodes:
        seed = options.seed + len(played)
        played += play_at_random(config, world, seed, EMULATORS, lambda _, env, step: step.summary, options.plain)
    found = report(played, milestones_ahead(config), len(played))  # each of a seed of its own
    cells = np.array([summary.cells for summary in played])
    print(f"{len(played)} episodes of {config.episode_max_steps} steps, return {found['return']['mean']:.2f}")
    print(f"{cells.mean():.0f} map tiles, standard error {cells.std(ddof=1) / len(cells) ** 0.5:.0f}")
    for name, share in found["milestones"].items():
        low, high = share["interval"]
        when = f", median step {share['median_step']:.0f}" if share["episodes"] else ""
        print(f"{name:20} {share['share']:4.0%} ({low:.0%} to {high:.0%}){when}")
    return EXIT_OK


if __name__ == "__main__":
    run_command(main)
