"""The package as `pip install .` leaves it, used from a folder that has no checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("cluster_rl", "slurm", "setup.cfg", "pyproject.toml", "README.md", "LICENSE", "cluster_config.json")
PROGRAMS = {path.stem for path in (ROOT / "cluster_rl").glob("*.py") if "\n    command()\n" in path.read_text()}

ALL_VERSIONS = """
import contextlib, sys
from importlib.metadata import distribution
found = distribution("cluster_rl")
for script in found.entry_points.select(group="console_scripts"):
    print(script.name, script.module, end=" ", flush=True)
    sys.argv = [script.name, "--version"]
    with contextlib.suppress(SystemExit):
        script.load()()
print(found.version, [name for name in ("torch", "numpy") if name in sys.modules])
"""
IMPORTS_NOTHING = """
import sys
before = set(sys.modules)
import cluster_rl
print(cluster_rl.__version__, cluster_rl.__file__, set(sys.modules) - before - {"cluster_rl"})
"""


class Installed:
    """A new environment with the package in it, and an empty folder to type commands in."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.folder = folder / "venv" / "bin", folder / "elsewhere"
        source = folder / "source"
        source.mkdir()
        self.folder.mkdir()
        for name in SOURCES:
            path = ROOT / name
            if path.is_dir():
                shutil.copytree(path, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(path, source)
        self.run(sys.executable, "-m", "venv", "--without-pip", str(folder / "venv"))
        # What it needs is there already; what is installed in the environment goes before it.
        (own,) = (folder / "venv").glob("lib/python3.*/site-packages")
        (own / "of_the_tests.pth").write_text(sysconfig.get_path("purelib"))
        pip = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "install", "--quiet", "--no-deps"]
        self.run(*pip, str(source))

    def run(self, *command: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        environment = {
            name: value for name, value in environment.items() if not name.startswith(("CLUSTER_RL_", "SLURM_"))
        }
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed"))


def test_every_program_is_a_command_and_knows_its_version(installed: Installed) -> None:
    *lines, last = installed.run(str(installed.bin / "python"), "-c", ALL_VERSIONS).splitlines()
    version = last.split()[0]
    python = ".".join(map(str, sys.version_info[:3]))
    names = {program: f"cluster-rl-{program.replace('_', '-')}" for program in PROGRAMS}
    names["train_cluster"] = "cluster-rl-train"
    names["report"] = "cluster-rl-report"  # a package
    assert sorted(lines) == sorted(
        f"{name} cluster_rl.commands cluster_rl {version}, Python {python}" for name in names.values()
    )
    assert len(lines) >= 7


def test_importing_the_package_imports_nothing(installed: Installed) -> None:
    version, file, *others = installed.run(str(installed.bin / "python"), "-c", IMPORTS_NOTHING).split()
    assert version[0].isdigit()
    assert Path(file).is_relative_to(installed.bin.parent)
    assert others == ["set()"]


def test_presets_come_along(installed: Installed) -> None:
    command = str(installed.bin / "cluster-rl-train")
    assert "run: nowhere/cluster_config, new" in installed.run(command, "--dry-run", "--runs", "nowhere")
    assert "usage: " in installed.run(command, "--help")


def test_job_scripts_come_along(installed: Installed) -> None:
    command = str(installed.bin / "cluster-rl-cluster")
    written = installed.run(command, "init").splitlines()
    assert [line.removeprefix("written: slurm/") for line in written[:-1]] == sorted(
        path.name for path in (ROOT / "slurm").iterdir() if path.is_file()
    )
    settings = installed.folder / "slurm" / "settings.env"
    assert f"CLUSTER_RL_PYTHON={installed.bin / 'python'}\n" in settings.read_text()
    # A job script runs with what was written, and what was changed there stays.
    plan = installed.run("bash", "slurm/slim_cpu.sbatch", "--run-name", "one", "--dry-run")
    assert "run: cluster_runs/one, new" in plan
    settings.write_text("CLUSTER_RL_RUNS=here\n")
    assert len(installed.run(command, "init").splitlines()) == 1
    assert settings.read_text() == "CLUSTER_RL_RUNS=here\n"
