"""Commands as people bring them, typed from the folder that they are in: real processes, mostly dry runs."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from run_fixtures import environment
from terminals import on_terminal

import cluster_rl

PACKAGE = Path(cluster_rl.__file__).parent
ROOT = PACKAGE.parent


def _run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**environment(), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _plan(folder: Path, line: str) -> tuple[list[str], str]:
    """What a dry run says on stdout, by lines, and on stderr."""
    done = _run(folder, "-m", *line.split(), "--dry-run", "--runs", "nowhere")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


def test_training_with_the_config_of_a_folder_where_it_is_not() -> None:
    out, said = _plan(ROOT, "cluster_rl.train_cluster --config cluster_rl/cluster_config.json")
    assert said == "cluster_rl/cluster_config.json is not there; using cluster_config.json\n"
    assert out[1] == "run: nowhere/cluster_config, new"


def test_on_a_terminal_a_dry_run_says_what_it_does(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cluster_rl.train_cluster", "--config", "quickstart", "--dry-run"]
    command += ["--runs", str(tmp_path)]
    shown, out = on_terminal(command, CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")
    assert "checking ROM, savestate, network and folders: 0 s" in shown
    assert "working out the plan: 0 s" in shown
    assert "\x1b" not in out
    assert out.splitlines()[-1] == "dry run: all checks passed; nothing was started or created"


def test_training_from_another_folder(tmp_path: Path) -> None:
    out, said = _plan(tmp_path, "cluster_rl.train_cluster")
    assert said == ""  # nobody has named a file, so none is missing
    assert out[1] == "run: nowhere/cluster_config, new"


@pytest.mark.parametrize("name", ["slim", "slim_cpu"])
def test_the_slim_agent_by_the_path_of_a_preset(name: str) -> None:
    out, said = _plan(ROOT, f"cluster_rl.train_slim --config configs/{name}.yaml")
    assert said == f"configs/{name}.yaml is not there; using cluster_rl/configs/{name}.yaml\n"
    assert out[1] == f"run: nowhere/{name}, new"


def test_the_slim_agent_without_a_word(tmp_path: Path) -> None:
    out, said = _plan(tmp_path, "cluster_rl.train_slim --no_video")
    assert said == ""
    assert out[0].startswith("config: slim_cpu, as CUDA cannot be used: ")
    assert out[2] == "run: nowhere/slim_cpu, new"


def test_a_config_of_an_earlier_project_is_answered_at_once(tmp_path: Path) -> None:
    old = {"rom_path": "red.gb", "save_dir": "runs", "run_name": "a", "learn_start_steps": 1, "frame_skip": 4}
    (tmp_path / "cluster_config.json").write_text(json.dumps(old))
    done = _run(tmp_path, "-m", "cluster_rl.train_cluster", "--lr", "1", "--max_steps_per_episode=5", "--headless")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "error: cluster_config.json and overrides: 8 keys are wrong",
        "  rom_path: unknown key; did you mean rom?",
        "  save_dir: unknown key; that is the option --runs",
        "  run_name: unknown key; that is the option --run-name",
        "  learn_start_steps: unknown key; did you mean min_replay_transitions?",
        "  frame_skip: Expected `int` >= 9",
        "  lr: unknown key; did you mean learning_rate?",
        "  max_steps_per_episode: unknown key; did you mean episode_max_steps?",
        "  unknown, with nothing like it here: headless",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["cluster_config.json"]


def test_words_of_other_programs_are_answered_with_ours(tmp_path: Path) -> None:
    words = ["--run_name", "x", "--steps", "300", "--lr", "3", "--device", "gpu", "--max-runtime-seconds", "2m"]
    done = _run(tmp_path, "-m", "cluster_rl.train_cluster", "--config", "quickstart", *words, "--dry_run")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "error: quickstart and overrides: 4 keys are wrong",
        "  max_runtime_seconds: must be a whole number of seconds, not '2m'; write 120",
        "  steps: unknown key; did you mean target_total_steps?",
        "  lr: unknown key; did you mean learning_rate?",
        "  device: Invalid enum value 'gpu'; it is one of auto, cpu, cuda",
    ]
    assert list(tmp_path.iterdir()) == []


def test_the_run_of_another_config_is_not_gone_on_with(tmp_path: Path) -> None:
    run = tmp_path / "cluster_runs" / "mine"
    (run / "replay").mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"lstm_hidden_size": 64, "gamma": 0.5}))
    (run / "replay" / "segment-00000001.log").touch()
    (tmp_path / "mine.json").write_text("{}")
    command = ["-m", "cluster_rl.train_cluster", "--config", "mine.json", "--dry-run"]
    refused = _run(tmp_path, *command)
    assert refused.returncode == 2
    assert "run 'mine' was made with lstm_hidden_size 64, not 512; " in refused.stderr
    assert "another --run-name" in refused.stderr
    fits = _run(tmp_path, *command, "--lstm_hidden_size", "64")
    assert "not as in the run's last job: gamma 0.997 (was 0.5)" in fits.stdout.splitlines()


# Programs by their path: then the folder `cluster_rl` itself is where Python looks first.

PROGRAMS = sorted(path.name for path in PACKAGE.glob("*.py") if "run_command(main)" in path.read_text())


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_by_its_path(name: str) -> None:
    done = _run(PACKAGE, name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")


def test_no_part_of_the_package_hides_another_library() -> None:
    names = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    names.remove("__init__")
    assert {"config", "emulator"} <= names
    assert not names & set(sys.stdlib_module_names)
    assert not names & set(packages_distributions())


@pytest.mark.parametrize("folder", [ROOT, PACKAGE])
def test_debug_rollout_by_its_path(folder: Path) -> None:
    done = _run(folder, str((PACKAGE / "debug_rollout.py").relative_to(folder)), "--steps", "200", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["steps"] == 200
