"""A folder of PNGs: whole and in order, or not there at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from cluster_rl.errors import UserError
from cluster_rl.report.png_folder import PngFolder


def frame_of(shade: int) -> np.ndarray:
    return np.full((144, 160, 3), (shade, 0, 255), np.uint8)


@pytest.mark.parametrize("made_before", [False, True])
def test_frames_are_whole_and_in_order(tmp_path: Path, made_before: bool) -> None:
    path = tmp_path / "x"
    if made_before:
        path.mkdir()
    with PngFolder(path) as folder:
        for shade in range(12):
            folder.write(frame_of(shade))
        assert not path.exists() or not any(path.iterdir())
    assert folder.frames == 12
    files = sorted(path.iterdir())
    assert [file.name for file in files] == [f"frame-{number:06}.png" for number in range(1, 13)]
    assert list(tmp_path.iterdir()) == [path]
    assert folder.size_bytes() == sum(len(file.read_bytes()) for file in files)
    for shade, file in enumerate(files):
        picture = np.round(imread(file) * 255)[..., :3]
        assert np.array_equal(picture, frame_of(shade).repeat(3, 0).repeat(3, 1))


def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with PngFolder(tmp_path / "x") as folder:
            folder.write(frame_of(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_in_no_folder(tmp_path: Path) -> None:
    left = PngFolder(tmp_path / "x")
    left.write(frame_of(0))
    left.write(frame_of(0))
    with PngFolder(tmp_path / "x") as folder:
        folder.write(frame_of(9))
    assert [file.name for file in (tmp_path / "x").iterdir()] == ["frame-000001.png"]


def test_a_folder_that_was_filled_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "x"
    folder = PngFolder(path)
    folder.write(frame_of(0))
    path.mkdir()
    (path / "mine").touch()
    with pytest.raises(OSError, match="not empty"):
        folder.close()
    assert [file.name for file in tmp_path.rglob("*")] == ["x", "mine"]


def test_where_none_can_be_made(tmp_path: Path) -> None:
    with pytest.raises((UserError, OSError)) as error:
        PngFolder(tmp_path / ("x" * 300))
    assert "\n" not in str(error.value)
