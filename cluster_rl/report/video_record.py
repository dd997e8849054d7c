"""How videos are called, and what lies beside a finished one, so that it is found and not rendered again.

The replayer uses it in all its processes. In: an episode log's header, or a folder of videos. Out: names, and a
`VideoRecord` for each video: `NAME.json` beside `NAME.mp4`, whose path on the map is `NAME.png`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from cluster_rl.errors import UserError
from cluster_rl.runs.atomic import write_atomic
from cluster_rl.runs.episode_log import EpisodeHeader, Milestone
from cluster_rl.runs.small_file import read_json

Kind = Literal["mp4", "gif", "png"]
ENDINGS: Final[dict[Kind, str]] = {"mp4": ".mp4", "gif": ".gif", "png": "_png"}
"""What the name of a video, or of a folder of its frames, ends with."""


class VideoRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The file beside a finished video: what it shows and how long it is. Older programs wrote less."""

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
    kind: Kind = "mp4"
    speed: int = 1
    """Times as fast as the game."""
    name_tail: str = ""
    """What the video's name has behind that of its log; older programs put nothing there."""
    episode_return: float | None = msgspec.field(name="return", default=None)
    """None of an unfinished episode, which has none yet, and in records of older programs; so the rest."""
    milestones: list[Milestone] = []
    epsilon: float | None = None
    started: str = ""


def told_by(header: EpisodeHeader, speed: int) -> dict[str, Any]:
    """The fields of a record that say what an episode was like."""
    return {
        "name_tail": name_tail(header, speed),
        "episode_return": header.episode_return if header.complete else None,
        "milestones": header.milestones,
        "epsilon": header.epsilon,
        "started": header.started,
    }


def name_tail(header: EpisodeHeader, speed: int = 1) -> str:
    """What is behind the log's name in that of a video: return, milestones reached, epsilon, how many times as fast."""
    told = f"r{_short(header.episode_return)}_m{len(header.milestones)}" if header.complete else "unfinished"
    return f"_{told}_eps{header.epsilon:.3g}" + (f"_x{speed}" if speed != 1 else "")


def _short(value: float) -> str:
    return f"{round(value, 1) + 0.0:.1f}" if abs(value) < 1e6 else f"{value:.0e}"  # never -0.0


def record_path(video: Path) -> Path:
    """`NAME.json` of `NAME.mp4`, `NAME.gif.json` of `NAME.gif`, `NAME_png.json` of the folder `NAME_png`."""
    return video.with_suffix(".json") if video.suffix == ".mp4" else video.with_name(f"{video.name}.json")


def video_of(path: Path, record: VideoRecord) -> Path:
    """Which video a record in this file is of."""
    return path.with_suffix(".mp4" if record.kind == "mp4" else "")


def path_picture(video: Path) -> Path:
    """`NAME.png` of `NAME.mp4`: the episode's path on the map. Videos of another kind and this name share it."""
    return video.with_name(f"{_name(video)}.png")


def log_stem(video: Path, record: VideoRecord) -> str:
    """The name of the log that a video is of, without its ending."""
    return _name(video).removesuffix(record.name_tail)


def _name(video: Path) -> str:
    return re.sub(r"(\.mp4|\.gif|_png)\Z", "", video.name)


def read_records(folder: Path) -> dict[Path, VideoRecord]:
    """The records in a folder by the path of their video, which may be gone. What cannot be read is left out: such a
    video is rendered anew."""
    found: dict[Path, VideoRecord] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            record = read_json(path, VideoRecord)
        except UserError:
            continue
        found[video_of(path, record)] = record
    return found


def is_finished(video: Path, log_sha256: str, fps: int, overlay: bool = False) -> bool:
    """Whether a video and the picture of its path are there, whole, and show this very log at this rate, with a
    panel beside the game where one is asked for. Where none is, one with a panel is as good."""
    try:
        record = read_json(record_path(video), VideoRecord)
    except UserError:  # rendered anew
        return False
    picture_bytes = size_bytes(path_picture(video))
    has_path = picture_bytes > 0 if record.path_bytes is msgspec.UNSET else record.path_bytes == picture_bytes
    same = (record.log_sha256, record.fps, record.video_bytes) == (log_sha256, fps, size_bytes(video))
    return has_path and same and (record.overlay or not overlay)


def size_bytes(video: Path) -> int:
    """Bytes of a file, or of the files of a folder; 0 where there is none."""
    try:
        return sum(file.stat().st_size for file in (video.iterdir() if video.is_dir() else [video]))
    except OSError:
        return 0


def write_record(video: Path, record: VideoRecord) -> None:
    """The video is finished now. Raises as `write_atomic` does."""
    write_atomic(record_path(video), msgspec.json.encode(record) + b"\n")


def rename(old: Path, new: Path, record: VideoRecord) -> None:
    """Gives a finished video another name, the record last: what is torn in between is rendered anew.

    Raises `OSError`, and as `write_atomic` does.
    """
    old.replace(new)
    if path_picture(old).exists():
        path_picture(old).replace(path_picture(new))
    write_record(new, record)
    record_path(old).unlink(missing_ok=True)


def remove(video: Path) -> None:
    """Removes a video and what lies beside it, the record first. Of a folder only its frames: `OSError` where there is
    something else in it."""
    record_path(video).unlink(missing_ok=True)
    path_picture(video).unlink(missing_ok=True)
    if video.is_dir():
        for frame in video.glob("frame-*.png"):
            frame.unlink()
        video.rmdir()
    else:
        video.unlink(missing_ok=True)
