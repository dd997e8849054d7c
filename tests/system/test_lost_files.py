"""A real run that has lost files, as a purged scratch file system leaves it: refused, begun anew on request, mended."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked_commands import ForkedCommands
from run_fixtures import environment, logged_positions, overrides

from cluster_rl.errors import EXIT_BAD_INPUT, EXIT_OK
from cluster_rl.runs.identity import read_identity
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import Progress, read_progress

ARGUMENTS = ["--config", "quickstart", "--run-name", "tiny", "--no-video"]


@pytest.fixture(scope="module")
def slim() -> Iterator[ForkedCommands]:
    with ForkedCommands("train_slim") as program:
        yield program


def train(program: ForkedCommands, folder: Path, target: int, *more: str) -> tuple[int, str, str]:
    changes = overrides(num_actors=1, target_total_steps=target)
    done = program.run(folder, environment(), *ARGUMENTS, *changes, *more)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def trained(slim: ForkedCommands, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    assert train(slim, folder, 300)[0] == EXIT_OK
    return folder


@pytest.fixture
def run_dir(trained: Path, tmp_path: Path) -> RunDir:
    shutil.copytree(trained / "cluster_runs", tmp_path / "cluster_runs")
    return RunDir(tmp_path / "cluster_runs", "tiny")


def progress_of(run_dir: RunDir) -> Progress:
    progress = read_progress(run_dir.progress)
    assert progress is not None
    return progress


def id_of(run_dir: RunDir) -> str:
    identity = read_identity(run_dir.identity)
    assert identity is not None
    return identity.run_id


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("lost", ["replay", "checkpoint"])
def test_a_purged_run_is_refused_and_stays_as_it_is(
    slim: ForkedCommands, run_dir: RunDir, tmp_path: Path, lost: str
) -> None:
    progress = progress_of(run_dir)
    assert progress.updates > 0
    for file in (run_dir.path / lost).rglob("*"):
        if file.is_file():
            file.unlink()
    before = contents(tmp_path)
    for more in ([], ["--dry-run"]) if lost == "replay" else ([],):
        code, _, stderr = train(slim, tmp_path, 600, *more)
        assert code == EXIT_BAD_INPUT
        line = stderr.splitlines()[-1]
        assert line.startswith(
            f"error: run 'tiny': missing or empty: cluster_runs/tiny/{lost}; by progress.json the run"
        )
        assert f"was at env step {progress.env_steps:,} and update {progress.updates:,}; still there: " in line
        assert contents(tmp_path) == before
    if lost == "checkpoint":
        return
    code, stdout, _ = train(slim, tmp_path, 300, "--fresh")
    assert code == EXIT_OK
    [aside] = run_dir.root.glob("tiny.before-*")
    assert f"--fresh: what the run had is now in {tmp_path / aside}" in stdout
    old = {path: data for path, data in before.items() if data is not None}
    assert {run_dir.path / path.relative_to(aside): data for path, data in contents(aside).items() if data} == {
        path: data for path, data in old.items() if data
    }
    new = progress_of(run_dir)
    assert len(new.jobs) == 1
    assert logged_positions(run_dir)[:2] == (new.env_steps, new.env_steps)
    assert id_of(run_dir) != id_of(RunDir(run_dir.root, aside.name))


def test_a_run_goes_on_without_its_small_files(slim: ForkedCommands, run_dir: RunDir, tmp_path: Path) -> None:
    before, run_id = progress_of(run_dir), id_of(run_dir)
    for path in (run_dir.identity, run_dir.progress, run_dir.metrics):
        path.unlink()
    code, stdout, stderr = train(slim, tmp_path, 600)
    assert code == EXIT_OK, stderr
    assert f"run.json was not there; the run's id, {run_id}, is taken back from its other files" in stdout
    assert "progress.json was not there; it is made anew, without the history of jobs" in stdout
    assert id_of(run_dir) == run_id
    after = progress_of(run_dir)
    job = after.jobs[0]
    assert (job.env_steps_start, job.updates_start) == (before.env_steps, before.updates)
    assert job.restored.startswith("restored weights, target, optimiser, counters")
    assert logged_positions(run_dir)[:2] == (after.env_steps, after.env_steps)
