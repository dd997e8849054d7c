"""A ROM that is not the cartridge gets Red's settings, however a training is started: real processes, dry runs."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from blank_rom import blank_rom
from run_fixtures import environment

TRAIN_SH = Path(__file__).resolve().parents[2] / "scripts" / "train.sh"
CARTRIDGE = TRAIN_SH.parents[1] / "cluster_rl" / "cartridge" / "lantern.gb"


@pytest.fixture
def rom(tmp_path: Path) -> str:
    return str(blank_rom(tmp_path, "POKEMON RED"))


def _train_sh(folder: Path, *words: str) -> list[str]:
    """What train.sh prints that finds an interpreter in which all is installed already, of a dry run."""
    python = folder / "python"
    python.write_text(
        f"""#!/bin/sh
case "$1 $2" in
"-m cluster_rl."* | "-c "*version_info*) exec "{sys.executable}" "$@" ;;
"-c "*) echo "{folder}" ;;
esac
"""
    )
    python.chmod(0o755)
    variables = {"CLUSTER_RL_PYTHON": str(python), "CUDA_VISIBLE_DEVICES": ""}
    command = ["bash", str(TRAIN_SH), *words, "--dry-run", "--runs", "nowhere"]
    done = subprocess.run(
        command, cwd=folder, env=environment() | variables, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_train_sh_plays_red_with_reds_settings(rom: str, tmp_path: Path) -> None:
    out = _train_sh(tmp_path, "--rom", rom)
    start = next(at for at, line in enumerate(out) if line.startswith("config: "))
    assert out[start].startswith("config: red_cpu, as this is ")
    assert "run: nowhere/red_cpu, new" in out
    assert "target: 25,000,000 env steps; this job at most 3.75 h" in out
    assert not any("START is off" in line for line in out)


def test_train_sh_plays_the_cartridges_own_file_with_its_settings(tmp_path: Path) -> None:
    out = _train_sh(tmp_path, "--rom", str(CARTRIDGE))
    assert "run: nowhere/quickstart, new" in out
    assert any(line.endswith("this job at most 0.08 h") for line in out)


def test_yellow_on_a_terminal_is_warned_of_in_bold(tmp_path: Path) -> None:
    yellow = blank_rom(tmp_path, "POKEMON YELLOW")
    here, there = pty.openpty()
    command = [sys.executable, "-m", "cluster_rl.train_slim", "--dry-run", "--rom", str(yellow)]
    variables = {"CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(command, cwd=tmp_path, env=environment() | variables, stdout=there, stdin=there) as process:
        os.close(there)
        shown = b""
        try:
            while part := os.read(here, 4096):
                shown += part
        except OSError:  # the other end is closed
            pass
    os.close(here)
    assert process.returncode == 0
    lines = shown.decode().splitlines()
    assert lines[0].startswith("config: red_cpu, as this is ")
    assert len([line for line in lines if line.startswith("\x1b[1mWARNING: the game 'POKEMON YELLOW'")]) == 1
