"""Crash points: inert in every process but a test's, each in one place, and deadly once where a test asks for it."""

from __future__ import annotations

import ast
import collections
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster_rl.runs import crash_points
from cluster_rl.runs.crash_points import CRASH_POINTS, VARIABLE

PACKAGE = Path(crash_points.__file__).resolve().parents[1]
FUNCTIONS = {"crash_point", "crash_half_way"}


def _uses() -> collections.Counter[str]:
    """How often each name is used in the package. Fails for a name that is not written out."""
    found: collections.Counter[str] = collections.Counter()
    for path in PACKAGE.rglob("*.py"):
        if path.name == "crash_points.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
                name = node.args[0]
                assert isinstance(name, ast.Constant), f"{path}:{node.lineno}: the name is not written out"
                found[name.value] += 1
    return found


def test_every_point_is_in_one_place_and_registered() -> None:
    assert _uses() == collections.Counter(CRASH_POINTS)
    assert len(CRASH_POINTS) >= 40


def test_no_process_of_this_run_has_points() -> None:
    assert crash_points._FOLDER is None


PASS = """
import sys
from cluster_rl.runs.crash_points import crash_half_way, crash_point
crash_point("replay.appended")
crash_point("atomic.written", "progress.json")
crash_half_way("metrics.half_a_row", lambda half: print(half.decode(), end="", flush=True), b"0123456789")
print("alive")
"""


def _pass(folder: Path | None) -> tuple[int, str]:
    """Exit code and output of a process that passes three points."""
    environment = {VARIABLE: str(folder)} if folder is not None else {}
    done = subprocess.run(
        [sys.executable, "-S", "-c", PASS],
        cwd=PACKAGE.parent,
        env={"PYTHONPATH": str(PACKAGE.parent), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("asked", "output"),
    [
        ("replay.appended", ""),
        ("atomic.written@progress.json", ""),
        ("atomic.written@*.json", ""),
        ("metrics.half_a_row", "01234"),
    ],
)
def test_a_file_is_one_death(tmp_path: Path, asked: str, output: str) -> None:
    (tmp_path / asked).touch()
    assert _pass(tmp_path) == (-signal.SIGKILL, output)
    assert list(tmp_path.iterdir()) == []
    assert _pass(tmp_path) == (0, "alive\n")


def test_what_does_not_ask_for_a_death_is_none(tmp_path: Path) -> None:
    for name in ("atomic.written", "atomic.written@config.json", "replay.synced", "metrics.half_a_row@x"):
        (tmp_path / name).touch()
    assert _pass(tmp_path) == (0, "alive\n")
    assert len(list(tmp_path.iterdir())) == 4
    assert _pass(tmp_path / "missing") == (0, "alive\n")
    assert _pass(None) == (0, "alive\n")
