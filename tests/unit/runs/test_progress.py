"""progress.json: exact round trip, jobs closed in words, damage survived."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from cluster_rl.errors import UserError
from cluster_rl.runs.progress import (
    REASON_UNKNOWN,
    Progress,
    Rates,
    ReplayProgress,
    read_progress,
    recover_progress,
    save_progress,
)


def make_progress() -> Progress:
    return Progress(
        run_name="one",
        target_total_steps=1000,
        env_steps=640,
        episodes=3,
        updates=20,
        sequences=8,
        params_version=2,
        rates=Rates(env_steps_per_sec=100.5, updates_per_sec=2.25),
        samples_per_insert=0.9,
        replay=ReplayProgress(transitions=600, capacity=1000, bytes=12345),
        milestones={"EVENT_GOT_STARTER": 77},
        mean_return_recent=-0.25,
    )


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    progress = make_progress()
    progress.begin_job()
    before = time.time()
    save_progress(path, progress)
    assert read_progress(path) == progress
    assert before <= progress.updated <= time.time()
    assert recover_progress(path) == (progress, "")


def test_the_file_has_the_documented_keys(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    progress = make_progress()
    progress.begin_job()
    save_progress(path, progress)
    raw = json.loads(path.read_text())
    assert set(raw) == {
        *("schema_version", "run_name", "env_steps", "episodes", "updates", "sequences", "target_total_steps"),
        *("params_version", "rates", "samples_per_insert", "replay", "milestones", "mean_return_recent", "jobs"),
        *("activity", "updated", "run_id", "newest_checkpoint", "storage_problem", "milestones_elsewhere", "quests"),
        "evaluation",
    }
    assert raw["rates"] == {"env_steps_per_sec": 100.5, "updates_per_sec": 2.25}
    assert raw["milestones"] == {"EVENT_GOT_STARTER": 77}
    assert raw["jobs"][0]["ended"] is None


def test_jobs_follow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = make_progress()
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    first = progress.begin_job()
    progress.env_steps, progress.updates = 700, 25
    progress.end_job("time is up")
    progress.end_job("too late to change")
    assert (first.id, first.slurm_job_id, first.reason) == (1, "12", "time is up")
    assert (first.env_steps_start, first.env_steps_end, first.updates_start, first.updates_end) == (640, 700, 20, 25)
    assert first.ended is not None
    assert first.ended >= first.started


def test_a_job_that_was_killed_is_closed_by_the_next() -> None:
    progress = make_progress()
    progress.begin_job()
    progress.updated = time.time() + 5
    progress.env_steps = 650
    second = progress.begin_job()
    first = progress.jobs[0]
    assert (first.reason, first.ended, first.env_steps_end) == (REASON_UNKNOWN, progress.updated, 650)
    assert (second.id, second.ended, second.env_steps_start) == (2, None, 650)


def test_a_learner_started_again_goes_on_with_its_job() -> None:
    progress = make_progress()
    first = progress.continue_job("token-1", "new run")
    progress.env_steps = 700
    assert progress.continue_job("token-1", "restored weights") is first
    assert (len(progress.jobs), first.restored, first.env_steps_start, first.ended) == (
        1,
        "restored weights",
        640,
        None,
    )
    progress.end_job("time is up")  # and then it is killed before it is gone
    progress.env_steps = 750
    again = progress.continue_job("token-1", "restored weights")
    assert (again.ended, again.reason, again.env_steps_end, again.updates_end) == (None, "", None, None)
    second = progress.continue_job("token-2", "restored weights")
    assert (len(progress.jobs), second.id, first.reason) == (2, 2, REASON_UNKNOWN)


@pytest.mark.parametrize("damage", [b"", b'{"run_name": "one"', b"{}", b"\xff\xfe", b'{"run_name": 3}'])
def test_a_damaged_file_is_moved_aside_and_said(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "progress.json"
    path.write_bytes(damage)
    with pytest.raises(UserError, match="damaged"):
        read_progress(path)
    progress, note = recover_progress(path)
    assert progress is None
    assert "moved to progress.json.damaged" in note
    assert not path.exists()
    assert (tmp_path / "progress.json.damaged").read_bytes() == damage
    assert recover_progress(path) == (None, "")
    path.write_bytes(b"{")  # a second time: the first one stays
    assert "moved to progress.json.damaged-2" in recover_progress(path)[1]
    assert (tmp_path / "progress.json.damaged").read_bytes() == damage
    assert (tmp_path / "progress.json.damaged-2").read_bytes() == b"{"


def test_the_file_of_a_newer_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    progress = make_progress()
    progress.schema_version = 99
    save_progress(path, progress)
    with pytest.raises(UserError, match="format 99, this program reads 1"):
        recover_progress(path)
    assert path.exists()


def test_keys_a_later_version_may_add_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    save_progress(path, make_progress())
    path.write_text(json.dumps(json.loads(path.read_text()) | {"news": 1}))
    assert read_progress(path) is not None


def test_a_run_without_progress_has_none(tmp_path: Path) -> None:
    assert read_progress(tmp_path / "progress.json") is None
