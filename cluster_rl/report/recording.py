"""A piece of play recorded: the same frames as an MP4, a GIF and a folder of PNGs, whichever are wanted.

`debug_rollout` and the replayer's worker processes use it. In: every frame of the game, step by step. Out: the files,
each whole or not there at all, and what to tell of them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from cluster_rl.errors import UserError
from cluster_rl.report.overlay import SIZE, Facts, overlay, palette
from cluster_rl.report.png_folder import PngFolder
from cluster_rl.report.video import ENCODERS, HEIGHT, SCALE, WIDTH, VideoWriter, video_frames
from cluster_rl.runs.atomic import real_path

GIF_FPS_MAX = 50


def check_outputs(videos: Sequence[Path], folder: Path | None, fps: int) -> None:
    """Raises `UserError` for files that cannot be made. `folder` is that of PNGs."""
    for path in videos:
        if path.suffix not in ENCODERS:
            raise UserError(f"video {path}: give mp4, gif, both, or the name of a file that ends in .mp4 or .gif")
        if path.is_dir():
            raise UserError(f"video {path}: is a folder; give the name of a file")
        if path.suffix == ".gif" and fps > GIF_FPS_MAX:
            raise UserError(f"--video-fps {fps}: must be at most {GIF_FPS_MAX} with a GIF")
        _check_parent(path, f"video {path}")
    if folder is None:
        return
    whole = real_path(folder)
    for path in videos:
        video = real_path(path)
        if whole == video:
            raise UserError(f"--png {folder}: the video has that name; give another")
        if whole in video.parents:
            raise UserError(f"--png {folder}: the video {path} would lie in it, and it must be empty; give another")
    if whole.exists() and not whole.is_dir():
        raise UserError(f"--png {folder}: is a file; give the name of a folder")
    _check_parent(whole, f"--png {folder}")
    if whole.exists() and any(whole.iterdir()):
        raise UserError(f"--png {folder}: there is something in it already; give a new or an empty folder")


def _check_parent(path: Path, what: str) -> None:
    if not path.parent.is_dir():
        raise UserError(f"{what}: its folder does not exist; make it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(f"{what}: its folder may not be written to; give another")


class Recording:
    """The first `max_frames` frames; a context manager that keeps files only if all went well.

    None gets its name before all are complete. Hand `on_frame` every frame of a step, then call `step`.
    """

    def __init__(
        self,
        videos: Sequence[Path],
        folder: Path | None,
        fps: int,
        max_frames: int,
        panel: bool,
        speed: int = 1,
        metadata: str = "",
    ) -> None:
        """`panel`: each step comes with its `Facts`, which are drawn beside the game. What is recorded plays `speed`
        times as fast as the game. `metadata` as for `VideoWriter`. Raises as `check_outputs`, and where a file cannot
        be begun."""
        check_outputs(videos, folder, fps)
        self.frames = 0
        self._fps, self._max_frames, self._speed = fps, max_frames, speed
        self._game_frames = 0
        self._step: list[npt.NDArray[np.uint8]] = []
        scale, size = (1, SIZE) if panel else (SCALE, (HEIGHT, WIDTH))
        self._outputs: list[_Output] = []
        self._open = ExitStack()
        with self._open:  # of those that were begun none is left, if one cannot be
            for path in videos:
                self._add(VideoWriter(path, fps, scale, size, palette() if panel else None, metadata))
            if folder is not None:
                self._add(PngFolder(folder, scale))
            self._open = self._open.pop_all()

    def _add(self, writer: VideoWriter | PngFolder) -> None:
        self._outputs.append(self._open.enter_context(_Output(writer)))

    @property
    def full(self) -> bool:
        return self.frames >= self._max_frames

    def on_frame(self, frame: npt.NDArray[np.uint8]) -> None:
        """Takes in a frame of the game, uint8 [144, 160, 3]."""
        self._step.append(frame)

    def step(self, during: Facts | None = None, after: Facts | None = None) -> None:
        """The frames of a step are complete: `after` it, at its last frame, other facts hold than `during` it."""
        for number, frame in enumerate(self._step, start=1):
            self._game_frames += 1
            facts = after if number == len(self._step) else during
            while not self.full and self.frames < video_frames(self._game_frames, self._fps, self._speed):
                self.frames += 1
                picture = frame if facts is None else overlay(frame, facts)
                for output in self._outputs:
                    output.write(picture)
        self._step.clear()

    def report(self) -> list[dict[str, Any]]:
        """What each file is, once they are closed: `seconds` is how long it plays, `encode_seconds` took to write."""
        return [output.report(self._fps) for output in self._outputs]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._open.__exit__(kind, error, trace)
            return
        with self._open:
            for output in self._outputs:
                output.finish()


class _Output:
    """A writer, and the time that it took."""

    def __init__(self, writer: VideoWriter | PngFolder) -> None:
        self._writer = writer
        self._seconds = 0.0

    def write(self, picture: npt.NDArray[np.uint8]) -> None:
        began = time.perf_counter()
        self._writer.write(picture)
        self._seconds += time.perf_counter() - began

    def finish(self) -> None:
        began = time.perf_counter()
        self._writer.finish()
        self._seconds += time.perf_counter() - began

    def report(self, fps: int) -> dict[str, Any]:
        writer = self._writer
        if isinstance(writer, PngFolder):
            kind, size_bytes = "png", writer.size_bytes()
        else:
            kind, size_bytes = writer.path.suffix.removeprefix("."), writer.path.stat().st_size
        return {
            "path": str(writer.path),
            "kind": kind,
            "frames": writer.frames,
            "fps": fps,
            "seconds": round(writer.frames / fps, 3),
            "encode_seconds": round(self._seconds, 3),
            "bytes": size_bytes,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        began = time.perf_counter()
        self._writer.__exit__(kind, error, trace)
        self._seconds += time.perf_counter() - began
