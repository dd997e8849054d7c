"""The schema of every configuration key, and how a file and overrides become one checked `Config`.

Any process reads it. In: a JSON or YAML file and `key=value` overrides. Out: a frozen `Config`. Every key has a type,
bounds, a unit and a help line; docs/config.md is generated from them. Which file is meant and what an unknown
key is answered is in `configs/`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from math import isfinite
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec

from cluster_rl.configs.files import find_config, read_config_file
from cluster_rl.configs.names import meant
from cluster_rl.configs.values import problem_of_value
from cluster_rl.errors import UserError

SCHOOL_PREFIX = "school:"
"""Of an `initial_state` that names a lesson, not a file."""

_EVALUATE_INTERVAL_MIN_SEC = 10  # the start of a process alone takes seconds
_SHOWN = 30  # wrong keys of a kind named in an answer: a file that is no config may have any number


def _key(help_text: str, unit: str = "", *, opens: str = "", **bounds: Any) -> msgspec.Meta:
    """`opens` is the title of the group of keys that begins with this one."""
    return msgspec.Meta(description=help_text, extra={"unit": unit, "opens": opens}, **bounds)


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the config structs: frozen, and no unknown keys."""


def _weight(help_text: str, *, opens: str = "") -> msgspec.Meta:
    """Bounded such that no step's reward comes near the bound that the learner holds sequences against."""
    return _key(help_text, "reward", opens=opens, ge=-1000, le=1000)


class RewardWeights(_Section, frozen=True):
    """Weight of each reward term; a term's value is a count or a fraction, see `rewards.py`."""

    event: Annotated[float, _weight("each event flag set for the first time in the episode", opens="Rewards")] = 1.0
    milestone: Annotated[float, _weight("each milestone first reached in the episode, on top of its event")] = 2.0
    badge: Annotated[float, _weight("each badge gained")] = 5.0
    new_map: Annotated[float, _weight("each map entered for the first time in the episode")] = 0.5
    novelty: Annotated[float, _weight("each map tile entered, over its visits in the episode; intrinsic")] = 0.01
    talk: Annotated[float, _weight("each text opened on the map, over the times it was in the episode; intrinsic")] = (
        0.05
    )
    level: Annotated[float, _weight("each level gained by the party, up to its best so far")] = 0.5
    species: Annotated[float, _weight("each species caught for the first time")] = 1.0
    item: Annotated[float, _weight("each kind of item in the bag for the first time")] = 0.2
    blackout: Annotated[float, _weight("each time the whole party faints; negative to discourage")] = -0.5
    step: Annotated[float, _weight("every step; a small negative value makes shorter ways better")] = -0.0005
    puffer: Annotated[
        float, _weight("what pokemonred_puffer's environment pays by itself, where `puffer` plays it")
    ] = 0.0


ReturnCut = Literal["none", "watkins", "soft_watkins"]
Weighting = Literal["frontier", "uniform"]
TargetEncoder = Literal["own", "online"]


class ModelConfig(_Section, frozen=True):
    """Sizes of the network. `kind` picks the architecture."""

    kind: Annotated[Literal["unified", "slim"], _key("unified: residual tower and attention; slim: small convs")] = (
        "unified"
    )
    conv_channels: Annotated[
        list[Annotated[int, msgspec.Meta(ge=1, le=1024)]],
        _key("output channels of each conv stage, first to last", "channels", min_length=1, max_length=6),
    ] = msgspec.field(default_factory=lambda: [32, 64, 64])
    residual_blocks: Annotated[int, _key("residual blocks after each conv stage (unified)", "blocks", ge=0, le=8)] = 1
    context_width: Annotated[int, _key("width of the context MLP", "units", ge=8, le=2048)] = 128
    trunk_width: Annotated[int, _key("width of the layer before the recurrent cell", "units", ge=8, le=4096)] = 512
    recurrent_cell: Annotated[
        Literal["lstm", "gru", "none"], _key("recurrent cell; none is a layer of the same width without memory")
    ] = "lstm"
    memory_steps: Annotated[
        int, _key("how long the LSTM's gates remember before any training; 0: a forget bias of 1", "steps", ge=0)
    ] = 0
    noisy_sigma: Annotated[float, _key("initial sigma of the noisy layers; 0 turns noise off", "", ge=0, le=2)] = 0.0
    attention_heads: Annotated[int, _key("heads of the spatial attention", "heads", ge=1, le=16)] = 4


class Config(_Section, frozen=True):
    """One run. The values here are the defaults; `cluster_config.json` holds the same ones for editing."""

    target_total_steps: Annotated[
        int, _key("the run ends when this many steps are logged", "env steps", ge=1, opens="How long the run is")
    ] = 25_000_000
    total_episodes: Annotated[int, _key("the run ends after this many episodes; 0 is unlimited", "episodes", ge=0)] = 0
    max_runtime_seconds: Annotated[
        int, _key("one job stops softly after this long: checkpoint, then exit; 0 is unlimited", "seconds", ge=0)
    ] = 13_500
    base_seed: Annotated[int, _key("seed from which every other seed is derived", "", ge=0, le=2**31 - 1)] = 1

    rom: Annotated[
        str, _key("path of the ROM, or an embedded world's name; empty plays the small world", "path", opens="The game")
    ] = ""
    initial_state: Annotated[
        str, _key("savestate in which episodes start, or school:NAME; empty starts after boot", "path")
    ] = ""
    puffer: Annotated[
        str, _key("folder of a pokemonred_puffer checkout, whose environment is played; empty: ours", "path")
    ] = ""
    puffer_reward: Annotated[
        str, _key("which of its reward classes pays `rewards.puffer`, as in its config.yaml: module.Class")
    ] = "baseline.ObjectRewardRequiredEventsMapIdsFieldMoves"
    frame_skip: Annotated[int, _key("frames of one step, a press of 8 included", "frames", ge=9, le=240)] = 24
    episode_max_steps: Annotated[int, _key("an episode is truncated after this many steps", "env steps", ge=1)] = 20_480
    start_idle_frames_max: Annotated[
        int, _key("frames waited at random at an episode's start, so that actors differ", "frames", ge=0, le=600)
    ] = 95

    start_states: Annotated[
        str,
        _key("folder of savestates that episodes may begin at too; empty: none", "path", opens="Where episodes begin"),
    ] = ""
    archive_entries: Annotated[
        int, _key("states that episodes came by, kept for others to begin at; 0: none", "states", ge=0, le=100_000)
    ] = 0
    archive_megabytes: Annotated[int, _key("most that these states take on disk", "megabytes", ge=1)] = 256
    start_share: Annotated[
        float,
        _key("share of episodes that begin at such a state, where there is one", "probability", ge=0, le=0.95),
    ] = 0.5
    start_explore_share: Annotated[
        float,
        _key("share of the episodes from there whose actions are all random ones", "probability", ge=0, le=1),
    ] = 0.0
    start_weighting: Annotated[
        Weighting,
        _key("how a state is drawn; frontier: rather where what comes next is seldom reached; uniform: all alike"),
    ] = "frontier"

    num_actors: Annotated[int, _key("actor processes in each job", "processes", ge=1, le=256, opens="Actors")] = 6
    actor_jobs: Annotated[
        int, _key("jobs of actors alone beside the learner's, each with num_actors more", "jobs", ge=0, le=63)
    ] = 0
    envs_per_actor: Annotated[int, _key("emulators in one actor process", "emulators", ge=1, le=64)] = 8
    epsilon_base: Annotated[float, _key("largest epsilon of the Ape-X ladder", "probability", ge=0, le=1)] = 0.4
    epsilon_alpha: Annotated[float, _key("steepness of the Ape-X ladder", "", ge=0, le=20)] = 7.0
    epsilon_hold_steps_max: Annotated[
        int, _key("a random action is held for a random time, at most this; 1: not held", "env steps", ge=1, le=1000)
    ] = 20
    wander_every_steps: Annotated[
        int, _key("steps until an actor plays a stretch at random, on average; 0: never", "env steps", ge=0)
    ] = 0
    wander_steps: Annotated[int, _key("length of such a random stretch, on average", "env steps", ge=1)] = 50
    frontier_weight: Annotated[
        float,
        _key(
            "weight of a random step to the nearest map tile not entered yet, others have about 1; above 0, A and B are"
            " seldom drawn where nothing waits for them",
            ge=0,
            le=1000,
        ),
    ] = 0.0

    start_button: Annotated[
        bool,
        _key(
            "whether the agent may press START; its menus cost a beginner much of its time",
            opens="What the agent sees and may do",
        ),
    ] = True
    occupancy_crop_radius: Annotated[int, _key("radius of the map-memory crop", "tiles", ge=1, le=16)] = 4
    affordance_fail_threshold: Annotated[
        int, _key("a button is masked after it changed nothing this often in one situation", "tries", ge=1, le=100)
    ] = 2
    affordance_expiry_steps: Annotated[
        int, _key("a learned mask is forgotten after this many steps of its emulator", "env steps", ge=1)
    ] = 2_000
    affordance_retry_probability: Annotated[
        float, _key("chance a step that a learned mask is lifted for that step", "probability", ge=0, le=1)
    ] = 0.01
    affordance_memory_entries: Annotated[int, _key("situations remembered by one emulator", "entries", ge=1)] = 20_000
    rewards: RewardWeights = msgspec.field(default_factory=RewardWeights)
    w_rnd: Annotated[
        float,
        _key(
            "weight of curiosity, a bonus for what was hardly trained on (RND), see docs/architecture.md; 0: none",
            "reward",
            opens="Curiosity",
            ge=0,
            le=1000,
        ),
    ] = 0.0
    intrinsic_gamma: Annotated[
        float,
        _key(
            "discount of what rewards.novelty and w_rnd pay: a stream of rewards whose value is learned apart from"
            " that of all others, and added to it to act by; 0: they are rewards like others",
            "",
            ge=0,
            le=0.999,
        ),
    ] = 0.0
    rnd_by_counts: Annotated[
        bool,
        _key(
            "curiosity pays each map tile entered, over its visits in the episode, and up to 5 times that where it is"
            " new; false: pays what is new, whatever was done there"
        ),
    ] = True

    quest_half_life_episodes: Annotated[
        float,
        _key("an episode's weight in a quest's posterior halves in so many", "episodes", ge=10, le=1e6, opens="Quests"),
    ] = 100.0
    quest_budget_steps: Annotated[
        int, _key("a milestone must be reached in so many steps of an episode; 0: in the episode", "env steps", ge=0)
    ] = 0
    quest_budgets: Annotated[
        dict[str, Annotated[int, msgspec.Meta(ge=1)]],
        _key("milestones that have another such budget, by name, as in --quest_budgets.FERN_BADGE 500", "env steps"),
    ] = msgspec.field(default_factory=dict)
    quest_target: Annotated[
        float,
        _key("an alarm tells how surely a quest is below this chance; 0: below its best so far", "chance", ge=0, lt=1),
    ] = 0.0
    quest_patience_episodes: Annotated[
        int, _key("a quest that has not grown for so many episodes stagnates", "episodes", ge=1)
    ] = 500
    curiosity_scale_max: Annotated[
        float,
        _key(
            "w_rnd grows up to so many times while no quest grows, and tapers once all are sure; 1: it stays",
            "",
            ge=1,
            le=100,
        ),
    ] = 1.0
    w_bayes: Annotated[
        float,
        _key("potential of a milestone reached, times 1 - its chance (shaping); 0: none", "reward", ge=0, le=1000),
    ] = 0.0

    unroll_length: Annotated[
        int, _key("trained positions of a sequence", "env steps", ge=1, le=1024, opens="Sequences")
    ] = 80
    burn_in: Annotated[int, _key("positions before them that only warm the state", "env steps", ge=0, le=1024)] = 40
    n_step: Annotated[int, _key("steps of the return before bootstrapping", "env steps", ge=1, le=64)] = 5
    return_cut: Annotated[
        ReturnCut,
        _key(
            "what ends a return before n_step; none: nothing; watkins: an action that was not the actor's best one;"
            " soft_watkins: one that the learner's values put more than 1 % below the best"
        ),
    ] = "none"

    advantage_alpha: Annotated[
        float,
        _key(
            "share of what an action falls short of the best one that its target is lowered by, so that greedy play can"
            " tell them apart (advantage learning); 0: none",
            "",
            ge=0,
            le=0.99,
        ),
    ] = 0.0

    replay_capacity_transitions: Annotated[
        int, _key("trained positions kept in the replay", "env steps", ge=1, opens="Replay")
    ] = 5_000_000
    replay_dir: Annotated[
        str, _key("folder of the replay log, may be a node's scratch; empty is replay/ in the run directory", "path")
    ] = ""
    min_replay_transitions: Annotated[int, _key("positions in the replay before updates start", "env steps", ge=1)] = (
        50_000
    )
    samples_per_insert: Annotated[float, _key("trained positions sampled for each one inserted", "", gt=0, le=1000)] = (
        1.0
    )
    samples_per_insert_schedule: Annotated[
        list[tuple[Annotated[int, msgspec.Meta(ge=1)], Annotated[float, msgspec.Meta(gt=0, le=1000)]]],
        _key("[env steps, samples_per_insert] from there on, in order; empty: it stays the same", max_length=16),
    ] = msgspec.field(default_factory=list)
    samples_per_insert_tolerance: Annotated[
        float,
        _key(
            "how far sampling may run ahead or behind, as a fraction of what the minimum size is owed",
            "",
            ge=0.01,
            le=10,
        ),
    ] = 0.2
    prioritized_alpha: Annotated[float, _key("exponent of the priorities", "", ge=0, le=1)] = 0.9
    importance_beta: Annotated[float, _key("exponent of the importance weights", "", ge=0, le=1)] = 0.6
    priority_eta: Annotated[float, _key("share of the largest TD error in a sequence's priority", "", ge=0, le=1)] = 0.9

    batch_size: Annotated[int, _key("sequences of one update", "sequences", ge=1, le=4096, opens="Learner")] = 64
    gamma: Annotated[float, _key("discount of one step", "", ge=0, le=1)] = 0.997
    learning_rate: Annotated[float, _key("step size of Adam", "", gt=0, le=1)] = 1e-4
    # R2D2's 1e-3 goes with a loss that sums over 80 steps; ours is their mean, and its gradients are so much smaller.
    adam_epsilon: Annotated[float, _key("epsilon of Adam, for a loss that is a mean over steps", "", gt=0, le=1)] = 1e-5
    max_grad_norm: Annotated[
        float, _key("gradients are clipped to this global norm; a guard, norms of 1 are usual", "", gt=0)
    ] = 40.0
    target_update_interval: Annotated[int, _key("updates between copies into the target network", "updates", ge=1)] = (
        500
    )
    target_encoder: Annotated[
        TargetEncoder,
        _key(
            "whose encoders the target network's cell sees through; own: copies, like the rest of it; online: those of"
            " the online network, run once for both"
        ),
    ] = "own"
    publish_interval: Annotated[int, _key("updates between publications of the parameters", "updates", ge=1)] = 20
    averaging_updates: Annotated[
        int, _key("online_params.pt is the mean of about so many updates; 1 is the newest alone", "updates", ge=1)
    ] = 200
    value_rescaling: Annotated[bool, _key("learn values under h(x), see docs/architecture.md")] = True
    huber_kappa: Annotated[float, _key("threshold of the Huber loss", "", gt=0, le=100)] = 1.0
    aux_loss_weight: Annotated[float, _key("weight of the auxiliary loss; 0 turns it off", "", ge=0, le=10)] = 0.1
    device: Annotated[Literal["auto", "cpu", "cuda"], _key("device of the learner; auto takes CUDA if present")] = (
        "auto"
    )
    mixed_precision: Annotated[
        bool, _key("bfloat16: the learner's encoders on CUDA; actors, unless device is cpu, where the CPU has it")
    ] = True
    learner_threads: Annotated[int, _key("CPU threads of the learner; 0 is one per free core", "threads", ge=0)] = 0

    use_spatial_attention: Annotated[
        bool, _key("attention over the conv features, with positions (unified)", opens="Model")
    ] = True
    lstm_hidden_size: Annotated[int, _key("units of the recurrent cell", "units", ge=8, le=4096)] = 512
    num_quantiles: Annotated[int, _key("quantiles of the value head", "quantiles", ge=1, le=256)] = 32
    model: ModelConfig = msgspec.field(default_factory=ModelConfig)

    evaluate_interval_seconds: Annotated[
        float,
        _key(
            "time between evaluations: greedy episodes of the published parameters, beside the training; 0: never, "
            f"else {_EVALUATE_INTERVAL_MIN_SEC} or more",
            "seconds",
            ge=0,
            opens="Evaluation",
        ),
    ] = 0.0
    evaluate_episodes: Annotated[int, _key("episodes of one evaluation", "episodes", ge=1, le=10_000)] = 8

    log_episodes_for_replay: Annotated[bool, _key("write an episode log for each episode", opens="What is written")] = (
        True
    )
    ram_hash_interval_steps: Annotated[int, _key("steps between full RAM hashes in a log", "env steps", ge=1)] = 64
    progress_interval_seconds: Annotated[float, _key("time between writes of progress.json", "seconds", gt=0)] = 5.0
    metrics_interval_seconds: Annotated[float, _key("time between rows of metrics.jsonl", "seconds", gt=0)] = 10.0
    params_file_interval_seconds: Annotated[float, _key("time between writes of online_params.pt", "seconds", gt=0)] = (
        30.0
    )
    checkpoint_interval_seconds: Annotated[float, _key("time between checkpoints", "seconds", gt=0)] = 300.0

    bind_host: Annotated[
        str,
        _key(
            "address the learner listens on, 0.0.0.0 for all; empty: loopback, with actor_jobs this node's name",
            "host",
            opens="Between processes",
        ),
    ] = ""
    curve: Annotated[
        bool,
        _key("encrypt and let in only this run's actors on loopback too; at other addresses it is always so (CURVE)"),
    ] = True
    credit_sequences: Annotated[int, _key("unacknowledged sequences an actor may hold", "sequences", ge=1, le=4096)] = (
        64
    )
    params_poll_seconds: Annotated[float, _key("time between an actor's questions for parameters", "seconds", gt=0)] = (
        2.0
    )
    learner_wait_seconds: Annotated[
        float, _key("time that actors of a job of their own wait for a learner before they end", "seconds", gt=0)
    ] = 3600.0
    max_restarts: Annotated[int, _key("times one child process is started again in a job", "restarts", ge=0)] = 10

    @property
    def starts_elsewhere(self) -> bool:
        """Whether episodes may begin elsewhere than at the beginning."""
        return self.start_share > 0 and (self.archive_entries > 0 or bool(self.start_states))

    @property
    def total_actors(self) -> int:
        """Actor processes of all jobs of the run that play at the same time."""
        return self.num_actors * (1 + self.actor_jobs)

    def samples_per_insert_at(self, env_steps: int) -> float:
        """What the env step after so many is owed."""
        later = (rate for begins, rate in reversed(self.samples_per_insert_schedule) if begins <= env_steps)
        return next(later, self.samples_per_insert)

    @property
    def sample_chunk(self) -> int:
        """Positions of one batch: the most that are sampled at a time."""
        return self.batch_size * self.unroll_length

    @property
    def stream_gammas(self) -> tuple[float, ...]:
        """The discount of each stream of reward: one of all rewards, or that of the game and the intrinsic one."""
        return (self.gamma, self.intrinsic_gamma)[: len(self.stream_weights)]

    @property
    def intrinsic_stream(self) -> bool:
        """Whether intrinsic rewards have a value of their own."""
        return self.intrinsic_gamma > 0 and self.rewards.novelty + self.w_rnd > 0

    @property
    def stream_weights(self) -> tuple[float, ...]:
        """What a unit of each stream is worth in reward. The intrinsic one's unit is a new tile at every step for ever,
        so that its values are about as large as the game's: larger ones would be most of what a batch teaches."""
        if not self.intrinsic_stream:
            return (1.0,)
        return (1.0, (self.rewards.novelty + self.w_rnd) / (1.0 - self.intrinsic_gamma))

    @property
    def head_outputs(self) -> int:
        """Outputs of the value head for each action: the quantiles of one stream after those of another."""
        return len(self.stream_weights) * self.num_quantiles

    @property
    def insert_chunk(self) -> int:
        """Positions of one sequence of every emulator: the most that arrive at a time."""
        return self.total_actors * self.envs_per_actor * self.unroll_length


def limiter_buffer(rate: float, min_size: int, tolerance: float, *, sample_chunk: int, insert_chunk: int) -> float:
    """How far learner or actors may run ahead of the other, in sampled positions; `training.rate_limiter` says why.

    rate: positions to sample for each one inserted. min_size: positions before the first sample.
    """
    return max(tolerance * rate * min_size, 2.0 * max(sample_chunk, rate * insert_chunk))


def sequence_schema_values(config: Config) -> dict[str, Any]:
    """What both ends must agree on to exchange sequences and parameters: shapes, cell, game timing."""
    shapes = ("unroll_length", "burn_in", "n_step", "occupancy_crop_radius", "lstm_hidden_size", "num_quantiles")
    shared = (*shapes, "intrinsic_stream", "use_spatial_attention", "frame_skip", "model")
    return {name: msgspec.to_builtins(getattr(config, name)) for name in shared}


def sequence_schema_hash(config: Config) -> str:
    """Hash of `sequence_schema_values`, for the first message of an actor."""
    return hashlib.sha256(json.dumps(sequence_schema_values(config), sort_keys=True).encode()).hexdigest()[:16]


def load_config(path: str | Path | None = None, overrides: Iterable[str] = ()) -> Config:
    """Reads a config file, or one that is shipped by its name, and applies `dotted.key=value` overrides in order.

    Raises `UserError` for a missing or unreadable file, and for all unknown keys, wrong types and values out of bounds
    at once, each with the key's path.
    """
    raw = read_config_file(find_config(path)) if path is not None else {}
    source = str(path) if path is not None else "defaults"
    return _with_overrides(raw, overrides, source)


def overridden(config: Config, overrides: Iterable[str], source: str) -> Config:
    """The config, which came from `source`, with overrides. Raises as `load_config` does."""
    return _with_overrides(msgspec.to_builtins(config), overrides, source)


def config_from_builtins(raw: Mapping[str, Any], source: str) -> Config:
    """Checks a plain mapping against the schema. Raises `UserError` that names `source` and each key that is wrong.

    A text that is a number or a truth value is taken as one: YAML reads 1e-4 as a text, and a shell has only texts.
    """
    problems = list(_problems(raw, Config, ""))
    lines = [f"{key}: {problem}" for key, problem in problems if problem]
    if len(lines) > _SHOWN:
        lines[_SHOWN:] = [f"and {len(lines) - _SHOWN} more such keys"]
    unlike = [key for key, problem in problems if not problem]
    if unlike:
        more = f" and {len(unlike) - _SHOWN} more" if len(unlike) > _SHOWN else ""
        lines.append(f"unknown, with nothing like it here: {', '.join(unlike[:_SHOWN])}{more}")
    if len(problems) == 1:
        raise UserError(f"{source}: {lines[0]}")
    if problems:
        raise UserError(f"{source}: {len(problems)} keys are wrong", lines)
    config = msgspec.convert(raw, Config, strict=False)
    _check_together(config, source)
    return config


def config_to_json(config: Config) -> bytes:
    """The resolved config as indented JSON, every key present."""
    try:
        return msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n"
    except UnicodeEncodeError:  # bytes of a path that are no text: escapes, which `load_config` reads as they were
        return json.dumps(msgspec.to_builtins(config), indent=2).encode() + b"\n"


def split_overrides(arguments: Sequence[str]) -> list[str]:
    """Turns what argparse left over (`--key value`, `--key=value`, `key=value`) into `key=value` overrides.

    Raises `UserError` for an argument that is none of these.
    """
    overrides: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word.startswith("--") and "=" not in word:
            has_value = bool(rest) and not rest[0].startswith("--")
            if not has_value and _key_name(word) in _key_names():
                raise UserError(f"{word}: a value is missing; write {word} VALUE or {word}=VALUE")
            # A key that is not ours is answered with all others, value or not.
            overrides.append(f"{_key_name(word)}={rest.pop(0) if has_value else ''}")
        elif "=" in word:
            name, _, value = word.partition("=")
            overrides.append(f"{_key_name(name)}={value}")
        else:
            raise UserError(f"argument {word!r} is not understood; overrides are written key=value or --key value")
    return overrides


def config_keys(section: type = Config, prefix: str = "") -> dict[str, msgspec.Meta]:
    """Every dotted key of the schema with its `Meta` (description, unit, bounds)."""
    keys: dict[str, msgspec.Meta] = {}
    for name, hint in get_type_hints(section, include_extras=True).items():
        if _is_section(hint):
            keys |= config_keys(hint, f"{prefix}{name}.")
        else:
            keys[prefix + name] = next(meta for meta in get_args(hint) if isinstance(meta, msgspec.Meta))
    return keys


def config_groups() -> dict[str, dict[str, msgspec.Meta]]:
    """`config_keys` under the titles of their groups, in the schema's order."""
    groups: dict[str, dict[str, msgspec.Meta]] = {}
    title = ""
    for key, meta in config_keys().items():
        title = (meta.extra or {})["opens"] or title
        groups.setdefault(title, {})[key] = meta
    return groups


@cache
def _key_names() -> tuple[str, ...]:
    """Every dotted key; the schema is walked once."""
    return tuple(config_keys())


def config_values(config: Config) -> dict[str, Any]:
    """Every dotted key with its value, in the schema's order."""
    return {key: msgspec.to_builtins(attrgetter(key)(config)) for key in config_keys()}


def _key_name(option: str) -> str:
    """Option names may be written with dashes; config keys have none."""
    return option.removeprefix("--").replace("-", "_")


def _parse_override(override: str) -> tuple[str, Any]:
    name, separator, text = override.partition("=")
    if not separator or not name:
        raise UserError(f"override {override!r}: write key=value")
    try:
        return name, json.loads(text)
    except (ValueError, RecursionError):  # no JSON, or none that Python reads: numbers of thousands of digits, say
        return name, text


def _with_overrides(raw: dict[str, Any], overrides: Iterable[str], source: str) -> Config:
    words = list(overrides)
    for override in words:
        _set_dotted(raw, *_parse_override(override))
    return config_from_builtins(raw, f"{source} and overrides" if words else source)


def _set_dotted(raw: dict[str, Any], name: str, value: Any) -> None:
    *sections, last = name.split(".")
    for section in sections:
        raw = raw.setdefault(section, {})
        if not isinstance(raw, dict):
            raise UserError(f"override {name}: {section} is not a section")
    raw[last] = value


def _problems(raw: Mapping[Any, Any], section: type | None, prefix: str) -> Iterator[tuple[str, str]]:
    """Each key that is wrong and why; the reason is empty where nothing here is like an unknown key.

    `section` is None in a section that is not ours: what is meant by its keys, these themselves say.
    """
    hints = get_type_hints(section, include_extras=True) if section is not None else {}
    for name, value in raw.items():
        key, hint = f"{prefix}{name}", hints.get(name)
        if isinstance(value, Mapping) and (_is_section(hint) or (hint is None and value)):
            yield from _problems(value, hint, f"{key}.")
        elif hint is None:
            answer = meant(str(name), (prefix + sibling for sibling in hints), _key_names())
            yield key, f"unknown key; {answer}" if answer else ""
        else:
            problem = problem_of_value(value, hint)
            if problem:
                yield key, problem


def _is_section(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, _Section)


def _check_together(config: Config, source: str) -> None:
    if config.min_replay_transitions > config.replay_capacity_transitions:
        raise UserError(
            f"{source}: min_replay_transitions ({config.min_replay_transitions}) is larger than "
            f"replay_capacity_transitions ({config.replay_capacity_transitions})"
        )
    budgets = {f"quest_budgets.{name}": steps for name, steps in config.quest_budgets.items()}
    for key, steps in {"quest_budget_steps": config.quest_budget_steps, **budgets}.items():
        if steps > config.episode_max_steps:
            raise UserError(
                f"{source}: {key} ({steps}) is larger than episode_max_steps ({config.episode_max_steps}), the longest "
                "that an episode lasts"
            )
    begins = [env_steps for env_steps, _ in config.samples_per_insert_schedule]
    if begins != sorted(set(begins)) or not all(isfinite(rate) for _, rate in config.samples_per_insert_schedule):
        raise UserError(
            f"{source}: samples_per_insert_schedule: must be finite, env steps rising from pair to pair, as in "
            f"[[20000, 16], [60000, 8]], not {config.samples_per_insert_schedule}"
        )
    if config.intrinsic_gamma > 0 > config.rewards.novelty:
        raise UserError(
            f"{source}: rewards.novelty: {config.rewards.novelty:g} is less than 0, which has no value of its own "
            "(intrinsic_gamma): give 0 or more, or intrinsic_gamma 0"
        )
    if 0 < config.evaluate_interval_seconds < _EVALUATE_INTERVAL_MIN_SEC:
        raise UserError(
            f"{source}: evaluate_interval_seconds: must be 0 (never) or at least {_EVALUATE_INTERVAL_MIN_SEC}, not "
            f"{config.evaluate_interval_seconds:g}"
        )
    if config.lstm_hidden_size % 8:
        raise UserError(f"{source}: lstm_hidden_size: must be a multiple of 8, not {config.lstm_hidden_size}")
