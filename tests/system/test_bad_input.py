"""Bad input to the commands: exit code 2, one clear line, nothing created, no traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from run_fixtures import environment

from cluster_rl import cartridge


def _files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def _refused(folder: Path, *arguments: str) -> str:
    """Runs a command that must be refused; returns its one line."""
    before = _files(folder)
    result = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, env=environment(), capture_output=True, text=True, timeout=60
    )
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


# Both commands check a job with the same code; each case starts one of them.
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
        ("train_cluster", ("--rewards.step", "NaN"), ("rewards.step", "finite")),
        ("train_slim", ("--bind_host", "nowhere.invalid"), ("bind_host", "nowhere.invalid")),
        ("train_cluster", ("--replay_dir", "text.gb"), ("replay_dir", "text.gb")),
        ("train_slim", ("--runs", "text.gb", "--dry-run"), ("text.gb", "is a file")),
        ("train_cluster", ("--device", "cuda"), ("device cuda", "--device auto")),
        (
            "train_slim",
            ("--model.kind", "unified", "--use_spatial_attention", "true", "--model.attention_heads", "7"),
            ("attention_heads",),
        ),
    ],
)
def test_training_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    _make_roms(tmp_path)
    (tmp_path / "misspelt.json").write_text(json.dumps({"unroll_lenght": 20}))
    line = _refused(tmp_path, f"cluster_rl.{module}", "--config", "quickstart", "--run-name", "x", *arguments)
    for word in words:
        assert word in line


def _dry_run(folder: Path, module: str, *arguments: str) -> str:
    """What a dry run prints. It succeeds, and leaves nothing behind."""
    command = [sys.executable, "-m", f"cluster_rl.{module}", "--run-name", "x", "--dry-run", *arguments]
    result = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert _files(folder) == set()
    return result.stdout


@pytest.mark.parametrize("module", ["train_cluster", "train_slim"])
def test_dry_run_prints_the_plan_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    out = _dry_run(tmp_path, module, "--config", "quickstart", "--device", "auto", "--num_actors", "1")
    starts = [line.partition(":")[0] for line in out.splitlines()]
    waits = "estimating GPU memory"
    machine = ["memory", "cores", "device"]
    assert starts == ["game", "run", "target", "actors", "network", "replay", *machine, waits, "GPU memory", "dry run"]
    assert "device: CPU, as CUDA cannot be used: " in out


def test_dry_run_of_a_gpu_preset_needs_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    out = _dry_run(tmp_path, "train_cluster", "--config", "gpu")
    assert "device: CUDA, which a job must have and this machine lacks: " in out
    assert "GPU memory: about " in out
    assert "all checks but that of the device passed" in out


def test_run_with_other_shapes_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "cluster_runs" / "old"
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"lstm_hidden_size": 64}))
    (run / "replay").mkdir()
    (run / "replay" / "segment-00000001.log").touch()
    line = _refused(tmp_path, "cluster_rl.train_cluster", "--config", "quickstart", "--run-name", "old")
    assert "old" in line
    assert "another --run-name" in line
