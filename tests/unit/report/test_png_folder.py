"""A folder of PNGs: whole and in order, or not there at all."""

from __future__ import annotations

import signal
import subprocess
import sys
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


def test_matplotlib_is_not_waited_for(tmp_path: Path) -> None:
    lines = (
        "import pathlib, sys, numpy; from cluster_rl.report.png_folder import PngFolder\n"
        f"with PngFolder(pathlib.Path({str(tmp_path / 'x')!r})) as folder:\n"
        "    folder.write(numpy.zeros((144, 160, 3), numpy.uint8))\n"
        "assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", lines], check=True, timeout=60)


def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with PngFolder(tmp_path / "x") as folder:
            folder.write(frame_of(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_in_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "x[1]"
    script = (
        "import os, pathlib, signal, numpy, cluster_rl.report.png_folder as here\n"
        f"folder = here.PngFolder(pathlib.Path({str(path)!r}))\n"
        "for _ in range(2): folder.write(numpy.zeros((144, 160, 3), numpy.uint8))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    [left] = tmp_path.iterdir()
    assert len(list(left.iterdir())) == 2
    with PngFolder(path) as folder:
        folder.write(frame_of(9))
    assert [file.name for file in path.iterdir()] == ["frame-000001.png"]
    assert list(tmp_path.iterdir()) == [path]


def test_two_at_once_leave_each_others_pictures_alone(tmp_path: Path) -> None:
    first, second = PngFolder(tmp_path / "x"), PngFolder(tmp_path / "x")
    for shade in range(4):
        first.write(frame_of(shade))
        second.write(frame_of(100))
    first.close()
    with pytest.raises(OSError, match="not empty"):
        second.close()
    assert [round(imread(file)[0, 0, 0] * 255) for file in sorted((tmp_path / "x").iterdir())] == [0, 1, 2, 3]
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


def test_what_ended_it_is_told_where_its_pictures_are_gone(tmp_path: Path) -> None:
    def interrupted() -> None:
        with PngFolder(tmp_path / "x"):
            for partial in tmp_path.iterdir():
                partial.rmdir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()


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
    with pytest.raises(UserError, match="File name too long") as error:
        PngFolder(tmp_path / ("x" * 300))
    assert "\n" not in str(error.value)
