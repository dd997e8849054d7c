"""Several outputs of one recording: none has its name unless all are complete."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from cluster_rl.errors import UserError
from cluster_rl.report.recording import Recording
from cluster_rl.report.video import find_encoder


@pytest.fixture
def failing(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An ffmpeg that fails at a GIF's very end, and else is the true one."""
    path = tmp_path_factory.mktemp("bin") / "ffmpeg"
    real = imageio_ffmpeg.get_ffmpeg_exe()
    path.write_text(f'#!/bin/sh\n{real} "$@" || exit\ncase "$*" in *.gif.*.partial) exit 69;; esac\n')
    path.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(path))
    find_encoder.cache_clear()
    yield
    find_encoder.cache_clear()


def play(recording: Recording) -> None:
    with recording:
        for _ in range(3):
            recording.on_frame(np.zeros((144, 160, 3), np.uint8))
            recording.step()


@pytest.mark.parametrize("names", [["a.gif", "a.mp4"], ["a.mp4", "a.gif"], ["a.gif"]])
@pytest.mark.usefixtures("failing")
def test_one_that_fails_at_its_end_leaves_none(tmp_path: Path, names: list[str]) -> None:
    (tmp_path / "a.mp4").write_bytes(b"older")
    with pytest.raises(UserError, match=r"a\.gif: ffmpeg exited with code 69"):
        play(Recording([tmp_path / name for name in names], tmp_path / "png", 30, 9, panel=False))
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == b"older"


def test_a_folder_that_was_filled_meanwhile_leaves_no_video(tmp_path: Path) -> None:
    recording = Recording([tmp_path / "a.mp4", tmp_path / "a.gif"], tmp_path / "png", 30, 9, panel=False)
    (tmp_path / "png").mkdir()
    (tmp_path / "png" / "mine").touch()
    with pytest.raises(OSError, match="not empty"):
        play(recording)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine", "png"]
