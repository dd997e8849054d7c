"""What lies beside a finished video, so that it is not rendered again: `NAME.json`, and `NAME.png` with the path.

The replayer uses it in all its processes. In: a video's path. Out: a `VideoRecord`, and whether it still holds.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from cluster_rl.errors import UserError
from cluster_rl.runs.small_file import read_json


class VideoRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The file beside a finished video: what it shows and how long it is."""

    log_sha256: str
    fps: int
    steps: int
    frames: int
    complete: bool
    video_bytes: int
    path_bytes: int | msgspec.UnsetType | None = msgspec.UNSET
    """Size of the picture of the path: 0 where no map was seen, None where it could not be drawn.

    Records of older programs leave it out; that the picture is there is then enough."""
    overlay: bool = False


def record_path(video: Path) -> Path:
    """`NAME.json` of `NAME.mp4`."""
    return video.with_suffix(".json")


def path_picture(video: Path) -> Path:
    """`NAME.png` of `NAME.mp4`: the episode's path on the map."""
    return video.with_suffix(".png")


def is_finished(video: Path, log_sha256: str, fps: int, overlay: bool = False) -> bool:
    """Whether a video and the picture of its path are there, whole, and show this very log at this rate, with a
    panel beside the game where one is asked for. Where none is, one with a panel is as good."""
    try:
        record = read_json(record_path(video), VideoRecord)
    except UserError:  # rendered anew
        return False
    picture_bytes = _size(path_picture(video))
    has_path = picture_bytes > 0 if record.path_bytes is msgspec.UNSET else record.path_bytes == picture_bytes
    same = (record.log_sha256, record.fps, record.video_bytes) == (log_sha256, fps, _size(video))
    return has_path and same and (record.overlay or not overlay)


def _size(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
