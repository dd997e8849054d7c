"""With what a job was made: its record, its number, and its entry in progress.json."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trainer_fixtures import CONFIG, open_trainer

from cluster_rl.config import config_to_json, load_config
from cluster_rl.jobs.opening import begin_job, check_job
from cluster_rl.runs import job_record
from cluster_rl.runs.job_record import _git_state, config_sha256, write_job_record
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import Progress, read_progress, save_progress

ROOT = Path(job_record.__file__).parents[2]


def test_record_of_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "cluster_rl.train_cluster", "--rom", "caf\udce9.gb"])
    config = load_config("quickstart", ["gamma=0.5"])
    run_dir = RunDir(tmp_path, "r")
    rom = check_job(config, run_dir).rom
    begin_job(config, run_dir.create(), rom)
    record: dict[str, Any] = json.loads((run_dir.jobs / "001.json").read_bytes())
    assert record["id"] == 1
    assert record["command"][:4] == ["python", "-m", "cluster_rl.train_cluster", "--rom"]
    assert record["config"] == json.loads(run_dir.config.read_bytes()) == json.loads(config_to_json(config))
    assert record["config_sha256"] == hashlib.sha256(run_dir.config.read_bytes()).hexdigest()
    assert {name: record["slurm"][name] for name in ("JOB_ID", "RESTART_COUNT")} == {
        "JOB_ID": "17",
        "RESTART_COUNT": "2",
    }
    assert "ARRAY_JOB_ID" not in record["slurm"]
    versions = record["versions"]
    assert set(versions) == {"python", "cluster_rl", "torch", "numpy", "pyboy", "pyzmq", "cuda"}
    assert versions["numpy"] == np.__version__
    assert torch.__version__.startswith(versions["torch"])  # its package's may lack the +cu130
    assert versions["pyboy"] == "2.8.1"
    assert (record["git"] is not None) == (ROOT / ".git").exists()


def _git(folder: Path, *words: str) -> str:
    name = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    return subprocess.run(["git", "-C", folder, *name, *words], capture_output=True, text=True, check=True).stdout


def test_state_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = tmp_path / "checkout"
    package = checkout / "lib"
    package.mkdir(parents=True)
    _git(checkout, "init", "-q")
    assert _git_state(checkout) is None  # without a commit
    (checkout / "a.py").write_text("1\n")
    _git(checkout, "add", "-A")
    _git(checkout, "commit", "-qm", "one")
    (checkout / "notes.txt").touch()
    # Of a hook or an alias, whose repository is not ours.
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    index = (checkout / ".git" / "index").read_bytes()
    os.utime(checkout / "a.py", (1e9, 1e9))  # so that git would like to note the new time
    state = _git_state(checkout)
    assert state is not None
    assert (len(state.commit), state.dirty) == (40, False)
    assert (checkout / ".git" / "index").read_bytes() == index  # a job takes no lock from the user's own git
    (checkout / "a.py").write_text("2\n")
    state = _git_state(checkout)
    assert state is not None
    assert state.dirty
    # A package that is installed into a virtual environment inside somebody's checkout.
    assert _git_state(package) is None
    assert _git_state(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert _git_state(checkout) is None


def test_numbers_go_on(tmp_path: Path) -> None:
    """From those of a run whose jobs had no records, over jobs that never came up and a progress.json that is lost."""
    run_dir = RunDir(tmp_path, "run").create()
    run_dir.jobs.rmdir()
    old = Progress(run_name="run", target_total_steps=1)
    old.begin_job()
    old.begin_job()
    old.end_job("signal SIGTERM")
    save_progress(run_dir.progress, old)
    without = json.loads(run_dir.progress.read_bytes())
    for job in without["jobs"]:
        del job["config_sha256"]  # as an older program wrote it
    run_dir.progress.write_text(json.dumps(without))
    run_dir.create()
    assert write_job_record(CONFIG, run_dir).name == "003.json"  # never came up
    assert write_job_record(CONFIG, run_dir).name == "004.json"
    open_trainer(tmp_path).close("test")
    progress = read_progress(run_dir.progress)
    assert progress is not None
    assert [job.id for job in progress.jobs] == [1, 2, 4]
    assert [job.config_sha256 for job in progress.jobs] == ["", "", config_sha256(CONFIG)]
    run_dir.progress.write_bytes(b"{")
    assert write_job_record(CONFIG, run_dir).name == "005.json"
    open_trainer(tmp_path).close("test")
    progress = read_progress(run_dir.progress)
    assert progress is not None
    assert [job.id for job in progress.jobs] == [5]
