"""How hard each gate of an embedded world is for random play, from the gate before it.

usage: python scripts/bench/gates.py [--world lanternvale] [--gate NAME ...] [--episodes 100] [--steps 800] [--seed 1]
       [--jobs 1] [key=value ...]

Plays episodes of the preset `lanternvale` from each gate's school start with every action a random one, as actors take
them (`scripts/bench/exploration.py`), until the gate's event comes or the steps are over; then, from a new game with
START and every button equally likely, masked or not, counts the steps that go to menus and texts. Prints a table: for
each gate in how many episodes it opened, with 95 % intervals, and the small milestones on its way that were reached.
Exits 1 if a goal is missed: a gate opens in at most 20 % of the episodes, and menus and texts take at least a third of
the steps. `frontier_weight=0 epsilon_hold_steps_max=20` are the random actions of the preset `cpu`.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from exploration import play_at_random

from cluster_rl.cartridge.compile_content import read_world
from cluster_rl.config import Config, load_config
from cluster_rl.emulator.env import Env, Step
from cluster_rl.errors import EXIT_OK, UserError, run_command
from cluster_rl.evaluate import wilson_interval
from cluster_rl.game.buttons import NUM_BUTTONS
from cluster_rl.game.world import World
from cluster_rl.rom import load_rom

EMULATORS = 4
HIGHEST_CHANCE, LEAST_IN_MENUS = 0.2, 1 / 3
MENU_EPISODES = 8


def play(config: Config, event: str, seed: int) -> list[tuple[bool, list[str]]]:
    """A random episode of each of a few new emulators: whether the event came, and the milestones reached."""
    world = World.for_rom(load_rom(config.rom).sha1)
    flag = next(number for number, name in world.event_names.items() if name == event)
    reached: list[list[str]] = [[] for _ in range(EMULATORS)]

    def result(row: int, env: Env, step: Step) -> tuple[bool, list[str]] | None:
        reached[row] += step.milestones
        opened = env.state.has_event(flag)
        return (opened, reached[row]) if opened or step.summary is not None else None

    return play_at_random(config, world, seed, EMULATORS, result)


def steps_in_menus(config: Config, seed: int) -> int:
    """Steps of one episode, all buttons equally likely, that end in a menu or text and not in a battle."""
    rom = load_rom(config.rom)
    env = Env(config, rom, World.for_rom(rom.sha1), seed)
    rng = np.random.default_rng(seed)
    env.start()
    count = 0
    for _ in range(config.episode_max_steps):
        step = env.advance(int(rng.integers(NUM_BUTTONS)))
        count += env.state.interface_up and not env.state.in_battle
        if step.summary is not None:
            break
    env.close()
    return count


def gate_line(gate: dict[str, Any], played: list[tuple[bool, list[str]]]) -> tuple[str, bool]:
    """What is printed of a gate, and whether its goal is met."""
    hits = sum(hit for hit, _ in played)
    on_the_way = Counter(name for _, names in played for name in names if name != gate["event"])
    told = ", ".join(f"{name} {count / len(played):.0%}" for name, count in on_the_way.most_common(5))
    share = hits / len(played)
    low, high = wilson_interval(share, len(played))
    return f"{gate['name']:14} {share:4.0%} ({low:.0%} to {high:.0%})  {told}", share <= HIGHEST_CHANCE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--world", default="lanternvale")
    parser.add_argument("--gate", action="append", help="this one alone; may be given again (default: all, and menus)")
    parser.add_argument("--episodes", type=int, default=100, help=f"of each gate; rounds of {EMULATORS} are played")
    parser.add_argument("--steps", type=int, default=800, help="of an episode")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config keys")
    options = parser.parse_intermixed_args()
    if min(options.episodes, options.steps, options.jobs) < 1:
        raise UserError("--episodes, --steps and --jobs: must be at least 1")
    gates = [gate for gate in read_world(options.world)["gate"] if not options.gate or gate["name"] in options.gate]
    if not gates:
        raise UserError(f"{options.world} has no such gate")
    base = [f"rom={options.world}", f"episode_max_steps={options.steps}", *options.overrides]
    good = True
    with ProcessPoolExecutor(options.jobs) as pool:
        for gate in gates:
            start = f"school:{gate['school']}" if "school" in gate else ""
            config = load_config("lanternvale", [*base, f"initial_state={start}"])
            rounds: Iterable[int] = range(options.seed, options.seed + -(-options.episodes // EMULATORS))
            played = [one for some in pool.map(partial(play, config, gate["event"]), rounds) for one in some]
            line, met = gate_line(gate, played)
            print(line + ("" if met else f"  goal missed: at most {HIGHEST_CHANCE:.0%}"), flush=True)
            good &= met
        if not options.gate:
            config = load_config("lanternvale", [*base, "start_button=true"])
            counts = pool.map(partial(steps_in_menus, config), range(options.seed, options.seed + MENU_EPISODES))
            share = sum(counts) / (MENU_EPISODES * options.steps)
            met = share >= LEAST_IN_MENUS
            missed = "" if met else f"  goal missed: at least {LEAST_IN_MENUS:.0%}"
            print(f"menus and texts, with START and no masks: {share:.0%}{missed}")
            good &= met
    return EXIT_OK if good else 1


if __name__ == "__main__":
    run_command(main)
