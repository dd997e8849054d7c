"""The thread that writes checkpoints: its errors, and their order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cluster_rl.errors import UserError
from cluster_rl.runs.checkpoint import load_checkpoint
from cluster_rl.runs.checkpoint_writer import CheckpointWriter


def begin(writer: CheckpointWriter, updates: int) -> None:
    writer.begin({"w": torch.full((3,), float(updates))}, {"updates": updates})


def test_an_error_comes_back_once_and_the_next_one_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.touch()  # a file where the folder should be
    writer = CheckpointWriter(folder, lambda: None)
    begin(writer, 1)
    with pytest.raises(UserError, match="checkpoint") as error:
        writer.wait()
    assert "\n" not in str(error.value)
    writer.wait()
    begin(writer, 2)
    while writer.busy:
        pass
    with pytest.raises(UserError, match="checkpoint"):
        writer.wait()
    folder.unlink()
    begin(writer, 3)
    writer.wait()
    found = load_checkpoint(folder)
    assert found is not None
    assert found.updates == 3


def test_a_later_one_makes_up_for_one_that_failed(tmp_path: Path) -> None:
    errors = [UserError("the log cannot be written")]

    def sync_log() -> None:
        if errors:
            raise errors.pop()

    writer = CheckpointWriter(tmp_path, sync_log)
    begin(writer, 1)
    begin(writer, 2)
    writer.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["2-1"]


def test_the_log_is_synced_before_anything_is_written(tmp_path: Path) -> None:
    there: list[list[Path]] = []
    writer = CheckpointWriter(tmp_path, lambda: there.append(list(tmp_path.iterdir())))
    begin(writer, 1)
    writer.wait()
    assert there == [[]]
