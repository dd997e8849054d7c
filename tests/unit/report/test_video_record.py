"""Whether a finished video is rendered again, by the record beside it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cluster_rl.report.video_record import VideoRecord, is_finished, path_picture, record_path

KNOWN = {"log_sha256": "ab", "fps": 30, "steps": 1, "frames": 1, "complete": True, "video_bytes": 5}


@pytest.mark.parametrize(
    ("path", "picture", "finished"),
    [
        ({"path_bytes": 3}, b"png", True),
        ({"path_bytes": 3}, b"pn", False),
        ({"path_bytes": 0}, None, True),
        ({"path_bytes": None}, b"png", False),
        ({"path_bytes": None}, None, False),
        ({}, b"png", True),  # of an older program
        ({}, None, False),
    ],
)
def test_the_picture_of_the_path_counts(
    tmp_path: Path, path: dict[str, int | None], picture: bytes | None, finished: bool
) -> None:
    video = tmp_path / "a.mp4"
    video.write_bytes(b"video")
    record = msgspec.convert(KNOWN | path, VideoRecord)
    record_path(video).write_bytes(msgspec.json.encode(record))
    assert msgspec.json.decode(record_path(video).read_bytes()) == KNOWN | path
    if picture is not None:
        path_picture(video).write_bytes(picture)
    assert is_finished(video, "ab", 30) == finished
    assert not is_finished(video, "ab", 60)
    assert not is_finished(video, "cd", 30)
    assert not is_finished(video, "ab", 30, overlay=True)
    record_path(video).write_bytes(msgspec.json.encode(msgspec.structs.replace(record, overlay=True)))
    assert is_finished(video, "ab", 30) == finished  # one with a panel stays where none is asked for
    assert not is_finished(video, "ab", 60)
    assert is_finished(video, "ab", 30, overlay=True) == finished
