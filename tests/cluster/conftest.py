"""One SLURM for all tests of this folder."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "system"))

from slurm_fixtures import REPOSITORY, Slurm, why_not


@pytest.fixture(scope="session", autouse=True)
def end_well_at_term() -> None:
    """Ended from outside, the tests still end their SLURM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


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
    shutil.copytree(REPOSITORY / "slurm", tmp_path / "slurm", ignore=shutil.ignore_patterns("logs"))
    (tmp_path / "slurm" / "logs").mkdir()
    # A user's own settings may stand there.
    limits = ("JOBS=4", "CPUS=8", "HOURS=4", "GPUMEM_GB=20")
    (tmp_path / "slurm" / "settings.env").write_text("".join(f"CLUSTER_RL_MAX_{limit}\n" for limit in limits))
    return tmp_path
