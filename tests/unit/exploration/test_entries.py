"""The archive's table against one that looks at all of its entries for every answer."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from cluster_rl.exploration.curriculum import Entry
from cluster_rl.exploration.entries import Entries


def entry_of(key: str, rng: np.random.Generator) -> Entry:
    return Entry(
        key=key,
        tag="archive" if rng.random() < 0.8 else "state",
        milestones=[],
        map_id=0,
        steps=1,
        size_bytes=int(rng.integers(1, 1000)),
        drawn=int(rng.integers(3)),
        weight=float(rng.integers(1, 4)) / 4,  # many are equal
    )


def worst_of(entries: list[Entry], besides: str) -> Entry | None:
    others = [one for one in entries if one.tag == "archive" and one.key != besides]
    return min(others, key=lambda one: (one.weight, -one.drawn), default=None)


@pytest.mark.parametrize("seed", range(4))
def test_after_any_change_the_table_is_as_its_entries_are(seed: int) -> None:
    rng = np.random.default_rng(seed)
    entries, plain = Entries(), dict[str, Entry]()
    evicted = 0
    for number in range(3000):
        key = f"cell {rng.integers(60)}"
        besides = f"cell {rng.integers(60)}" if rng.random() < 0.5 else ""
        if rng.random() < 0.3 and (found := entries.worst(besides)) is not None:
            entries.remove(found.key)
            del plain[found.key]
            evicted += 1
        elif key in plain and rng.random() < 0.3:
            entries.remove(key)
            del plain[key]
        else:
            plain[key] = entry_of(key, rng)
            entries.put(plain[key])
        if number % 500 == 499:  # all are weighed anew
            for one in list(entries):
                plain[one.key] = msgspec.structs.replace(one, weight=float(rng.random()))
                entries.put(plain[one.key])
        archived = [one for one in plain.values() if one.tag == "archive"]
        assert list(entries) == list(plain.values())
        assert len(entries) == len(plain)
        assert (entries.archived, entries.archived_bytes) == (len(archived), sum(one.size_bytes for one in archived))
        assert entries.worst() == worst_of(archived, "")
        assert entries.worst(besides) == worst_of(archived, besides)
        assert entries.get(key) == plain.get(key)
        assert (key in entries) == (key in plain)
    assert evicted > 300


def test_what_is_of_the_past_does_not_pile_up() -> None:
    entries, rng = Entries(), np.random.default_rng(0)
    for number in range(1000):
        entries.put(msgspec.structs.replace(entry_of(f"cell {number % 10}", rng), tag="archive", drawn=number))
    assert len(entries._ranks) <= 40


def test_a_table_without_archived_entries_has_no_worst() -> None:
    entries, rng = Entries(), np.random.default_rng(0)
    assert entries.worst() is None
    entries.put(msgspec.structs.replace(entry_of("given", rng), tag="state"))
    entries.put(msgspec.structs.replace(entry_of("cell", rng), tag="archive"))
    assert entries.worst(besides="cell") is None
    with pytest.raises(KeyError):
        entries.remove("other")
