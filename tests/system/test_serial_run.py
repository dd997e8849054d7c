"""Serial mode: the same seed gives the same run, to the bit, and a stopped run goes on."""

from __future__ import annotations

import hashlib
from pathlib import Path

from run_fixtures import Launcher, logged_blocks, logged_positions, overrides
from safetensors.numpy import load_file

from cluster_rl.errors import EXIT_UNFINISHED


def _serial(folder: Path, seed: int, target: int = 500) -> Launcher:
    folder.mkdir(exist_ok=True)
    changes = overrides(base_seed=seed, target_total_steps=target, num_actors=1)
    launcher = Launcher(folder, *changes, "--no-video", module="train_slim")
    assert launcher.wait() == 0, launcher.output
    return launcher


def _digest(launcher: Launcher) -> tuple[str, str]:
    blocks = hashlib.sha256(b"".join(logged_blocks(launcher.run_dir)))
    newest = max(launcher.run_dir.checkpoint.iterdir(), key=lambda path: int(path.name.rpartition("-")[2]))
    # Not the replay's priorities: which of the sequences after the last update a checkpoint has goes by the clock.
    tensors = sorted(load_file(newest / "tensors.safetensors").items())
    learned = [tensor.tobytes() for name, tensor in tensors if name.startswith("state.r2d2.")]
    assert learned
    return blocks.hexdigest(), hashlib.sha256(b"".join(learned)).hexdigest()


def test_one_seed_gives_one_run(tmp_path: Path) -> None:
    first, second, other = (_serial(tmp_path / name, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert _digest(first) == _digest(second)
    assert _digest(first) != _digest(other)
    progress = first.progress()
    assert progress is not None
    assert progress.updates > 0


def test_updates_that_are_owed_do_not_outlast_the_job(tmp_path: Path) -> None:
    """25,000 updates are owed at once, some minutes of them, and the job has twelve seconds."""
    changes = overrides(
        num_actors=1, min_replay_transitions=1000, samples_per_insert=1000, max_runtime_seconds=12, batch_size=4
    )
    launcher = Launcher(tmp_path, *changes, "--no-video", module="train_slim")
    assert launcher.wait(60) == EXIT_UNFINISHED, launcher.output
    progress = launcher.progress()
    assert progress is not None
    assert progress.updates > 0
    assert progress.samples_per_insert < 900  # so it was while they were owed
    assert progress.jobs[0].reason == "max_runtime_seconds reached"


def test_a_job_without_an_update_says_that_nothing_was_learned(tmp_path: Path) -> None:
    changes = overrides(num_actors=1, min_replay_transitions=5000, max_runtime_seconds=2, target_total_steps=4999)
    launcher = Launcher(tmp_path, *changes, "--no-video", module="train_slim")
    assert launcher.wait(60) == EXIT_UNFINISHED, launcher.output
    progress = launcher.progress()
    assert progress is not None
    reason = (
        "max_runtime_seconds reached; nothing was learned: "
        f"collecting {progress.env_steps:,} of 5,000 env steps before learning"
    )
    assert (progress.updates, progress.jobs[0].reason) == (0, reason)
    assert launcher.output.splitlines()[-1].endswith(f"; stopped: {reason}")
    assert "WARNING: target_total_steps 4,999 is less than min_replay_transitions 5,000" in launcher.output


def test_serial_run_goes_on(tmp_path: Path) -> None:
    stopped = _serial(tmp_path, 1).progress()
    assert stopped is not None
    launcher = _serial(tmp_path, 1, target=800)
    progress = launcher.progress()
    assert progress is not None
    assert progress.jobs[1].env_steps_start == stopped.env_steps
    assert progress.jobs[1].updates_start == stopped.updates
    assert logged_positions(launcher.run_dir)[:2] == (progress.env_steps, progress.env_steps)
