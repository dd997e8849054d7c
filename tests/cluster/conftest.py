"""One SLURM for all tests of this folder."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "system"))

from slurm_fixtures import REPOSITORY, Slurm, why_not


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    missing = why_not()
    if missing:
        pytest.skip(f"no local SLURM: {missing}")
    # A short path: sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="ls", dir="/tmp") as folder:
        cluster = Slurm(Path(folder) / "s")
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder to submit from, with the job scripts as they are."""
    shutil.copytree(REPOSITORY / "slurm", tmp_path / "slurm")
    return tmp_path
