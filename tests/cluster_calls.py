"""Calls of `cluster` from the folder of the test, as a process or in this one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from slurm_programs import REPOSITORY


def cluster(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cluster_rl.cluster", *arguments]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)


def check(*arguments: str, script: str = "train_gpu") -> None:
    """`cluster check` in this process, which has imported torch."""
    from cluster_rl import cluster as commands

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["cluster", "check", "--script", script, "--run-name", "one", *arguments])
        assert commands.main() == 0
