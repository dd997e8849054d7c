"""What a run needs of its disks, against small file systems that are really mounted."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from recorded_episodes import record
from slurm_programs import put_program
from small_disk import mounted

from cluster_rl import cartridge
from cluster_rl.config import Config, load_config
from cluster_rl.emulator.spaces import observation_spec
from cluster_rl.errors import UserError
from cluster_rl.jobs import disk_needs
from cluster_rl.jobs.disk_needs import LOG_EPISODE_BYTES, LOG_STEP_BYTES, DiskNeed, check_disk_here, room_at
from cluster_rl.jobs.opening import dry_run, open_job
from cluster_rl.rom import load_rom
from cluster_rl.runs.episode_log import read_log
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import Progress, save_progress

Mount = Callable[[str], Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts file systems in memory with the options given."""
    with contextlib.ExitStack() as stack:
        numbers = itertools.count()
        yield lambda options: stack.enter_context(mounted(tmp_path / f"disk-{next(numbers)}", options)).folder


def config(*overrides: str) -> Config:
    return load_config("cpu", ["device=cpu", "target_total_steps=2000000", *overrides])


def plan(settings: Config, run_dir: RunDir, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines of a dry run that tell of disks."""
    dry_run(settings, run_dir)
    return [line for line in capsys.readouterr().out.splitlines() if "disk of " in line]


def refusal(settings: Config, run_dir: RunDir) -> str:
    """The line with which dry run and job are refused, while nothing is there yet."""
    with pytest.raises(UserError) as error:
        dry_run(settings, run_dir)
    with pytest.raises(UserError) as of_job, open_job(settings, run_dir):
        pass
    assert str(of_job.value) == str(error.value)
    assert "\n" not in str(error.value)
    assert not run_dir.exists()
    return str(error.value)


def test_a_replay_that_cannot_fit_is_refused(mount: Mount, capsys: pytest.CaptureFixture[str]) -> None:
    disk = mount("size=60m")
    words = refusal(config("replay_capacity_transitions=1000000"), RunDir(disk, "r"))
    assert words.startswith(f"disk of {disk}: the run will take ")
    assert "replay 70 MB to 174 MB" in words
    assert "63 MB is free" in words
    assert words.endswith("give a smaller --replay_capacity_transitions, or a --replay_dir with more room")
    [line] = plan(config("replay_capacity_transitions=50000"), RunDir(disk, "r"), capsys)
    assert line.startswith(f"WARNING: disk of {disk}")  # all logs of two million steps are too many
    assert line.endswith("which may be too little")
    small = config("replay_capacity_transitions=50000", "log_episodes_for_replay=false")
    [line] = plan(small, RunDir(disk, "r"), capsys)
    assert line.startswith(f"disk of {disk}")
    assert "; 63 MB is free, for " in line
    # A run that ends before its replay is full.
    assert plan(config("log_episodes_for_replay=false", "target_total_steps=50000"), RunDir(disk, "r"), capsys)


def test_each_file_system_has_its_own_line(mount: Mount, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = RunDir(tmp_path / "runs", "r")
    disk = mount("size=400m")
    lines = plan(config(f"replay_dir={disk}/deep/down"), run_dir, capsys)
    assert len(lines) == 2
    [on_disk] = [line for line in lines if f"disk of {disk}: " in line]
    assert "(replay " in on_disk
    assert "checkpoints" not in on_disk
    small = mount("size=20m")
    words = refusal(config(f"replay_dir={small}"), run_dir)
    assert words.startswith(f"disk of {small}: ")


def test_what_is_there_is_not_needed_again(mount: Mount, capsys: pytest.CaptureFixture[str]) -> None:
    disk = mount("size=130m")
    settings = config("replay_capacity_transitions=1000000", "log_episodes_for_replay=false")
    run_dir = RunDir(disk, "r")
    run_dir.replay.mkdir(parents=True)
    (run_dir.replay / "segment-00000000.log").write_bytes(bytes(100_000_000))
    assert plan(settings, run_dir, capsys)
    with pytest.raises(UserError, match="--replay_capacity_transitions"):
        dry_run(settings, run_dir, fresh=True)  # which deletes nothing


def test_segments_that_were_moved_aside_are_not_the_logs(mount: Mount, tmp_path: Path) -> None:
    disk = mount("size=130m")
    settings = config("replay_capacity_transitions=1000000", f"replay_dir={disk}")
    (disk / "before-20261129-120301").mkdir()
    (disk / "before-20261129-120301" / "segment-00000000.log").write_bytes(bytes(100_000_000))
    assert refusal(settings, RunDir(tmp_path, "r")).startswith(f"disk of {disk}: ")


@pytest.mark.parametrize("limit", ["total_episodes=3", "max_runtime_seconds=60"])
def test_a_job_fills_no_more_of_its_replay_than_it_can_play(
    mount: Mount, limit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = mount("size=60m")
    settings = config("replay_capacity_transitions=1000000")
    refusal(settings, RunDir(disk, "r"))
    [line] = plan(config("replay_capacity_transitions=1000000", limit), RunDir(disk, "r"), capsys)
    assert line.startswith("WARNING: ") == ("total" not in limit)  # a later job may fill it


def test_the_jobs_time_is_also_slurms(
    mount: Mount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = mount("size=2g,nr_inodes=300")
    settings = config("max_runtime_seconds=0", "episode_max_steps=800")
    refusal(settings, RunDir(disk, "r"))
    (tmp_path / "bin").mkdir()
    put_program(tmp_path / "bin", "squeue", "echo left:10:00")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    [line] = plan(settings, RunDir(disk, "r"), capsys)
    assert line.startswith("WARNING: ")


def test_too_few_files_are_refused(mount: Mount) -> None:
    disk = mount("size=2g,nr_inodes=300")
    words = refusal(config("max_runtime_seconds=0", "episode_max_steps=800"), RunDir(disk, "r"))
    assert "at least 2," in words  # 2,000,000 steps in episodes of 800 at most
    assert "for 299 files" in words
    assert words.endswith("give --log_episodes_for_replay false, or move older logs away")


def test_only_the_logs_of_this_job_are_certain(mount: Mount, capsys: pytest.CaptureFixture[str]) -> None:
    """At half the rate that the run has had; nothing is known of a new run's."""
    disk = mount("size=2g,nr_inodes=300")
    settings = config("max_runtime_seconds=1000", "episode_max_steps=800")
    run_dir = RunDir(disk, "r")
    [line] = plan(settings, run_dir, capsys)
    assert line.startswith("WARNING: ")
    run_dir.path.mkdir()
    for rate, fits in ((400.0, True), (600.0, False)):
        progress = Progress(run_name="r", target_total_steps=1)
        job = progress.begin_job()
        job.started, job.ended, job.env_steps_end = 1000.0, 1100.0, round(rate * 100)
        save_progress(run_dir.progress, progress)
        if fits:
            plan(settings, run_dir, capsys)
        else:
            with pytest.raises(UserError, match="--log_episodes_for_replay false"):
                dry_run(settings, run_dir)


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, before[1]))
    try:
        words = refusal(config("replay_capacity_transitions=1000000"), RunDir(tmp_path, "r"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert words.startswith(f"replay in {tmp_path}/r/replay: a file of 3.5 MB is needed, and files may have 2.0 MB ")
    assert "(ulimit -f); raise it, or give a smaller --replay_capacity_transitions" in words


def test_files_are_not_counted_where_they_are_not_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on btrfs, which says 0."""
    found = os.statvfs(tmp_path)
    fields = list(found)
    fields[5:8] = [0, 0, 0]
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(fields))
    assert room_at(tmp_path).files == float("inf")
    check_disk_here(config(), RunDir(tmp_path, "r"), observation_spec(config()))


def test_a_real_episode_takes_what_was_reckoned(tmp_path: Path) -> None:
    path = record(tmp_path, load_rom(str(cartridge.rom_path())), seed=3, steps=400)
    steps = read_log(path).header.steps
    low, high = (LOG_EPISODE_BYTES[end] + steps * LOG_STEP_BYTES[end] for end in (0, 1))
    assert low <= path.stat().st_size <= high


def test_needs_of_a_run_that_is_there(tmp_path: Path) -> None:
    def sizes(settings: Config) -> dict[str, DiskNeed]:
        needs = disk_needs.disk_needs(settings, RunDir(tmp_path, "r"), observation_spec(settings))
        return {need.what: need for need in needs}

    few, many = (sizes(config(f"total_episodes={count}"))["episode logs"] for count in (2, 10))
    assert few.files.high == 2
    assert many.files.high == 10
    assert "episode logs" not in sizes(config("log_episodes_for_replay=false"))
    wide, narrow = (sizes(config(f"lstm_hidden_size={units}"))["checkpoints"].size_bytes.low for units in (256, 64))
    assert wide > 2 * narrow
