"""Frames in, a video out: MP4 (H.264) or GIF, playable everywhere, whole or not there at all.

The replayer's worker processes and `debug_rollout` use it. In: Game Boy frames as uint8 [144, 160, 3], or pictures with
a panel. Out: one file, scaled up by whole pixels, under its final name only once it is complete. An MP4 is yuv420p with
its index in front (+faststart), a GIF has the exact greys, or the colours of a palette. The encoder is the ffmpeg that
the imageio-ffmpeg package brings, or the one that `IMAGEIO_FFMPEG_EXE` names.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cluster_rl.errors import UserError, describe_exit, mend
from cluster_rl.report.whole_output import Partial, WholeOutput
from cluster_rl.runs.atomic import explain_os_error

HEIGHT, WIDTH = 144, 160
SCALE = 3
"""Pixels of a video, by default, per pixel of the Game Boy."""

# The Game Boy's clock is 2^22 Hz and a frame takes 70,224 ticks of it: 59.7275 frames a second, exactly this fraction.
_CLOCK_HZ = 1 << 22
_FRAME_TICKS = 70_224

ENCODERS = {
    ".mp4": ("-c:v", "libx264", "-preset", "veryfast", "-crf", "20", "-pix_fmt", "yuv420p", "-movflags", "+faststart"),
    ".gif": ("-pix_fmt", "gray"),
}
"""What ffmpeg is told for a file with this ending."""
_NEEDED = {".mp4": "libx264", ".gif": "gif"}
_MAX_WORDS = 200  # characters of what ffmpeg said that are repeated


def video_frames(game_frames: int, fps: int, speed: int = 1) -> int:
    """Frames that a video has after so many frames of the game, which it plays `speed` times as fast as the game.

    One at least: none is no video.
    """
    return max(game_frames * fps * _FRAME_TICKS // (_CLOCK_HZ * speed), min(game_frames, 1))


@cache
def find_encoder(suffix: str) -> str:
    """The path of an ffmpeg that starts and can encode files with this ending. `UserError` where there is none."""
    import imageio_ffmpeg  # here, so that a missing package is told as others are

    other = f"name another by IMAGEIO_FFMPEG_EXE{' (it is set now)' if 'IMAGEIO_FFMPEG_EXE' in os.environ else ''}"
    advice = f"install imageio-ffmpeg anew, or {other}"
    try:
        ffmpeg: str = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError:
        raise UserError(f"videos need ffmpeg, and there is none; {advice}") from None
    try:
        done = subprocess.run([ffmpeg, "-hide_banner", "-encoders"], capture_output=True, check=False)
    except OSError as error:
        raise UserError(f"videos need ffmpeg, and {ffmpeg} cannot be started: {error.strerror}; {advice}") from None
    if done.returncode:
        words = _shortly(done.stderr)
        raise UserError(f"videos need ffmpeg, and {ffmpeg} {describe_exit(done.returncode)}: {words}; {advice}")
    if not re.search(rf"^ V\S+ {_NEEDED[suffix]} ", done.stdout.decode(errors="replace"), re.MULTILINE):
        raise UserError(f"{suffix} videos need ffmpeg with {_NEEDED[suffix]}, which {ffmpeg} has not; {advice}")
    return ffmpeg


def _shortly(words: bytes) -> str:
    """The first of what ffmpeg said, which the rest follows from, without its parts' addresses."""
    said = re.sub(r"\[[^]]* @ 0x[0-9a-f]+\] ", "", words.decode(errors="replace")).strip()
    return said.partition("\n")[0][:_MAX_WORDS] or "it said nothing"


class VideoWriter(WholeOutput):
    """Writes one file; a context manager that keeps the file only if its block ends without an exception.

    Until `close` it is a `Partial`, so a killed render leaves nothing that looks finished, and of two with one name
    each writes its own: the last to close has it.
    """

    def __init__(
        self,
        path: Path,
        fps: float,
        scale: int = SCALE,
        size: tuple[int, int] = (HEIGHT, WIDTH),
        palette: npt.NDArray[np.uint8] | None = None,
        metadata: str = "",
    ) -> None:
        """`fps` is frames a second, `scale` video pixels per pixel of a frame, `size` a frame's height and width (even
        ones, so that they come out even for every scale). A GIF has the colours of `palette`, uint8 [256, 3], or greys.
        An MP4 has the `metadata`, such as chapters: the text of an FFMETADATA file.

        `path` ends as one of `ENCODERS`. A GIF counts in hundredths of a second, and viewers slow down above 50 fps.
        Raises `UserError` if there is no encoder, and as `explain_os_error` says.
        """
        ffmpeg = find_encoder(path.suffix)
        self.path = path
        self.frames = 0
        self._shape = (*size, 3)
        height, width = size
        try:
            self._partial = Partial(path)
        except OSError as error:
            raise explain_os_error(error, path) from None
        # A pipe nobody reads would stop ffmpeg once it is full; a file takes all it has to say.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed in close and abort)
        with contextlib.ExitStack() as inherited:
            descriptors: list[int] = []

            def file_of(data: bytes) -> str:
                """The name by which the encoder has an open file with these bytes."""
                file = inherited.enter_context(tempfile.TemporaryFile())
                file.write(data)
                file.seek(0)
                descriptors.append(file.fileno())
                return f"pipe:{file.fileno()}"

            filters = f"scale={width * scale}:{height * scale}:flags=neighbor"
            coding: tuple[str, ...] = ("-vf", filters, *ENCODERS[path.suffix])
            if path.suffix == ".gif" and palette is not None:
                coding = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "16x16", "-i", file_of(palette.tobytes()))
                coding += ("-lavfi", f"[0:v]{filters}[frame];[frame][1:v]paletteuse=dither=none")
            elif path.suffix == ".mp4" and metadata:
                about = file_of(metadata.encode(errors="replace"))
                coding = ("-f", "ffmetadata", "-i", about, "-map_metadata", "1", *coding)
            command = [
                *(ffmpeg, "-hide_banner", "-loglevel", "error", "-y"),
                *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:g}", "-i", "pipe:0"),
                # One thread: workers are processes, one a core, and a second one would only make them wait.
                *(*coding, "-threads", "1", "-f", path.suffix.removeprefix("."), f"file:{self._partial.path}"),
            ]
            self._process = self._started(command, descriptors)

    def _started(self, command: list[str], descriptors: Sequence[int]) -> subprocess.Popen[bytes]:
        """The encoder, which inherits open files."""
        try:
            # A group of its own, so that Ctrl-C ends the program that renders and not the encoder under it.
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=descriptors,
                process_group=0,
            )
        except OSError as error:
            self._partial.drop()
            self._errors.close()
            raise UserError(f"video {self.path}: {command[0]} cannot be started: {error.strerror}") from None

    def write(self, frame: npt.NDArray[np.uint8]) -> None:
        """Appends a frame, uint8 [*size, 3]. Raises `UserError` with ffmpeg's words if it has failed."""
        assert frame.shape == self._shape, frame.shape
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(frame.tobytes())
        except BrokenPipeError:
            raise self._failure() from None
        self.frames += 1

    def finish(self) -> None:
        """Completes the file, without its name yet. Raises `UserError` with ffmpeg's words if that fails."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            raise self._failure() from None
        made = self._partial.path
        # It may say that it is done, and be no ffmpeg.
        if self._process.wait() != 0 or not made.exists() or not made.stat().st_size:
            raise self._failure()

    def close(self) -> None:
        """Finishes the file and gives it its name. Raises as `finish`, or as `explain_os_error` says; leaves none."""
        self.finish()
        try:
            self._partial.keep()
        except OSError as error:
            self.abort()
            raise explain_os_error(error, self.path) from None
        self._errors.close()

    def abort(self) -> None:
        """Stops the encoder and removes what it wrote."""
        self._process.kill()
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # a frame still in the buffer has no reader any more
                self._process.stdin.close()
        self._process.wait()
        self._partial.drop()
        self._errors.close()

    def _failure(self) -> UserError:
        """The error to raise, with what ffmpeg said; cleans up."""
        code = self._process.wait()
        self._errors.seek(0)
        words = self._errors.read()
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        hint = f"; {mend(full, self.path)}" if (full.strerror or "").encode() in words else ""
        self.abort()
        return UserError(f"video {self.path}: ffmpeg {describe_exit(code)} and left no video: {_shortly(words)}{hint}")
