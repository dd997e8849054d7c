"""Continuing a run: what may change in the config, and what its replay and weights forbid."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster_rl.config import config_to_json, load_config
from cluster_rl.errors import UserError
from cluster_rl.runs.job_record import write_job_record
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.resume import changed_settings, check_resumable
from cluster_rl.runs.small_file import NewerFormatError


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run_dir = RunDir(tmp_path, "one").create()
    run_dir.config.write_bytes(config_to_json(load_config()))
    (run_dir.replay / "segment-00000001.log").touch()
    return run_dir


def test_a_new_run_has_no_config_before(tmp_path: Path) -> None:
    assert check_resumable(RunDir(tmp_path, "one"), load_config()) == []
    assert changed_settings(RunDir(tmp_path, "one"), load_config()) == []


def test_a_run_that_kept_nothing_may_change(run_dir: RunDir) -> None:
    (run_dir.replay / "segment-00000001.log").unlink()
    assert check_resumable(run_dir, load_config(None, ["burn_in=20"])) == []


@pytest.mark.parametrize("override", ["target_total_steps=5", "rewards.badge=7", "gamma=0.9", "num_actors=2"])
def test_what_does_not_shape_the_data_may_change(run_dir: RunDir, override: str) -> None:
    (line,) = check_resumable(run_dir, load_config(None, [override]))
    assert line.startswith(f"not as in the run's last job: {override.partition('=')[0]} ")


@pytest.mark.parametrize(
    ("override", "says"),
    [("burn_in=20", "burn_in 40, not 20"), ("frame_skip=12", "frame_skip 24, not 12"), ("model.kind=slim", "model ")],
)
def test_changes_of_shape_are_refused_by_name(run_dir: RunDir, override: str, says: str) -> None:
    with pytest.raises(UserError, match=f"run 'one' was made with {says}") as caught:
        check_resumable(run_dir, load_config(None, [override, "gamma=0.5"]))
    assert "gamma" not in str(caught.value)


@pytest.mark.parametrize("damage", [b"[]", b'{"gama": 1}', b"\xff", b"", b"[" * 100_000])
def test_a_damaged_config_does_not_keep_a_run_from_going_on(run_dir: RunDir, damage: bytes) -> None:
    """The newest record of a job has it too; without one nothing is compared, and that is said."""
    changed = load_config(None, ["burn_in=20"])
    write_job_record(load_config(), run_dir)
    write_job_record(load_config(), run_dir)
    assert check_resumable(run_dir, load_config()) == []
    run_dir.config.write_bytes(damage)
    note, line = check_resumable(run_dir, load_config(None, ["gamma=0.5"]))
    assert line == "not as in the run's last job: gamma 0.5 (was 0.997)"
    with pytest.raises(UserError, match="was made with burn_in 40, not 20"):
        check_resumable(run_dir, changed)
    assert str(run_dir.config) in note
    assert f"{run_dir.job_record(2)} tells what the last job's was" in note
    whole = run_dir.job_record(2).read_bytes()
    run_dir.job_record(2).write_bytes(whole.replace(b'"schema_version": 1', b'"schema_version": 2'))
    with pytest.raises(NewerFormatError, match=f"{run_dir.job_record(2)}: format 2, this program reads 1"):
        check_resumable(run_dir, load_config())
    run_dir.job_record(2).write_bytes(whole.replace(b'"burn_in": 40', b'"burn_in": 20'))
    with pytest.raises(UserError, match="was made with burn_in 40, not 20"):
        check_resumable(run_dir, changed)
    (note,) = check_resumable(run_dir, load_config())
    assert f"{run_dir.job_record(1)} tells" in note
    run_dir.job_record(1).write_bytes(b"{")
    (note,) = check_resumable(run_dir, changed)
    assert "no record of a job tells what changes" in note
    assert changed_settings(run_dir, changed) == []


def test_what_is_not_as_in_the_last_job_is_told(run_dir: RunDir) -> None:
    assert changed_settings(run_dir, load_config()) == []
    changed = load_config(None, ["gamma=0.5", "rewards.step=0", "rom=red.gb"])
    assert changed_settings(run_dir, changed) == [
        'rom "red.gb" (was "")',
        "rewards.step 0.0 (was -0.0005)",
        "gamma 0.5 (was 0.997)",
    ]
