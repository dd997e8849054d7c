"""Another project's environment as our console: with a fake of it always, with the project itself where `PUFFER` names
a checkout."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from fake_puffer import (
    BUTTONS,
    EMPTY_STEP,
    END_STEP,
    ENVIRONMENT,
    HOOK_STEP,
    SCRIPT_STEP,
    puffer_config,
    recorded,
    spoil,
)

from cluster_rl.cluster_map_features import encode
from cluster_rl.config import Config
from cluster_rl.emulator.env import Env, make_env
from cluster_rl.emulator.playback import Diverged, replay, reward_parts, state_after
from cluster_rl.emulator.puffer_env import environment_of
from cluster_rl.emulator.script import Input, pack_script, unpack_script
from cluster_rl.errors import UserError
from cluster_rl.game.flags import ProgressLatch
from cluster_rl.game.state import GameState
from cluster_rl.game.world import World
from cluster_rl.rom import load_rom
from cluster_rl.runs.episode_log import EpisodeLog, read_header, read_log

TREE = ("pokemonred_puffer/environment.py", "config.yaml", "pyboy_states/Begin.state")


@pytest.fixture
def env(rom: Path, root: Path) -> Iterator[Env]:
    env = make_env(puffer_config(rom, root), 0)
    yield env
    env.close()


def test_its_steps_are_seen_by_our_decoder(env: Env) -> None:
    env.start()
    assert (env.state.map_id, env.state.x, env.state.y, env.state.party_count) == (40, 3, 4, 1)
    env.advance(2)
    env.advance(0)
    step = env.advance(0)
    assert (env.state.x, env.state.y) == (4, 6)
    assert step.visits == 1
    assert step.observation.mask.any()
    latch = ProgressLatch(env.world.milestones)
    latch.start(env.state)
    assert (step.observation.context == encode(env.state, latch, env.world)).all()


def test_its_reward_is_a_term(rom: Path, root: Path) -> None:
    """One cell is new in a step, and with the first one that its hook was seen; what it holds at the start pays not."""
    env = make_env(puffer_config(rom, root), 0)
    env.start()
    rewards = [env.advance(button).reward for button in (2, 1, 2)]
    assert rewards == pytest.approx([0.25 * 2 + 0.002, 0.0, 0.25 + 0.001])
    assert env.reward_terms["puffer"] == env.episode_return == pytest.approx(sum(rewards))
    env.start()  # what it remembers begins anew with an episode
    assert env.advance(2).reward == pytest.approx(rewards[0])
    env.close()


def test_both_rewards_together_and_ours_alone(rom: Path, root: Path) -> None:
    def rewards(**weights: float) -> list[float]:
        config = puffer_config(rom, root)
        weighed = msgspec.structs.replace(config.rewards, **weights)
        env = make_env(msgspec.structs.replace(config, rewards=weighed), 0)
        env.start()
        paid = [env.advance(2).reward for _ in range(3)]
        env.close()
        return paid

    theirs, ours = rewards(), rewards(puffer=0.0, novelty=1.0)
    assert ours == [1.0, 1.0, 1.0]
    assert theirs != ours
    assert rewards(novelty=1.0) == pytest.approx(np.add(theirs, ours))


def test_it_ends_an_episode(env: Env) -> None:
    env.start()
    steps = [env.advance(0) for _ in range(END_STEP)]
    assert [step.terminated for step in steps] == [False] * (END_STEP - 1) + [True]
    assert steps[-1].summary is not None
    assert steps[-1].summary.reason == "terminated"


def test_the_same_seed_and_buttons_give_the_same_steps(env: Env) -> None:
    def play() -> list[tuple[float, bytes, int]]:
        env.reset(seed=4)
        steps = [(env.advance(button), env.console.ram_hash()) for button in BUTTONS]
        return [(step.reward, step.observation.crop.tobytes(), ram_hash) for step, ram_hash in steps]

    assert play() == play()


def test_a_step_that_hands_over_its_frames_leads_to_the_same_state(env: Env) -> None:
    def play(frames: list[int]) -> list[int]:
        env.reset(seed=4)
        hashes = []
        for button in BUTTONS[:SCRIPT_STEP]:
            frames.append(0)
            env.advance(button, lambda frame: frames.append(frames.pop() + (frame.shape == (144, 160, 3))))
            hashes.append(env.console.ram_hash())
        return hashes

    frames: list[int] = []
    watched = play(frames)
    assert frames == [24] * (SCRIPT_STEP - 1) + [24 + 3 * 24]
    env.reset(seed=4)
    assert watched == [(env.advance(button), env.console.ram_hash())[1] for button in BUTTONS[:SCRIPT_STEP]]


def test_episodes_begin_at_its_state_or_at_ours(rom: Path, root: Path) -> None:
    elsewhere = root / "pyboy_states" / "elsewhere.state"
    for initial_state, x in (("", 3), (str(elsewhere), 9)):
        env = make_env(puffer_config(rom, root, initial_state=initial_state), 0)
        env.start()
        assert env.state.x == x
        env.close()
        (root / "pyboy_states" / "Begin.state").unlink(missing_ok=True)  # of which there is no need with ours


def test_log_of_its_steps_replays_without_it(tmp_path: Path, rom: Path, root: Path) -> None:
    """Its scripts, and all that it wrote to RAM, are in the log; what a hook wrote within a frame as a snapshot."""
    path = recorded(tmp_path / "logs", puffer_config(rom, root), 33)
    log = read_log(path)
    assert log.header.environment.startswith("pokemonred_puffer (SHA-1 ")
    assert read_header(path) == log.header
    scripts = [unpack_script(script, "script") for script in log.scripts]
    assert [step for step, script in enumerate(scripts, start=1) if script.snapshot] == [HOOK_STEP]
    assert [step for step, script in enumerate(scripts, start=1) if script.frames != 24] == [SCRIPT_STEP]
    root.rename(tmp_path / "gone")
    states: list[GameState] = []
    frames: list[int] = []
    replay(log, load_rom(str(rom)), "log", bool, on_step=states.append)
    replay(log, load_rom(str(rom)), "log", bool, on_frame=lambda frame: frames.append(frame.size))
    assert [(state.map_id, state.x, state.y) for state in states] == [tuple(place) for place in log.positions.tolist()]
    assert len(frames) == 33 * 24  # a step has as many frames as any other, whatever was done in it
    parts = reward_parts(log, load_rom(str(rom)), World.red(), "log", bool)
    assert sum(step.get("puffer", 0.0) for step in parts) == pytest.approx(log.header.terms["puffer"])
    assert state_after(log, load_rom(str(rom)), "log", 33)


@pytest.mark.parametrize("step", [10, SCRIPT_STEP, HOOK_STEP])
def test_a_log_whose_script_is_changed_is_told(tmp_path: Path, rom: Path, root: Path, step: int) -> None:
    """Of each kind of step: what the log says is needed, and is compared."""
    log = read_log(recorded(tmp_path / "logs", puffer_config(rom, root), 20))
    script = unpack_script(log.scripts[step - 1], "script")
    changed = msgspec.structs.replace(script, deeds=script.deeds[:-3], snapshot=b"")
    scripts = (*log.scripts[: step - 1], msgspec.msgpack.encode(changed), *log.scripts[step:])
    with pytest.raises(Diverged, match="left the recording at step"):
        replay(EpisodeLog(**vars(log) | {"scripts": scripts}), load_rom(str(rom)), "log", bool)


def test_presses_are_in_the_log(tmp_path: Path, rom: Path, root: Path) -> None:
    log = read_log(recorded(tmp_path / "logs", puffer_config(rom, root), 20))

    def unpressed(script: bytes) -> bytes:
        whole = unpack_script(script, "script")
        deeds = [deed for deed in whole.deeds if not isinstance(deed, Input)]
        assert len(whole.deeds) - len(deeds) in (2, 8)
        return pack_script(msgspec.structs.replace(whole, deeds=deeds))

    replay(log, load_rom(str(rom)), "log", bool)
    with pytest.raises(Diverged, match="hash of all RAM differs"):
        replay(
            EpisodeLog(**vars(log) | {"scripts": tuple(map(unpressed, log.scripts))}), load_rom(str(rom)), "log", bool
        )


def test_damaged_scripts_are_told(tmp_path: Path, rom: Path, root: Path) -> None:
    log = read_log(recorded(tmp_path / "logs", puffer_config(rom, root), 20))
    path = tmp_path / "few.eplog"
    path.write_bytes(EpisodeLog(**vars(log) | {"scripts": log.scripts[1:]}).to_bytes())
    with pytest.raises(UserError, match="19 scripts for 20 steps"):
        read_log(path)
    wrong = EpisodeLog(**vars(log) | {"scripts": (b"\x93\x91\x92\x00\xcf" + b"\xff" * 8, *log.scripts[1:])})
    with pytest.raises(UserError, match="the script of step 1: damaged"):
        replay(wrong, load_rom(str(rom)), "log", bool)


def test_nothing_in_the_checkout_changes(tmp_path: Path, rom: Path, root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    recorded(tmp_path / "logs", puffer_config(rom, root), 10)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_its_lines_do_not_fill_a_log(env: Env, capsys: pytest.CaptureFixture[str]) -> None:
    env.start()
    for _ in range(30):
        env.advance(0)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 20
    assert lines[0] == "pokemonred_puffer: a line of every step"
    assert lines[-1].endswith("(and no more such lines)")


def test_an_empty_slice_is_an_empty_list(env: Env) -> None:
    env.start()
    for _ in range(EMPTY_STEP):
        env.advance(0)
    assert env.console._memory[0xD31E:0xD31F] == [0]


WRONG = {
    "no folder": (lambda root: root.rename(root.parent / "x"), "no such folder; give a checkout"),
    "another project": (lambda root: (root / ENVIRONMENT).unlink(), "has no pokemonred_puffer/environment.py"),
    "no config": (lambda root: (root / "config.yaml").unlink(), "config.yaml: cannot be read: No such file"),
    "no sections": (lambda root: (root / "config.yaml").write_text("train: {}\n"), "has no sections env and rewards"),
    "a number as a key": (
        lambda root: spoil(root, "config.yaml", "  headless", "  7: 1\n  headless"),
        "config.yaml: env has the key 7, which is no text; write it in quotes",
    ),
    "a number as a key, deep": (
        lambda root: spoil(root, "config.yaml", "seen: 0.25", "seen: [{a: 1, 7: 1}]"),
        r"config.yaml: rewards\.baseline\.FakeReward\.reward\.seen\.0 has the key 7, which is no text",
    ),
    "a text as a reward": (
        lambda root: spoil(root, "config.yaml", ":\n    reward:\n      seen: 0.25\n      tiny: 1e-4", ": none"),
        r"config.yaml: rewards\.baseline\.FakeReward must be a mapping of keys to values, not str",
    ),
    "a list as weights": (
        lambda root: spoil(root, "config.yaml", ":\n      seen: 0.25\n      tiny: 1e-4", ": []"),
        r"config.yaml: rewards\.baseline\.FakeReward\.reward must be a mapping of keys to values, not list",
    ),
    "no such reward": (lambda root: spoil(root, "config.yaml", "FakeReward", "Other"), "it has baseline.Other"),
    "no RedGymEnv": (
        lambda root: spoil(root, ENVIRONMENT, "RedGymEnv", "Env"),
        "cannot be imported in .*baseline.py, line 5: ImportError: cannot import name 'RedGymEnv'",
    ),
    "no reward class": (
        lambda root: spoil(root, "pokemonred_puffer/rewards/baseline.py", "class FakeReward", "class Fake"),
        "has no environment RedGymEnv with a reward baseline.FakeReward; is it another version",
    ),
    "no module of it": (
        lambda root: (root / "pokemonred_puffer/places.py").unlink(),
        "has no pokemonred_puffer.places",
    ),
    "missing import": (
        lambda root: spoil(root, ENVIRONMENT, "from pathlib", "import a_missing_package\nfrom pathlib"),
        r"it needs a_missing_package, which is missing; pip install 'cluster_rl\[puffer\]'",
    ),
    "ends the process": (
        lambda root: spoil(root, ENVIRONMENT, "from pathlib", "raise SystemExit(3)\nfrom pathlib"),
        r"cannot be imported in .*environment.py, line \d+: SystemExit: 3",
    ),
    "PyBoy by another name": (
        lambda root: spoil(root, ENVIRONMENT, "from pyboy import PyBoy", "import pyboy"),
        "its environment for .*game.gb failed: AttributeError: .* no attribute 'PyBoy'",
    ),
    "syntax": (lambda root: spoil(root, ENVIRONMENT, "class RedGymEnv:", "class RedGymEnv"), "cannot be imported"),
    "another env config": (
        lambda root: spoil(root, ENVIRONMENT, "env_config.state_dir", "env_config.another_key"),
        r"its environment for .*game.gb failed in .*environment.py, line \d+: (Config)?AttributeError",
    ),
    "no state": (
        lambda root: (root / "pyboy_states/Begin.state").unlink(),
        "savestate .*Begin.state: cannot be read: No such file",
    ),
    "another state": (
        lambda root: (root / "pyboy_states/Begin.state").write_bytes(bytes([25]) * 140_000),
        "Begin.state: savestate",
    ),
    "no reset": (lambda root: spoil(root, ENVIRONMENT, "self.base = 1", "pass"), "its reset failed in .*line"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_is_a_line(rom: Path, root: Path, name: str) -> None:
    spoil_it, words = WRONG[name]
    spoil_it(root)
    with pytest.raises(UserError, match=words) as raised:
        make_env(puffer_config(rom, root), 0)
    assert "\n" not in str(raised.value)


def test_a_missing_omegaconf_is_a_line(rom: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a checkout that does not import it."""
    spoil(root, "pokemonred_puffer/rewards/baseline.py", "from omegaconf import OmegaConf", "")
    monkeypatch.setitem(sys.modules, "omegaconf", None)
    with pytest.raises(UserError, match=r"it needs omegaconf, which is missing; pip install 'cluster_rl\[puffer\]'"):
        make_env(puffer_config(rom, root), 0)


@pytest.mark.parametrize("paid", ["nan", "-inf", "1e999"])
def test_a_reward_that_is_not_finite_is_a_line(rom: Path, root: Path, paid: str) -> None:
    spoil(root, ENVIRONMENT, "return {}, self.total - before", f"return {{}}, float('{paid}')")
    env = make_env(puffer_config(rom, root), 0)
    env.start()
    with pytest.raises(
        UserError, match=r"its step paid (nan|-inf|inf), which cannot be learned from; give another puf"
    ):
        env.advance(0)
    env.close()


@pytest.mark.parametrize(("wrong", "words"), [("1 / 0", "ZeroDivisionError"), ("raise SystemExit", "SystemExit")])
def test_an_error_of_its_step_is_a_line(rom: Path, root: Path, wrong: str, words: str) -> None:
    spoil(root, ENVIRONMENT, f"if self.steps == {EMPTY_STEP}:", f"if self.steps == {EMPTY_STEP}:\n            {wrong}")
    env = make_env(puffer_config(rom, root), 0)
    env.start()
    env.advance(0)
    env.advance(0)
    with pytest.raises(UserError, match=r"its step failed in .*environment.py, line \d+: " + words):
        env.advance(0)
    env.close()


def test_our_own_environment_is_not_made_for_a_reward_that_it_does_not_pay(rom: Path, root: Path) -> None:
    """As `evaluate`, `debug_rollout` and notebooks make it."""
    config = msgspec.structs.replace(puffer_config(rom, root), puffer="")
    with pytest.raises(
        UserError, match=r"^rewards\.puffer is 1, which our own environment does not pay; give --puffer"
    ):
        make_env(config, 0)


def test_its_version_is_told_by_code_and_settings(rom: Path, root: Path) -> None:
    config = puffer_config(rom, root)
    whole = environment_of(config)
    assert environment_of(Config()) == ""
    spoil(root, "config.yaml", "log_frequency: 2000", "log_frequency: 2001")
    settings = environment_of(config)
    spoil(root, ENVIRONMENT, "% 16", "% 15")
    assert len({whole, settings, environment_of(config)}) == 3


def test_shared_memory_is_freed(rom: Path, root: Path) -> None:
    """Nothing is left in /dev/shm, and Python's tracker has nothing to warn of."""
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from fake_puffer import forgotten, puffer_config\n"
        "from cluster_rl.emulator.env import make_env\n"
        "from pathlib import Path\n"
        "context = forgotten(); context.__enter__()\n"
        f"make_env(puffer_config(Path({str(rom)!r}), Path({str(root)!r})), 0)\n"
        "import os; os._exit(0)"  # as programs that have closed all end
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "SDL2" not in line]) == (0, [])
