"""Whether a job fits a machine: memory and cores of its launcher, learner, actors and their emulators.

`--dry-run`, a job's start and `cluster check` ask before anything is started. In: a config and what there is. Out: a
line for the plan and warnings, or a `UserError` with need, limit and the key to change. What cannot fit is refused,
what is merely slow is warned of.

Fixed parts were measured by `scripts/bench/memory.py` (docs/results.md); what grows with the config is added up. Memory
counts that is a process's own, and once what all share. Pages of files that the kernel keeps are left out: it takes
them back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec

from cluster_rl.config import Config
from cluster_rl.errors import UserError
from cluster_rl.jobs.machine import Limit, core_limit, memory_limit, process_limit
from cluster_rl.jobs.memory_estimate import estimate_gpu, estimate_replay, parameter_bytes
from cluster_rl.model import ObservationSpec
from cluster_rl.report.bars import count_words, size_words
from cluster_rl.runs.evaluation import EMULATORS

LIBRARY_BYTES = 130e6  # pages of programs and libraries, which all processes share
LAUNCHER_BYTES = 240e6
ACTOR_LAUNCHER_BYTES = 25e6  # of a job of actors alone, which imports no torch
LEARNER_BYTES = 300e6
CUDA_BYTES = 2e9
"""What CUDA and its libraries take of a learner's host memory: an allowance, not measured by us, so no job is refused
for it."""
ACTOR_BYTES = 175e6  # without weights and emulators
EVALUATION_BYTES = 175e6  # the same
EMULATOR_BYTES = 1.5e6
PUFFER_BYTES = 55e6  # what pokemonred_puffer's environment imports
PUFFER_EMULATOR_BYTES = 10e6  # more than one of ours: its symbols and maps
POSITION_BYTES = 6e3  # of an emulator's open sequence
# Address space beyond a process's own memory, which `ulimit -v` counts too: libraries, stacks and arenas of threads.
ADDRESS_SPACE_BYTES = 0.8e9

_EVALUATION_WEIGHTS = 2  # the network's, and those that were read
_ACTOR_WEIGHTS = 3  # the network's, those that came, and one copy on the way
_CHECKPOINT_COPIES = 3  # of all that is saved: as it was taken, as bytes, and as a file's, while training goes on
_HEAP_LOSS = 1.1  # the learner keeps freed memory, in pieces


@dataclass(frozen=True)
class HostNeeds:
    """Bytes of a job's processes."""

    learner: float  # 0 in a job of actors alone
    of_batches: float  # of the learner's: what grows with `batch_size`
    actor: float  # one of `actors`, its emulators included; in serial mode what they add to the one process
    actors: int
    launcher: float
    evaluation: float = 0.0  # 0 where none is made
    allowance: float = 0.0  # for what was not measured; not in the total

    @property
    def total(self) -> float:
        return LIBRARY_BYTES + self.launcher + self.learner + self.actors * self.actor + self.evaluation

    def __str__(self) -> str:
        parts = [f"{count_words(self.actors, 'actor')} of {size_words(self.actor)}"]
        if self.learner:
            parts.append(f"the learner {size_words(self.learner)}")
        if self.evaluation:
            parts.append(f"an evaluation {size_words(self.evaluation)}")
        more = f", and perhaps {size_words(self.allowance)} for CUDA" if self.allowance else ""
        return f"memory: about {size_words(self.total)}: {', '.join(parts)}{more}"


def host_needs(
    config: Config,
    spec: ObservationSpec,
    device: str,
    *,
    serial: bool = False,
    learner: bool = True,
    exactly: bool = True,
) -> HostNeeds:
    """What a job of this config takes, with its learner on `device` (`cpu` or `cuda`), if it has one.

    `serial`: all in one process. `exactly` False: an update on the CPU is not counted by the shapes of its tensors,
    which takes a second, but bounded from above.
    """
    weights = parameter_bytes(config, spec)
    positions = config.burn_in + config.unroll_length + config.n_step
    emulators = config.envs_per_actor * (EMULATOR_BYTES + positions * POSITION_BYTES)
    actor = _ACTOR_WEIGHTS * weights + emulators
    if config.puffer:
        actor += PUFFER_BYTES + config.envs_per_actor * PUFFER_EMULATOR_BYTES
    if not serial:
        actor += ACTOR_BYTES
    if not learner:
        return HostNeeds(0.0, 0.0, actor, config.num_actors, ACTOR_LAUNCHER_BYTES)
    replay = estimate_replay(config, spec)
    of_batches = float(replay.batches)
    allowance = 0.0
    rest = LEARNER_BYTES + replay.index + _CHECKPOINT_COPIES * 5 * weights  # three networks and two moments
    if device == "cuda":
        allowance = CUDA_BYTES
    elif exactly:
        update = estimate_gpu(msgspec.structs.replace(config, mixed_precision=False), spec)
        of_batches += _HEAP_LOSS * (update.batches + update.update)
        rest += update.networks + update.optimizer
    else:
        of_batches += config.batch_size * positions * _position_bound(config, spec) + 2 * weights
        rest += 5 * weights
    launcher = 0.0 if serial else LAUNCHER_BYTES
    evaluation = 0.0
    if config.evaluate_interval_seconds:
        played = min(EMULATORS, config.evaluate_episodes)
        evaluation = EVALUATION_BYTES + _EVALUATION_WEIGHTS * weights + played * EMULATOR_BYTES
        if config.puffer:
            evaluation += PUFFER_BYTES + played * PUFFER_EMULATOR_BYTES
    return HostNeeds(rest + of_batches, of_batches, actor, config.num_actors, launcher, evaluation, allowance)


def check_memory(needs: HostNeeds, whole: Limit, process: Limit, advice: str = "") -> str:
    """A warning where a job fits only without the allowance, else nothing.

    Raises `UserError` if the job's processes together, or one of them, cannot have what they need. `advice` is another
    way out than a smaller job, in words.
    """
    if needs.total > whole.amount:
        raise UserError(
            f"{needs}; {size_words(whole.amount)} is there ({whole.source}); {_smaller(needs, whole)}{advice}"
        )
    for name, own, key in (
        ("the learner", needs.learner, _smaller_learner(needs)),
        ("an actor", needs.actor, "--envs_per_actor"),
        ("an evaluation", needs.evaluation, "--evaluate_episodes"),
    ):
        need = own + ADDRESS_SPACE_BYTES
        if own and need > process.amount:
            raise UserError(
                f"memory: {name} takes about {size_words(need)} of address space, and each process may have "
                f"{size_words(process.amount)} ({process.source}); raise it, or give a smaller {key}"
            )
    if needs.total + needs.allowance <= whole.amount:
        return ""
    return (
        f"WARNING: memory may be short: {size_words(whole.amount)} is there ({whole.source}), and with the "
        f"{size_words(needs.allowance)} that CUDA may take the job has {size_words(needs.total + needs.allowance)}"
    )


def core_warning(config: Config, cores: Limit) -> str:
    """In words, that actors have to take turns; empty if each can have a core."""
    if config.num_actors <= cores.amount:
        return ""
    return (
        f"WARNING: {config.num_actors} actors on {count_words(cores.amount, 'core')} ({cores.source}): they take "
        f"turns, the learner too; --num_actors {max(1, math.floor(cores.amount))} would play as fast"
    )


def check_here(
    config: Config, spec: ObservationSpec, device: str, *, serial: bool = False, learner: bool = True
) -> list[str]:
    """Holds a job against this machine, as it starts: warnings, or a `UserError`, see `check_memory`."""
    whole, process = memory_limit(), process_limit()
    bounded = host_needs(config, spec, device, serial=serial, learner=learner, exactly=False)
    try:
        tight = check_memory(bounded, whole, process)
    except UserError:
        tight = check_memory(host_needs(config, spec, device, serial=serial, learner=learner), whole, process)
    slow = "" if serial else core_warning(config, core_limit())
    return [line for line in (tight, slow) if line]


def _position_bound(config: Config, spec: ObservationSpec) -> float:
    """More bytes than an update on the CPU takes for a position; shipped networks take a tenth of it."""
    channels = sum(config.model.conv_channels) * (1 + config.model.residual_blocks)
    widths = config.lstm_hidden_size + config.model.trunk_width + config.model.context_width
    return 20e3 * channels + 1e3 * spec.crop_size**2 + 500 * widths + 100 * config.num_quantiles * config.head_outputs


def _smaller(needs: HostNeeds, limit: Limit) -> str:
    """The key to change: of what takes most, beside what every job takes."""
    of_actors = needs.actors * needs.actor
    least = LIBRARY_BYTES + needs.launcher + (LEARNER_BYTES if needs.learner else 0.0) + ACTOR_BYTES
    if least > limit.amount:
        return f"every job takes {size_words(least)}"
    if of_actors < needs.learner - LEARNER_BYTES:
        return f"give a smaller {_smaller_learner(needs)}"
    fitting = int((limit.amount - (needs.total - of_actors)) // needs.actor)
    return f"give at most --num_actors {fitting}" if fitting >= 1 else "give a smaller --envs_per_actor"


def _smaller_learner(needs: HostNeeds) -> str:
    return "--batch_size" if 2 * needs.of_batches > needs.learner else "--model.conv_channels or --lstm_hidden_size"
