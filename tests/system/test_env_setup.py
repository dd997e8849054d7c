"""scripts/env_setup.sh: what it refuses at once, and an environment made twice (slow)."""

from __future__ import annotations

import os
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


def test_twice_with_conda(tmp_path: Path) -> None:
    """A program in conda's place makes an environment whose Python is this one, and installs nothing."""
    home, repository = tmp_path / "home", copy_of_the_repository(tmp_path / "repository")
    (home / "bin").mkdir(parents=True)
    prefix = home / "envs" / "cluster_rl"
    python = prefix / "bin" / "python"
    own = f'case "$*" in "-m pip "*) ;; *sys.prefix*) echo {prefix} ;; *) exec {sys.executable} "$@" ;; esac'
    made = f"mkdir -p {python.parent}; printf '%s\\n' '#!/bin/sh' '{own}' > {python}; chmod +x {python}"
    put_program(home / "bin", "conda", f'echo "$CONDA_ENVS_DIRS $CONDA_PKGS_DIRS $*" >> {home}/calls; {made}')
    where = {"HOME": str(home), "PATH": f"{home}/bin:/usr/bin:/bin", "CONDA_ENVS_DIRS": f"{home}/envs:/shared/envs"}
    for _ in range(2):
        done = env_setup(repository, "--torch", "cpu", **where)
        assert done.returncode == 0, done.stderr
    assert (home / "calls").read_text() == (
        f"{home}/envs:/shared/envs {home}/.conda/pkgs create --yes --prefix {prefix} -c conda-forge python=3.11 pip\n"
    )
    assert f"CLUSTER_RL_PYTHON={python}\n" in (repository / "slurm" / "settings.env").read_text()
    assert f"conda activate {prefix}, or: export PATH={prefix}/bin:$PATH" in done.stdout


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
