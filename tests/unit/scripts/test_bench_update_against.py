"""The comparison of two checkouts' updates: a smoke run against this very checkout, and wrong input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
BENCH = ROOT / "scripts" / "bench" / "update_against.py"
QUICK = ["--rounds", "2", "--updates", "1", "--steps", "200", "--config", "password", "--json"]


def compare(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(BENCH), *arguments], capture_output=True, text=True, check=False)


def test_a_checkout_is_compared_with_itself() -> None:
    done = compare(str(ROOT), *QUICK)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == int(figures["ratio"] > figures["goal"]), done.stderr
    assert 0 < figures["ratio_lowest"] <= figures["ratio"] <= figures["ratio_highest"]


def test_a_folder_that_is_no_checkout_is_one_line(tmp_path: Path) -> None:
    done = compare(str(tmp_path), *QUICK)
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path}: no checkout of this project; make one with git worktree add\n"


def test_a_worker_that_imports_another_checkout_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "cluster_rl").mkdir()  # empty: the package that is installed is imported in its place
    done = compare(str(tmp_path), *QUICK)
    assert done.returncode == 2
    assert "another checkout's package was imported" in done.stderr


def test_shapes_that_differ_are_told() -> None:
    done = compare(str(ROOT), *QUICK, "--unroll_length", "30")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("its update does not take this batch; its own words are above")
