"""What a job checks before it starts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cluster_rl import cartridge
from cluster_rl.config import Config, config_to_json, load_config
from cluster_rl.errors import UserError
from cluster_rl.job import begin_job, check_job
from cluster_rl.runs.identity import read_identity
from cluster_rl.runs.layout import RunDir


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "runs", "r")


def _config(*overrides: str) -> Config:
    return load_config("quickstart", overrides)


def _begin(run_dir: RunDir, config: Config, with_data: bool = True) -> None:
    rom = check_job(config, run_dir)
    run_dir.create()
    begin_job(config, run_dir, rom)
    if with_data:
        (run_dir.replay / "segment-00000001.log").touch()


def test_rom_may_move_but_not_change(run_dir: RunDir, tmp_path: Path) -> None:
    one, two, other = (tmp_path / name for name in ("one.gb", "two.gb", "other.gb"))
    shutil.copy(cartridge.rom_path(), one)
    _begin(run_dir, _config(f"rom={one}"))
    one.rename(two)
    assert check_job(_config(f"rom={two}"), run_dir).path == str(two)
    changed = bytearray(two.read_bytes())
    changed[0x1000] ^= 1
    other.write_bytes(changed)
    with pytest.raises(UserError, match="SHA-1"):
        check_job(_config(f"rom={other}"), run_dir)


def test_run_keeps_its_id(run_dir: RunDir) -> None:
    _begin(run_dir, _config())
    first = read_identity(run_dir.identity)
    _begin(run_dir, _config("gamma=0.5"))
    assert first is not None
    assert read_identity(run_dir.identity) == first


def test_shapes_may_change_until_there_is_data(run_dir: RunDir) -> None:
    _begin(run_dir, _config(), with_data=False)
    wider = _config("lstm_hidden_size=64")
    _begin(run_dir, wider)
    assert run_dir.config.read_bytes() == config_to_json(wider)
    with pytest.raises(UserError, match="lstm_hidden_size 64"):
        check_job(_config(), run_dir)


def test_value_rescaling_is_kept(run_dir: RunDir) -> None:
    _begin(run_dir, _config())
    with pytest.raises(UserError, match="value_rescaling"):
        check_job(_config("value_rescaling=false"), run_dir)


def test_leftovers_of_a_killed_write_are_removed(run_dir: RunDir) -> None:
    _begin(run_dir, _config())
    leftover = run_dir.path / ".online_params.pt.1234.tmp"
    leftover.write_bytes(b"half")
    _begin(run_dir, _config())
    assert not leftover.exists()
