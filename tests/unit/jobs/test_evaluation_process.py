"""What the process of an evaluation does before it is `evaluate`: on real processes, whose `evaluate` is another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster_rl.jobs.supervise import first_error

# Its arguments are (parent, niceness, the rest): the module that it imports is another.
PROGRAM = """
import importlib, json, os, re, sys, time, types
from cluster_rl.jobs import evaluation_process
def import_module(name):
    {then}
    told = [name, sys.argv[1:], os.getpriority(os.PRIO_PROCESS, 0)]
    return types.SimpleNamespace(command=lambda: print(json.dumps(told)))
importlib.import_module = import_module
evaluation_process.STUCK_SEC = 0.5
evaluation_process.main()
"""


def begin(log: Path, parent_pid: int, then: str = "pass") -> int:
    """The exit code."""
    arguments = [str(parent_pid), "7", "--run-name", "one", "--publish"]
    with log.open("wb") as file:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(then=then), *arguments],
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=60,
        )
    return done.returncode


def test_it_becomes_evaluate_of_lower_priority(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert begin(log, os.getpid()) == 0
    assert json.loads(log.read_text()) == ["cluster_rl.evaluate", ["--run-name", "one", "--publish"], 7]


@pytest.mark.parametrize("then", ["time.sleep(50)", "re.match('(a+)+b', 'a' * 40)"])
def test_one_that_hangs_in_its_imports_ends_itself(tmp_path: Path, then: str) -> None:
    """Asleep, or at work in compiled code."""
    log = tmp_path / "log"
    assert begin(log, os.getpid(), then) == 1
    assert first_error(log).startswith("Timeout (")


def test_without_its_parent_it_begins_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert begin(log, 1) == 1
    assert log.read_text() == ""
