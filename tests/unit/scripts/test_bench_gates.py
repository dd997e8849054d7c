"""The benchmark of gates: it plays from a gate's school start, and its exit tells whether the goal is met."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parents[3] / "scripts" / "bench" / "gates.py"


@pytest.fixture(scope="module")
def gates() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_gates", BENCH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(BENCH.parent))  # as it is for a script
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCH.parent))
    return module


def test_a_gate_may_open_in_one_of_five_episodes(gates: ModuleType) -> None:
    gate = {"name": "GUARD", "event": "GUARD"}
    line, met = gates.gate_line(gate, [(True, ["PERMIT", "GUARD"])] + [(False, ["PERMIT"])] * 4)
    assert line.startswith("GUARD           20% (4% to 62%)  PERMIT 100%")
    assert met
    assert not gates.gate_line(gate, [(True, [])] * 2 + [(False, [])] * 3)[1]


def test_plays_a_few_steps_and_names_what_it_does_not_know() -> None:
    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(BENCH), "--episodes", "1", "--steps", "20", *options]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)

    done = run("--gate", "GUARD")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("GUARD            0% (0% to ")
    wrong = run("--gate", "NOWHERE")
    assert wrong.returncode != 0
    assert "lanternvale has no such gate" in wrong.stderr
