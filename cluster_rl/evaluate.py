"""How good the agent is: greedy episodes from a run's published parameters.

    python -m cluster_rl.evaluate --run-name NAME --episodes 20 [--max-steps N] [--random] [--logs DIR] [--json]

In: `config.json` and `online_params.pt` of a run, which may be training meanwhile. Out: return (whole and by term),
length and milestones, each with a 95 % confidence interval, and episode logs for the replayer on request. The policy is
greedy, without noise in the network, and all episodes begin where the run's do by its config, never at an archived
state; `--random` plays valid buttons at random instead, for comparison.
"""

from __future__ import annotations

if __name__ == "__main__":
    from cluster_rl.errors import end_quietly

    end_quietly()

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from cluster_rl.acting.exploration import acting_values, select_actions
from cluster_rl.acting.rollout import Rollout, load_network
from cluster_rl.config import Config, load_config, split_overrides
from cluster_rl.emulator.env import Env, make_env
from cluster_rl.emulator.school import start_words
from cluster_rl.errors import EXIT_OK, UserError, run_command
from cluster_rl.game.world import World
from cluster_rl.learning.sequences import EpisodeSummary
from cluster_rl.model import QNetwork
from cluster_rl.report.bars import Bar
from cluster_rl.rom import Rom, load_rom, pyboy_version
from cluster_rl.runs.arguments import OVERRIDES_HELP, Arguments, add_run_name, whole_number
from cluster_rl.runs.episode_log import EpisodeIdentity, EpisodeRecorder
from cluster_rl.runs.layout import RunDir

EMULATORS = 8
_EVALUATION_STREAM = 1 << 20  # keeps the seeds apart from those of actors
_CONFIDENCE = 0.95
_Z95 = 1.959964  # 97.5 % quantile of the normal distribution


def play_episodes(
    config: Config, network: QNetwork, episodes: int, seed: int, random: bool = False, log_dir: Path | None = None
) -> list[EpisodeSummary]:
    """Plays `episodes` whole episodes, up to 8 at a time, greedily or at random.

    All that are begun are finished and counted, so that short episodes weigh no more than long ones. Equal seeds and
    weights give equal episodes. As in training, an emulator remembers which buttons did nothing from one of its
    episodes to the next. Raises `UserError` if the logs cannot be written.
    """
    rom = load_rom(config.rom)
    seeds = np.random.SeedSequence([seed, _EVALUATION_STREAM])
    count = min(EMULATORS, episodes)
    env_seeds = seeds.generate_state(count)
    recorders = [_recorder(config, rom, log_dir, row, random) for row in range(count)]
    envs = [
        Env(config, rom, World.for_rom(rom.sha1), int(env_seed) % 2**31, recorder)
        for env_seed, recorder in zip(env_seeds, recorders, strict=True)
    ]
    rng = np.random.default_rng(seeds.spawn(1)[0])
    epsilons = np.full(count, 1.0 if random else 0.0)
    rollout = Rollout(envs, network)
    summaries: list[EpisodeSummary] = []
    playing = list(range(count))
    for row in playing:
        rollout.start(row)
    begun = count
    left_steps = episodes * config.episode_max_steps
    with Bar("playing", left_steps, "steps") as bar:
        while playing:
            _, quantiles = rollout.act()
            values = acting_values(quantiles, config.value_rescaling)
            actions = select_actions(values, rollout.mask, epsilons, rng).tolist()
            left_steps -= len(playing)
            ended = []
            for row, step in rollout.play(actions, playing):
                if step.summary is not None:
                    summaries.append(step.summary)
                    ended.append(row)
                    # An episode that ended early counts whole.
                    left_steps -= config.episode_max_steps - step.summary.episode_steps
            bar.to(episodes * config.episode_max_steps - left_steps, f"{len(summaries)} of {episodes} episodes")
            for row in ended:
                if begun < episodes:
                    rollout.start(row)
                    begun += 1
                else:
                    playing.remove(row)
    for env in envs:
        env.close()
    return summaries


def milestones_ahead(config: Config) -> list[str]:
    """Names of the milestones that episodes of this config can reach from where they start. Raises `UserError`."""
    env = make_env(config, 0)
    env.start()
    names = [milestone.name for milestone in env.world.milestones_ahead(env.state)]
    env.close()
    return names


def report(summaries: list[EpisodeSummary], ahead: Sequence[str]) -> dict[str, Any]:
    """Means and shares with 95 % intervals: Student's t for means, Wilson's for shares; plain data for JSON.

    Of each milestone `ahead`, reached or not: in how many episodes, and the median step among these (None where
    there is none). `finished` are the episodes that ended the game's task. `played` holds the summaries themselves.
    """
    count = len(summaries)
    milestones = {}
    reached = [name for summary in summaries for name, _ in summary.milestones]
    for milestone in dict.fromkeys([*ahead, *reached]):
        steps = [step for summary in summaries for name, step in summary.milestones if name == milestone]
        median = float(np.median(steps)) if steps else None
        milestones[milestone] = {**_share(len(steps), count), "median_step": median}
    terms = {term: _mean([summary.terms[term] for summary in summaries]) for term in summaries[0].terms}
    return {
        "episodes": count,
        "return": _mean([summary.episode_return for summary in summaries]),
        "length": _mean([summary.episode_steps for summary in summaries]),
        "finished": _share(sum(summary.reason == "terminated" for summary in summaries), count),
        "terms": terms,
        "milestones": milestones,
        "played": msgspec.to_builtins(summaries),
    }


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % interval of a probability from `successes` of `trials` (Wilson 1927): never outside 0 to 1."""
    share, z2 = successes / trials, _Z95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z95 / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    # At the ends the formula gives 0 and 1 but for rounding.
    return centre - half if successes else 0.0, centre + half if successes < trials else 1.0


def t_quantile(degrees: int) -> float:
    """The t that Student's distribution with `degrees` >= 1 degrees of freedom keeps between -t and t in 95 % of draws.

    By bisection of the distribution function, a finite sum for whole degrees (Abramowitz & Stegun 26.7.3 and 26.7.4).
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        if _probability_within(angle, degrees) < _CONFIDENCE:
            low = angle
        else:
            high = angle
    return math.tan(low) * math.sqrt(degrees)


def _probability_within(angle: float, degrees: int) -> float:
    """P(|t| < tan(angle) sqrt(degrees)) for Student's distribution."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = 0.0
    for power in range(odd, degrees - 1, 2):  # the exponent of the cosine in `term`
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    return (angle + sine * total) * 2 / math.pi if odd else sine * total


def _mean(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and half of its interval, which one episode does not have."""
    count = len(values)
    half = t_quantile(count - 1) * float(np.std(values, ddof=1)) / math.sqrt(count) if count > 1 else None
    return {"mean": float(np.mean(values)), "half_interval": half}


def _share(successes: int, trials: int) -> dict[str, Any]:
    return {
        "episodes": successes,
        "share": successes / trials,
        "interval": wilson_interval(successes, trials),
    }


def _recorder(config: Config, rom: Rom, log_dir: Path | None, row: int, random: bool) -> EpisodeRecorder | None:
    if log_dir is None:
        return None
    identity = EpisodeIdentity(
        rom_sha1=rom.sha1,
        rom_kind=rom.kind,
        pyboy_version=pyboy_version(),
        frame_skip=config.frame_skip,
        run="evaluation",
        actor=0,
        incarnation=time.time_ns(),
        emulator=row,
    )
    recorder = EpisodeRecorder(log_dir, identity, config.ram_hash_interval_steps)
    recorder.set_context(params_version=-1, epsilon=1.0 if random else 0.0)  # the parameters' file names no version
    return recorder


def print_report(found: dict[str, Any]) -> None:
    """Prints what `report` found, with the `policy`, `start`, `seed` and `seconds` of the episodes."""
    count = found["episodes"]
    print(f"{count} episodes {found['start']}, {found['policy']}, seed {found['seed']}, in {found['seconds']:.0f} s")
    for name in ("return", "length"):
        print(f"{name:24} {_with_interval(found[name])}")
    for term, value in found["terms"].items():
        print(f"  {term:22} {_with_interval(value)}")
    reached = {name: share for name, share in found["milestones"].items() if share["episodes"]}
    for name, share in {**reached, "task finished": found["finished"]}.items():
        low, high = share["interval"]
        when = f", median step {share['median_step']:.0f}" if "median_step" in share else ""
        print(f"{name:24} {share['episodes']:4} of {count} ({low:.0%} to {high:.0%}){when}")
    missed = [name for name in found["milestones"] if name not in reached]
    if missed:
        print(f"never reached (0% to {wilson_interval(0, count)[1]:.0%}): {', '.join(missed)}")


def _with_interval(value: dict[str, float | None]) -> str:
    half = value["half_interval"]
    return f"{value['mean']:10.3f}" + (f" +- {half:.3f}" if half is not None else "")


def main() -> int:
    """`python -m cluster_rl.evaluate`."""
    parser = Arguments(
        prog="python -m cluster_rl.evaluate",
        description="Greedy episodes of a run.",
        epilog=OVERRIDES_HELP,
    )
    add_run_name(parser)
    parser.add_argument("--episodes", type=whole_number(1), default=20, help="episodes to play (default: %(default)s)")
    parser.add_argument("--seed", type=whole_number(0), default=1, help="seed of the episodes (default: %(default)s)")
    parser.add_argument(
        "--max-steps", type=whole_number(1), help="truncate episodes after this many steps (default: the run's)"
    )
    parser.add_argument("--random", action="store_true", help="play at random, for comparison")
    parser.add_argument("--logs", type=Path, help="write episode logs into this folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    known, rest = parser.parse_known_args()
    if known.logs is not None:
        try:
            known.logs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--logs {known.logs}: cannot be made a folder: {error.strerror}; give another") from None
    if known.max_steps is not None:
        rest.append(f"episode_max_steps={known.max_steps}")
    run_dir = RunDir(known.runs, known.run_name)
    config = load_config(run_dir.require_config(), split_overrides(rest))
    network = load_network(config, run_dir.online_params)
    torch.set_num_threads(1)
    started = time.monotonic()
    summaries = play_episodes(config, network, known.episodes, known.seed, known.random, known.logs)
    found = {
        "run": known.run_name,
        "policy": "random" if known.random else "greedy",
        "seed": known.seed,
        "start": start_words(config.initial_state),
        "max_steps": config.episode_max_steps,
        "seconds": time.monotonic() - started,
        **report(summaries, milestones_ahead(config)),
    }
    if known.json:
        print(json.dumps(found, allow_nan=False))
    else:
        print_report(found)
    return EXIT_OK


def command() -> None:
    """`cluster-rl-evaluate`."""
    run_command(main)


if __name__ == "__main__":
    command()
