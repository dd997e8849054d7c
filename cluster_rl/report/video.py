"""Frames in, a video out: MP4 (H.264) or GIF, playable everywhere, whole or not there at all.

The replayer's worker processes and `debug_rollout` use it. In: Game Boy frames as uint8 [144, 160, 3]. Out: one file,
scaled up by whole pixels, under its final name only once it is complete. An MP4 is yuv420p with its index in front
(+faststart), a GIF has the exact greys. The encoder is the ffmpeg that the imageio-ffmpeg package brings.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import imageio_ffmpeg
import numpy as np
import numpy.typing as npt

HEIGHT, WIDTH = 144, 160

# The Game Boy's clock is 2^22 Hz and a frame takes 70,224 ticks of it: 59.7275 frames a second, exactly this fraction.
_CLOCK_HZ = 1 << 22
_FRAME_TICKS = 70_224

ENCODERS = {
    ".mp4": ("-c:v", "libx264", "-preset", "veryfast", "-crf", "20", "-pix_fmt", "yuv420p", "-movflags", "+faststart"),
    ".gif": ("-pix_fmt", "gray"),
}
"""What ffmpeg is told for a file with this ending."""


def video_frames(game_frames: int, fps: int) -> int:
    """Frames that a video at the game's speed has after so many frames of the game."""
    return game_frames * fps * _FRAME_TICKS // _CLOCK_HZ


class VideoWriter:
    """Writes one file; a context manager that keeps the file only if its block ends without an exception.

    Until `close` the file has the name `.<name>.partial`, so a killed render leaves nothing that looks finished.
    """

    def __init__(self, path: Path, fps: float, scale: int = 3) -> None:
        """`fps` is frames a second, `scale` video pixels per Game Boy pixel (even sizes come out for every scale).

        `path` ends as one of `ENCODERS`. A GIF counts in hundredths of a second, and viewers slow down above 50 fps.
        Raises `RuntimeError` if the encoder cannot be started.
        """
        self.path = path
        self.frames = 0
        self._partial = path.with_name(f".{path.name}.partial")
        # A pipe nobody reads would stop ffmpeg once it is full; a file takes all it has to say.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed in _end)
        command = [
            *(imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-y"),
            *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", f"{fps:g}", "-i", "pipe:0"),
            # Workers are processes, one a core: a second encoder thread each would only make them wait for each other.
            *("-vf", f"scale={WIDTH * scale}:{HEIGHT * scale}:flags=neighbor", "-threads", "1"),
            *(*ENCODERS[path.suffix], "-f", path.suffix.removeprefix("."), str(self._partial)),
        ]
        try:
            # A group of its own, so that Ctrl-C ends the program that renders and not the encoder under it.
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._errors, process_group=0
            )
        except OSError as error:
            self._errors.close()
            raise RuntimeError(f"video {path}: ffmpeg cannot be started: {error}") from error

    def write(self, frame: npt.NDArray[np.uint8]) -> None:
        """Appends a frame, uint8 [144, 160, 3]. Raises `RuntimeError` with ffmpeg's words if it has failed."""
        assert frame.shape == (HEIGHT, WIDTH, 3), frame.shape
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(frame.tobytes())
        except BrokenPipeError:
            raise self._failure() from None
        self.frames += 1

    def close(self) -> None:
        """Finishes the file and gives it its name. Raises `RuntimeError` with ffmpeg's words if that fails."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            raise self._failure() from None
        if self._process.wait() != 0:
            raise self._failure()
        self._partial.replace(self.path)
        self._errors.close()

    def abort(self) -> None:
        """Stops the encoder and removes what it wrote."""
        self._process.kill()
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # a frame still in the buffer has no reader any more
                self._process.stdin.close()
        self._process.wait()
        self._partial.unlink(missing_ok=True)
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _failure(self) -> RuntimeError:
        """The error to raise, with what ffmpeg said; cleans up."""
        code = self._process.wait()
        self._errors.seek(0)
        words = " ".join(self._errors.read().decode(errors="replace").split())
        self.abort()
        return RuntimeError(f"video {self.path}: ffmpeg failed with code {code}: {words or 'it said nothing'}")
