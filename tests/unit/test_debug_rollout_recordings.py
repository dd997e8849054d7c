"""What the rollout command records of the real game: panels, PNGs, videos, and what it says of them."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import numpy.typing as npt
import pytest
import torch
from cartridge_fixtures import new_env, play
from matplotlib.image import imread

from cluster_rl.acting.exploration import acting_values
from cluster_rl.acting.rollout import Rollout
from cluster_rl.config import config_to_json, load_config
from cluster_rl.debug_rollout import main
from cluster_rl.emulator.env import Env
from cluster_rl.emulator.spaces import observation_spec
from cluster_rl.errors import UserError
from cluster_rl.game.buttons import BUTTONS
from cluster_rl.model import build_model
from cluster_rl.report import recording
from cluster_rl.report.overlay import SIZE, Facts, overlay
from cluster_rl.runs.checkpoint import publish_params
from cluster_rl.runs.layout import RunDir

Pixels = npt.NDArray[np.uint8]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def talking(folder: Path) -> Path:
    """A state in front of the villager, whose words are a milestone when they end."""
    env = new_env(start_idle_frames_max=0)
    env.start()
    play(env, "rA")
    path = folder / "talking.snap"
    path.write_bytes(env.console.save())
    env.close()
    return path


def report(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    decoded: dict[str, Any] = json.loads(capsys.readouterr().out)
    return decoded


def pictures(path: Path) -> Pixels:
    """All of a folder of PNGs, uint8 [n, h, w, 3]."""
    return np.stack([np.round(imread(file) * 255).astype(np.uint8)[..., :3] for file in sorted(path.iterdir())])


def decoded(path: Path, size: tuple[int, int]) -> Pixels:
    """All frames of a video, uint8 [n, height, width, 3], as ffmpeg sees them."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", path, "-f", "rawvideo"]
    raw = subprocess.run([*command, "-pix_fmt", "rgb24", "-"], capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, *size, 3)


def test_a_panel_changes_nothing_of_the_game_in_any_kind_of_file(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    same = ("--steps", "12", "--seed", "3", "--video-fps", "20")
    report(capsys, *same, "--png", "plain")
    told = report(capsys, *same, "--overlay", "--video", "both", "--png", "panel")["videos"]
    plain, panel = pictures(folder / "plain"), pictures(folder / "panel")
    assert plain.shape == (96, 432, 480, 3)  # 12 steps of 24 frames are 4.82 seconds
    assert panel.shape == (96, *SIZE, 3)
    assert np.array_equal(panel[:, :, :480], plain)
    assert len(np.unique(panel[:, :, 480:].reshape(96, -1), axis=0)) > 12  # it tells of every step
    assert [video["kind"] for video in told] == ["mp4", "gif", "png"]
    for video in told:
        path = folder / video["path"]
        assert (video["frames"], video["fps"], video["seconds"]) == (96, 20, 4.8)
        assert video["encode_seconds"] > 0
        files = [path] if path.is_file() else list(path.iterdir())
        assert video["bytes"] == sum(file.stat().st_size for file in files)
    for name in ("debug_rollout.mp4", "debug_rollout.gif"):
        about = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-i", name], capture_output=True, text=True).stderr
        assert re.search(r"Video: (h264|gif).* 768x432.* 20 fps", about)
        assert imageio_ffmpeg.count_frames_and_secs(name) == (96, pytest.approx(4.8, abs=0.05))
    assert np.array_equal(decoded(folder / "debug_rollout.gif", SIZE), panel)
    assert np.abs(decoded(folder / "debug_rollout.mp4", SIZE).astype(int) - panel).mean() < 4


def test_pngs_alone_are_the_frames_of_the_game(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    [told] = report(capsys, "--steps", "2", "--png", "--max-frames", "30")["videos"]
    assert (told["path"], told["frames"], told["fps"]) == ("debug_rollout_png", 30, 60)
    assert sorted(path.name for path in folder.iterdir()) == ["debug_rollout_png"]
    assert pictures(folder / "debug_rollout_png").shape == (30, 432, 480, 3)


def test_text_says_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--steps", "2", "--png", "x", "--video", "y.gif", "--video-fps", "10", "--max-frames", "5"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^gif: y\.gif, 5 frames, 10 fps, 0\.50 s, [\d,]+ bytes, written in \d+\.\d\d s$", said, re.M)
    assert re.search(r"^png: x, 5 frames, 10 fps, 0\.50 s, [\d,]+ bytes, written in \d+\.\d\d s$", said, re.M)


@pytest.fixture
def facts(monkeypatch: pytest.MonkeyPatch) -> list[Facts]:
    """The facts that each recorded frame was drawn with."""
    seen: list[Facts] = []

    def spy(frame: Pixels, facts: Facts) -> Pixels:
        seen.append(facts)
        return overlay(frame, facts)

    monkeypatch.setattr(recording, "overlay", spy)
    return seen


def test_the_panel_tells_what_happens(
    talking: Path, capsys: pytest.CaptureFixture[str], facts: list[Facts], monkeypatch: pytest.MonkeyPatch
) -> None:
    pressed: list[str] = []
    places: list[tuple[int, int]] = []
    look, press = Env.look, Env.press

    def spy_press(env: Env, action: int, *rest: Any) -> None:
        pressed.append(BUTTONS[action])
        press(env, action, *rest)

    def spy_look(env: Env) -> Any:
        step = look(env)
        places.append((env.state.x, env.state.y))
        return step

    monkeypatch.setattr(Env, "press", spy_press)
    monkeypatch.setattr(Env, "look", spy_look)
    found = report(
        capsys, "--steps", "40", "--state", str(talking), "--video", "--overlay", "--max-frames", "960", "--flags"
    )
    assert len(facts) == found["videos"][0]["frames"] == 960
    # At 60 frames a second there are a few more than the game has: each step has 24 or 25.
    by_step = {step: [fact for fact in facts if fact.step == step] for step in range(1, 40)}
    assert {len(drawn) for drawn in by_step.values()} == {24, 25}
    for step, drawn in by_step.items():
        assert {fact.button for fact in drawn} == {pressed[step - 1]}
        assert (drawn[-1].x, drawn[-1].y) == places[step - 1]
        assert step == 1 or (drawn[0].x, drawn[0].y) == places[step - 2]
        assert {(fact.chosen, fact.value, fact.place) for fact in drawn} == {("random choice", None, "HOME")}
    [change] = found["flag_changes"]
    before, *_, after = by_step[change["step"]]
    assert (dict(before.rewards or ()).get("milestone"), before.milestones) == (None, ())
    assert dict(after.rewards or ())["milestone"] == 2.0
    assert dict(after.rewards or ())["event"] == 1.0
    assert after.milestones == ("talked to the villager at home",)
    assert (after.episode_return or 0.0) > 2.9
    assert facts[-1].badges == (False,)


def test_the_value_is_the_chosen_buttons(
    folder: Path, capsys: pytest.CaptureFixture[str], facts: list[Facts], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config("slim_cpu", ["episode_max_steps=4", "lstm_hidden_size=16"])
    run_dir = RunDir("cluster_runs", "one").create()
    run_dir.config.write_bytes(config_to_json(config))
    torch.manual_seed(0)
    publish_params(run_dir.online_params, build_model(config, observation_spec(config)).state_dict())
    best: list[tuple[str, float]] = []
    act = Rollout.act

    def spy(rollout: Rollout) -> Any:
        noisy, clean = act(rollout)
        values = np.where(
            rollout.mask[0], acting_values(clean, config.value_rescaling, config.stream_weights)[0], -np.inf
        )
        best.append((BUTTONS[int(values.argmax())], float(values.max())))
        return noisy, clean

    monkeypatch.setattr(Rollout, "act", spy)
    report(capsys, "--steps", "6", "--params", str(run_dir.online_params), "--png", "--overlay")
    drawn = [told for told, _ in itertools.groupby((fact.step, fact.button, fact.value) for fact in facts)]
    assert drawn == [(1 + at % 4, *told) for at, told in enumerate(best)]  # an episode has four steps
    assert {fact.chosen for fact in facts} == {"greedy choice"}


# --- what cannot be ---


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--overlay"], "--overlay needs --video or --png"),
        (["--video-fps", "12"], "--video-fps needs --video or --png"),
        (["--max-frames", "12"], "--max-frames needs --video or --png"),
        (["--steps", "0", "--png"], "--png needs --steps"),
        (["--steps", "0", "--rnd"], "--rnd needs --steps"),
        (["--png", "full"], "something in it already"),
        (["--png", "full/a.txt"], "is a file"),
        (["--png", "nowhere/x"], "its folder does not exist"),
        (["--png", "x.gif", "--video", "x.gif"], "the video has that name"),
        (["--png", "empty", "--video", "empty/a.mp4"], "the video empty/a.mp4 would lie in it"),
        (["--png", "link", "--video", "empty/below/../b.gif"], "would lie in it"),
        (["--png", "empty", "--video", "link/below/c.mp4"], "would lie in it"),
        (["--png", "loop"], "loop: is a link that leads to itself"),
        (["--png", "other_way"], "other_way: is a link that leads to itself"),
        (["--png", "x", "--video", "loop.mp4"], "loop.mp4: is a link that leads to itself"),
        (["--video", "both", "--video-fps", "60", "--png"], "at most 50 with a GIF"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(folder: Path, arguments: list[str], words: str) -> None:
    (folder / "full").mkdir()
    (folder / "full" / "a.txt").touch()
    (folder / "empty" / "below").mkdir(parents=True)
    links = {"link": "empty", "loop": "loop", "other_way": "loop", "loop.mp4": "loop.mp4"}
    for name, to in links.items():
        (folder / name).symlink_to(to)
    before = sorted(path.name for path in folder.rglob("*"))
    with pytest.raises(UserError, match=re.escape(words)) as error:
        main(arguments)
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in folder.rglob("*")) == before


def test_a_folder_that_may_not_be_written_to(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != folder and access(path, mode))  # root may all
    with pytest.raises(UserError, match="--png x: its folder may not be written to"):
        main(["--png", "x"])
    assert list(folder.iterdir()) == []


def test_two_recordings_at_once_leave_each_others_files_alone(folder: Path) -> None:
    videos, png = [folder / "debug_rollout.mp4"], folder / "debug_rollout_png"
    with recording.Recording(videos, png, 60, 9, panel=False) as other:
        for _ in range(3):
            other.on_frame(np.zeros((144, 160, 3), np.uint8))
            other.step()
        assert main(["--steps", "1", "--video", "both", "--max-frames", "5"]) == 0
        assert imageio_ffmpeg.count_frames_and_secs("debug_rollout.mp4")[0] == 5
    assert imageio_ffmpeg.count_frames_and_secs("debug_rollout.mp4")[0] == 3
    names = ["debug_rollout.gif", "debug_rollout.mp4", "debug_rollout_png"]
    assert sorted(path.name for path in folder.iterdir()) == names


def test_an_interrupted_recording_leaves_nothing(folder: Path) -> None:
    command = [sys.executable, "-m", "cluster_rl.debug_rollout", "--steps", "5000", "--max-frames", "100000"]
    playing = subprocess.Popen([*command, "--video", "both", "--png", "--overlay"], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list(folder.glob(".debug_rollout_png.*.partial/frame-000030.png")):
        assert time.monotonic() < deadline
        assert playing.poll() is None
        time.sleep(0.05)
    playing.send_signal(signal.SIGINT)
    assert (playing.wait(60), playing.communicate()[1]) == (130, b"")
    assert list(folder.iterdir()) == []
