"""How good the agent is: greedy episodes from a run's published parameters.

    python -m cluster_rl.evaluate --run-name NAME --episodes 20 [--random] [--logs DIR] [--json]

In: `config.json` and `online_params.pt` of a run, which may be training meanwhile. Out: return, length and milestones,
each with a 95 % confidence interval, and episode logs for the replayer on request. The policy is greedy, without noise
in the network; `--random` plays valid buttons at random instead, for comparison.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster_rl.config import Config, load_config, split_overrides
from cluster_rl.emulator.env import Env, EpisodeSummary
from cluster_rl.emulator.rom import Rom, load_rom, pyboy_version
from cluster_rl.errors import EXIT_OK, UserError, run_command
from cluster_rl.game.world import World
from cluster_rl.learning.exploration import acting_values, select_actions
from cluster_rl.model import QNetwork, build_model, copy_tensors
from cluster_rl.rollout import Rollout
from cluster_rl.runs.checkpoint import read_params
from cluster_rl.runs.episode_log import EpisodeIdentity, EpisodeRecorder
from cluster_rl.runs.layout import DEFAULT_ROOT, RunDir
from cluster_rl.spaces import observation_spec

EMULATORS = 8
_EVALUATION_STREAM = 1 << 20  # keeps the seeds apart from those of actors
_Z95 = 1.959964  # 97.5 % quantile of the normal distribution


def play_episodes(
    config: Config, network: QNetwork, episodes: int, seed: int, random: bool = False, log_dir: Path | None = None
) -> list[EpisodeSummary]:
    """Plays `episodes` whole episodes, up to 8 at a time, greedily or at random.

    All that are begun are finished and counted, so that short episodes weigh no more than long ones. Equal seeds and
    weights give equal episodes.
    """
    rom = load_rom(config.rom)
    seeds = np.random.SeedSequence([seed, _EVALUATION_STREAM])
    count = min(EMULATORS, episodes)
    env_seeds = seeds.generate_state(count)
    recorders = [_recorder(config, rom, log_dir, row) for row in range(count)]
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
    while playing:
        _, quantiles = rollout.act()
        values = acting_values(quantiles, config.value_rescaling)
        actions = select_actions(values, rollout.mask, epsilons, rng).tolist()
        ended = []
        for row, step in rollout.play(actions, playing):
            if step.summary is not None:
                summaries.append(step.summary)
                ended.append(row)
        for row in ended:
            if begun < episodes:
                rollout.start(row)
                begun += 1
            else:
                playing.remove(row)
    for env in envs:
        env.close()
    return summaries


def report(summaries: list[EpisodeSummary], world: World) -> dict[str, Any]:
    """Means and shares with 95 % intervals: normal for means, Wilson's for shares; plain data for JSON."""
    returns = np.array([summary.episode_return for summary in summaries])
    lengths = np.array([summary.episode_steps for summary in summaries], float)
    milestones = {}
    for milestone in world.milestones:
        steps = [step for summary in summaries for name, step in summary.milestones if name == milestone.name]
        if steps:
            milestones[milestone.name] = {
                "episodes": len(steps),
                "share": len(steps) / len(summaries),
                "interval": wilson_interval(len(steps), len(summaries)),
                "median_step": float(np.median(steps)),
            }
    terms = {term: float(np.mean([s.terms[term] for s in summaries])) for term in summaries[0].terms}
    return {
        "episodes": len(summaries),
        "return": _mean_with_interval(returns),
        "length": _mean_with_interval(lengths),
        "terms": terms,
        "milestones": milestones,
    }


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % interval of a probability from `successes` of `trials` (Wilson 1927): never outside 0 to 1."""
    share, z2 = successes / trials, _Z95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z95 / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def _mean_with_interval(values: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, float]:
    half = _Z95 * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return {"mean": float(values.mean()), "half_interval": half}


def _recorder(config: Config, rom: Rom, log_dir: Path | None, row: int) -> EpisodeRecorder | None:
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
    return EpisodeRecorder(log_dir, identity, config.ram_hash_interval_steps)


def load_network(config: Config, path: Path) -> QNetwork:
    """The network with published parameters. Raises `UserError` if they are missing or do not fit."""
    network = build_model(config, observation_spec(config)).eval()
    copy_tensors(read_params(path), network.state_dict(), str(path))
    return network


def _print_report(found: dict[str, Any], seconds: float) -> None:
    print(f"{found['episodes']} episodes in {seconds:.0f} s")
    for name in ("return", "length"):
        print(f"{name:12} {found[name]['mean']:.3f} +- {found[name]['half_interval']:.3f}")
    print("reward by term: " + ", ".join(f"{term} {value:.3f}" for term, value in found["terms"].items()))
    for name, reached in found["milestones"].items():
        low, high = reached["interval"]
        print(
            f"{name:24} {reached['episodes']:4} of {found['episodes']} ({low:.0%} to {high:.0%}), "
            f"at step {reached['median_step']:.0f}"
        )


def main() -> int:
    """`python -m cluster_rl.evaluate`."""
    parser = argparse.ArgumentParser(prog="python -m cluster_rl.evaluate", description="Greedy episodes of a run.")
    parser.add_argument("--run-name", required=True, help="name of the run's folder")
    parser.add_argument("--runs", default=str(DEFAULT_ROOT), help="folder of all runs (default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=20, help="episodes to play (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the episodes (default: %(default)s)")
    parser.add_argument("--random", action="store_true", help="play at random, for comparison")
    parser.add_argument("--logs", type=Path, help="write episode logs into this folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    known, rest = parser.parse_known_args()
    if known.episodes < 1:
        raise UserError(f"--episodes {known.episodes}: must be at least 1")
    run_dir = RunDir(known.runs, known.run_name).require()
    config = load_config(run_dir.config, split_overrides(rest))
    network = load_network(config, run_dir.online_params)
    torch.set_num_threads(1)
    started = time.monotonic()
    summaries = play_episodes(config, network, known.episodes, known.seed, known.random, known.logs)
    found = report(summaries, World.for_rom(load_rom(config.rom).sha1))
    if known.json:
        print(json.dumps(found))
    else:
        _print_report(found, time.monotonic() - started)
    return EXIT_OK


if __name__ == "__main__":
    run_command(main)
