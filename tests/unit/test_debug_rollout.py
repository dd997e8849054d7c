"""The rollout command: its report, its video, savestates without an emulator, and bad input."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from cartridge_fixtures import new_env, play
from pyboy import PyBoy
from pyboy.plugins.game_wrapper_pokemon_gen1_constants import EVENT_FLAGS

from cluster_rl.acting.exploration import acting_values
from cluster_rl.acting.rollout import Rollout
from cluster_rl.cartridge import rom_bytes, rom_path
from cluster_rl.config import config_to_json, load_config
from cluster_rl.debug_rollout import main
from cluster_rl.emulator import snapshot
from cluster_rl.emulator.env import Env
from cluster_rl.emulator.spaces import observation_spec
from cluster_rl.errors import EXIT_BAD_INPUT, UserError
from cluster_rl.game.buttons import BUTTONS
from cluster_rl.model import build_model
from cluster_rl.rom import load_rom
from cluster_rl.runs.checkpoint import publish_params
from cluster_rl.runs.layout import RunDir


def report(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    decoded: dict[str, Any] = json.loads(capsys.readouterr().out)
    return decoded


def test_report(capsys: pytest.CaptureFixture[str]) -> None:
    first = report(capsys, "--steps", "60", "--seed", "4")
    assert first["steps"] == 60
    assert first["steps_per_sec"] > 0
    assert first["bad_values"] == 0
    assert list(first["masked_share"]) == list(BUTTONS)
    assert all(0 <= share < 1 for share in first["masked_share"].values())
    assert "SHA-1" in first["preflight"]
    again = report(capsys, "--steps", "60", "--seed", "4")
    other = report(capsys, "--steps", "60", "--seed", "5")
    assert (again["reward"], again["masked_share"]) == (first["reward"], first["masked_share"])
    assert (other["reward"], other["masked_share"]) != (first["reward"], first["masked_share"])


def test_flags_show_the_state_and_what_changes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    env = new_env(start_idle_frames_max=0)
    env.start()
    play(env, "rA")  # in front of the villager, whose words set a flag when they end
    path = tmp_path / "talking.snap"
    path.write_bytes(env.console.save())
    env.close()
    found = report(capsys, "--steps", "40", "--flags", "--state", str(path))
    assert [change["event"] for change in found["flag_changes"]] == ["TALKED_ELDER"]
    assert found["state"]["map"]["name"] == "HOME"
    assert main(["--steps", "40", "--flags", "--state", str(path)]) == 0
    assert "TALKED_ELDER set" in capsys.readouterr().out


def test_video(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    found = report(capsys, "--steps", "6", "--video", str(path), "--max-frames", "100")
    told = {"path": str(path), "kind": "mp4", "frames": 100, "fps": 60, "seconds": 1.667, "bytes": path.stat().st_size}
    [video] = found["videos"]
    assert video.pop("encode_seconds") > 0
    assert video == told  # of 6 * 24
    frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(path))
    assert frames == 100
    assert seconds == pytest.approx(100 / 60, abs=0.05)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], ["debug_rollout.mp4"]),
        (["mp4"], ["debug_rollout.mp4"]),
        (["gif"], ["debug_rollout.gif"]),
        (["both"], ["debug_rollout.mp4", "debug_rollout.gif"]),
        (["x.gif"], ["x.gif"]),
    ],
)
def test_videos_by_kind(
    words: list[str],
    names: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    found = report(capsys, "--steps", "5", "--video", *words, "--video-fps", "12")
    assert [video["path"] for video in found["videos"]] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    for name in names:  # 5 steps of 24 frames are 2.009 seconds of the game
        frames, seconds = imageio_ffmpeg.count_frames_and_secs(name)
        assert frames == 24
        assert seconds == pytest.approx(2, abs=0.1)


def test_the_shortest_video_has_a_frame(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = report(capsys, "--steps", "1", "--video", "both", "--video-fps", "1")
    assert [video["frames"] for video in found["videos"]] == [1, 1]
    for name in ("debug_rollout.mp4", "debug_rollout.gif"):
        assert imageio_ffmpeg.count_frames_and_secs(name)[0] == 1


def test_a_name_that_is_no_text_and_a_reader_that_leaves(tmp_path: Path) -> None:
    """All of it in one process: bytes that are no UTF-8 in every path, printed into a pipe that is closed at once."""
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)  # noqa: PTH102  (bytes)
    shutil.copy(rom_path(), folder + b"/game.gb")
    Path(os.fsdecode(folder + b"/a.json")).write_text("{}")
    command = [
        sys.executable,
        "-m",
        "cluster_rl.debug_rollout",
        "--steps",
        "5",
        "--flags",
        "--rom",
        folder + b"/game.gb",
    ]
    command += ["--config", folder + b"/a.json", "--video", folder + b"/x.mp4"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert folder + b"/x.mp4" in done.stdout
    done = subprocess.run([*command, "--json"], capture_output=True, check=False)
    assert os.fsencode(json.loads(done.stdout.decode())["videos"][0]["path"]) == folder + b"/x.mp4"
    line = shlex.join(os.fsdecode(word) for word in [*command, "--json"]) + " | head -c 10; exit $PIPESTATUS"
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b'{"prefligh', b"")


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A run `one` in the working directory, with parameters that nobody has trained."""
    monkeypatch.chdir(tmp_path)
    config = load_config("slim_cpu", ["episode_max_steps=20", "lstm_hidden_size=16"])
    run_dir = RunDir("cluster_runs", "one").create()
    run_dir.config.write_bytes(config_to_json(config))
    torch.manual_seed(0)
    publish_params(run_dir.online_params, build_model(config, observation_spec(config)).state_dict())
    return run_dir


def test_a_model_plays_what_it_values_most(
    run_dir: RunDir, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    best: list[int] = []
    pressed: list[int] = []
    act, press = Rollout.act, Env.press

    def spy_act(rollout: Rollout) -> Any:
        _, clean = act(rollout)
        best.append(int(np.where(rollout.mask[0], acting_values(clean, True, (1.0,))[0], -np.inf).argmax()))
        return -clean, clean  # noise at its worst, which evaluation leaves out

    def spy_press(env: Env, action: int, *rest: Any) -> None:
        pressed.append(action)
        press(env, action, *rest)

    monkeypatch.setattr(Rollout, "act", spy_act)
    monkeypatch.setattr(Env, "press", spy_press)
    found = report(capsys, "--steps", "50", "--run-name", "one", "--flags", "--video", "--max-frames", "10")
    assert pressed == best
    assert len(pressed) == 50
    assert found["policy"] == f"greedy, {run_dir.online_params}"
    assert (found["episodes_ended"], found["videos"][0]["frames"]) == (2, 10)
    again = report(capsys, "--steps", "50", "--checkpoint", str(run_dir.online_params))
    assert (again["reward"], again["masked_share"]) == (found["reward"], found["masked_share"])


def test_parameters_alone_need_a_config(run_dir: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = run_dir.online_params.rename(tmp_path / "alone.pt")
    with pytest.raises(UserError, match=r"config\.json: not there.*--config"):
        main(["--checkpoint", str(alone)])
    assert report(capsys, "--steps", "5", "--checkpoint", str(alone), "--config", str(run_dir.config))["steps"] == 5
    with pytest.raises(UserError, match=r"online_params\.pt: not there yet"):
        main(["--run-name", "one"])


@pytest.mark.parametrize("kind", ["snapshot", "savestate"])
def test_savestates_are_decoded_without_an_emulator(tmp_path: Path, kind: str) -> None:
    env = new_env(start_idle_frames_max=0)
    env.start()
    play(env, "rddd")
    data = env.console.save()
    position = env.console.position()
    env.close()
    path = tmp_path / "x.state"
    path.write_bytes(data if kind == "snapshot" else snapshot.unpack(data, load_rom("")))
    code = (
        "import sys; sys.modules['pyboy'] = None; from cluster_rl.debug_rollout import main;"
        "sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["--steps", "0", "--json", "--state", str(path), "--rom", str(rom_path())]
    output = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True).stdout
    state = json.loads(output)["state"]
    assert (state["map"]["id"], state["map"]["x"], state["map"]["y"]) == position
    assert (state["game"], state["map"]["name"]) == ("SMALL VALE", "HOME")


@pytest.fixture
def pyboy() -> Iterator[PyBoy]:
    """PyBoy with its wrapper for the real game, which it chooses by the title: the cartridge under that title."""
    rom = bytearray(rom_bytes())
    rom[0x134:0x144] = b"POKEMON RED".ljust(16, b"\0")
    rom[0x14D] = -sum(byte + 1 for byte in rom[0x134:0x14D]) & 0xFF
    pyboy = PyBoy(io.BytesIO(rom), window="null", sound_emulated=False, ram_file=io.BytesIO(bytes(0x8000)))
    pyboy.tick(200, False, False)
    yield pyboy
    pyboy.stop(save=False)


def test_a_flag_that_pyboy_sets_by_name_is_printed_by_that_name(
    pyboy: PyBoy, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "late.state"

    def printed() -> list[str]:
        with path.open("wb") as file:
            pyboy.save_state(file)
        events: list[str] = report(capsys, "--steps", "0", "--flags", "--state", str(path))["state"]["events"]
        return events

    assert printed() == []
    for name in ("followed_oak_into_lab", "beat_brock", "got_hm03", "beat_articuno"):
        pyboy.game_wrapper.set_event_flag(name)
        assert printed() == [f"EVENT_{name.upper()}"]
        pyboy.game_wrapper.reset_event_flag(name)
    for name in EVENT_FLAGS:
        pyboy.game_wrapper.set_event_flag(name)
    pyboy.game_wrapper.set_event_flag(1)  # a bit that the game has no use for
    names = [f"EVENT_{name.upper()}" for name in sorted(EVENT_FLAGS, key=EVENT_FLAGS.__getitem__)]
    assert printed() == [names[0], "EVENT_1", *names[1:]]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rom", "nowhere.gb"],
        ["--steps", "0", "--state", "nowhere.state"],
        ["--steps", "5", "--state", "nowhere.state"],
        ["--steps", "-1"],
        ["--steps", "0", "--video", "x.mp4"],
        ["--video", "nowhere/x.mp4"],
        ["--video", "x.avi"],
        ["--video", ""],
        ["--steps", "0", "--video", ""],
        ["--video", "--video-fps", "0"],
        ["--video", "both", "--video-fps", "60"],
        ["--checkpoint", "nowhere.pt"],
        ["--checkpoint", "nowhere.pt", "--run-name", "one"],
        ["--run-name", "nowhere"],
    ],
)
def test_bad_input(arguments: list[str]) -> None:
    with pytest.raises(UserError) as error:
        main(arguments)
    assert "\n" not in str(error.value)


def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    path = tmp_path / "bad.state"
    path.write_bytes(b"\x1d nothing of use")
    command = [sys.executable, "-m", "cluster_rl.debug_rollout", "--steps", "0", "--state", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == EXIT_BAD_INPUT
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert str(path) in done.stderr
