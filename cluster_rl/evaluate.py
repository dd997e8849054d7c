"""How good the agent is: greedy episodes from a run's published parameters, or by an exported policy.

    python -m cluster_rl.evaluate --run-name NAME --episodes 20 [--max-steps N] [--random] [--logs DIR] [--json]
    python -m cluster_rl.evaluate --params FILE|NAME [the same options]
    python -m cluster_rl.evaluate --run-name NAME --publish

In: `config.json` and `online_params.pt` of a run, which may be training meanwhile; or a file of `cluster_rl.export --to
safetensors`, or the name of one that is shipped, which is played by the config in it. Out: return (whole and by term),
length and milestones, each with a 95 % confidence interval, and episode logs for the replayer on request. The policy is
greedy, without noise in the network, and all episodes begin where the run's do by its config, never at an archived
state; `--random` plays valid buttons at random instead, for comparison.

Chance has little part in greedy episodes (how long one waits before its first step, which masked buttons are tried
again), so they may repeat each other, and a repetition is no further evidence of what the policy does. Means and shares
are of all episodes, as starts are drawn; intervals are those of so many episodes as differ.

With `--publish` the figures go into the `evaluation.json` of the run, for its learner, once for the same parameters.
A training with `evaluate_interval_seconds` starts that beside itself (`jobs/evaluation_child.py`).
"""

from __future__ import annotations

if __name__ == "__main__":
    from cluster_rl.errors import end_quietly

    end_quietly()

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from scipy.special import ndtri, stdtrit

from cluster_rl.acting.exploration import acting_values, select_actions
from cluster_rl.acting.rollout import Rollout, network_of
from cluster_rl.agents import find_agent
from cluster_rl.config import Config, load_config, split_overrides
from cluster_rl.emulator.env import Env, make_env
from cluster_rl.emulator.puffer_env import environment_of
from cluster_rl.emulator.school import start_words
from cluster_rl.errors import EXIT_OK, UserError, run_command
from cluster_rl.exporting.policy_file import read_policy
from cluster_rl.game.world import World
from cluster_rl.jobs.evaluation_process import STUCK_SEC
from cluster_rl.jobs.process_log import logged
from cluster_rl.jobs.watchdog import Watchdog
from cluster_rl.learning.sequences import EpisodeSummary
from cluster_rl.model import QNetwork
from cluster_rl.report.bars import Bar
from cluster_rl.rewards import INTRINSIC_TERMS
from cluster_rl.rom import Rom, load_rom, pyboy_version
from cluster_rl.runs.arguments import OVERRIDES_HELP, Arguments, add_run_name, whole_number
from cluster_rl.runs.atomic import check_writable
from cluster_rl.runs.checkpoint import point_of, read_params
from cluster_rl.runs.episode_log import EpisodeIdentity, EpisodeRecorder
from cluster_rl.runs.evaluation import EMULATORS, Evaluation, readable_evaluation, save_evaluation
from cluster_rl.runs.identity import check_environment, read_identity, warn_of_other_environment
from cluster_rl.runs.layout import RunDir

_EVALUATION_STREAM = 1 << 20  # keeps the seeds apart from those of actors
_EPISODES, _SEED = 20, 1
"""Where nothing else is said."""
_UPPER = 0.975  # a 95 % interval leaves out as much below it as above


class Episode(NamedTuple):
    """An episode that was played: how it went, and the buttons that were pressed, an index into `BUTTONS` a byte."""

    summary: EpisodeSummary
    actions: bytes


def play_episodes(
    config: Config,
    network: QNetwork,
    episodes: int,
    seed: int,
    random: bool = False,
    log_dir: Path | None = None,
    params_version: int = -1,
    alive: Callable[[], object] = lambda: None,
) -> list[Episode]:
    """Plays `episodes` whole episodes, up to 8 at a time, greedily or at random.

    All that are begun are finished and counted, so that short episodes weigh no more than long ones. Equal seeds and
    weights give equal episodes. As in training, an emulator remembers which buttons did nothing from one of its
    episodes to the next. `params_version` is what the logs tell of the parameters, and `alive` is called at each step.
    Raises `UserError` if the logs cannot be written.
    """
    rom = load_rom(config.rom)
    seeds = np.random.SeedSequence([seed, _EVALUATION_STREAM])
    count = min(EMULATORS, episodes)
    env_seeds = seeds.generate_state(count)
    recorders = [_recorder(config, rom, log_dir, row, random, params_version) for row in range(count)]
    envs = [
        Env(config, rom, World.for_rom(rom.sha1), int(env_seed) % 2**31, recorder)
        for env_seed, recorder in zip(env_seeds, recorders, strict=True)
    ]
    rng = np.random.default_rng(seeds.spawn(1)[0])
    epsilons = np.full(count, 1.0 if random else 0.0)
    rollout = Rollout(envs, network)
    played: list[Episode] = []
    pressed = [bytearray() for _ in envs]
    playing = list(range(count))
    for row in playing:
        rollout.start(row)
    begun = count
    left_steps = episodes * config.episode_max_steps
    with Bar("playing", left_steps, "steps") as bar:
        while playing:
            alive()
            _, quantiles = rollout.act()
            values = acting_values(quantiles, config.value_rescaling, config.stream_weights)
            actions = select_actions(values, rollout.mask, epsilons, rng).tolist()
            left_steps -= len(playing)
            ended = []
            for row, step in rollout.play(actions, playing):
                pressed[row].append(actions[row])
                if step.summary is not None:
                    played.append(Episode(step.summary, bytes(pressed[row])))
                    pressed[row].clear()
                    ended.append(row)
                    # An episode that ended early counts whole.
                    left_steps -= config.episode_max_steps - step.summary.episode_steps
            bar.to(episodes * config.episode_max_steps - left_steps, f"{len(played)} of {episodes} episodes")
            for row in ended:
                if begun < episodes:
                    rollout.start(row)
                    begun += 1
                else:
                    playing.remove(row)
    for env in envs:
        env.close()
    return played


def count_distinct(episodes: Sequence[Episode]) -> int:
    """How many differ, in what was pressed or in what came of it: chance in the game may tell equal buttons apart."""
    outcomes = (msgspec.structs.replace(episode.summary, seed=0) for episode in episodes)
    return len(set(zip((episode.actions for episode in episodes), map(msgspec.json.encode, outcomes), strict=True)))


def milestones_ahead(config: Config) -> list[str]:
    """Names of the milestones that episodes of this config can reach from where they start. Raises `UserError`."""
    env = make_env(config, 0)
    env.start()
    names = [milestone.name for milestone in env.world.milestones_ahead(env.state)]
    env.close()
    return names


def report(summaries: list[EpisodeSummary], ahead: Sequence[str], distinct: int) -> dict[str, Any]:
    """Means and shares with 95 % intervals: Student's t for means, Wilson's for shares; plain data for JSON.

    Intervals are those of `distinct` episodes, as many as differ. Of each milestone `ahead`, reached or not: in how
    many episodes, and the median step among these (None where there is none). `finished` are the episodes that ended
    the game's task. Terms that are `intrinsic` are not in the return. `played` holds the summaries themselves.
    """
    count = len(summaries)
    milestones = {}
    reached = [name for summary in summaries for name, _ in summary.milestones]
    for milestone in dict.fromkeys([*ahead, *reached]):
        steps = [step for summary in summaries for name, step in summary.milestones if name == milestone]
        median = float(np.median(steps)) if steps else None
        milestones[milestone] = {**_share(len(steps), count, distinct), "median_step": median}
    terms = {}
    for term in summaries[0].terms:
        mean = _mean([summary.terms[term] for summary in summaries], distinct)
        terms[term] = {**mean, "intrinsic": term in INTRINSIC_TERMS}
    return {
        "episodes": count,
        "distinct": distinct,
        "return": _mean([summary.episode_return for summary in summaries], distinct),
        "length": _mean([summary.episode_steps for summary in summaries], distinct),
        "finished": _share(sum(summary.reason == "terminated" for summary in summaries), count, distinct),
        "terms": terms,
        "milestones": milestones,
        "played": msgspec.to_builtins(summaries),
    }


def wilson_interval(share: float, trials: int) -> tuple[float, float]:
    """95 % interval of a probability from its `share` of `trials` (Wilson 1927): never outside 0 to 1."""
    z = float(ndtri(_UPPER))
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    # At the ends the formula gives 0 and 1 but for rounding.
    return centre - half if share > 0 else 0.0, centre + half if share < 1 else 1.0


def _mean(values: Sequence[float], distinct: int) -> dict[str, float | None]:
    """Mean and half of its interval, which one episode does not have."""
    half = None
    if distinct > 1:
        half = float(stdtrit(distinct - 1, _UPPER)) * float(np.std(values)) / math.sqrt(distinct - 1)
    return {"mean": float(np.mean(values)), "half_interval": half}


def _share(successes: int, episodes: int, distinct: int) -> dict[str, Any]:
    share = successes / episodes
    return {"episodes": successes, "share": share, "interval": wilson_interval(share, distinct)}


def _recorder(
    config: Config, rom: Rom, log_dir: Path | None, row: int, random: bool, params_version: int
) -> EpisodeRecorder | None:
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
        environment=environment_of(config),
    )
    recorder = EpisodeRecorder(log_dir, identity, config.ram_hash_interval_steps)
    recorder.set_context(params_version, epsilon=1.0 if random else 0.0)
    return recorder


def print_report(found: dict[str, Any]) -> None:
    """Prints what `report` found, with the `policy`, `start`, `seed` and `seconds` of the episodes."""
    count, distinct = found["episodes"], found["distinct"]
    print(
        f"{count} episodes, {distinct} distinct, {found['start']}, {found['policy']}, seed {found['seed']}, "
        f"in {found['seconds']:.0f} s"
    )
    if distinct < count:
        print(f"the others repeat these to the button: intervals (95 %) are those of {distinct}, not of {count}")
    for name in ("return", "length"):
        print(f"{name:24} {_with_interval(found[name])}")
    for term, value in found["terms"].items():
        print(f"  {term:22} {_with_interval(value)}" + (" (intrinsic: not in the return)" * value["intrinsic"]))
    reached = {name: share for name, share in found["milestones"].items() if share["episodes"]}
    for name, share in {**reached, "task finished": found["finished"]}.items():
        low, high = share["interval"]
        when = f", median step {share['median_step']:.0f}" if "median_step" in share else ""
        print(f"{name:24} {share['episodes']:4} of {count} ({low:.0%} to {high:.0%}){when}")
    missed = [name for name in found["milestones"] if name not in reached]
    if missed:
        print(f"never reached (0% to {wilson_interval(0.0, distinct)[1]:.0%}): {', '.join(missed)}")


def _with_interval(value: dict[str, float | None]) -> str:
    half = value["half_interval"]
    return f"{value['mean']:10.3f}" + (f" +- {half:.3f}" if half is not None else "")


def publish(run_dir: RunDir) -> int:
    """Plays with a run's newest parameters and writes the figures for its learner, once; the exit code.

    The same seed each time: parameters are told apart by fewer episodes where these begin alike. A process that gets
    nowhere for `STUCK_SEC`, in whatever it does, ends itself.
    """
    watchdog = Watchdog(STUCK_SEC)
    watchdog.alive()
    try:
        return _publish(run_dir, watchdog.alive)
    finally:
        watchdog.close()


def _publish(run_dir: RunDir, alive: Callable[[], object]) -> int:
    config = load_config(run_dir.require_config())
    check_environment(read_identity(run_dir.identity), run_dir.run_name, environment_of(config))
    params = read_params(run_dir.online_params)
    point = point_of(params)
    if point is None:
        print(f"{run_dir.online_params} does not say when it was made; the run's next job writes it anew")
        return EXIT_OK
    known = readable_evaluation(run_dir.evaluation)
    if known is not None and not point.is_newer_than(known.point):
        print(f"no parameters since those of update {known.updates}, which were evaluated")
        return EXIT_OK
    check_writable(run_dir.evaluation.parent)  # before episodes are played in vain
    network = network_of(config, params, run_dir.online_params)
    torch.set_num_threads(1)
    began, started = time.time(), time.monotonic()
    played = play_episodes(config, network, config.evaluate_episodes, _SEED, alive=alive)
    found = report([episode.summary for episode in played], milestones_ahead(config), count_distinct(played))
    newest = readable_evaluation(run_dir.evaluation)  # several may play at once, here and on other nodes
    if newest is not None and not point.is_newer_than(newest.point):
        print(f"parameters of update {newest.updates:,} were evaluated meanwhile; these figures are left out")
        return EXIT_OK
    evaluation = Evaluation(
        **point._asdict(),
        began=began,
        seconds=time.monotonic() - started,
        episodes=found["episodes"],
        distinct=found["distinct"],
        episode_return=found["return"]["mean"],
        half_interval=found["return"]["half_interval"],
        steps=found["length"]["mean"],
        finished=found["finished"]["share"],
        milestones={name: share["share"] for name, share in found["milestones"].items()},
    )
    save_evaluation(run_dir.evaluation, evaluation)
    print(f"{evaluation.words}; it took {evaluation.seconds:.0f} s")
    return EXIT_OK


def _refuse_others(parser: Arguments, known: argparse.Namespace, rest: Sequence[str]) -> None:
    """With `--publish` all points of the curve are of the same: exits where an option would change what is played."""
    changed = [f"--{name}" for name in ("episodes", "seed", "max_steps", "random", "logs", "json")
               if getattr(known, name) != parser.get_default(name)]  # fmt: skip
    if changed or rest:
        other = [*changed, *rest][0].replace("_", "-")
        parser.error(f"{other}: --publish plays what the run's config says; give it alone, or leave it out")


def _published(run_dir: RunDir, overrides: Sequence[str]) -> tuple[int, Config, QNetwork]:
    """The updates behind a run's newest parameters (-1 if they do not say), its config, its network."""
    config = load_config(run_dir.require_config(), overrides)
    warn_of_other_environment(read_identity(run_dir.identity), run_dir.run_name, environment_of(config))
    params = read_params(run_dir.online_params)
    network, point = network_of(config, params, run_dir.online_params), point_of(params)
    return -1 if point is None else point.updates, config, network


def main() -> int:
    """`python -m cluster_rl.evaluate`."""
    parser = Arguments(
        prog="python -m cluster_rl.evaluate",
        description="Greedy episodes of a run, or of an exported policy.",
        epilog=OVERRIDES_HELP,
    )
    add_run_name(parser, otherwise="the policy of --params")
    parser.add_argument(
        "--params",
        metavar="FILE",
        help="an exported policy (cluster_rl.export --to safetensors), or the name of a shipped one: firefly_wood",
    )
    parser.add_argument("--episodes", type=whole_number(1), help=f"episodes to play (default: {_EPISODES})")
    parser.add_argument("--seed", type=whole_number(0), help=f"seed of the episodes (default: {_SEED})")
    parser.add_argument(
        "--max-steps", type=whole_number(1), help="truncate episodes after this many steps (default: the config's)"
    )
    parser.add_argument("--random", action="store_true", help="play at random, for comparison")
    parser.add_argument("--logs", type=Path, help="write episode logs into this folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--publish",
        action="store_true",
        help="play the config's evaluate_episodes and have the run's learner put the figures into its metrics; without "
        "any other option",
    )
    known, rest = parser.parse_known_args()
    if known.params is not None:
        beside = [
            f"--{name}" for name in ("run_name", "runs", "publish") if getattr(known, name) != parser.get_default(name)
        ]
        if beside:
            parser.error(f"{beside[0].replace('_', '-')}: not with --params, which is of no run; leave one out")
    elif known.run_name is None:
        parser.error("give either --run-name or --params")
    if known.publish:
        _refuse_others(parser, known, rest)
        with logged("evaluate"):
            return publish(RunDir(known.runs, known.run_name))
    if known.logs is not None:
        try:
            known.logs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--logs {known.logs}: cannot be made a folder: {error.strerror}; give another") from None
    if known.max_steps is not None:
        rest.append(f"episode_max_steps={known.max_steps}")
    overrides = split_overrides(rest)
    if known.params is not None:
        version, (config, network) = -1, read_policy(find_agent(known.params), overrides)
    else:
        version, config, network = _published(RunDir(known.runs, known.run_name), overrides)
    torch.set_num_threads(1)
    started = time.monotonic()
    episodes = _EPISODES if known.episodes is None else known.episodes
    seed = _SEED if known.seed is None else known.seed
    played = play_episodes(config, network, episodes, seed, known.random, known.logs, version)
    found = {
        "run": known.run_name,
        "params": known.params,
        "policy": "random" if known.random else "greedy",
        "seed": seed,
        "start": start_words(config.initial_state),
        "max_steps": config.episode_max_steps,
        "seconds": time.monotonic() - started,
        **report([episode.summary for episode in played], milestones_ahead(config), count_distinct(played)),
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
