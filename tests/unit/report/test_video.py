"""The MP4 writer: what ffmpeg itself says of the files, and that no half file is left."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import numpy.typing as npt
import pytest

from cluster_rl.report.video import VideoWriter


def probe(path: Path) -> str:
    """What `ffmpeg -i` prints of a file."""
    return subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-i", path], capture_output=True, text=True).stderr


def decode(path: Path, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """All frames as uint8 [n, height, width, 3], decoded by ffmpeg."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", path, "-f", "rawvideo"]
    raw = subprocess.run([*command, "-pix_fmt", "rgb24", "-"], capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, size[1], size[0], 3)


def frame_of(number: int) -> npt.NDArray[np.uint8]:
    """A picture that tells its number: 16 x 16 blocks, light where the number has a bit."""
    frame = np.zeros((144, 160, 3), np.uint8)
    for bit in range(8):
        if number >> bit & 1:
            frame[:16, 16 * bit : 16 * bit + 16] = 255
    return frame


def test_every_frame_arrives_in_order_and_scaled_by_whole_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with VideoWriter(path, fps=30) as video:
        for number in range(77):
            video.write(frame_of(number))
    assert video.frames == 77
    frames = decode(path, (480, 432))
    assert len(frames) == 77
    bits = frames[:, 24, 24 : 24 + 48 * 8 : 48, 0] > 127  # the middle of each scaled block
    assert [int(sum(1 << b for b in range(8) if row[b])) for row in bits] == list(range(77))


def test_a_gif_has_the_exact_greys_and_goes_round(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    ramp = np.broadcast_to(np.arange(160, dtype=np.uint8)[None, :, None] + 96, (144, 160, 3))
    pictures = [frame_of(1), ramp, frame_of(2)]
    with VideoWriter(path, fps=25) as video:
        for picture in pictures:
            video.write(picture)
    assert np.array_equal(decode(path, (480, 432))[:, ::3, ::3], pictures)
    assert b"NETSCAPE2.0" in path.read_bytes()
    assert re.search(r"\b25 fps", probe(path))


def test_is_h264_yuv420p_with_the_index_in_front(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with VideoWriter(path, fps=30) as video:
        for number in range(30):
            video.write(frame_of(number))
    text = probe(path)
    assert re.search(r"Video: h264.*yuv420p.*480x432", text)
    assert re.search(r"\b30 fps", text)
    assert re.search(r"Duration: 00:00:01\.00", text)
    data = path.read_bytes()
    assert 0 <= data.index(b"moov") < data.index(b"mdat")


def test_an_exception_leaves_no_file(tmp_path: Path) -> None:
    def interrupted() -> None:
        with VideoWriter(tmp_path / "a.mp4", fps=30) as video:
            video.write(frame_of(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_before_close_there_is_nothing_under_the_final_name(tmp_path: Path) -> None:
    video = VideoWriter(tmp_path / "a.mp4", fps=30)
    for number in range(20):
        video.write(frame_of(number))
    assert not (tmp_path / "a.mp4").exists()
    video.close()
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_a_failure_carries_ffmpegs_own_words(tmp_path: Path) -> None:
    def render() -> None:
        with VideoWriter(tmp_path / "missing" / "a.mp4", fps=30) as video:
            for number in range(100):
                video.write(frame_of(number))

    with pytest.raises(RuntimeError, match="No such file or directory"):
        render()


def test_a_frame_of_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError), VideoWriter(tmp_path / "a.mp4", fps=30) as video:
        video.write(np.zeros((72, 80, 3), np.uint8))
