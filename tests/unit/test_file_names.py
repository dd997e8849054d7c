"""Names of test files: pytest takes each for a module of its own, whatever folder it lies in."""

from __future__ import annotations

import collections
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def test_no_two_files_of_the_tests_have_one_name() -> None:
    """Two of one name cannot be collected together: `pytest tests`, and with it each marker, would fail."""
    paths = collections.defaultdict(list)
    for path in sorted(TESTS.rglob("*.py")):
        if path.name not in ("__init__.py", "conftest.py"):
            paths[path.name].append(str(path.relative_to(TESTS)))
    assert paths["test_file_names.py"] == ["unit/test_file_names.py"]
    assert [where for where in paths.values() if len(where) > 1] == []
