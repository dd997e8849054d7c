"""Which processes of a command still run, for tests that start one with `start_new_session=True`."""

from __future__ import annotations

from pathlib import Path


def session_members(session: int) -> list[int]:
    """Processes of a session that still run; those that ended and were not waited for do not."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended while we looked
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found
