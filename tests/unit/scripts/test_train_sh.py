"""train.sh behind a training: the run that it renders, and that one which learned nothing is not told as done."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from blank_rom import blank_rom
from slurm_programs import REPOSITORY, put_program

from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import Progress, save_progress

TRAIN_SH = REPOSITORY / "scripts" / "train.sh"
CARTRIDGE = str(REPOSITORY / "cluster_rl" / "cartridge" / "lantern.gb")


def train_sh(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """train.sh with a Python in which all is installed, and whose training is over at once."""
    real = f'exec "{sys.executable}" "$@"'
    put_program(
        folder, "python", f'case "$2" in *version_info*|*run_of*) {real} ;; "import os"*) echo "{folder}" ;; esac'
    )
    variables = {"CLUSTER_RL_PYTHON": str(folder / "python"), "CLUSTER_RL_RUNS": str(folder)}
    return subprocess.run(
        ["bash", str(TRAIN_SH), *words], cwd=folder, env=os.environ | variables, capture_output=True, text=True
    )


@pytest.mark.parametrize(("updates", "words"), [(0, "Nothing was learned: progress.json says why."), (10, "Done.")])
def test_what_is_said_at_the_end(tmp_path: Path, updates: int, words: str) -> None:
    progress = Progress(run_name="quickstart", target_total_steps=1000, env_steps=900, updates=updates)
    progress.begin_job()
    save_progress(RunDir(tmp_path, "quickstart").create().progress, progress)
    done = train_sh(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split(" Look at")[0] for line in done.stdout.splitlines() if "Look at" in line] == [
        words if updates else f"{words} Go on with the same command."
    ]


@pytest.mark.parametrize(
    ("words", "run"),
    [
        (["--rom", CARTRIDGE], "quickstart"),
        (["--rom={red}"], "red_cpu"),
        (["--rom={red}", "--config", "gpu"], "gpu"),
        (["--rom={red}", "--run_name=mine", "--runs", "elsewhere"], "elsewhere/mine"),
    ],
)
def test_the_run_is_the_launchers(tmp_path: Path, words: list[str], run: str) -> None:
    red = blank_rom(tmp_path, "POKEMON RED")
    done = train_sh(tmp_path, *[word.format(red=red) for word in words])
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{run}/progress.json" in done.stdout
    assert str(tmp_path / run) in done.stdout or "elsewhere" in run
