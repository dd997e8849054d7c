"""The model: env steps a second of a run, from what its parts cost. Pure functions, no torch.

In: `Parts`, what one unit of each part's work costs; `Setup`, jobs, cores and settings. Out: each limit by itself, the
least of them, and what goes over network and disk then. With

    T    trained steps of a sequence              a, a'  CPU and waiting seconds of an actor for an env step
    s    samples_per_insert                       l, l'  the same of the learner's main thread for an update
    B    positions of an update                   b      CPU seconds of the sampling thread for a batch
    u    s / B, updates for an env step           q, z   CPU seconds of wire thread and ZeroMQ's thread for a sequence
    N    actors, N_j of them in job j             C_j    CPUs of job j, of which `idle_cpus` are always taken, and
                                                         one more by a main thread that feeds a GPU, where l is 0
    P    bytes of the parameters                  y      seconds of a sync of the replay log
    p    CPU seconds of ZeroMQ's thread for a byte of parameters sent

these are the limits, in env steps a second:

    actors        sum over the jobs of N_j / (a + a'), at most (C_j - idle) / a; of the learner's job only what the
                  learner leaves, which takes  c = u (l + b) + (q + z) / T  CPU seconds for an env step. With S from the
                  other jobs:  S + (C_0 - idle - c S) / (a + c)
    credit        N w T / r: an actor may have w sequences unacknowledged, credit_sequences or its share of the
                  limiter's room (which is 2 buffer / s positions when the learner waits for actors), whichever is less.
                  The round trip r is that of the network, a sync, a poll of all that the others may have sent, and the
                  time in which all actors' parameters go out, for an acknowledgement waits behind those
    learner       U / u, with U updates a second: 1 / (l + l') measured, or given
    learner_cpus  (C_0 - idle) / c
    sampler       1 / (u b)
    wire          g T / (g q + y): the wire thread logs what came together, g sequences (at most `MOST_TOGETHER` and
                  N w), and then syncs once
    io            T / z: ZeroMQ has one thread, which decrypts (CURVE). Parameters take what it has left
    network       bandwidth / bytes of a step, into the learner's node
    disk          bandwidth / bytes of a step, of the replay log and of all actors' episode logs

A limiter that lets both sides run ahead a little makes each wait for the slower one, so that the least limit holds.
Where `actors` binds and a job's cores are taken whole, `Prediction.binds` says `cores`.

`min` passes over what is not a number, and the next limit would seem to bind: such parts and settings are refused.

Parameters are sent when an actor asks, every `params_poll_seconds`, and only if there are newer ones, so they hold up
nobody: where network or ZeroMQ's thread cannot send so many, they come later. `Prediction.params_every_sec` tells how
often an actor gets new ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster_rl.errors import UserError

MOST_TOGETHER = 512
"""Messages that the learner's socket hands over in one poll."""


@dataclass(frozen=True)
class Parts:
    """What a unit of each part's work costs, on cores of one kind. Seconds are of one core unless they wait."""

    step_cpu_sec: float  # of an actor
    step_wait_sec: float  # what it waits beside, with credit
    steps_per_sequence: float
    positions_per_update: float
    batch_cpu_sec: float
    sequence_cpu_sec: float  # of the wire thread, syncs apart
    sequence_io_cpu_sec: float
    sync_sec: float
    params_bytes: float
    params_io_sec_per_byte: float
    sequence_wire_bytes: float
    sequence_disk_bytes: float
    log_bytes_per_step: float  # of episode logs
    idle_cpus: float  # of a job that does nothing: launcher, polling threads
    update_cpu_sec: float = math.nan  # of the learner's main thread; not known for a GPU
    update_wait_sec: float = 0.0

    def __post_init__(self) -> None:
        if unknown := set(not_numbers(vars(self))) - {"update_cpu_sec"}:
            raise UserError(f"not measured: {', '.join(sorted(unknown))}")


@dataclass(frozen=True)
class Job:
    """Actor processes, and the CPUs that they share; in the first job of a run with the learner."""

    actors: int
    cores: float

    def __post_init__(self) -> None:
        _refuse_not_numbers(vars(self))


@dataclass(frozen=True)
class Setup:
    """Where a run is, and its settings. Without `updates_per_sec` the learner is a CPU as the parts were measured."""

    jobs: tuple[Job, ...]
    samples_per_insert: float
    credit_sequences: int
    limiter_buffer: float  # positions sampled, see `training/rate_limiter.py`
    params_poll_sec: float
    publish_interval: int
    updates_per_sec: float | None = None
    network_bytes_per_sec: float = math.inf
    network_rtt_sec: float = 0.0
    disk_bytes_per_sec: float = math.inf

    def __post_init__(self) -> None:
        _refuse_not_numbers(vars(self))

    @property
    def actors(self) -> int:
        return sum(job.actors for job in self.jobs)


@dataclass(frozen=True)
class Prediction:
    """Env steps a second, by which limit, and what a second then takes."""

    limits: dict[str, float]
    binds: str
    env_steps_per_sec: float
    updates_per_sec: float
    syncs_per_sec: float
    network_in_bytes_per_sec: float
    network_out_bytes_per_sec: float
    disk_bytes_per_sec: float
    wire_share: float  # of its thread's time, syncs left out
    params_every_sec: float  # until an actor gets newer ones


def predict(parts: Parts, setup: Setup) -> Prediction:
    """The least limit, and what follows."""
    found = limits(parts, setup)
    binds = min(found, key=lambda name: found[name])
    rate = found[binds]
    if binds == "actors" and rate < uncrowded_supply(parts, setup) * (1 - 1e-9):
        binds = "cores"
    sequences = rate / parts.steps_per_sequence
    updates = rate * updates_per_step(parts, setup)
    every = params_every_sec(parts, setup, sequences, updates)
    return Prediction(
        limits=found,
        binds=binds,
        env_steps_per_sec=rate,
        updates_per_sec=updates,
        # One for each sequence while they come one by one, no more than the thread and the disk have time for.
        syncs_per_sec=min(sequences, most_syncs_per_sec(parts, sequences)),
        network_in_bytes_per_sec=sequences * parts.sequence_wire_bytes,
        network_out_bytes_per_sec=setup.actors * parts.params_bytes / every,
        disk_bytes_per_sec=rate * disk_bytes_per_step(parts),
        wire_share=sequences * parts.sequence_cpu_sec,
        params_every_sec=every,
    )


def limits(parts: Parts, setup: Setup) -> dict[str, float]:
    """Env steps a second that each part by itself allows."""
    length, updates = parts.steps_per_sequence, updates_per_step(parts, setup)
    together = min(MOST_TOGETHER, setup.actors * window_sequences(parts, setup))
    return {
        "actors": actor_supply(parts, setup),
        "credit": setup.actors * window_sequences(parts, setup) * length / round_trip_sec(parts, setup),
        "learner": update_rate(parts, setup) / updates,
        "learner_cpus": _divided(_learners_cores(parts, setup), learner_cpu_per_step(parts, setup)),
        "sampler": _divided(1.0, updates * parts.batch_cpu_sec),
        "wire": wire_limit(parts, together),
        "io": _divided(length, parts.sequence_io_cpu_sec),
        "network": _divided(setup.network_bytes_per_sec * length, parts.sequence_wire_bytes),
        "disk": _divided(setup.disk_bytes_per_sec, disk_bytes_per_step(parts)),
    }


def updates_per_step(parts: Parts, setup: Setup) -> float:
    """Updates for each env step."""
    return setup.samples_per_insert / parts.positions_per_update


def update_rate(parts: Parts, setup: Setup) -> float:
    """Updates a second of a learner that waits for nobody."""
    if setup.updates_per_sec is not None:
        return setup.updates_per_sec
    if math.isnan(parts.update_cpu_sec):
        raise UserError("not measured: update_cpu_sec; updates a second must be given")
    return 1.0 / (parts.update_cpu_sec + parts.update_wait_sec)


def learner_cpu_per_step(parts: Parts, setup: Setup) -> float:
    """CPU seconds of the learner's process for an env step; with a GPU without the main thread, which has its core."""
    main = parts.update_cpu_sec if setup.updates_per_sec is None else 0.0
    sequence = parts.sequence_cpu_sec + parts.sequence_io_cpu_sec
    return updates_per_step(parts, setup) * (main + parts.batch_cpu_sec) + sequence / parts.steps_per_sequence


def uncrowded_supply(parts: Parts, setup: Setup) -> float:
    """Env steps a second if each actor had a core of its own."""
    return setup.actors / (parts.step_cpu_sec + parts.step_wait_sec)


def actor_supply(parts: Parts, setup: Setup) -> float:
    """Env steps a second of all actors on the cores that there are, beside the learner's work for as many."""
    alone = parts.step_cpu_sec + parts.step_wait_sec

    def of_job(job: Job, cores: float) -> float:
        return min(job.actors / alone, max(0.0, cores) / parts.step_cpu_sec)

    first, *others = setup.jobs
    supply = sum(of_job(job, job.cores - parts.idle_cpus) for job in others)
    learner = learner_cpu_per_step(parts, setup)
    left = _learners_cores(parts, setup) - learner * supply
    return supply + min(first.actors / alone, max(0.0, left) / (parts.step_cpu_sec + learner))


def _learners_cores(parts: Parts, setup: Setup) -> float:
    """What the learner's job has for its actors and for what grows with their steps."""
    return setup.jobs[0].cores - parts.idle_cpus - (setup.updates_per_sec is not None)


def wire_limit(parts: Parts, together: float) -> float:
    """Env steps a second of a wire thread that logs so many sequences with each sync."""
    busy_sec = together * parts.sequence_cpu_sec + parts.sync_sec
    return _divided(together * parts.steps_per_sequence, busy_sec)


def window_sequences(parts: Parts, setup: Setup) -> float:
    """Sequences that an actor may have sent and not yet seen acknowledged, while the learner waits for actors."""
    room = 2.0 * setup.limiter_buffer / setup.samples_per_insert / parts.steps_per_sequence
    return max(1.0, min(setup.credit_sequences, room / setup.actors))


def round_trip_sec(parts: Parts, setup: Setup) -> float:
    """From a sequence's sending to its acknowledgement, at the worst."""
    together = min(MOST_TOGETHER, setup.actors * window_sequences(parts, setup))
    bandwidth = setup.network_bytes_per_sec
    sequences = together * max(parts.sequence_cpu_sec, parts.sequence_io_cpu_sec, parts.sequence_wire_bytes / bandwidth)
    params = setup.actors * parts.params_bytes * max(parts.params_io_sec_per_byte, 1.0 / bandwidth)
    return setup.network_rtt_sec + parts.sync_sec + sequences + params


def params_every_sec(parts: Parts, setup: Setup, sequences_per_sec: float, updates_per_sec: float) -> float:
    """How often an actor gets new parameters: as it asks, as they are published, or as they can be sent."""
    share_left = max(0.05, 1.0 - sequences_per_sec * parts.sequence_io_cpu_sec)
    return max(
        setup.params_poll_sec,
        _divided(setup.publish_interval, updates_per_sec),
        setup.actors * parts.params_bytes * parts.params_io_sec_per_byte / share_left,
        setup.actors * parts.params_bytes / setup.network_bytes_per_sec,
    )


def most_syncs_per_sec(parts: Parts, sequences_per_sec: float) -> float:
    """Syncs a second of a wire thread that does nothing else but log what comes."""
    free = max(0.0, 1.0 - sequences_per_sec * parts.sequence_cpu_sec)
    return _divided(free, parts.sync_sec)


def disk_bytes_per_step(parts: Parts) -> float:
    return parts.sequence_disk_bytes / parts.steps_per_sequence + parts.log_bytes_per_step


def _divided(amount: float, by: float) -> float:
    """What costs nothing is no limit."""
    return amount / by if by > 0 else math.inf


def not_numbers(figures: Mapping[str, Any]) -> list[str]:
    """The names of those that are NaN."""
    return [name for name, value in figures.items() if isinstance(value, float) and math.isnan(value)]


def _refuse_not_numbers(figures: Mapping[str, Any]) -> None:
    if unknown := not_numbers(figures):
        raise UserError(f"not a number: {', '.join(unknown)}")
