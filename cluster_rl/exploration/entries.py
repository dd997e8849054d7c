"""The archive's table in memory: entries by key, with what its bounds need to know kept as they come and go.

The learner's archive uses it. In: entries. Out: how many archived ones there are, their bytes, and which is worth
least, none of which looks at all entries. A user's own states are in the table too, and count for none of these.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from cluster_rl.exploration.curriculum import Entry

_Rank = tuple[float, int, int, str]  # the smallest is evicted first: weight, -drawn, place in the table, key


class Entries:
    """Entries by key; an iteration has them in the order in which their keys came.

    `archived` counts the archived ones and `archived_bytes` sums their sizes.
    """

    def __init__(self) -> None:
        self.archived = self.archived_bytes = 0
        self._entries: dict[str, Entry] = {}
        self._places: dict[str, int] = {}  # key: how many keys had come before it
        self._next_place = 0
        self._ranks: list[_Rank] = []  # a heap; a rank that is not its entry's any longer stays until it comes up

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def get(self, key: str) -> Entry | None:
        """The entry of a key, or None."""
        return self._entries.get(key)

    def put(self, entry: Entry) -> None:
        """Takes an entry in; one of the same key gives way and leaves its place."""
        self._count(self._entries.get(entry.key), -1)
        if entry.key not in self._entries:
            self._places[entry.key] = self._next_place
            self._next_place += 1
        self._entries[entry.key] = entry
        self._count(entry, 1)
        if entry.tag == "archive":
            heapq.heappush(self._ranks, self._rank(entry))
        if len(self._ranks) > 2 * len(self._entries) + 16:  # most are of the past
            self._ranks = [self._rank(one) for one in self if one.tag == "archive"]
            heapq.heapify(self._ranks)

    def remove(self, key: str) -> None:
        """Raises KeyError for a key that is not there."""
        self._count(self._entries.pop(key), -1)
        del self._places[key]

    def worst(self, besides: str = "") -> Entry | None:
        """The archived entry of the least weight, of those the most drawn, of those the oldest; None without any.

        That of the key `besides` is left out.
        """
        spared = found = None
        while self._ranks and found is None:
            rank = self._ranks[0]
            entry = self._entries.get(rank[-1])
            if entry is None or entry.tag != "archive" or self._rank(entry) != rank:
                heapq.heappop(self._ranks)
            elif entry.key == besides:
                spared = heapq.heappop(self._ranks)
            else:
                found = entry
        if spared is not None:
            heapq.heappush(self._ranks, spared)
        return found

    def _rank(self, entry: Entry) -> _Rank:
        return entry.weight, -entry.drawn, self._places[entry.key], entry.key

    def _count(self, entry: Entry | None, sign: int) -> None:
        if entry is not None and entry.tag == "archive":
            self.archived += sign
            self.archived_bytes += sign * entry.size_bytes
