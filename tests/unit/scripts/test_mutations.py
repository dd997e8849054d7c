"""The mutations of `scripts/mutations.py` are of today's code: what they break is there."""

from __future__ import annotations

from scripts.mutations import MUTATIONS, ROOT, TEST_FILES


def test_every_mutation_finds_its_clause() -> None:
    counts = {mutation.name: (ROOT / mutation.file).read_text().count(mutation.old) for mutation in MUTATIONS}
    assert {name: count for name, count in counts.items() if count != 1} == {}


def test_the_tests_that_are_to_turn_red_exist() -> None:
    assert [name for name in TEST_FILES if not (ROOT / name).is_file()] == []
