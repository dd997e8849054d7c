"""Chapters, as ffmpeg reads them back from an MP4."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from recorded_episodes import FRAME_SKIP, header_of

from cluster_rl.game.world import World
from cluster_rl.report.chapters import chapters
from cluster_rl.report.video import VideoWriter, video_frames
from cluster_rl.runs.episode_log import EpisodeHeader

WORLD = World.cartridge()


def read_back(video: Path) -> list[tuple[float, float, str]]:
    """Begin and end in seconds, and title, of each chapter, as ffmpeg writes them out again."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", video, "-f", "ffmetadata", "-"]
    told = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    found = []
    for part in told.split("[CHAPTER]\n")[1:]:
        number = {key: value for key, _, value in (line.partition("=") for line in part.splitlines()[:3])}
        unit = eval_fraction(number["TIMEBASE"])
        title = re.sub(r"\\(.)", r"\1", part.partition("title=")[2].removesuffix("\n"), flags=re.S)
        found.append((int(number["START"]) * unit, int(number["END"]) * unit, title))
    return found


def eval_fraction(words: str) -> float:
    over, _, under = words.partition("/")
    return int(over) / int(under)


def written(path: Path, header: EpisodeHeader, fps: int = 30, speed: int = 1) -> list[tuple[float, float, str]]:
    with VideoWriter(path, fps, scale=1, metadata=chapters(header, WORLD, fps, speed)) as video:
        for _ in range(video_frames(header.steps * FRAME_SKIP, fps, speed)):
            video.write(np.zeros((144, 160, 3), np.uint8))
    return read_back(path)


@pytest.mark.parametrize(("fps", "speed"), [(30, 1), (12, 1), (30, 8)])
def test_each_milestone_begins_a_chapter_where_it_was_reached(tmp_path: Path, fps: int, speed: int) -> None:
    header = header_of([("LEFT_HOME", 20), ("READ_SIGN", 44)])
    found = written(tmp_path / "a.mp4", header, fps, speed)
    assert [title for *_, title in found] == ["beginning", "stepped out of the house", "read the sign of Hollow"]
    ends = [video_frames(step * FRAME_SKIP, fps, speed) for step in (20, 44, 50)]
    times = [0.0, *((end - 1) / fps for end in ends[:2])]
    assert [begin for begin, *_ in found] == pytest.approx(times, abs=1e-3)
    assert [end for _, end, _ in found] == pytest.approx([*times[1:], ends[2] / fps], abs=1e-3)


def test_what_is_reached_together_is_one_chapter(tmp_path: Path) -> None:
    found = written(tmp_path / "a.mp4", header_of([("LEFT_HOME", 1), ("READ_SIGN", 30), ("GOT_BALM", 30)]), fps=2)
    assert [title for *_, title in found] == [
        WORLD.milestone_title("LEFT_HOME"),
        "; ".join(map(WORLD.milestone_title, ("READ_SIGN", "GOT_BALM"))),
    ]


@pytest.mark.parametrize(
    "name", ["a=b;c#d\\e", "x\n[CHAPTER]\nTIMEBASE=1/1\nSTART=0\nEND=9\ntitle=y", "a\0b\x1b[2J", "É ★"]
)
def test_a_hostile_name_is_a_title_and_nothing_else(tmp_path: Path, name: str) -> None:
    [_, (*_, title)] = written(tmp_path / "a.mp4", header_of([(name, 20)]))
    assert title == " ".join("".join(letter if letter.isprintable() else " " for letter in name).split())


def test_milestones_that_cannot_be_there_begin_no_chapter() -> None:
    assert chapters(header_of([]), WORLD, 30) == ""
    assert chapters(header_of([("LEFT_HOME", 0), ("READ_SIGN", 51), ("GOT_BALM", -3)]), WORLD, 30) == ""
    assert len(chapters(header_of([("x" * 10_000, 5)]), WORLD, 30)) < 300
