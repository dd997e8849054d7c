"""The film of a map: what its frames show when, and what is refused."""

from __future__ import annotations

from pathlib import Path

import imageio_ffmpeg
import numpy as np
import numpy.typing as npt
import pytest
from made_logs import write_log
from made_runs import episode, make_run

from cluster_rl.errors import UserError
from cluster_rl.report.__main__ import parse_arguments, run
from cluster_rl.report.map_film import BAND_PIXELS, LAST_FRAMES, PARTS, write_film
from cluster_rl.report.run_facts import read_run
from cluster_rl.runs.layout import RunDir

HOLLOW, CELL = 0, 48  # 20 x 18 tiles, in pixels of a film of it alone
ORANGE, BLACKOUT = (255, 140, 0), (0xD1, 0x10, 0x6B)


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    made = make_run(tmp_path, episodes=[episode(number) for number in range(80)], env_steps=8000)
    write_log(made, 0, (HOLLOW, 4, 5), (HOLLOW, 5, 5))
    write_log(made, 40, (HOLLOW, 9, 9), (HOLLOW, 12, 9), blackouts=[2])
    return made


def frames_of(video: Path) -> list[npt.NDArray[np.uint8]]:
    reader = imageio_ffmpeg.read_frames(str(video))
    width, height = next(reader)["size"]
    return [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]


def middle(frame: npt.NDArray[np.uint8], x: int, y: int) -> npt.NDArray[np.int64]:
    row, column = BAND_PIXELS + y * CELL + CELL // 2, x * CELL + CELL // 2
    return frame[row - 2 : row + 2, column - 2 : column + 2].reshape(-1, 3).mean(0).astype(np.int64)


def is_like(colour: npt.NDArray[np.int64], other: tuple[int, int, int]) -> bool:
    """Whatever lies below shows through a little, and a video keeps colours roughly."""
    return bool(np.abs(colour - other).max() < 70)


@pytest.mark.parametrize("kind", ["mp4", "gif"])
def test_tiles_light_up_when_they_are_entered_and_stay(run_dir: RunDir, tmp_path: Path, kind: str) -> None:
    video = tmp_path / f"map.{kind}"
    assert write_film(read_run(run_dir), video) == 2
    frames = frames_of(video)
    assert len(frames) == PARTS + LAST_FRAMES
    # An episode ends in each part of the training, the one with the number of the part.
    assert is_like(middle(frames[0], 4, 5), ORANGE)
    assert not is_like(middle(frames[1], 4, 5), ORANGE)
    assert np.abs(middle(frames[1], 4, 5) - middle(frames[-1], 4, 5)).max() < 12  # as it stays
    assert [is_like(middle(frame, 9, 9), ORANGE) for frame in frames].count(True) == 1
    crosses = [is_like(middle(frame, 12, 9), BLACKOUT) for frame in frames]
    assert crosses.count(True) == crosses[::-1].index(False) > PARTS // 2 - 3  # from then on to the end


def test_the_command_makes_the_film_and_no_page(
    run_dir: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = tmp_path / "map.gif"
    given = ["--runs", str(run_dir.root), "--run-name", run_dir.run_name, "--map-video", str(video)]
    assert run(parse_arguments(given)) == 0
    assert video.read_bytes().startswith(b"GIF89a")
    assert "of 2 episodes" in capsys.readouterr().out
    assert not run_dir.report.exists()


def test_a_run_without_logs_has_no_film(tmp_path: Path) -> None:
    made = make_run(tmp_path, episodes=[episode(0)], env_steps=100)
    with pytest.raises(UserError, match="no log of an episode"):
        write_film(read_run(made), tmp_path / "map.mp4")
    assert not (tmp_path / "map.mp4").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--map-video", "map.avi"], r"map.avi: give a name that ends in .mp4 or .gif"),
        (["--map-video", "nowhere/map.mp4"], "its folder is not there"),
        (["--map-video", "map.mp4", "--out", "page.html"], "leave out --out"),
    ],
)
def test_what_cannot_be_made_is_told(run_dir: RunDir, arguments: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_arguments(["--runs", str(run_dir.root), "--run-name", run_dir.run_name, *arguments])
