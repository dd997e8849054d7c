"""Where damaged files of a run are moved to, so that a good one can take their place and nobody loses anything.

The learner uses it on opening. In: a path. Out: a name beside it.
"""

from __future__ import annotations

from pathlib import Path


def damaged_path(path: Path) -> Path:
    """Where a damaged file, or what is taken out of one, is moved to first."""
    return path.with_name(f"{path.name}.damaged")


def free_damaged_path(path: Path) -> Path:
    """`damaged_path`, or that with a number where an earlier one lies there: nothing is overwritten."""
    number, free = 1, damaged_path(path)
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}.damaged-{number}")
    return free
