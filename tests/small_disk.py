"""A real file system of a megabyte or two, which a test fills and frees again. Only root may mount one."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


class SmallDisk:
    """A tmpfs at `folder`. While a test fills it, `filling` holds what is free."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.filling = folder / "filling"

    def fill(self, left_bytes: int = 0) -> None:
        """Takes what is free, but for `left_bytes`."""
        with self.filling.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        if left_bytes:
            with self.filling.open("rb+") as file:
                file.truncate(max(0, self.filling.stat().st_size - left_bytes))

    def free(self) -> None:
        """Gives it back."""
        self.filling.unlink(missing_ok=True)

    @contextlib.contextmanager
    def full(self, left_bytes: int = 0) -> Iterator[None]:
        """Full as long as the block lasts."""
        self.fill(left_bytes)
        try:
            yield
        finally:
            self.free()

    @contextlib.contextmanager
    def read_only(self) -> Iterator[None]:
        """Mounted read-only as long as the block lasts; nothing may be open for writing."""
        subprocess.run(["mount", "-o", "remount,ro", self.folder], check=True)
        try:
            yield
        finally:
            subprocess.run(["mount", "-o", "remount,rw", self.folder], check=True)


@contextlib.contextmanager
def mounted(folder: Path, options: str = "size=2m") -> Iterator[SmallDisk]:
    """A new tmpfs at `folder`; skips the test where it cannot be mounted."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted: {done.stderr.strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with mounted(tmp_path / "disk") as small:
        yield small
