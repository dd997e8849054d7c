"""Trained policies that are shipped, and how one is found.

`cluster_rl.evaluate --params` uses it. In: what somebody typed. Out: the path of a safetensors file, unread.
docs/export.md says how each was trained. It may import `errors` alone.
"""

from __future__ import annotations

from pathlib import Path

from cluster_rl.errors import UserError

_SUFFIX = ".safetensors"


def find_agent(given: str) -> Path:
    """The file as given, or the shipped one of that name, with or without its ending. Raises `UserError` where neither
    is."""
    path = Path(given)
    if path.is_file():
        return path
    shipped = {file.stem: file for file in Path(__file__).parent.glob(f"*{_SUFFIX}")}
    name = given.removesuffix(_SUFFIX)
    if name not in shipped:
        why = "is no file" if path.exists() else "no such file"
        raise UserError(f"--params {given}: {why}; agents that are shipped: {', '.join(sorted(shipped))}")
    return shipped[name]
