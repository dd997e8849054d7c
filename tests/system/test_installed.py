"""The package as `pip install .` leaves it, used from a folder that has no checkout."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from run_fixtures import overrides

ROOT = Path(__file__).resolve().parents[2]
LIMIT_SEC = 900
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

    @property
    def environment(self) -> dict[str, str]:
        """Without what would lead back to the checkout."""
        others = ("PYTHONPATH", "VIRTUAL_ENV", "CLUSTER_RL_", "SLURM_")
        return {name: value for name, value in os.environ.items() if not name.startswith(others)}

    def run(self, *command: str, code: int = 0) -> str:
        """What a program says; it must end with this exit code."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_SEC,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr

    def command(self, name: str, *words: str, code: int = 0) -> str:
        """The same of one of the package's commands."""
        return self.run(str(self.bin / f"cluster-rl-{name}"), *words, code=code)

    @property
    def run_dir(self) -> Path:
        """Of the run `one`."""
        return self.folder / "cluster_runs" / "one"


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


@pytest.fixture(scope="module")
def trained(installed: Installed) -> Installed:
    """With a run `one` of some hundred env steps, all of whose commands come from the package."""
    changes = overrides(num_actors=1, envs_per_actor=4, target_total_steps=600, samples_per_insert=0.2)
    installed.command("train-slim", "--config", "quickstart", "--run-name", "one", "--no-video", *changes)
    return installed


@pytest.mark.slow
def test_a_job_with_processes_goes_on_with_a_run(trained: Installed) -> None:
    changes = overrides(num_actors=1, envs_per_actor=4, target_total_steps=700, samples_per_insert=0.2)
    trained.command("train", "--config", "quickstart", "--run-name", "one", *changes)
    progress = json.loads((trained.run_dir / "progress.json").read_bytes())
    assert progress["env_steps"] >= 700
    assert len(progress["jobs"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "made"),
    [
        (["--best", "1"], "*.mp4"),
        (["--milestone", "TALKED_ELDER", "--limit", "1"], "*.mp4"),
        (["--greedy", "1", "--overlay"], "*.mp4"),
        (["--limit", "1", "--speed", "8"], "*.mp4"),
        (["--limit", "1", "--format", "gif"], "*.gif"),
        (["--limit", "1", "--format", "png"], "*/frame-000001.png"),
        (["--maps-only"], "maps/*.png"),
    ],
)
def test_it_renders(trained: Installed, tmp_path: Path, words: list[str], made: str) -> None:
    trained.command("replayer", "--run-name", "one", "--workers", "1", "--out", str(tmp_path), *words)
    assert len(list(tmp_path.glob(made))) >= 1, sorted(tmp_path.rglob("*"))


@pytest.mark.slow
def test_a_page_and_a_film_of_the_map(trained: Installed) -> None:
    trained.command("report", "--run-name", "one")
    assert "<title>Run one</title>" in (trained.run_dir / "report.html").read_text()
    trained.command("report", "--run-name", "one", "--map-video", "map.gif")
    assert (trained.folder / "map.gif").read_bytes().startswith(b"GIF8")


@pytest.mark.slow
def test_watch_shows_it_to_who_has_the_token(trained: Installed) -> None:
    words = [str(trained.bin / "cluster-rl-watch"), "--run-name", "one"]
    process = subprocess.Popen(
        words, cwd=trained.folder, env=trained.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        (url,) = re.findall(r"http://\S+/", process.stdout.readline())[:1]
        page = ""
        for _ in range(30):  # each waits some seconds for the first page
            with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(url) as answer:
                page = answer.read().decode()
                break
        assert "<title>Run one</title>" in page
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(url.rsplit("/", 2)[0] + "/")
    finally:
        process.terminate()
        said = process.communicate(timeout=60)[0]
    assert process.returncode == 0, said


@pytest.mark.slow
@pytest.mark.parametrize("target", ["csv", "coords", "safetensors", "onnx", "wandb"])
def test_it_exports_or_says_what_is_missing(trained: Installed, tmp_path: Path, target: str) -> None:
    needs = {"onnx": "onnx", "wandb": "wandb"}.get(target)
    words = ["--run-name", "one", "--to", target, "--out", str(tmp_path / f"made.{target}")]
    if needs is None or importlib.util.find_spec(needs) is not None:
        trained.command("export", *words)
        assert list(tmp_path.iterdir()) != []
    else:
        told = trained.command("export", *words, code=2)
        assert f"pip install 'cluster_rl[{target}]'" in told
        assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_shipped_agent_comes_along_and_can_be_watched(installed: Installed) -> None:
    words = ["--params", "firefly_wood", "--episodes", "1", "--max-steps", "40", "--logs", "watched", "--json"]
    assert json.loads(installed.command("evaluate", *words))["params"] == "firefly_wood"
    installed.command("replayer", "--logs", "watched", "--rom", "lanternvale", "--out", "watched/videos")
    assert len(list((installed.folder / "watched" / "videos").glob("*.mp4"))) == 1


@pytest.mark.slow
def test_it_plays(trained: Installed) -> None:
    told = trained.command("evaluate", "--run-name", "one", "--episodes", "2", "--max-steps", "40", "--json")
    assert json.loads(told)["episodes"] == 2
    trained.command("debug-rollout", "--steps", "20", "--flags", "--run-name", "one", "--video", "both", "--png")
    for name in ("debug_rollout.mp4", "debug_rollout.gif", "debug_rollout_png/frame-000001.png"):
        assert (trained.folder / name).is_file()
    log = min((trained.run_dir / "episode_logs").glob("*.eplog"))
    trained.command("start-state", "--from", str(log), "--step", "3", "later.state")
    told = trained.command("debug-rollout", "--steps", "0", "--state", "later.state", "--flags")
    assert "HOME" in told
