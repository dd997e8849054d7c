"""A disk that fails, or a file server that is away, for one file: what the system says when it is opened."""

from __future__ import annotations

import builtins
import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@contextlib.contextmanager
def unreadable(path: Path, number: int) -> Iterator[None]:
    """This process cannot open `path` meanwhile."""
    open_file, open_descriptor = builtins.open, os.open

    def refuse(name: Any) -> None:
        if not isinstance(name, int) and Path(os.fsdecode(name)) == path:
            raise OSError(number, os.strerror(number), str(path))

    def open_(name: Any, *rest: Any, **options: Any) -> Any:
        refuse(name)
        return open_file(name, *rest, **options)

    def os_open(name: Any, *rest: Any, **options: Any) -> int:
        refuse(name)
        return open_descriptor(name, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtins, "open", open_)
        patch.setattr(io, "open", open_)
        patch.setattr(os, "open", os_open)
        yield
