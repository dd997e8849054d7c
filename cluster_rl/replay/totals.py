"""The counters of a whole run that its replay log implies, and how they are kept when the log loses records.

Used in the learner by the replay log. In: records in the order in which they were logged. Out: env steps, sequences,
episodes, gaps, milestones and what each actor must send next, as a struct (in the log's segment headers) and as plain
JSON data (in the checkpoint).
"""

from __future__ import annotations

from typing import Any

import msgspec

from cluster_rl.errors import UserError
from cluster_rl.wire.codec import SequenceHeader

INCARNATIONS_KEPT = 4
RECENT_EPISODES = 100
"""How many of the newest whole episodes returns and shares of milestones are of."""
_STOPPED = "stopped"  # the reason in the summary of an episode that the job's end broke off


def ends_whole_episode(header: SequenceHeader) -> bool:
    """Whether a block is the last of an episode that was played to its end, not broken off by the job's."""
    return header.summary is not None and header.summary.get("reason") != _STOPPED


class Totals(msgspec.Struct):
    """Sums over every record that was ever logged."""

    env_steps: int = 0  # sum of the trained positions
    sequences: int = 0
    episodes: int = 0  # blocks that end a whole episode
    gaps: int = 0  # sequence numbers that never came
    next_id: int = 0
    milestones: dict[str, int] = msgspec.field(default_factory=dict)  # name: env steps when first logged
    # actor: {incarnation: next number}. The newest incarnations of each actor in the order in which they first came:
    # their numbers tell no order, as the clock that they are read from may be set back.
    next_seq: dict[int, dict[int, int]] = msgspec.field(default_factory=dict)

    def count(self, record_id: int, actor: int, incarnation: int, seq: int, header: SequenceHeader) -> None:
        """Adds one record."""
        self.env_steps += header.train_length
        self.sequences += 1
        self.episodes += ends_whole_episode(header)
        self.next_id = record_id + 1
        for name in header.milestones:
            self.milestones.setdefault(name, self.env_steps)
        known = self.next_seq.setdefault(actor, {})
        self.gaps += seq - known.get(incarnation, 0)
        known[incarnation] = seq + 1
        if len(known) > INCARNATIONS_KEPT:
            del known[next(iter(known))]

    def merged(self, other: Totals) -> Totals:
        """Element-wise the further one of both: the larger counts, the earlier milestones."""
        older, newer = sorted((self, other), key=lambda totals: totals.next_id)
        milestones = dict(self.milestones)
        for name, step in other.milestones.items():
            milestones[name] = min(step, milestones.get(name, step))
        return Totals(
            env_steps=max(self.env_steps, other.env_steps),
            sequences=max(self.sequences, other.sequences),
            episodes=max(self.episodes, other.episodes),
            gaps=max(self.gaps, other.gaps),
            next_id=newer.next_id,
            milestones=milestones,
            next_seq={
                actor: _merged_next_seq(older.next_seq.get(actor, {}), newer.next_seq.get(actor, {}))
                for actor in older.next_seq | newer.next_seq
            },
        )

    def to_plain(self) -> dict[str, Any]:
        """As data that JSON keeps exactly, the order of incarnations too: `next_seq` becomes lists of 3 numbers."""
        plain: dict[str, Any] = msgspec.structs.asdict(self)
        plain["milestones"] = dict(self.milestones)
        plain["next_seq"] = [
            [actor, incarnation, number]
            for actor, known in self.next_seq.items()
            for incarnation, number in known.items()
        ]
        return plain

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Totals:
        """The inverse of `to_plain`. Raises `UserError` for anything else."""
        try:
            rows = msgspec.convert(plain.get("next_seq"), list[tuple[int, int, int]])
            next_seq: dict[int, dict[int, int]] = {}
            for actor, incarnation, number in rows:
                next_seq.setdefault(actor, {})[incarnation] = number
            return msgspec.convert({**plain, "next_seq": next_seq}, cls)
        except msgspec.ValidationError as error:
            raise UserError(
                f"replay totals in the checkpoint: {error}; remove the newest checkpoint, or use another run name"
            ) from None


def _merged_next_seq(older: dict[int, int], newer: dict[int, int]) -> dict[int, int]:
    """The newest incarnations of an actor: what only the older table knows came before all of the newer one's."""
    numbers = {incarnation: number for incarnation, number in older.items() if incarnation not in newer}
    numbers |= {incarnation: max(number, older.get(incarnation, 0)) for incarnation, number in newer.items()}
    return dict(list(numbers.items())[-INCARNATIONS_KEPT:])
