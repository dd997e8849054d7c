"""The replayer, on the real console and the embedded cartridge: records here, replays in other processes."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from cartridge_fixtures import play
from processes import session_members
from recorded_episodes import FRAME_SKIP, HASH_INTERVAL_STEPS, STEPS, flipped_direction, identity_of, record
from terminals import on_terminal

from cluster_rl.config import Config, RewardWeights
from cluster_rl.emulator.console import BUTTONS, Frame
from cluster_rl.emulator.env import make_env
from cluster_rl.emulator.playback import Stopped, first_state, reward_parts
from cluster_rl.errors import UserError
from cluster_rl.game.world import World
from cluster_rl.rendering.episode import Commentary, render
from cluster_rl.replayer import chances_by_time, parse_arguments, run
from cluster_rl.report import recording
from cluster_rl.report.overlay import Facts, overlay
from cluster_rl.report.video import find_encoder, video_frames
from cluster_rl.report.video_record import VideoRecord, name_tail
from cluster_rl.rewards import INTRINSIC_TERMS, TERMS
from cluster_rl.rom import Rom, load_rom
from cluster_rl.runs.episode_log import EpisodeLog, EpisodeRecorder, read_log
from cluster_rl.runs.layout import RunDir

ROOT = Path(__file__).resolve().parents[2]
Replayer = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def rom() -> Rom:
    return load_rom("")


@pytest.fixture(scope="session")
def recorded(rom: Rom, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("recorded"), rom, seed=1, steps=STEPS)


@pytest.fixture(scope="session")
def log(recorded: Path) -> EpisodeLog:
    return read_log(recorded)


@pytest.fixture
def logs(recorded: Path, tmp_path: Path) -> Path:
    """A folder with one good log in it."""
    folder = tmp_path / "episode_logs"
    folder.mkdir()
    shutil.copy(recorded, folder)
    return folder


@pytest.fixture
def replayer(tmp_path: Path) -> Replayer:
    """The command, where an import of torch, in it or in a worker, is the end of the process."""
    trap = tmp_path / "trap"
    trap.mkdir()
    (trap / "torch.py").write_text("import os\nos._exit(77)\n")
    environment = os.environ | {"PYTHONPATH": f"{trap}{os.pathsep}{ROOT}"}
    assert subprocess.run([sys.executable, "-c", "import torch"], env=environment).returncode == 77

    def run_it(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cluster_rl.replayer", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, cwd=ROOT)

    return run_it


def name_of(log: Path, speed: int = 1) -> str:
    """The video's name without its ending."""
    return log.stem + name_tail(read_log(log).header, speed)


def listed(out: Path, videos: int) -> str:
    """The line that says where the list of videos is."""
    return f"{out / 'index.html'}: all {videos} videos, best first\n"


def run_here(*arguments: object) -> int:
    """The command's main process in this one, with real workers; returns its exit code."""
    return run(parse_arguments([str(argument) for argument in arguments]))


# --- the frames of a video ---


@pytest.mark.parametrize("fps", [1, 24, 30, 60, 120])
@pytest.mark.parametrize("steps", [1, STEPS, 20_480])
def test_a_video_lasts_as_long_as_the_game(steps: int, fps: int) -> None:
    frames = video_frames(steps * FRAME_SKIP, fps)
    game_sec = Fraction(steps * FRAME_SKIP * 70_224, 4_194_304)  # ticks of a frame, ticks of a second
    assert 0 <= game_sec - Fraction(frames, fps) < Fraction(1, fps) or (frames, game_sec * fps < 1) == (1, True)


def test_at_thirty_about_every_second_frame_is_shown() -> None:
    shown = [video_frames(frame, 30) for frame in range(1001)]
    gains = [after - before for before, after in itertools.pairwise(shown)]
    assert set(gains) == {0, 1}
    pairs = sum(1 for one, two in itertools.pairwise(gains) if one == two == 1)
    assert pairs == 2 * (shown[-1] - 500)  # each pair is half a frame more than every second one would give


# --- checking ---


def test_another_process_replays_the_recording(logs: Path, replayer: Replayer) -> None:
    done = replayer("--logs", logs, "--check")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{STEPS} steps replay as recorded" in done.stdout
    assert [path.suffix for path in logs.iterdir()] == [".eplog"]


# --- videos and maps ---


def test_renders_every_frame_and_draws_the_maps_then_skips_what_is_done(
    logs: Path, log: EpisodeLog, rom: Rom, replayer: Replayer, capsys: pytest.CaptureFixture[str]
) -> None:
    out = logs.parent / "videos"
    done = replayer("--logs", logs, "--out", out, "--fps", "30", "--workers", "1")
    assert (done.returncode, done.stderr) == (0, "")
    video = next(out.glob("*.mp4"))
    assert video.stem == name_of(next(logs.iterdir()))
    expected = video_frames(STEPS * FRAME_SKIP, 30)
    assert imageio_ffmpeg.count_frames_and_secs(str(video))[0] == expected
    about = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-i", video], capture_output=True, text=True).stderr
    assert re.search(r"Video: h264.*yuv420p.*480x432.* 30 fps", about)
    assert len(list((out / "maps").glob("[0-9]*.png"))) == len({int(m) for m in log.positions[:, 0]})
    with np.load(out / "maps" / "ground.npz") as ground:  # what the video saw, for the next pictures
        assert (ground["picture"] < 255).any()
    assert video.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in out.iterdir() if path.name.endswith(".partial")] == []

    before_ns = video.stat().st_mtime_ns
    assert run_here("--logs", logs, "--out", out, "--fps", 30, "--no-maps") == 0
    assert capsys.readouterr().out == "1 of 1 videos are finished already\n" + listed(out, 1)
    assert video.stat().st_mtime_ns == before_ns

    record(logs, rom, seed=1, steps=STEPS + 2)  # the same episode, later
    assert run_here("--logs", logs, "--out", out, "--fps", 30, "--no-maps") == 0
    record_file = msgspec.json.decode(video.with_suffix(".json").read_bytes(), type=VideoRecord)
    assert (record_file.steps, record_file.frames) == (STEPS + 2, video_frames((STEPS + 2) * FRAME_SKIP, 30))
    assert imageio_ffmpeg.count_frames_and_secs(str(video))[0] == record_file.frames


WEIGHTS = RewardWeights(event=0.7, milestone=3.0, novelty=0.25, talk=0.0, step=-0.125)


@pytest.fixture
def paid(tmp_path: Path, rom: Rom) -> tuple[EpisodeLog, list[dict[str, float]], list[list[str]]]:
    """An episode that reaches a milestone: its log, and what each step was paid for and reached."""
    recorder = EpisodeRecorder(tmp_path / "paid", identity_of(rom, 1), HASH_INTERVAL_STEPS)
    recorder.set_context(3, 0.04)
    env = make_env(Config(rewards=WEIGHTS, start_idle_frames_max=0, episode_max_steps=20), 0, recorder)
    env.start()
    parts: list[dict[str, float]] = []
    reached: list[list[str]] = []
    for letter in "rA" + "AB" * 4 + "dddl" + "dlrudr":
        before = env.reward_terms
        [step] = play(env, letter)
        parts.append({name: total - before[name] for name, total in env.reward_terms.items() if total != before[name]})
        reached.append(step.milestones)
    env.close()
    assert sum(map(len, reached)) >= 1
    return read_log(recorder.path), parts, reached


def test_what_was_paid_follows_from_a_logs_sums(
    paid: tuple[EpisodeLog, list[dict[str, float]], list[list[str]]], rom: Rom
) -> None:
    log, parts, _ = paid
    found = reward_parts(log, rom, World.cartridge(), "x", lambda: False)
    assert {"event", "milestone", "novelty", "step"} <= set().union(*found)
    for ours, theirs in zip(found, parts, strict=True):
        assert {name: amount for name, amount in ours.items() if amount} == pytest.approx(theirs)
    # What began with the memory of another episode would be paid for what that one has seen.
    assert log.header.start is not None
    start = msgspec.structs.replace(log.header.start, tag="archive")
    for header in ({"terms": {}}, {"start": start}):
        changed = dataclasses.replace(log, header=msgspec.structs.replace(log.header, **header))
        assert not any(reward_parts(changed, rom, World.cartridge(), "x", lambda: False))
    with pytest.raises(Stopped):
        reward_parts(log, rom, World.cartridge(), "x", lambda: True)


def test_a_panel_tells_of_the_recording_beside_the_game(
    paid: tuple[EpisodeLog, list[dict[str, float]], list[list[str]]],
    rom: Rom,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log, parts, reached = paid
    facts: list[Facts] = []

    def spy(frame: Frame, fact: Facts) -> Frame:
        facts.append(fact)
        return overlay(frame, fact)

    monkeypatch.setattr(recording, "overlay", spy)
    video = tmp_path / "x.mp4"
    render(log, rom, "x", lambda: False, video, 30, Commentary(log, rom, "x", lambda: False))
    about = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-i", video], capture_output=True, text=True).stderr
    assert re.search(r"Video: h264.*yuv420p.*768x432.* 30 fps", about)
    expected = video_frames(log.header.steps * FRAME_SKIP, 30)
    assert imageio_ffmpeg.count_frames_and_secs(str(video))[0] == len(facts) == expected
    render(log, rom, "x", lambda: False, tmp_path / "plain.mp4", 30)
    assert len(facts) == expected
    titles = {milestone.name: milestone.title for milestone in World.cartridge().milestones}
    told = facts_of_steps(facts)
    assert len(told) == log.header.steps == 20
    total = 0.0
    for step, (fact, after) in enumerate(itertools.pairwise(told)):
        assert fact.button == BUTTONS[log.actions[step]]
        assert (after.x, after.y) == tuple(log.positions[step, 1:].tolist())
        last_three = {name for step_parts in parts[max(0, step - 2) : step + 1] for name in step_parts}
        assert {name for name, _ in after.rewards or ()} == last_three
        last_eight = [titles[name] for names in reached[max(0, step - 7) : step + 1] for name in names]
        assert list(after.milestones) == last_eight
        total += sum(amount for name, amount in parts[step].items() if name not in INTRINSIC_TERMS)
        assert after.episode_return == pytest.approx(total)
    assert {(fact.chosen, fact.value) for fact in facts} == {("epsilon 0.04", None)}


@pytest.mark.parametrize(
    ("epsilon", "words"), [(0.4, "epsilon 0.4"), (0.996, "epsilon 0.996"), (0.0016, "epsilon 0.0016"), (1, "epsilon 1")]
)
def test_the_panel_tells_epsilon_and_what_was_earned_be_it_nothing(
    log: EpisodeLog, rom: Rom, epsilon: float, words: str
) -> None:
    def last_facts(**header: object) -> Facts:
        changed = dataclasses.replace(log, header=msgspec.structs.replace(log.header, epsilon=epsilon, **header))
        commentary = Commentary(changed, rom, "x", lambda: False)
        return commentary.step(first_state(changed, "x"))[1]

    nothing = dict.fromkeys(TERMS, 0.0)
    after = last_facts(terms=nothing)
    assert (after.chosen, after.rewards, after.episode_return) == (words, (), 0.0)
    assert log.header.start is not None
    after = last_facts(terms=nothing, start=msgspec.structs.replace(log.header.start, tag="archive"))
    assert (after.rewards, after.episode_return) == (None, None)


def test_an_unfinished_episode_has_a_panel_without_rewards(log: EpisodeLog, rom: Rom) -> None:
    commentary = Commentary(log, rom, "x", lambda: False)
    during, after = commentary.step(first_state(log, "x"))
    assert (during.button, after.rewards, after.episode_return) == (BUTTONS[log.actions[0]], None, None)


def facts_of_steps(facts: list[Facts]) -> list[Facts]:
    """The first frame's of each step."""
    return [next(found) for _, found in itertools.groupby(facts, key=lambda fact: fact.step)]


def test_a_video_without_the_panel_is_rendered_anew_and_one_with_it_stays(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = logs.parent / "videos"
    arguments = ("--logs", logs, "--out", out, "--no-maps", "--fps", 1, "--workers", 1)
    sizes = []
    for panel in ([], ["--overlay"], ["--overlay"], []):
        capsys.readouterr()
        assert run_here(*arguments, *panel) == 0
        [video] = out.glob("*.mp4")
        about = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-i", video], capture_output=True, text=True).stderr
        [size] = re.findall(r"Video: h264.*, (\d+x432)", about)
        sizes.append((size, "finished already" in capsys.readouterr().out))
    assert sizes == [("480x432", False), ("768x432", False), ("768x432", True), ("768x432", True)]


@pytest.mark.parametrize("kind", ["--check", "--maps-only"])
def test_a_panel_is_of_videos(logs: Path, kind: str) -> None:
    with pytest.raises(UserError, match="--overlay is of videos"):
        run_here("--logs", logs, "--out", logs.parent / "out", "--overlay", kind)
    assert not (logs.parent / "out").exists()


def test_a_reader_that_leaves_ends_nothing_and_the_shortest_episodes_have_a_frame(rom: Rom, tmp_path: Path) -> None:
    for steps, name in ((1, b"caf\xe9.eplog"), (2, b"a $x^$.eplog")):  # no text; no mathematics
        record(tmp_path / "logs", rom, seed=steps, steps=steps).rename(tmp_path / "logs" / os.fsdecode(name))
    command = [sys.executable, "-m", "cluster_rl.replayer", "--logs", tmp_path / "logs", "--out", tmp_path / "out"]
    line = f"{shlex.join(map(str, command))} --fps 1 --workers 1 --no-maps | head -1; exit $PIPESTATUS"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    videos = sorted((tmp_path / "out").glob("*.mp4"))
    assert [imageio_ffmpeg.count_frames_and_secs(str(video))[0] for video in videos] == [1, 1]
    assert [len(list((tmp_path / "out").glob(kind))) for kind in ("*.png", "*.json")] == [2, 2]


def test_the_picture_of_the_path_is_kept_with_its_video(
    logs: Path, recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = logs.parent / "videos"
    arguments = ("--logs", logs, "--out", out, "--no-maps", "--fps", 1, "--workers", 1)
    picture = out / f"{name_of(recorded)}.png"
    picture.mkdir(parents=True)  # where none can be written
    assert run_here(*arguments) == 1
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == (listed(out, 1), 1)
    assert re.match(r".*\.mp4: 64 steps, 25 frames; failed: the picture of its path: .*Is a directory", said.err)
    assert picture.with_suffix(".mp4").exists()

    picture.rmdir()
    assert run_here(*arguments) == 0
    whole = picture.read_bytes()
    for damage in (picture.unlink, lambda: picture.write_bytes(whole[:100])):
        damage()
        assert run_here(*arguments) == 0
        assert picture.read_bytes() == whole
    capsys.readouterr()
    assert run_here(*arguments) == 0
    assert capsys.readouterr().out == "1 of 1 videos are finished already\n" + listed(out, 1)


def test_a_bad_ffmpeg_is_told_once(logs: Path, recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(recorded, logs / "b.eplog")
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/bin/true")
    find_encoder.cache_clear()
    with pytest.raises(UserError, match=r"need ffmpeg with libx264, which /bin/true has not; .*IMAGEIO_FFMPEG_EXE"):
        run_here("--logs", logs, "--out", logs.parent / "videos")
    find_encoder.cache_clear()
    assert not (logs.parent / "videos").exists()


def test_bad_logs_are_named_and_the_good_one_is_rendered(
    logs: Path, log: EpisodeLog, recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed, step = flipped_direction(log)
    (logs / "b-turned.eplog").write_bytes(changed.to_bytes())
    (logs / "c-cut.eplog").write_bytes(recorded.read_bytes()[: recorded.stat().st_size // 2])
    out = logs.parent / "videos"
    assert run_here("--logs", logs, "--out", out, "--no-maps", "--fps", 2) == 2
    lines = sorted(capsys.readouterr().err.splitlines())
    assert len(lines) == 2
    assert lines[0].startswith("diverged: ")
    assert f"b-turned.eplog: the replay left the recording at step {step} " in lines[0]
    assert "c-cut.eplog: cut short" in lines[1]
    assert [path.stem for path in out.glob("*.mp4")] == [name_of(recorded)]


def test_a_diverged_replay_alone_fails_with_1_and_leaves_no_video(
    logs: Path, log: EpisodeLog, recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (logs / recorded.name).write_bytes(flipped_direction(log)[0].to_bytes())
    out = logs.parent / "videos"
    out.mkdir()
    (out / f"{recorded.stem}.mp4").write_bytes(b"a video of an older recording")
    (out / f"{recorded.stem}.png").write_bytes(b"its path")
    assert run_here("--logs", logs, "--out", out, "--no-maps", "--fps", 2) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert [path.name for path in out.iterdir() if not path.name.startswith(".replayer")] == []


def test_only_bad_logs_create_nothing(
    logs: Path, log: EpisodeLog, recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other_rom = msgspec.structs.replace(log.header, rom_sha1="c0ffee" + "0" * 34, rom_kind="red")
    other_pyboy = msgspec.structs.replace(log.header, pyboy_version="2.2.0")
    (logs / recorded.name).write_bytes(recorded.read_bytes()[: recorded.stat().st_size // 2])
    (logs / "b.eplog").write_bytes(dataclasses.replace(log, header=other_rom).to_bytes())
    (logs / "c.eplog").write_bytes(dataclasses.replace(log, header=other_pyboy).to_bytes())
    (logs / "d.eplog").write_bytes(dataclasses.replace(log, actions=log.actions + len(BUTTONS)).to_bytes())
    out = logs.parent / "videos"
    assert run_here("--logs", logs, "--out", out) == 2
    said = capsys.readouterr()
    assert said.out == ""
    cut, rom_line, pyboy_line, button_line = said.err.splitlines()
    assert "cut short" in cut
    assert other_rom.rom_sha1 in rom_line
    assert log.header.rom_sha1 in rom_line
    assert "recorded with PyBoy 2.2.0" in pyboy_line
    assert "d.eplog: has button" in button_line
    assert not out.exists()


@pytest.mark.parametrize(("name", "words"), [("none", "no such folder"), ("empty", "no *.eplog files")])
def test_nothing_to_replay_is_bad_input(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=re.escape(words)):
        run_here("--logs", tmp_path / name, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- how they look ---


def decoded(video: Path, width: int = 480) -> npt.NDArray[np.uint8]:
    """The frames of a video, uint8 [n, 144, 160], as the game had them."""
    # A GIF's frames last whole hundredths of a second: at an even rate some would come twice.
    form = ("-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "gray")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", video, *form]
    raw = subprocess.run([*command, "-"], capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, 432, width)[:, 1::3, 1:480:3]


@pytest.mark.parametrize("kind", ["gif", "png", "mp4"])
def test_other_kinds_have_the_same_frames_and_are_kept_as_well(
    logs: Path, recorded: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = logs.parent / "videos"
    arguments = ("--logs", logs, "--out", out, "--no-maps", "--fps", 2, "--workers", 1, "--format", kind)
    assert run_here(*arguments) == 0
    frames = video_frames(STEPS * FRAME_SKIP, 2)
    name = name_of(recorded)
    if kind == "png":
        names = sorted(path.name for path in (out / f"{name}_png").iterdir())
        assert names == [f"frame-{number:06}.png" for number in range(1, frames + 1)]
    else:
        assert len(decoded(out / f"{name}.{kind}")) == frames
    assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in out.rglob(f"{name}*")}
    assert run_here(*arguments) == 0
    assert capsys.readouterr().out == "1 of 1 videos are finished already\n" + listed(out, 1)
    assert {path: path.stat().st_mtime_ns for path in out.rglob(f"{name}*")} == before
    # What is not whole any more is made again, and takes the place of what is left of it.
    broken = next((out / f"{name}_png").iterdir()) if kind == "png" else out / f"{name}.{kind}"
    whole = broken.read_bytes()
    broken.write_bytes(b"")
    assert run_here(*arguments) == 0
    assert broken.read_bytes() == whole or kind == "mp4"
    assert broken.stat().st_size > 0
    assert {path.name for path in out.rglob(f"{name}*")} == {path.name for path in before}


def test_a_folder_of_pngs_with_something_else_in_it_is_left_alone(
    logs: Path, recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = logs.parent / "videos"
    mine = out / f"{name_of(recorded)}_png" / "mine"
    mine.parent.mkdir(parents=True)
    mine.touch()
    arguments = ("--logs", logs, "--out", out, "--no-maps", "--fps", 1, "--workers", 1, "--format", "png")
    assert run_here(*arguments) == 1
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in mine.parent.iterdir()] == ["mine"]


def test_eight_times_as_fast_is_every_eighth_frame(logs: Path, recorded: Path) -> None:
    out = logs.parent / "videos"
    arguments = ("--logs", logs, "--out", out, "--no-maps", "--workers", 1, "--format", "gif")
    assert run_here(*arguments, "--fps", 6) == 0
    assert run_here(*arguments, "--fps", 48, "--speed", 8) == 0
    slow, fast = (decoded(out / f"{name_of(recorded, speed)}.gif") for speed in (1, 8))
    assert len(fast) == video_frames(STEPS * FRAME_SKIP, 48, 8) > 100
    assert np.array_equal(slow, fast)  # a second of the game has as many frames in both
    about = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-i", out / f"{name_of(recorded, 8)}.gif"], capture_output=True, text=True
    ).stderr
    assert re.search(r"\b(48|50) fps", about)


def test_a_milestone_is_a_chapter_and_in_the_name_and_in_the_list(
    paid: tuple[EpisodeLog, list[dict[str, float]], list[list[str]]], tmp_path: Path
) -> None:
    log, _, reached = paid
    assert run_here("--logs", tmp_path / "paid", "--out", tmp_path / "out", "--no-maps", "--workers", 1) == 0
    [video] = (tmp_path / "out").glob("*.mp4")
    steps = {number: names for number, names in enumerate(reached, start=1) if names}
    assert re.search(rf"_r{log.header.episode_return:.1f}_m{sum(map(len, reached))}_eps0.04$", video.stem)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", video, "-f", "ffmetadata", "-"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    titles = ["; ".join(map(World.cartridge().milestone_title, names)) for names in steps.values()]
    assert re.findall("^title=(.*)$", told, re.MULTILINE) == ["beginning", *titles]
    begins = [int(begin) / 1000 for begin in re.findall("^START=(.*)$", told, re.MULTILINE)]
    reached_at = [(video_frames(step * FRAME_SKIP, 30) - 1) / 30 for step in steps]
    assert begins == pytest.approx([0.0, *reached_at], abs=1e-3)
    page = (tmp_path / "out" / "index.html").read_text()
    assert f'href="{video.name}"' in page
    assert titles[-1] in page


# --- which episodes ---


def test_the_best_and_those_that_reached_a_milestone(
    paid: tuple[EpisodeLog, list[dict[str, float]], list[list[str]]],
    rom: Rom,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    log, _, reached = paid
    name = next(name for names in reached for name in names)
    folder, out = tmp_path / "paid", tmp_path / "out"
    [good] = folder.iterdir()
    record(folder, rom, seed=3, steps=8)  # not finished
    for number, value in enumerate((50.0, 0.5)):
        header = msgspec.structs.replace(log.header, episode_return=value, milestones=[])
        (folder / f"other{number}.eplog").write_bytes(dataclasses.replace(log, header=header).to_bytes())
    arguments = ("--logs", folder, "--out", out, "--no-maps", "--fps", 1, "--workers", 1)
    assert run_here(*arguments, "--milestone", "FERN_BADGE") == 0
    assert capsys.readouterr().out == "none of 4 episodes reached FERN_BADGE\n"
    assert run_here(*arguments, "--milestone", name.lower(), "--best", 5) == 0
    assert [path.stem for path in out.glob("*.mp4")] == [name_of(good)]
    assert run_here(*arguments, "--best", 2, "--limit", 1) == 0
    assert {path.stem for path in out.glob("*.mp4")} == {name_of(good), name_of(folder / "other0.eplog")}
    with (out / "index.csv").open(newline="") as file:
        assert [row["return"] for row in csv.DictReader(file)] == ["50.0", str(log.header.episode_return)]
    with pytest.raises(UserError, match=r"--milestone GYM: .* has none of that name; give one of .*FERN_BADGE \("):
        run_here(*arguments, "--milestone", "GYM")


def test_videos_of_an_older_program_are_renamed_and_not_made_again(
    logs: Path, recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = logs.parent / "videos"
    arguments = ("--logs", logs, "--out", out, "--no-maps", "--fps", 1, "--workers", 1)
    assert run_here(*arguments) == 0
    video = out / f"{name_of(recorded)}.mp4"
    for ending in (".mp4", ".png", ".json"):
        video.with_suffix(ending).rename(out / f"{recorded.stem}{ending}")
    known = msgspec.json.decode((out / f"{recorded.stem}.json").read_bytes())
    record = msgspec.convert(known, VideoRecord)
    older = ("log_sha256", "fps", "steps", "frames", "complete", "video_bytes", "path_bytes")
    (out / f"{recorded.stem}.json").write_bytes(msgspec.json.encode({name: known[name] for name in older}))
    before_ns = (out / f"{recorded.stem}.mp4").stat().st_mtime_ns
    capsys.readouterr()
    for _ in range(2):
        assert run_here(*arguments) == 0
        assert capsys.readouterr().out == "1 of 1 videos are finished already\n" + listed(out, 1)
        assert {path.name for path in out.glob("a*")} == {
            video.with_suffix(end).name for end in (".mp4", ".png", ".json")
        }
        assert video.stat().st_mtime_ns == before_ns
        assert msgspec.json.decode(video.with_suffix(".json").read_bytes(), type=VideoRecord) == record


def test_an_episode_that_went_on_leaves_one_video(paid: object, tmp_path: Path) -> None:
    """Its log was not finished when it was rendered first."""
    [path] = (tmp_path / "paid").iterdir()
    log = read_log(path)
    header = msgspec.structs.replace(log.header, complete=False, episode_return=0.0, terms={}, milestones=[])
    arguments = ("--logs", path, "--out", tmp_path / "out", "--fps", 1, "--workers", 1)
    path.write_bytes(dataclasses.replace(log, header=header).to_bytes())
    assert run_here(*arguments) == 0
    assert [video.stem for video in (tmp_path / "out").glob("*.mp4")] == [f"{path.stem}_unfinished_eps0.04"]
    path.write_bytes(log.to_bytes())
    assert run_here(*arguments) == 0
    names = {f"{name_of(path)}{ending}" for ending in (".mp4", ".png", ".json")} | {"index.html", "index.csv"}
    assert {file.name for file in (tmp_path / "out").iterdir() if not file.name.startswith(".")} == names
    assert "unfinished" not in (tmp_path / "out" / "index.csv").read_text()


def test_two_logs_of_one_name_are_refused(logs: Path, recorded: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"2 of them are called {re.escape(recorded.name)}; render them one by one"):
        run_here("--logs", next(logs.iterdir()), recorded, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_list_that_cannot_be_written_is_told_and_costs_no_video(
    logs: Path, recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = logs.parent / "videos"
    (out / "index.html").mkdir(parents=True)
    assert run_here("--logs", logs, "--out", out, "--no-maps", "--fps", 1, "--workers", 1) == 2
    assert "index.html: cannot be written: Is a directory" in capsys.readouterr().err
    assert (out / f"{name_of(recorded)}.mp4").exists()


# --- what the run knew ---


def quest_row(time_sec: float, frontier: list[str], mean: float) -> bytes:
    """A row of `quests.jsonl`."""
    known = {
        "alpha": 1.0,
        "beta": 1.0,
        "mean": mean,
        "low": 0.0,
        "high": 1.0,
        "target": 0.5,
        "alarm": 0.1,
        "level": "ok",
    }
    quest = known | {"stagnant": False, "verdict": "undecided", "trials": 1, "reached": 0}
    row = {"time": time_sec, "episodes": 1, "env_steps": 1, "frontier": frontier}
    return msgspec.json.encode(row | {"quests": dict.fromkeys(frontier, quest)}) + b"\n"


@pytest.mark.parametrize(
    ("started", "mean"),
    [
        ("1970-01-01T00:00:50+00:00", None),
        ("1970-01-01T00:01:40+00:00", 0.25),
        ("1970-01-01T00:03:19+00:00", 0.25),
        ("1970-01-01T00:03:20+00:00", 0.5),
        ("2026-11-29T12:00:00+00:00", 0.5),
        ("yesterday", None),
        ("", None),
    ],
)
def test_chances_are_what_the_run_knew_as_the_episode_began(
    log: EpisodeLog, tmp_path: Path, started: str, mean: float | None
) -> None:
    run_dir = RunDir(tmp_path, "mine").create()
    torn = quest_row(300.0, ["GOT_BALM"], 0.9)[:-1]
    run_dir.quests.write_bytes(
        quest_row(100.25, ["LEFT_HOME"], 0.25) + quest_row(200.25, ["LEFT_HOME", "X"], 0.5) + torn
    )
    header = msgspec.structs.replace(log.header, started=started)
    chances, problem = chances_by_time(run_dir, World.cartridge())
    assert problem == ""
    found = chances(header)
    assert found.get("LEFT_HOME") == (mean and ("stepped out of the house", mean, 0.0, 1.0))
    run_dir.quests.unlink()
    chances, problem = chances_by_time(run_dir, World.cartridge())
    assert (chances(header), problem) == ({}, "")


def test_damaged_quests_are_told_and_cost_no_video(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = RunDir(tmp_path, "mine").create()
    shutil.copy(recorded, run_dir.episode_logs)
    run_dir.quests.write_bytes(quest_row(1.0, ["LEFT_HOME"], 0.25) + b"nonsense\n")
    arguments = ("--runs", tmp_path, "--run-name", "mine", "--no-maps", "--fps", 1, "--workers", 1)
    assert run_here(*arguments, "--overlay") == 2
    told = r"error: quests\.jsonl: a row is damaged and left out; .*line 2: .*; of those rows no chances are drawn"
    assert re.search(told, capsys.readouterr().err)
    assert (run_dir.videos / f"{name_of(recorded)}.mp4").exists()
    run_dir.quests.write_bytes(quest_row(1.0, ["LEFT_HOME"], 0.25))
    (run_dir.videos / f"{name_of(recorded)}.json").unlink()
    assert run_here(*arguments, "--overlay") == 0


# --- which logs, and where to ---


def test_a_log_by_itself_is_rendered_and_leaves_the_maps_alone(logs: Path, rom: Rom) -> None:
    first, second = next(logs.iterdir()), record(logs, rom, seed=2, steps=8)
    record(logs, rom, seed=3, steps=8)
    out = logs.parent / "videos"
    assert run_here("--logs", first, "--fps", 2) == 0
    assert sorted(path.suffix for path in out.iterdir() if path.stem == name_of(first)) == [".json", ".mp4", ".png"]
    assert run_here("--logs", first, second, "--fps", 2) == 0
    assert {path.stem for path in out.glob("*.mp4")} == {name_of(first), name_of(second)}
    assert not (out / "maps").exists()


def test_the_logs_of_a_run_and_its_videos_by_its_name(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path, "mine").create()
    for option in ("--run-name", "--run_name"):
        options = parse_arguments(["--runs", str(tmp_path), option, "mine"])
        assert (options.logs, options.out, options.maps) == (run_dir.episode_logs, run_dir.videos, True)
    assert parse_arguments(["--logs", "episode_logs"]).out == Path("videos")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--run-name", "x"], "run 'x': not found in .*; runs there are mine"),
        ([], "give --run-name or --logs"),
        (["--run-name", "mine", "--logs", "a"], "give --run-name or --logs"),
        (["--logs", "a"], "--out is needed where the logs are not those of a run"),
        (
            ["--run-name", "mine", "--fps", "51", "--format", "gif"],
            "argument --fps: must be at most 50 with a GIF, not 51",
        ),
        (["--run-name", "mine", "--format", "avi"], "argument --format: invalid choice: 'avi'"),
        (["--run-name", "mine", "--speed", "0"], "argument --speed: must be 1 to 1000, not 0;"),
        (["--run-name", "mine", "--best", "0"], "argument --best: must be at least 1, not 0;"),
        (["--run-name", "mine", "--best", "1", "--maps-only"], "--best chooses videos, and none is rendered"),
        (["--run-name", "mine", "--greedy", "--check"], "--greedy makes videos, and none is rendered"),
        (["--run-name", "mine", "--greedy"], "config.json: not there yet"),
        (["--logs", "a", "--greedy"], "--greedy plays with a run's parameters: give --run-name"),
        (["--run-name", "mine", "--fps", "0"], "argument --fps: must be 1 to 120, not 0;"),
        (["--run-name", "mine", "--workers", "0"], "argument --workers: must be at least 1, not 0;"),
        (["--run-name", "mine", "--wrkers", "1"], "unrecognized arguments: --wrkers 1;"),
    ],
)
def test_what_is_asked_for_must_make_sense(tmp_path: Path, arguments: list[str], words: str) -> None:
    RunDir(tmp_path, "mine").create()
    with pytest.raises(UserError, match=words):
        parse_arguments(["--runs", str(tmp_path), *arguments])


def test_the_folder_of_a_run_in_place_of_its_logs(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path, "mine").create()
    with pytest.raises(UserError, match=re.escape(f"give {run_dir.episode_logs}")):
        run_here("--logs", run_dir.path, "--out", tmp_path / "out")


# --- as a command ---


def test_rendering_on_a_terminal_moves_by_frames(logs: Path, rom: Rom) -> None:
    record(logs, rom, seed=2, steps=8)
    command = [sys.executable, "-m", "cluster_rl.replayer", "--logs", str(logs), "--workers", "1", "--no-maps"]
    shown, out = on_terminal(command)
    assert re.fullmatch(r"(\S+: \d+ steps, \d+ frames\n){2}\S+: all 2 videos, best first\n", out)
    frames = (STEPS + 8) * FRAME_SKIP
    seen = re.findall(rf"rendering: ([\d,]+) of {frames:,} frames, (\d) of 2 episodes, \d+ s", shown)
    done = {f"{steps * FRAME_SKIP:,}" for steps in (0, 8, STEPS, STEPS + 8)}  # between whole episodes
    assert [count for count, _ in seen if count not in done], shown


def test_killed_render_leaves_no_video_and_no_worker_and_is_done_by_the_next(logs: Path, replayer: Replayer) -> None:
    out = logs.parent / "videos"
    command = [sys.executable, "-m", "cluster_rl.replayer", "--logs", logs, "--out", out, "--no-maps"]
    killed = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=ROOT, start_new_session=True)
    deadline_sec = time.monotonic() + 60
    while not list(out.glob(".*.partial")):
        assert time.monotonic() < deadline_sec, "rendering never began"
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    while session_members(killed.pid):
        assert time.monotonic() < deadline_sec, "a worker outlived the replayer"
        time.sleep(0.05)
    assert list(out.glob("*.mp4")) == []
    done = replayer("--logs", logs, "--out", out, "--no-maps", "--fps", "2")
    assert done.returncode == 0, done.stderr
    assert [path.stem for path in out.glob("*.mp4")] == [name_of(path) for path in logs.iterdir()]
    assert list(out.glob(".*.partial")) == []
