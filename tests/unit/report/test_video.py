"""The video writer: what ffmpeg itself says of the files, that no half file is left, and what a bad ffmpeg comes to."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import numpy.typing as npt
import pytest
from small_disk import mounted

from cluster_rl.errors import UserError
from cluster_rl.report.overlay import palette
from cluster_rl.report.video import VideoWriter, find_encoder, video_frames


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
        with VideoWriter(tmp_path / "a.mp4", fps=30, scale=1, size=(143, 160)) as video:
            for _ in range(100):
                video.write(np.zeros((143, 160, 3), np.uint8))

    with pytest.raises(UserError, match=r"a\.mp4: ffmpeg exited with code \d+ .*height not divisible by 2"):
        render()
    assert list(tmp_path.iterdir()) == []


def test_two_with_one_name_are_both_whole_and_the_last_one_has_it(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    first, second, third = (VideoWriter(path, fps=25) for _ in range(3))
    for number in range(1, 4):
        first.write(frame_of(number))
        second.write(frame_of(10 * number))
    third.abort()
    for video, expected in ((first, [1, 2, 3]), (second, [10, 20, 30])):
        video.close()
        assert np.array_equal(decode(path, (480, 432))[:, ::3, ::3], [frame_of(number) for number in expected])
    assert list(tmp_path.iterdir()) == [path]


def test_a_frame_of_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError), VideoWriter(tmp_path / "a.mp4", fps=30) as video:
        video.write(np.zeros((72, 80, 3), np.uint8))


def test_a_video_has_a_frame() -> None:
    for fps in (1, 30, 120):
        assert [video_frames(game_frames, fps) for game_frames in (0, 1)] == [0, max(1, fps // 60)]
        assert video_frames(59, fps) >= 1


def test_a_name_that_is_like_a_protocol(tmp_path: Path) -> None:
    path = tmp_path / "a:b %d -y.mp4"
    with VideoWriter(path, fps=30) as video:
        video.write(frame_of(1))
    assert len(decode(path, (480, 432))) == 1


# --- a bad ffmpeg ---

Encoder = Callable[[str], Path]


@pytest.fixture
def encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Encoder]:
    """Makes a shell script the ffmpeg that is used; `$REAL` is the true one."""
    real = imageio_ffmpeg.get_ffmpeg_exe()

    def use(script: str) -> Path:
        path = tmp_path / "bin" / "ffmpeg"
        path.parent.mkdir()
        path.write_text(f"#!/bin/sh\nREAL={real}\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(path))
        find_encoder.cache_clear()
        return path

    yield use
    find_encoder.cache_clear()


def failure(folder: Path, frames: int = 100) -> str:
    """What the writer says; asserts that it leaves nothing."""
    folder.mkdir(exist_ok=True)

    def render() -> None:
        with VideoWriter(folder / "a.mp4", fps=30) as video:
            for number in range(frames):
                video.write(frame_of(number))

    with pytest.raises(UserError) as error:
        render()
    assert list(folder.iterdir()) == []
    assert "\n" not in str(error.value)
    return str(error.value)


# Encoders are listed as they are; then it does what the test wants.
LISTED = 'case "$*" in *-encoders*) exec $REAL "$@" ;; esac; '


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ('exec $REAL "$@" | grep -v libx264', r"\.mp4 videos need ffmpeg with libx264, which .*/ffmpeg has not"),
        ("echo libx.so: cannot open shared object >&2; exit 127", r"exited with code 127: libx\.so: cannot open"),
        (LISTED + "head -c 200000 >/dev/null", "a.mp4: ffmpeg exited with code 0 and left no video: it said nothing"),
        (LISTED + "cat >/dev/null", "a.mp4: ffmpeg exited with code 0 and left no video: it said nothing"),
        (LISTED + "head -c 9 >/dev/null; echo Conversion failed >&2; exit 69", "code 69 .*: Conversion failed$"),
        (LISTED + "head -c 200000 >/dev/null; kill -9 $$", r"was killed by SIGKILL \(out of memory\?\)"),
        (LISTED + "kill -SEGV $$", "was killed by SIGSEGV"),
    ],
)
def test_a_bad_ffmpeg_is_one_line(script: str, words: str, encoder: Encoder, tmp_path: Path) -> None:
    encoder(script)
    assert re.search(words, failure(tmp_path / "videos"))


def test_only_a_gif_with_a_palette_inherits_one(encoder: Encoder, tmp_path: Path) -> None:
    # Temporary files have no name any more; the one that takes ffmpeg's words is always there.
    listing = tmp_path / "open"
    encoder(LISTED + f'ls -l /proc/$$/fd | grep -c deleted >> {listing}; exec $REAL "$@"')
    for name, colours in (("a.mp4", None), ("b.mp4", palette()), ("c.gif", None), ("d.gif", palette())):
        with VideoWriter(tmp_path / name, fps=30, palette=colours) as video:
            video.write(frame_of(1))
    assert listing.read_text().split() == ["1", "1", "1", "2"]


def test_where_a_folder_has_its_name_meanwhile_nothing_is_left(tmp_path: Path) -> None:
    video = VideoWriter(tmp_path / "a.mp4", fps=30)
    video.write(frame_of(1))
    (tmp_path / "a.mp4").mkdir()
    with pytest.raises(UserError, match="Is a directory"):
        video.close()
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_no_ffmpeg_is_one_line(encoder: Encoder, tmp_path: Path) -> None:
    path = encoder("exit 0")
    assert "libx264" in failure(tmp_path / "videos")  # it lists none
    for reason in ("Permission denied", "No such file or directory"):
        path.chmod(0o644) if reason.startswith("P") else path.unlink()
        find_encoder.cache_clear()
        assert f"{path} cannot be started: {reason}; install imageio-ffmpeg anew" in failure(tmp_path / "videos")


def test_no_ffmpeg_that_imageio_finds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def none() -> str:
        raise RuntimeError("No ffmpeg exe could be found.\nInstall ffmpeg on your system")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", none)
    find_encoder.cache_clear()
    assert failure(tmp_path).startswith("videos need ffmpeg, and there is none; install imageio-ffmpeg anew")


@pytest.mark.parametrize("option", ["size=40k", "nr_inodes=1"])
def test_a_full_disk_is_one_line(option: str, tmp_path: Path) -> None:
    with mounted(tmp_path / "small", option) as disk:
        words = failure(disk.folder, frames=1500)
        assert "No space left on device" in words
        assert words.endswith(
            "free some space and start again" if "size" in option else "many small ones, most likely)"
        )
