"""The actor's benchmark: a smoke run of each kind with few emulators, and its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[3] / "scripts" / "bench" / "actor.py"


@pytest.mark.parametrize("kind", ["slim", "unified"])
def test_measures_both_loops_and_exits_by_the_goal(kind: str) -> None:
    command = [sys.executable, str(BENCH), "--kind", kind, "--emulators", "1", "--rounds", "2", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == (1 if figures["ratio"] < figures["goal"] else 0), done.stderr
    assert 0 < figures["ratio_lowest"] <= figures["ratio"] <= figures["ratio_highest"] < 1
    assert figures["actor_steps_per_cpu_sec"] < figures["bare_steps_per_cpu_sec"]
    assert figures["sequence_steps"] == {"slim": 40, "unified": 80}[kind]
    assert figures["sent_bytes"] > 0
