"""scripts/env_setup.sh: what it refuses at once, and an environment made twice (slow)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_programs import put_program

ROOT = Path(__file__).resolve().parents[2]


def env_setup(repository: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(repository / "scripts" / "env_setup.sh"), *arguments],
        env={name: value for name, value in os.environ.items() if name != "CLUSTER_RL_PYTHON"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--torch", "tpu"], "--torch tpu: write cpu or cuda"),
        (["--prefx", "x"], "--prefx: not an option of env_setup.sh"),
        (["--prefix"], "--prefix: a value is missing"),
        (["--venv", "--prefix", "a b"], "a path without spaces"),
        (["--conda"], "no conda, mamba or micromamba found"),
    ],
)
def test_bad_options_make_nothing(tmp_path: Path, arguments: list[str], says: str) -> None:
    done = env_setup(ROOT, *arguments, HOME=str(tmp_path), PATH="/usr/bin:/bin")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
    assert not any(tmp_path.iterdir())


def copy_of_the_repository(folder: Path) -> Path:
    for name in ("cluster_rl", "scripts", "slurm"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "logs"))
    for name in ("setup.cfg", "pyproject.toml", "constraints.txt", "README.md"):
        shutil.copy(ROOT / name, folder)
    return folder


def conda_home(folder: Path, conda_does: str = ":", pip_does: str = "") -> tuple[dict[str, str], Path]:
    """The variables of a home with a program in conda's place, and the environment that this will make.

    Its Python is this one, and its pip installs nothing.
    """
    home = folder / "home"
    (home / "bin").mkdir(parents=True)
    prefix = home / "envs" / "cluster_rl"
    python = prefix / "bin" / "python"
    else_ = f'*sys.prefix*) echo {prefix} ;; *) exec {sys.executable} "$@" ;;'
    own = f'case "$*" in "-m pip "*) {pip_does} ;; {else_} esac'
    made = f"mkdir -p {python.parent}; printf '%s\\n' '#!/bin/sh' '{own}' > {python}; chmod +x {python}"
    calls = f'echo "$CONDA_ENVS_DIRS $CONDA_PKGS_DIRS $*" >> {home}/calls'
    put_program(home / "bin", "conda", f"{calls}; {conda_does}; {made}")
    path = f"{home}/bin:/usr/bin:/bin"
    return {"HOME": str(home), "PATH": path, "CONDA_ENVS_DIRS": f"{home}/envs:/shared/envs"}, prefix


def test_twice_with_conda(tmp_path: Path) -> None:
    """The second time nothing is made."""
    repository = copy_of_the_repository(tmp_path / "repository")
    where, prefix = conda_home(tmp_path)
    home = where["HOME"]
    for _ in range(2):
        done = env_setup(repository, "--torch", "cpu", **where)
        assert done.returncode == 0, done.stderr
    assert Path(home, "calls").read_text() == (
        f"{home}/envs:/shared/envs {home}/.conda/pkgs create --yes --prefix {prefix} -c conda-forge python=3.11 pip\n"
    )
    assert f"CLUSTER_RL_PYTHON={prefix}/bin/python\n" in (repository / "slurm" / "settings.env").read_text()
    assert f"conda activate {prefix}, or: export PATH={prefix}/bin:$PATH" in done.stdout


def test_what_takes_minutes_is_not_silent_in_a_file(tmp_path: Path) -> None:
    """Here a second stands for the minute after which a line is due."""
    repository = copy_of_the_repository(tmp_path / "repository")
    shared = repository / "scripts" / "python_env.sh"
    text = shared.read_text()
    assert text.count("\nLINE_INTERVAL_SEC=60\n") == 1
    shared.write_text(text.replace("\nLINE_INTERVAL_SEC=60\n", "\nLINE_INTERVAL_SEC=1\n"))
    where, _ = conda_home(tmp_path, "echo Solving environment; sleep 2.5", "echo Collecting torch; sleep 2.5")
    done = env_setup(repository, "--torch", "cpu", **where)
    assert done.returncode == 0, done.stderr
    for line in (r"\S*conda create: \d+ s, Solving environment", r"installing: \d+ s, Collecting torch"):
        assert re.search(f"^{line}$", done.stdout, re.M), done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twice_in_venv_mode(tmp_path: Path) -> None:
    home, repository = tmp_path / "home", copy_of_the_repository(tmp_path / "repository")
    home.mkdir()
    first = env_setup(repository, "--venv", "--torch", "cpu", HOME=str(home), CLUSTER_RL_TORCH_INDEX="")
    assert first.returncode == 0, first.stderr
    python = home / ".venvs" / "cluster_rl" / "bin" / "python"
    assert f"CLUSTER_RL_PYTHON={python}\n" in (repository / "slurm" / "settings.env").read_text()
    assert "The environment: " in first.stdout
    subprocess.run([python, "-c", "import cluster_rl.train_cluster"], check=True, cwd=home)

    def contents() -> dict[Path, tuple[int, int]]:
        files = [path for folder in (home, repository) for path in folder.rglob("*") if "__pycache__" not in path.parts]
        return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.is_file()}

    before = contents()
    second = env_setup(repository, "--venv", "--torch", "cpu", HOME=str(home), CLUSTER_RL_TORCH_INDEX="")
    assert second.returncode == 0, second.stderr
    assert contents() == before
    assert "Installing" not in second.stdout
