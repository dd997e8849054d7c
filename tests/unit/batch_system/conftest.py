"""A folder to call `cluster` and job scripts from."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from slurm_programs import REPOSITORY, put_program

LIMITS = "\n".join(f"CLUSTER_RL_MAX_{name}" for name in ("JOBS=4", "CPUS=8", "HOURS=4", "GPUMEM_GB=20")) + "\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to call `cluster` from, with the job scripts as they are, on a machine without SLURM or quotas."""
    folder = tmp_path / "home"
    shutil.copytree(REPOSITORY / "slurm", folder / "slurm", ignore=shutil.ignore_patterns("logs"))
    (folder / "slurm" / "settings.env").write_text(LIMITS)  # a user's own may stand there
    (tmp_path / "bin").mkdir()
    monkeypatch.chdir(folder)
    for name in list(os.environ):
        if name.startswith(("CLUSTER_RL_", "SLURM_", "SBATCH_")):
            monkeypatch.delenv(name)
    put_program(tmp_path / "bin", "job-python", "echo 2.13.0 12.6")  # importing torch takes seconds
    monkeypatch.setenv("CLUSTER_RL_PYTHON", str(tmp_path / "bin" / "job-python"))
    # Without /usr/bin: a SLURM may be installed there.
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return folder
