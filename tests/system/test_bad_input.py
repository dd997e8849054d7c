"""Bad input to the commands: exit code 2, one clear line, nothing created, no traceback."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forked_commands import ForkedCommands
from run_fixtures import environment

from cluster_rl import cartridge
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import Progress, save_progress


def _files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.fixture(scope="module")
def trainer() -> Iterator[Callable[[str], ForkedCommands]]:
    """By its module: `trainer("train_slim").run(folder, environment, *arguments)`."""
    with ForkedCommands("train_cluster") as train_cluster, ForkedCommands("train_slim") as train_slim:
        yield {"train_cluster": train_cluster, "train_slim": train_slim}.__getitem__


def _refused(folder: Path, program: ForkedCommands, *arguments: str) -> str:
    """Runs a command that must be refused; returns its one line."""
    before = _files(folder)
    result = program.run(folder, environment(), *arguments)
    assert result.returncode == 2, (result.stdout, result.stderr)
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert _files(folder) == before
    return lines[0]


def _make_roms(folder: Path) -> None:
    rom = cartridge.rom_bytes()
    (folder / "short.gb").write_bytes(rom[: len(rom) // 2])
    (folder / "text.gb").write_text("this is no game\n" * 4096)


# Both commands check a job with the same code; each case calls one of them.
@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    [
        ("train_cluster", ("--rom", "missing.gb"), ("missing.gb", "no such file")),
        ("train_slim", ("--rom", "short.gb"), ("short.gb", "32768")),
        ("train_cluster", ("--rom", "text.gb"), ("text.gb", "not a Game Boy ROM")),
        ("train_slim", ("--bach_size", "3"), ("bach_size", "batch_size")),
        ("train_cluster", ("--batch_size", "many"), ("batch_size", "whole number")),
        ("train_slim", ("--gamma", "1.5"), ("gamma", "1")),
        ("train_cluster", ("--config", "nothing.yaml"), ("nothing.yaml", "no such file")),
        ("train_slim", ("--config", "misspelt.json"), ("misspelt.json", "unroll_lenght", "unroll_length")),
        ("train_cluster", ("--run-name", "../x"), ("../x", "run name")),
        ("train_slim", ("--initial_state", "text.gb"), ("text.gb",)),
        ("train_cluster", ("--rewards.step", "NaN"), ("rewards.step", "not nan")),
        ("train_slim", ("--bind_host", "nowhere.invalid"), ("bind_host", "nowhere.invalid")),
        ("train_cluster", ("--replay_dir", "text.gb"), ("replay_dir", "text.gb")),
        ("train_slim", ("--runs", "text.gb", "--dry-run"), ("text.gb", "a file lies where")),
        ("train_cluster", ("--device", "cuda"), ("device cuda", "--device auto")),
        (
            "train_slim",
            ("--model.kind", "unified", "--use_spatial_attention", "true", "--model.attention_heads", "7"),
            ("attention_heads",),
        ),
    ],
)
def test_training_refuses(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trainer: Callable[[str], ForkedCommands],
    module: str,
    arguments: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    _make_roms(tmp_path)
    (tmp_path / "misspelt.json").write_text(json.dumps({"unroll_lenght": 20}))
    line = _refused(tmp_path, trainer(module), "--config", "quickstart", "--run-name", "x", *arguments)
    for word in words:
        assert word in line


def _dry_run(folder: Path, program: ForkedCommands, *arguments: str) -> str:
    """What a dry run prints. It succeeds, and leaves nothing behind."""
    result = program.run(folder, environment(), "--run-name", "x", "--dry-run", *arguments)
    assert result.returncode == 0, result.stderr
    assert _files(folder) == set()
    return result.stdout


@pytest.mark.parametrize("module", ["train_cluster", "train_slim"])
def test_dry_run_prints_the_plan_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainer: Callable[[str], ForkedCommands], module: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    out = _dry_run(tmp_path, trainer(module), "--config", "quickstart", "--device", "auto", "--num_actors", "1")
    starts = [line.partition(":")[0] for line in out.splitlines()]
    waits = "estimating GPU memory"
    machine = [f"disk of {tmp_path}", "memory", "cores", "device"]
    assert starts == ["game", "run", "target", "actors", "network", "replay", *machine, waits, "GPU memory", "dry run"]
    assert "device: CPU, as CUDA cannot be used: " in out


def test_dry_run_of_a_gpu_preset_needs_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainer: Callable[[str], ForkedCommands]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    out = _dry_run(tmp_path, trainer("train_cluster"), "--config", "gpu")
    assert "device: CUDA, which a job must have and this machine lacks: " in out
    assert "GPU memory: about " in out
    assert "all checks but that of the device passed" in out


def test_run_with_other_shapes_is_refused(tmp_path: Path, trainer: Callable[[str], ForkedCommands]) -> None:
    run = tmp_path / "cluster_runs" / "old"
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"lstm_hidden_size": 64}))
    (run / "replay").mkdir()
    (run / "replay" / "segment-00000001.log").touch()
    line = _refused(tmp_path, trainer("train_cluster"), "--config", "quickstart", "--run-name", "old")
    assert "old" in line
    assert "another --run-name" in line


def test_a_purged_run_is_refused_until_it_is_begun_anew(
    tmp_path: Path, trainer: Callable[[str], ForkedCommands]
) -> None:
    run_dir = RunDir(tmp_path / "cluster_runs", "x").create()
    save_progress(run_dir.progress, Progress(run_name="x", target_total_steps=9, env_steps=5))
    line = _refused(tmp_path, trainer("train_cluster"), "--config", "quickstart", "--run-name", "x")
    assert "missing or empty: cluster_runs/x/replay; by progress.json the run was at env step 5" in line
    before = _files(tmp_path)
    arguments = ("--config", "quickstart", "--run-name", "x", "--fresh", "--dry-run")
    result = trainer("train_cluster").run(tmp_path, environment(), *arguments)
    assert result.returncode == 0, result.stderr
    assert "--fresh: all that is moved to cluster_runs/x.before-..., and a new run begins" in result.stdout
    assert _files(tmp_path) == before
