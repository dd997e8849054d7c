"""Start states: of the embedded cartridge on the real console, and of a made-up game that shows Red's first screens."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from fake_red import ROOM, ROOM_PLACE, FakeRed
from sequence_fixtures import start_at

from cluster_rl.config import Config
from cluster_rl.emulator.console import BUTTONS, Console, live_check
from cluster_rl.emulator.env import make_env
from cluster_rl.errors import UserError
from cluster_rl.game.state import GameState
from cluster_rl.game.world import World
from cluster_rl.rom import load_rom, pyboy_version
from cluster_rl.runs.episode_log import EpisodeIdentity, EpisodeRecorder, read_log
from cluster_rl.start_state import main, new_game

ROM = load_rom("")
STEPS, STEP, INTERVAL = 60, 23, 16


@pytest.fixture(scope="module")
def episode(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, bytes]]]:
    """A recorded episode; its log, and hash of RAM and picture after every step, the start's first."""
    identity = EpisodeIdentity(
        rom_sha1=ROM.sha1,
        rom_kind=ROM.kind,
        pyboy_version=pyboy_version(),
        frame_skip=24,
        run="test",
        actor=0,
        incarnation=1,
        emulator=0,
    )
    recorder = EpisodeRecorder(tmp_path_factory.mktemp("logs"), identity, INTERVAL)
    buttons = random.Random(3)
    with Console(ROM, 24) as console:
        console.boot()
        recorder.start(console.save(), None, 1, start_at("beginning"))
        seen = [(console.ram_hash(), console.screen().tobytes())]
        for _ in range(STEPS):
            action = buttons.choice([0, 1, 2, 3] * 3 + [4, 5, 6])
            console.step(action)
            recorder.step(action, live_check(console.image()), console)
            seen.append((console.ram_hash(), console.screen().tobytes()))
    recorder.flush()
    return recorder.path, seen


# The cartridge


def test_a_new_game_of_the_cartridge_is_a_start_for_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "start.state"
    assert main([str(out)]) == 0
    assert "in HOME at (3, 3)" in capsys.readouterr().out
    env = make_env(Config(initial_state=str(out), start_idle_frames_max=0), 0)
    env.start()
    assert env.world.map_name(env.state.map_id) == "HOME"
    assert env.console.position() == (37, 3, 3)
    places = {env.console.position()}
    for button in ("left", "right", "up", "down"):
        env.advance(BUTTONS.index(button))
        places.add(env.console.position())
    env.close()
    assert len(places) > 1
    assert [path.name for path in tmp_path.iterdir()] == ["start.state"]


@pytest.mark.parametrize("step", [0, 1, STEP, STEPS])
def test_a_recorded_step_goes_on_as_it_did(
    step: int, episode: tuple[Path, list[tuple[int, bytes]]], tmp_path: Path
) -> None:
    path, seen = episode
    out = tmp_path / "step.state"
    assert main(["--from", str(path), "--step", str(step), str(out)]) == 0
    log = read_log(path)
    with Console(ROM, 24) as console:
        console.load(out.read_bytes())
        assert console.ram_hash() == seen[step][0]
        for number, action in enumerate(log.actions.tolist()[step:], start=step + 1):
            console.step(action)
            assert live_check(console.image()) == log.checks[number - 1]
            assert (console.ram_hash(), console.screen().tobytes()) == seen[number]


def test_a_log_that_plays_otherwise_gives_no_state(
    episode: tuple[Path, list[tuple[int, bytes]]], tmp_path: Path
) -> None:
    log = read_log(episode[0])
    checks = np.array(log.checks)
    checks[9] ^= 1
    spoilt = tmp_path / "spoilt.eplog"
    spoilt.write_bytes(type(log)(**vars(log) | {"checks": checks}).to_bytes())
    out = tmp_path / "out.state"
    assert main(["--from", str(spoilt), "--step", "9", str(out)]) == 0
    out.unlink()
    with pytest.raises(UserError, match=r"left the recording at step 10 of 60.*cannot be had"):
        main(["--from", str(spoilt), "--step", "10", str(out)])
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("there.state", "there.state: is there already; give another name"),
        ("none/out.state", "its folder does not exist"),
        ("--from LOG out.state", "belong together"),
        ("--step 3 out.state", "belong together"),
        ("--from LOG --step 61 out.state", "has 60 steps; give 0 to 60"),
        ("--from LOG --step -1 out.state", "--step: must be at least 0, not -1"),
        ("--from LOG --step 3 --name RED out.state", "--name is for a new game"),
        ("--from there.state --step 3 out.state", "not an episode log"),
        ("--name Red out.state", "give 1 to 7 letters, A to Z"),
        ("--name CHARIZARD out.state", "give 1 to 7 letters, A to Z"),
        ("--name RED out.state", "the game took no name but 'WREN'"),
        ("--rom there.state out.state", "a text file"),
    ],
)
def test_bad_command_lines(
    words: str,
    answer: str,
    episode: tuple[Path, list[tuple[int, bytes]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.state").write_text("a file of mine")
    with pytest.raises(UserError) as error:
        main([str(episode[0]) if word == "LOG" else word for word in words.split()])
    assert answer in str(error.value)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["a file of mine"]


# Red, made up


@pytest.mark.parametrize("name", ["", "RED", "ASH", "Z", "NINTEN", "AJS", "ZIGZAGS"])
def test_reds_screens_lead_to_the_room(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    game = FakeRed()
    assert new_game(game, World.red(), name) == b"saved"
    state = GameState(game.image())
    assert (state.map_id, state.x, state.y) == (ROOM, *ROOM_PLACE)
    assert state.player_name == (name or "RED")
    seen = [line.partition(": ")[2] for line in capsys.readouterr().out.splitlines()]
    screens = ["the title", "the main menu", "the player's names", "the rival's names", "the room"]
    assert [line for line in seen if line in screens] == screens
    assert ("the screen of letters" in seen) == bool(name)


@pytest.mark.parametrize("seed", range(3))
def test_presses_that_are_missed_or_doubled_do_no_harm(seed: int) -> None:
    luck = random.Random(seed)
    game = FakeRed(lambda number: luck.random() < 0.3, lambda number: luck.random() < 0.2)
    new_game(game, World.red(), "GIOVANI")
    assert GameState(game.image()).player_name == "GIOVANI"


class Stuck(FakeRed):
    """Stays at one of the stages for ever."""

    def __init__(self, at: str) -> None:
        self._at = at
        super().__init__()

    def _next(self) -> None:
        if self.stage != self._at:
            super()._next()


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("title", "last there was the title"),
        ("menu", "last there was the main menu, on its screen 'NEW GAME / OPTION'"),
        ("rival", "last there was the rival's names"),
        ("last text", "last there was the speech, on its screen 'Hello there'"),
    ],
)
def test_a_game_that_stays_somewhere_ends_in_words(stage: str, words: str) -> None:
    with pytest.raises(UserError, match="no first step in 36000 frames") as error:
        new_game(Stuck(stage), World.red(), "")
    assert words in str(error.value)


def test_a_room_in_which_nothing_moves_is_no_start() -> None:
    class Tied(FakeRed):
        def _take(self, button: str) -> None:
            if self.stage != "room":
                super()._take(button)

    with pytest.raises(UserError, match="last there was the room"):
        new_game(Tied(), World.red(), "")


def test_another_name_than_asked_for_is_told() -> None:
    class Deaf(FakeRed):
        """Keeps its own name."""

        def _set(self, address: int, data: bytes) -> None:
            super()._set(address, self._tiles("NINTEN") + b"\x50" if data == self._tiles("ASH") + b"\x50" else data)

    with pytest.raises(UserError, match="--name ASH: the game took no name but 'NINTEN'"):
        new_game(Deaf(), World.red(), "ASH")
