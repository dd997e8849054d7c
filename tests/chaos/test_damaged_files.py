"""Every file and folder of a run, damaged in every way: the next start goes on and says so, or is refused in one line.

The starts are those of the serial mode, whose trainer, checks and files are the same, as it costs a second each.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from accounting import leftovers, take_account
from forked_commands import ForkedCommands
from run_fixtures import environment, overrides

from cluster_rl.errors import EXIT_BAD_INPUT, EXIT_OK
from cluster_rl.runs.checkpoint import load_checkpoint
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import read_progress

# What a run consists of; all else may be made anew, or tells of the past.
_KEPT = ("run.json", "progress.json", "replay", "checkpoint", "episode_logs", "online_params.pt", "metrics.jsonl")
# Damaged, they cost something that whoever goes on with the run should know of.
_TOLD = {"replay": "replay log", "checkpoint": "checkpoint", "progress.json": "progress.json", "run.json": "run.json"}


@dataclass(frozen=True)
class Finished:
    """A run that has ended, another one of the same config, and what starts the trainer."""

    folder: Path
    run_dir: RunDir
    other: RunDir
    env_steps: int
    saved_env_steps: int  # of its newest checkpoint, which may lack what came while it was written
    start: Callable[[Path], subprocess.CompletedProcess[str]]


def _arguments(target: int, seed: int) -> list[str]:
    changes = overrides(num_actors=1, target_total_steps=target, base_seed=seed, checkpoint_interval_seconds=0.3)
    return ["--config", "quickstart", "--run-name", "tiny", "--no-video", *changes]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    with ForkedCommands("train_slim") as trainer:
        folders = [tmp_path_factory.mktemp(name) for name in ("run", "other")]
        for seed, folder in enumerate(folders):
            done = trainer.run(folder, environment(), *_arguments(400, seed))
            assert done.returncode == EXIT_OK, done.stderr
        run_dir, other = (RunDir(folder / "cluster_runs", "tiny") for folder in folders)
        steps = take_account(run_dir).env_steps
        saved = load_checkpoint(run_dir.checkpoint)
        assert saved is not None
        assert len(list(run_dir.checkpoint.iterdir())) == 2
        yield Finished(
            folders[0],
            run_dir,
            other,
            steps,
            saved.meta["state"]["totals"]["env_steps"],
            lambda folder: trainer.run(folder, environment(), *_arguments(1, 0)),
        )


def _truncate(path: Path, _other: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _flip(path: Path, _other: Path) -> None:
    data = bytearray(path.read_bytes())
    for at in {len(data) // 3, len(data) // 2, max(0, len(data) - 9)} if data else ():
        data[at] ^= 0x80
    path.write_bytes(data)


def _empty(path: Path, _other: Path) -> None:
    os.truncate(path, 0)


def _delete(path: Path, _other: Path) -> None:
    path.unlink()


def _make_folder(path: Path, _other: Path) -> None:
    path.unlink()
    path.mkdir()


def _replace(path: Path, other: Path) -> None:
    shutil.copy(other, path)


_DAMAGES = (_truncate, _flip, _empty, _delete, _make_folder, _replace)


def _representatives(run_dir: RunDir) -> list[Path]:
    """Every file, but one of each kind in the folders that hold many alike."""
    files: dict[str, Path] = {}
    for path in sorted(p.relative_to(run_dir.path) for p in run_dir.path.rglob("*") if p.is_file()):
        alike = path.parts[0] if path.parts[0] in ("episode_logs", "tensorboard", "logs") else str(path)
        files.setdefault(alike, path)
    return list(files.values())


def _counterpart(run_dir: RunDir, path: Path) -> Path:
    """The file of the other run that has the same part in it."""
    if (run_dir.path / path).exists():
        return run_dir.path / path
    alike = sorted(p for p in run_dir.path.rglob(f"*{path.suffix}") if p.is_file() and p.name.startswith(path.name[:1]))
    return alike[-1] if alike else run_dir.config


def _content(run_dir: RunDir) -> dict[str, str]:
    """Hashes of what a run consists of."""
    return {
        str(path.relative_to(run_dir.path)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in run_dir.path.rglob("*")
        if path.is_file() and path.relative_to(run_dir.path).parts[0] in _KEPT and path.name != "lock"
    }


def _check_start(
    finished: Finished, folder: Path, harm: Callable[[RunDir], None], told: str, must_go_on: bool = False
) -> str:
    """Starts a copy of the run that `harm` was done to; returns what is wrong with that, empty where nothing is."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(finished.folder, folder)
    run_dir = RunDir(folder / "cluster_runs", "tiny")
    harm(run_dir)
    before = _content(run_dir)
    done = finished.start(folder)
    said = done.stdout + done.stderr
    if "Traceback" in said:
        return f"a traceback: {said.strip().splitlines()[-2:]}"
    if done.returncode == EXIT_BAD_INPUT and not must_go_on:
        lines = done.stderr.strip().splitlines()
        if len(lines) != 1 or not lines[0].startswith("error: "):
            return f"refused in other words than one line: {lines}"
        changed = {
            name for name in before.keys() | _content(run_dir).keys() if before.get(name) != _content(run_dir).get(name)
        }
        return f"refused, and changed {sorted(changed)}: {lines[0]}" if changed else ""
    if done.returncode != EXIT_OK:
        return f"exit code {done.returncode}: {said.strip().splitlines()[-1:]}"
    progress = read_progress(run_dir.progress)
    begun = progress.jobs[-1].env_steps_start if progress is not None else None
    # What of the log is lost is counted by the checkpoint.
    by_checkpoint = begun == finished.saved_env_steps and "counters are the checkpoint's" in said
    if begun != finished.env_steps and not by_checkpoint:
        return f"goes on with {begun} env steps of {finished.env_steps}: {said.splitlines()}"
    if told and told not in said:
        return f"goes on without a word of {told}: {said.splitlines()}"
    return f"leaves {leftovers(run_dir)}" if leftovers(run_dir) else ""


def _is_older_checkpoint(finished: Finished, path: Path) -> bool:
    newest = max(finished.run_dir.checkpoint.iterdir(), key=lambda folder: int(folder.name.rpartition("-")[2]))
    return path.parts[0] == "checkpoint" and path.parts[1] != newest.name


def _problems(finished: Finished, folder: Path, cases: list[tuple[Path, Callable[[Path, Path], None]]]) -> list[str]:
    problems = []
    for path, damage in cases:
        # The older checkpoint is not looked at; the lock's file holds nothing.
        passed_over = path.name == "lock" or _is_older_checkpoint(finished, path)
        told = "" if passed_over else _TOLD.get(path.parts[0], "")
        problem = _check_start(
            finished,
            folder,
            lambda run_dir, p=path, d=damage: d(run_dir.path / p, _counterpart(finished.other, p)),
            told,
            # Each job writes it anew, whatever it was; but a folder in a file's place is somebody's.
            must_go_on=path.name == "config.json" and damage is not _make_folder,
        )
        if problem:
            problems.append(f"{path} {damage.__name__}: {problem}")
    return problems


def test_files_of_a_run_are_damaged_each_in_one_way(finished: Finished, tmp_path: Path) -> None:
    """Those that matter most; all others, and all ways, are left to the long form."""
    files = [path for path in _representatives(finished.run_dir) if path.parts[0] in (*_TOLD, "config.json")]
    files = [path for path in files if path.name != "lock" and not _is_older_checkpoint(finished, path)]
    cases = [(path, _DAMAGES[(number + 1) % len(_DAMAGES)]) for number, path in enumerate(files)]
    problems = _problems(finished, tmp_path / "copy", cases)
    assert not problems, "\n".join(problems)


@pytest.mark.chaos
@pytest.mark.parametrize("damage", _DAMAGES)
def test_every_file_of_a_run_is_damaged(
    finished: Finished, tmp_path: Path, damage: Callable[[Path, Path], None]
) -> None:
    files = _representatives(finished.run_dir)
    problems = _problems(finished, tmp_path / "copy", [(path, damage) for path in files])
    assert not problems, "\n".join(problems)


def _lose(path: Path) -> None:
    shutil.rmtree(path)


def _lose_content(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def _make_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_bytes(b"")


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_every_folder_of_a_run_is_lost(finished: Finished, tmp_path: Path) -> None:
    folders = sorted(p.relative_to(finished.run_dir.path) for p in finished.run_dir.path.rglob("*") if p.is_dir())
    problems = []
    for path in folders:
        for damage in (_lose, _lose_content, _make_file):
            told = path.parts[0] if path.parts[0] in ("replay", "checkpoint") and len(path.parts) == 1 else ""
            problem = _check_start(
                finished, tmp_path / "copy", lambda run_dir, p=path, d=damage: d(run_dir.path / p), told
            )
            if problem:
                problems.append(f"{path} {damage.__name__}: {problem}")
    assert not problems, "\n".join(problems)


@pytest.mark.chaos
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a bind mount is remounted read-only")
def test_a_read_only_folder_and_back(finished: Finished, tmp_path: Path) -> None:
    """A start on a read-only file system is refused in a line; afterwards the run goes on."""
    shutil.copytree(finished.folder, tmp_path / "copy")
    run_dir = RunDir(tmp_path / "copy" / "cluster_runs", "tiny")
    runs = str(run_dir.root)
    subprocess.run(["mount", "--bind", runs, runs], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", runs], check=True)
        before = _content(run_dir)
        done = finished.start(tmp_path / "copy")
        assert done.returncode not in (EXIT_OK,), done.stdout
        (line,) = done.stderr.strip().splitlines()
        assert str(run_dir.path.name) in line
        assert "read-only" in line.lower() or "cannot be written" in line
        assert _content(run_dir) == before
        subprocess.run(["mount", "-o", "remount,rw,bind", runs], check=True)
        done = finished.start(tmp_path / "copy")
        assert done.returncode == EXIT_OK, done.stderr
        progress = read_progress(run_dir.progress)
        assert progress is not None
        assert progress.jobs[-1].env_steps_start == finished.env_steps
        take_account(run_dir)
    finally:
        subprocess.run(["umount", runs], check=True)
