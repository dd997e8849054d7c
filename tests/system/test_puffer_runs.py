"""Whole runs of both trainers on another project's environment: stopped, resumed, their logs played again and rendered.

With a fake of that project always; by `-m slow` with the project itself, where the environment variable `PUFFER` names
a checkout of it. Its ROM is a blank one.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_puffer import REWARD, fake_checkout, loop_rom, stand_in_for_omegaconf
from run_fixtures import Launcher, environment, logged_positions, make, overrides

from cluster_rl.config import Config
from cluster_rl.errors import EXIT_BAD_INPUT, EXIT_OK, EXIT_UNFINISHED
from cluster_rl.runs.episode_log import log_paths, read_header
from cluster_rl.runs.identity import read_identity
from cluster_rl.runs.layout import RunDir

STEPS = 2000

REAL = pytest.param(
    "real",
    marks=[
        pytest.mark.slow,
        pytest.mark.timeout(1800),
        pytest.mark.skipif("PUFFER" not in os.environ, reason="PUFFER names no checkout of pokemonred_puffer"),
        pytest.mark.skipif(
            importlib.util.find_spec("omegaconf") is None or importlib.util.find_spec("mediapy") is None,
            reason="omegaconf or mediapy is not installed: pip install 'cluster_rl[puffer]'",
        ),
    ],
)


@pytest.fixture(autouse=True)
def omegaconf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that a test starts have one."""
    if importlib.util.find_spec("omegaconf") is None:
        folder = stand_in_for_omegaconf(tmp_path)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))


def puffer_options(rom: Path, root: Path, reward: str) -> list[str]:
    return [f"--rom={rom}", f"--puffer={root}", f"--puffer_reward={reward}", "--rewards.puffer=1"]


def begin(folder: Path, module: str, target: int, given: list[str]) -> Launcher:
    """A job of the run, which ends at so many env steps."""
    changes = overrides(target_total_steps=target, num_actors=2 if module == "train_cluster" else 1)
    alone = ["--no-video"] if module == "train_slim" else []
    return Launcher(folder, *changes, *given, *alone, module=module, limit_sec=600)


@pytest.mark.parametrize("module", ["train_cluster", "train_slim"])
@pytest.mark.parametrize("checkout", ["fake", REAL])
def test_a_run_stops_and_goes_on_and_its_logs_are_rendered(tmp_path: Path, module: str, checkout: str) -> None:
    rom = loop_rom(tmp_path)
    if checkout == "real":
        root, states = Path(os.environ["PUFFER"]).resolve(), Path(os.environ["PUFFER"]) / "pyboy_states"
        given = [*puffer_options(rom, root, Config().puffer_reward), f"--start_states={states}", "--start_share=0.9"]
        before = git_status(root)
    else:
        root = fake_checkout(tmp_path, rom)
        given = puffer_options(rom, root, REWARD)
    first = begin(tmp_path, module, STEPS, given)
    run_dir = first.run_dir
    first.wait_for(lambda p: p.env_steps >= STEPS // 4 and p.updates > 0)
    code, _ = first.terminate()
    stopped = first.progress()
    assert stopped is not None
    assert code in (0, EXIT_UNFINISHED), first.output
    assert stopped.env_steps < STEPS

    second = begin(tmp_path, module, STEPS, given)
    assert second.wait() == 0, second.output
    progress = first.progress()
    assert progress is not None
    assert progress.jobs[1].env_steps_start == stopped.env_steps
    assert progress.env_steps >= STEPS
    assert logged_positions(run_dir)[:2] == (progress.env_steps, progress.env_steps)
    identity = read_identity(run_dir.identity)
    assert identity is not None
    assert identity.environment.startswith("pokemonred_puffer (SHA-1 ")
    headers = [read_header(path) for path in log_paths(run_dir.episode_logs)]
    assert {header.environment for header in headers} == {identity.environment}
    assert any(header.terms.get("puffer") for header in headers), "nothing was paid by it"

    make("replayer", run_dir, "--rom", str(rom), "--check")
    make("replayer", run_dir, "--rom", str(rom), "--limit", "3")
    assert len(list(run_dir.path.rglob("*.mp4"))) == 3
    if checkout == "real":
        assert git_status(root) == before == ""


def git_status(root: Path) -> str:
    command = ["git", "-C", str(root), "status", "--porcelain", "--ignored"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A small run on a fake checkout, which is in `tmp_path / "checkout"`."""
    rom = loop_rom(tmp_path)
    launcher = begin(tmp_path, "train_slim", 300, puffer_options(rom, fake_checkout(tmp_path, rom), REWARD))
    assert launcher.wait() == EXIT_OK, launcher.output
    return launcher.run_dir


def said(run_dir: RunDir, module: str, *words: str) -> tuple[int, list[str]]:
    """The exit code of a command on a run, and those of its lines that say what is wrong."""
    named = ["--run-name", run_dir.run_name, "--runs", str(run_dir.root)]
    done = subprocess.run(
        [sys.executable, "-m", f"cluster_rl.{module}", *named, *words],
        cwd=run_dir.root.parent,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [
        line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("error", "WARNING", "Trace"))
    ]
    return done.returncode, lines


def test_without_its_checkout_a_run_is_shown_and_not_played(run: RunDir, tmp_path: Path) -> None:
    gone = tmp_path / "checkout"
    gone.rename(tmp_path / "elsewhere")
    rom = ["--rom", str(tmp_path / "game.gb")]
    log = next(iter(log_paths(run.episode_logs)))
    for words in (
        ("replayer", *rom, "--check"),
        ("report",),
        ("export", "--to", "csv"),
        ("export", "--to", "coords"),
        ("export", "--to", "safetensors"),
    ):
        assert said(run, *words) == (EXIT_OK, []), words
    made = [sys.executable, "-m", "cluster_rl.start_state", *rom, "--from", str(log), "--step", "7"]
    subprocess.run([*made, str(tmp_path / "seven.state")], check=True, env=environment())

    line = f"error: puffer {gone}: no such folder; give a checkout of pokemonred_puffer"
    config = ["--config", str(run.config)]
    for words in (
        ("evaluate", "--episodes", "1"),
        ("evaluate", "--publish"),
        ("debug_rollout", "--steps", "3"),
        ("replayer", *rom, "--greedy", "1"),
        ("train_slim", *config),
        ("train_cluster", *config),
    ):
        assert said(run, *words) == (EXIT_BAD_INPUT, [line]), words
    assert not list(run.greedy.rglob("*.eplog"))


def test_with_another_commit_what_plays_says_so_and_what_learns_refuses(run: RunDir, tmp_path: Path) -> None:
    (tmp_path / "checkout" / "pokemonred_puffer" / "places.py").write_text("PLACES = 2\n")
    for words in (("evaluate", "--episodes", "1", "--max-steps", "5"), ("debug_rollout", "--steps", "3")):
        code, (line,) = said(run, *words)
        assert code == EXIT_OK, words
        assert line.startswith("WARNING: run 'tiny' plays pokemonred_puffer (SHA-1 "), words
        assert line.endswith(", which plays now"), words
    config = ["--config", str(run.config)]
    for words in (("evaluate", "--publish"), ("train_slim", *config), ("train_cluster", *config)):
        code, (line,) = said(run, *words)
        assert code == EXIT_BAD_INPUT, words
        assert "error: run 'tiny' plays pokemonred_puffer (SHA-1 " in line, words
        assert line.endswith("give the same --puffer and --puffer_reward, or another --run-name"), words
    assert not run.evaluation.exists()
    code, lines = said(run, "evaluate", "--episodes", "1", "--puffer=")
    assert code == EXIT_BAD_INPUT
    assert lines[-1].startswith("error: rewards.puffer is 1, which our own environment does not pay; give --puffer F")
