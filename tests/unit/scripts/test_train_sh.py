"""train.sh's last words: a training that learned nothing is not told as done."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import Progress, save_progress

TRAIN_SH = Path(__file__).resolve().parents[3] / "scripts" / "train.sh"


@pytest.mark.parametrize(("updates", "words"), [(0, "Nothing was learned: progress.json says why."), (10, "Done.")])
def test_what_is_said_at_the_end(tmp_path: Path, updates: int, words: str) -> None:
    progress = Progress(run_name="quickstart", target_total_steps=1000, env_steps=900, updates=updates)
    progress.begin_job()
    save_progress(RunDir(tmp_path, "quickstart").create().progress, progress)
    python = tmp_path / "python"  # one in which all is installed, and whose training is over at once
    versions = f'"-c "*version_info*) exec "{sys.executable}" "$@" ;;'
    python.write_text(f'#!/bin/sh\ncase "$1 $2" in {versions}\n"-c "*) echo "{tmp_path}" ;; esac\n')
    python.chmod(0o755)
    variables = {"CLUSTER_RL_PYTHON": str(python), "CLUSTER_RL_RUNS": str(tmp_path)}
    done = subprocess.run(["bash", str(TRAIN_SH)], env=os.environ | variables, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split(" Look at")[0] for line in done.stdout.splitlines() if "Look at" in line] == [
        words if updates else f"{words} Go on with the same command."
    ]
