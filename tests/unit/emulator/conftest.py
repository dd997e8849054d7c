"""A checkout of a fake pokemonred_puffer, and the ROM that it plays. Other tests have a `rom` of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_puffer import fake_checkout, forgotten, loop_rom


@pytest.fixture
def rom(tmp_path: Path) -> Path:
    return loop_rom(tmp_path)


@pytest.fixture
def root(tmp_path: Path, rom: Path) -> Iterator[Path]:
    with forgotten():
        yield fake_checkout(tmp_path, rom)
