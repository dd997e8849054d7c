"""The benchmark of checkpoints and restarts, with a small replay."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[3] / "scripts" / "bench" / "restart.py"


@pytest.mark.slow
def test_measures_checkpoints_and_starts_and_exits_by_the_goals(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH), "--transitions", "3000", "--starts", "2", "--folder", str(tmp_path)]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False, timeout=240)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == (1 if figures["missed"] else 0), done.stderr
    assert figures["missed"] == [name for name, goal in figures["goals"].items() if figures[name] > goal]
    assert figures["transitions"] >= 3000
    assert len(figures["first_update_sec"]) == 2
    assert 0 < figures["checkpoint_stall_sec"] < figures["two_checkpoints_sec"]
    assert not list(tmp_path.iterdir())  # the run is gone
