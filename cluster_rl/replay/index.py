"""The replay's index in memory: where each sequence lies in the log, its priority, and the draw in proportion to it.

Runs in the learner, inside the replay. In: entries of the log, priorities. Out: drawn sequences and where they lie.
About 45 bytes a sequence.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cluster_rl.learning.priorities import PRIORITY_FLOOR
from cluster_rl.replay.log import LogEntry
from cluster_rl.replay.segments import Segment
from cluster_rl.replay.sum_tree import SumTree

_ENTRY = np.dtype(
    [
        ("segment", np.int32),
        ("offset", np.int64),
        ("length", np.int32),  # 0: no such sequence
        ("train_length", np.int32),
        ("priority", np.float32),
    ]
)


class Drawn(NamedTuple):
    """N drawn sequences. Holding a segment keeps its file readable while it is evicted by another thread."""

    ids: npt.NDArray[np.int64]  # [N]
    segments: list[Segment]
    entries: npt.NDArray[Any]  # [N], with `offset` and `length` in the segment
    probabilities: npt.NDArray[np.float64]  # [N]


class ReplayIndex:
    """Of the sequences that can be sampled, by id. Not thread-safe: the replay holds its lock around each call.

    The live ids lie in one range [oldest, next), with holes where a record was damaged. Id i has the slot i modulo
    capacity in `entries` and in `tree`, whose leaves are priority^`alpha`. The capacity grows by doubling.
    """

    def __init__(self, alpha: float) -> None:
        self._alpha = alpha
        self.entries = np.zeros(64, _ENTRY)
        self.tree = SumTree(64)
        self._segments: dict[int, Segment] = {}
        self.oldest_id = self.next_id = 0
        self.sequences = self.transitions = 0

    @property
    def nbytes(self) -> int:
        """Memory of entries and tree."""
        return self.entries.nbytes + self.tree.nbytes

    def find(self, entry: LogEntry) -> int:
        """Makes a record known to all but the tree, see `plant`; returns its slot."""
        if not self._segments:
            self.oldest_id = self.next_id = entry.id
        while entry.id - self.oldest_id >= len(self.entries):
            self._grow()
        slot = entry.id & (len(self.entries) - 1)
        priority, train_length = entry.header.initial_priority, entry.header.train_length
        self.entries[slot] = (entry.segment.number, entry.offset, entry.length, train_length, priority)
        self._segments[entry.segment.number] = entry.segment
        self.next_id = entry.id + 1
        self.sequences += 1
        self.transitions += train_length
        return slot

    def plant(self) -> None:
        """Sets the tree's leaves to what the entries say: for many that were found at once."""
        slots = np.flatnonzero(self.entries["length"])
        self.tree.set(slots, self._weights(self.entries["priority"][slots]))

    def insert(self, entry: LogEntry) -> None:
        """Makes a new record known, and sampleable."""
        slot = self.find(entry)
        # An array of one: Python's own power may differ from numpy's in the last bit, and a resumed tree with it.
        self.tree.set_one(slot, float(self._weights(self.entries["priority"][slot : slot + 1])[0]))

    def evict(self, segment: Segment) -> None:
        """Takes out what lies in the oldest segment."""
        self._segments.pop(segment.number, None)
        self._clear(np.arange(self.oldest_id, min(segment.end_id, self.next_id), dtype=np.int64))
        self.oldest_id = max(self.oldest_id, segment.end_id)

    def remove(self, sequence_id: int) -> bool:
        """Takes out one sequence; False if it is not there (any more)."""
        if self.place(sequence_id) is None:
            return False
        self._clear(np.array([sequence_id], np.int64))
        return True

    def place(self, sequence_id: int) -> tuple[Segment, int, int] | None:
        """(segment, offset, length) of a sequence; None if it is not there (any more)."""
        if not self.oldest_id <= sequence_id < self.next_id:
            return None
        entry = self.entries[sequence_id & (len(self.entries) - 1)]
        segment = self._segments.get(int(entry["segment"]))
        if not entry["length"] or segment is None:
            return None
        return segment, int(entry["offset"]), int(entry["length"])

    def draw(self, rng: np.random.Generator, count: int) -> Drawn:
        """Draws in proportion to priority^alpha, stratified and with replacement."""
        slots = self.tree.sample(rng, count)
        entries = self.entries[slots]
        segments = [self._segments[number] for number in entries["segment"].tolist()]
        ids = self.oldest_id + ((slots - self.oldest_id) & (len(self.entries) - 1))
        return Drawn(ids, segments, entries, self.tree.leaves[slots] / self.tree.total)

    def set_priorities(self, ids: npt.NDArray[np.int64], priorities: npt.NDArray[np.float64]) -> int:
        """Sets the priorities [N] of those of `ids` [N] that are live; returns how many are."""
        live = (ids >= self.oldest_id) & (ids < self.next_id)
        live[live] = self.entries["length"][self._slots(ids[live])] > 0
        slots = self._slots(ids[live])
        self.entries["priority"][slots] = priorities[live]
        self.tree.set(slots, self._weights(self.entries["priority"][slots]))
        return int(live.sum())

    def priorities(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """(ids [M], priorities [M]) of all that is live."""
        ids = np.arange(self.oldest_id, self.next_id, dtype=np.int64)
        entries = self.entries[self._slots(ids)]
        live = entries["length"] > 0
        return ids[live], entries["priority"][live].copy()

    def live_weights(self) -> npt.NDArray[np.float64]:
        """priority^alpha [M] of all that is live."""
        return self.tree.leaves[self.entries["length"] > 0]

    def _slots(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return ids & (len(self.entries) - 1)

    def _weights(self, priorities: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        floored = np.maximum(priorities.astype(np.float64), PRIORITY_FLOOR)
        weights: npt.NDArray[np.float64] = floored**self._alpha
        return weights

    def _grow(self) -> None:
        ids = np.arange(self.oldest_id, self.next_id, dtype=np.int64)
        old_slots = self._slots(ids)
        entries, leaves = self.entries, self.tree.leaves
        self.entries = np.zeros(2 * len(entries), _ENTRY)
        self.tree = SumTree(len(self.entries))
        self.entries[self._slots(ids)] = entries[old_slots]
        self.tree.set(self._slots(ids), leaves[old_slots])

    def _clear(self, ids: npt.NDArray[np.int64]) -> None:
        slots = self._slots(ids)
        self.sequences -= int((self.entries["length"][slots] > 0).sum())
        self.transitions -= int(self.entries["train_length"][slots].sum())
        self.entries[slots] = np.zeros(1, _ENTRY)
        self.tree.set(slots, np.zeros(len(slots)))
