"""What the learner's channel tells of its actors, in the order in which it happened.

`LearnerChannel.poll` makes them, the learner process acts on them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SequenceReceived:
    """The next sequence of an actor. `block` is what `codec` packed."""

    actor: int
    incarnation: int
    seq: int
    block: bytes


@dataclass(frozen=True)
class Joined:
    """An actor process took part (again). `lost_sequences` of it were acknowledged once and then lost in a crash."""

    actor: int
    incarnation: int
    expected_seq: int
    lost_sequences: int


@dataclass(frozen=True)
class Left:
    """An actor process said goodbye, fell silent, or was replaced."""

    actor: int
    incarnation: int
    reason: str


@dataclass(frozen=True)
class Stats:
    """An actor's own figures."""

    actor: int
    incarnation: int
    env_steps_per_sec: float
    params_version: int
    values: dict[str, float]


Event = SequenceReceived | Joined | Left | Stats
