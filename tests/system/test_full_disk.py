"""A real run on a small disk that somebody fills for a while: it goes on, and every step is counted once."""

from __future__ import annotations

import contextlib
import re
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_fixtures import Launcher, logged_positions, overrides, processes_of
from small_disk import SmallDisk, mounted

from cluster_rl.errors import EXIT_BAD_INPUT, EXIT_STORAGE
from cluster_rl.jobs.status import storage_problem
from cluster_rl.runs.checkpoint import load_checkpoint
from cluster_rl.runs.episode_log import read_log
from cluster_rl.training.metrics import read_metrics

SPEED = {"samples_per_insert": 0.1, "publish_interval": 20, "max_runtime_seconds": 1000}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[SmallDisk]:
    with mounted(tmp_path / "home", "size=64m") as small:
        yield small


def half_written(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.name != ".gitignore"]


def test_a_run_goes_on_when_its_disk_was_full_for_a_while(home: SmallDisk) -> None:
    launcher = Launcher(home.folder, *overrides(target_total_steps=1500, num_actors=1, **SPEED))
    before = launcher.wait_for(lambda p: p.updates >= 1, 240)
    with home.full():
        launcher.wait_for(lambda p: "disk full since" in storage_problem(p, launcher.run_dir, stale_sec=3.0), 240)
        time.sleep(2.0)  # what is refused now and then, is refused by now
    launcher.wait_for(lambda p: p.env_steps > before.env_steps and p.storage_problem == "")
    assert launcher.wait(240) == 0, launcher.output
    assert re.search(
        r"^disk full since \d\d:\d\d \(cluster_runs/tiny\S*: No space left on device\)$", launcher.output, re.M
    )
    assert "storage takes again what is written" in launcher.output
    assert "Traceback" not in "".join(path.read_text() for path in launcher.run_dir.logs.iterdir())
    assert processes_of(launcher.run_dir) == []
    progress = launcher.progress()
    assert progress is not None
    assert [job.reason for job in progress.jobs] == ["target_total_steps reached"]
    distinct, counted, episodes = logged_positions(launcher.run_dir)
    assert distinct == counted == progress.env_steps >= 1500
    assert episodes == progress.episodes > 0
    assert half_written(launcher.run_dir.path) == []
    assert read_metrics(launcher.run_dir.metrics)
    for path in launcher.run_dir.episode_logs.iterdir():
        read_log(path)


@pytest.mark.slow
def test_a_run_that_is_complete_waits_for_its_disk_and_saves_all(home: SmallDisk, tmp_path: Path) -> None:
    """The log is on another disk, so that the target is reached; nobody hurries the learner."""
    replay = tmp_path / "replay"
    changes = SPEED | {"target_total_steps": 1500, "num_actors": 1, "replay_dir": replay}
    changes |= {"samples_per_insert": 1.0, "checkpoint_interval_seconds": 600}
    launcher = Launcher(home.folder, *overrides(**changes))
    before = launcher.wait_for(lambda p: p.updates >= 1, 240)
    size = 0
    with home.full():
        while size < (size := sum(path.stat().st_size for path in replay.glob("segment-*"))):
            time.sleep(8.0)  # until the actors wait, and longer than the last tries of a job that must end
        assert launcher.process.poll() is None, launcher.output
    assert launcher.wait(240) == 0, launcher.output
    progress, saved = launcher.progress(), load_checkpoint(launcher.run_dir.checkpoint)
    assert progress is not None
    assert saved is not None
    assert progress.env_steps >= 1500
    assert progress.jobs[-1].reason == "target_total_steps reached"
    assert saved.updates == progress.updates > before.updates


@pytest.mark.slow
def test_a_job_that_must_end_on_a_full_disk_says_what_is_not_saved(home: SmallDisk) -> None:
    """TERM: within the grace, with an exit code that a chain takes for a crash; the next job goes on."""
    launcher = Launcher(home.folder, *overrides(target_total_steps=10_000_000, num_actors=1, **SPEED))
    # With a checkpoint there are weights for the next job to bring back.
    launcher.wait_for(lambda p: p.updates >= 1 and p.newest_checkpoint > 0, 240)
    with home.full():
        full = launcher.wait_for(
            lambda p: "disk full since" in storage_problem(p, launcher.run_dir, stale_sec=3.0), 240
        )
        code, _ = launcher.terminate()
        assert code == EXIT_STORAGE, launcher.output
        assert "learner ended: exited with code 75" in launcher.output
        assert "not saved: " in launcher.output
        again = Launcher(home.folder, *overrides(target_total_steps=10_000_000, num_actors=1, **SPEED))
        assert again.wait(240) == EXIT_STORAGE, again.output
        (line,) = (line for line in again.output.splitlines() if line.startswith("error: "))
        assert "0.0 MB is free" in line
        assert str(again.run_dir.path.relative_to(home.folder)) in line
    assert "Traceback" not in launcher.output + again.output
    for q in launcher.run_dir.logs.iterdir():
        print("LOG", q, q.read_text())
    assert "Traceback" not in "".join(path.read_text() for path in launcher.run_dir.logs.iterdir())
    assert half_written(launcher.run_dir.path) == []
    distinct, counted, _ = logged_positions(launcher.run_dir)
    assert distinct == counted
    target = max(full.env_steps, counted) + 200
    later = Launcher(home.folder, *overrides(target_total_steps=target, num_actors=1, **SPEED))
    assert later.wait(240) == 0, later.output
    assert "restored weights" in later.output
    distinct, counted, _ = logged_positions(later.run_dir)
    progress = later.progress()
    assert progress is not None
    assert distinct == counted == progress.env_steps


@contextlib.contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    """`ulimit -f` for processes that are started meanwhile."""
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))


@pytest.mark.slow
def test_a_run_whose_files_may_not_grow_large_enough_says_so(tmp_path: Path) -> None:
    """Before the start, where that is certain; else as soon as it happens, and at the end, with code 75."""
    changes = SPEED | {"num_actors": 1, "target_total_steps": 1_000_000}
    with file_size_limit(442_000):  # by the forecast a checkpoint has at least 440 kB
        refused = Launcher(tmp_path, *overrides(**changes, replay_capacity_transitions=1_000_000))
        assert refused.wait(240) == EXIT_BAD_INPUT, refused.output
        (line,) = (line for line in refused.output.splitlines() if line.startswith("error: "))
        assert "(ulimit -f); raise it, or give a smaller --replay_capacity_transitions" in line
        changes["replay_capacity_transitions"] = 60_000
        launcher = Launcher(tmp_path, *overrides(**changes))
    launcher.wait_for(lambda _: "limit on file sizes reached" in launcher.output, 240)
    code, _ = launcher.terminate()
    assert code == EXIT_STORAGE, launcher.output
    assert re.search(
        r"^limit on file sizes reached since \d\d:\d\d \(.*/checkpoint/.*: File too large\)$", launcher.output, re.M
    )
    assert "not saved: the last checkpoint" in launcher.output
    assert "Traceback" not in launcher.output
    assert "Traceback" not in "".join(path.read_text() for path in launcher.run_dir.logs.iterdir())
    assert half_written(launcher.run_dir.path) == []
    distinct, counted, _ = logged_positions(launcher.run_dir)
    assert distinct == counted
    later = Launcher(tmp_path, *overrides(**changes | {"target_total_steps": counted + 200}))
    assert later.wait(240) == 0, later.output
    distinct, counted, _ = logged_positions(later.run_dir)
    progress = later.progress()
    assert progress is not None
    assert distinct == counted == progress.env_steps


@pytest.mark.slow
def test_serial_mode_waits_for_the_disk(home: SmallDisk) -> None:
    launcher = Launcher(
        home.folder, *overrides(target_total_steps=1500, num_actors=1, **SPEED), "--no-video", module="train_slim"
    )
    launcher.wait_for(lambda p: p.updates >= 1, 240)
    with home.full():
        launcher.wait_for(lambda p: "disk full since" in storage_problem(p, launcher.run_dir, stale_sec=3.0), 240)
        time.sleep(2.0)
    assert launcher.wait(240) == 0, launcher.output
    assert "disk full since" in launcher.output
    distinct, counted, _ = logged_positions(launcher.run_dir)
    progress = launcher.progress()
    assert progress is not None
    assert distinct == counted == progress.env_steps >= 1500
    assert half_written(launcher.run_dir.path) == []
