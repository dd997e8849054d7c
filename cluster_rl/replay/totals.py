"""The counters of a whole run that its replay log implies, and how they are kept when the log loses records.

Used in the learner by the replay log. In: records in the order in which they were logged. Out: env steps, sequences,
episodes, gaps, milestones, quests, what each actor must send next and whether a block does, as a struct (in the log's
segment headers) and as plain JSON data (in the checkpoint).
"""

from __future__ import annotations

from typing import Any

import msgspec

from cluster_rl.errors import UserError
from cluster_rl.exploration.bayes_quests import Counting, QuestRules, Records, count_episode
from cluster_rl.runs.small_file import Count
from cluster_rl.wire.codec import MAX_GAP_SEQUENCES, BlockError, SequenceHeader

INCARNATIONS_KEPT = 4
RECENT_EPISODES = 100
"""How many of the newest whole episodes returns and shares of milestones are of."""

Frontiers = dict[Count, dict[Count, dict[Count, tuple[Count, Count]]]]
"""actor: {incarnation: {emulator: (episode, step)}}: what was logged of each emulator ends before that step."""


class Totals(msgspec.Struct):
    """Sums over every record that was ever logged."""

    env_steps: Count = 0  # sum of the trained positions
    sequences: Count = 0
    episodes: Count = 0  # blocks that end a whole episode
    gaps: Count = 0  # sequence numbers that never came
    next_id: Count = 0
    # Name: env steps when first logged, of episodes that began where the run's do.
    milestones: dict[str, Count] = msgspec.field(default_factory=dict)
    # actor: {incarnation: next number}. The newest incarnations of each actor in the order in which they first came:
    # their numbers tell no order, as the clock that they are read from may be set back.
    next_seq: dict[Count, dict[Count, Count]] = msgspec.field(default_factory=dict)
    frontiers: Frontiers = msgspec.field(default_factory=dict)  # of the incarnations in `next_seq`
    milestones_elsewhere: dict[str, Count] = msgspec.field(default_factory=dict)  # of the other episodes
    quests: Records = msgspec.field(default_factory=dict)  # by name of the milestone
    quests_counted_by: Counting = Counting()

    @property
    def counters(self) -> tuple[int, ...]:
        """Those that never fall."""
        return self.env_steps, self.sequences, self.episodes, self.gaps, self.next_id

    def check_next(self, actor: int, incarnation: int, seq: int, header: SequenceHeader) -> None:
        """Raises `BlockError` unless the record comes behind all that was counted of its actor.

        By its number, and by its trained positions: an emulator's may have holes, where sequences were lost, but each
        position is counted once.
        """
        expected = self.next_seq.get(actor, {}).get(incarnation, 0)
        if not expected <= seq <= expected + MAX_GAP_SEQUENCES:
            raise BlockError(f"block: it has number {seq}, expected is {expected}", "order")
        episode, step = self.frontiers.get(actor, {}).get(incarnation, {}).get(header.emulator, (0, 0))
        if (header.episode, header.first_step) < (episode, step):
            raise BlockError(
                f"block: it begins at step {header.first_step} of episode {header.episode}, but its emulator's "
                f"positions are logged up to step {step} of episode {episode}",
                "order",
            )

    def count(
        self, record_id: int, actor: int, incarnation: int, seq: int, header: SequenceHeader, quests: QuestRules
    ) -> None:
        """Adds one record, which `check_next` has let pass; an episode that it ends counts by the rules of `quests`."""
        self.env_steps += header.train_length
        self.sequences += 1
        self.episodes += header.ends_whole_episode
        self.next_id = record_id + 1
        reached = self.milestones_elsewhere if header.elsewhere else self.milestones
        for name in header.milestones:
            reached.setdefault(name, self.env_steps)
        if header.summary is not None:
            count_episode(
                self.quests,
                quests,
                start=header.summary.start.milestones,
                reached=header.summary.milestones,
                steps=header.summary.episode_steps,
                ended_by_game=header.summary.reason == "terminated",
            )
        known = self.next_seq.setdefault(actor, {})
        self.gaps += seq - known.get(incarnation, 0)
        known[incarnation] = seq + 1
        emulators = self.frontiers.setdefault(actor, {}).setdefault(incarnation, {})
        emulators[header.emulator] = (header.episode, header.end_step)
        if len(known) > INCARNATIONS_KEPT:
            oldest = next(iter(known))
            del known[oldest]
            self.frontiers[actor].pop(oldest, None)

    def merged(self, other: Totals) -> Totals:
        """Element-wise the further one of both: the larger counts, the earlier milestones, the quests tried more.

        Quests that `other` counted by other rules than these are left out.
        """
        alike = other.quests_counted_by == self.quests_counted_by
        older, newer = sorted((self, other), key=lambda totals: totals.next_id)
        next_seq = {
            actor: _merged_next_seq(older.next_seq.get(actor, {}), newer.next_seq.get(actor, {}))
            for actor in older.next_seq | newer.next_seq
        }
        return Totals(
            env_steps=max(self.env_steps, other.env_steps),
            sequences=max(self.sequences, other.sequences),
            episodes=max(self.episodes, other.episodes),
            gaps=max(self.gaps, other.gaps),
            next_id=newer.next_id,
            milestones=_earlier(self.milestones, other.milestones),
            quests=_tried_more(self.quests, other.quests if alike else {}),
            quests_counted_by=self.quests_counted_by,
            next_seq=next_seq,
            frontiers=merged_frontiers(next_seq, older.frontiers, newer.frontiers),
            milestones_elsewhere=_earlier(self.milestones_elsewhere, other.milestones_elsewhere),
        )

    def to_plain(self) -> dict[str, Any]:
        """As data that JSON keeps exactly, the order of incarnations too: `next_seq` becomes lists of 3 numbers,
        `frontiers` of 5."""
        plain: dict[str, Any] = msgspec.structs.asdict(self)
        plain["milestones"] = dict(self.milestones)
        plain["milestones_elsewhere"] = dict(self.milestones_elsewhere)
        plain["next_seq"] = [
            [actor, incarnation, number]
            for actor, known in self.next_seq.items()
            for incarnation, number in known.items()
        ]
        plain["frontiers"] = [
            [actor, incarnation, emulator, *frontier]
            for actor, incarnations in self.frontiers.items()
            for incarnation, emulators in incarnations.items()
            for emulator, frontier in emulators.items()
        ]
        kept: dict[str, Any] = _listed(msgspec.to_builtins(plain))
        return kept

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Totals:
        """The inverse of `to_plain`; earlier versions wrote no frontiers, no quests. Raises `UserError` for others."""
        try:
            rows = msgspec.convert(plain.get("next_seq"), list[tuple[int, int, int]])
            next_seq: dict[int, dict[int, int]] = {}
            for actor, incarnation, number in rows:
                next_seq.setdefault(actor, {})[incarnation] = number
            frontiers: Frontiers = {}
            ends = msgspec.convert(plain.get("frontiers", []), list[tuple[int, int, int, int, int]])
            for actor, incarnation, emulator, episode, step in ends:
                frontiers.setdefault(actor, {}).setdefault(incarnation, {})[emulator] = (episode, step)
            return msgspec.convert({**plain, "next_seq": next_seq, "frontiers": frontiers}, cls)
        except (msgspec.ValidationError, UnicodeError) as error:  # JSON may have half a character in a name
            raise UserError(
                f"replay totals in the checkpoint: {error}; remove the newest checkpoint, or use another run name"
            ) from None


def _listed(plain: Any) -> Any:
    """Lists where there are tuples, as JSON gives them back."""
    if isinstance(plain, dict):
        return {name: _listed(value) for name, value in plain.items()}
    return [_listed(value) for value in plain] if isinstance(plain, list | tuple) else plain


def _earlier(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {name: min(one.get(name, step), step) for name, step in {**one, **other}.items()}


def _tried_more(one: Records, other: Records) -> Records:
    return {
        name: max(one.get(name, record), record, key=lambda record: record.trials)
        for name, record in {**one, **other}.items()
    }


def _merged_next_seq(older: dict[int, int], newer: dict[int, int]) -> dict[int, int]:
    """The newest incarnations of an actor: what only the older table knows came before all of the newer one's."""
    numbers = {incarnation: number for incarnation, number in older.items() if incarnation not in newer}
    numbers |= {incarnation: max(number, older.get(incarnation, 0)) for incarnation, number in newer.items()}
    return dict(list(numbers.items())[-INCARNATIONS_KEPT:])


def merged_frontiers(next_seq: dict[int, dict[int, int]], *tables: Frontiers) -> Frontiers:
    """The furthest frontier of each emulator of the incarnations in `next_seq`, over all tables."""
    merged: Frontiers = {}
    for actor, incarnations in next_seq.items():
        for incarnation in incarnations:
            for table in tables:
                for emulator, frontier in table.get(actor, {}).get(incarnation, {}).items():
                    known = merged.setdefault(actor, {}).setdefault(incarnation, {})
                    known[emulator] = max(frontier, known.get(emulator, frontier))
    return merged
