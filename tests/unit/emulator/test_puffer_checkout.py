"""pokemonred_puffer itself, untouched, as our console; where the environment variable `PUFFER` names a checkout of it.

On a ROM that does nothing: what its savestates hold stays, and its helper scripts play on it.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from fake_puffer import loop_rom
from recorded_episodes import identity_of

from cluster_rl.config import Config, RewardWeights, load_config
from cluster_rl.emulator.env import Env, Recorder
from cluster_rl.emulator.given_states import read_given_states
from cluster_rl.emulator.playback import replay
from cluster_rl.emulator.puffer_env import environment_of
from cluster_rl.emulator.puffer_keys import PufferKeys
from cluster_rl.emulator.script import unpack_script
from cluster_rl.errors import UserError
from cluster_rl.exploration.archive import StartState, StateHeader, parse_state
from cluster_rl.game import ram
from cluster_rl.game.savestate import ram_image
from cluster_rl.game.state import GameState
from cluster_rl.game.world import World
from cluster_rl.rom import Rom, load_rom
from cluster_rl.runs.episode_log import EpisodeRecorder, read_log

CHECKOUT = Path(os.environ.get("PUFFER") or "no checkout")

pytestmark = [
    pytest.mark.skipif("PUFFER" not in os.environ, reason="PUFFER names no checkout of pokemonred_puffer"),
    pytest.mark.skipif(
        importlib.util.find_spec("omegaconf") is None or importlib.util.find_spec("mediapy") is None,
        reason="omegaconf or mediapy is not installed: pip install 'cluster_rl[puffer]'",
    ),
]


class Chosen:
    """Has episodes begin at one state after another."""

    def __init__(self, states: list[StartState]) -> None:
        self._states = iter(states)

    def choose(self, rng: np.random.Generator) -> StartState | None:
        return next(self._states)

    def refuse(self, path: Path, why: UserError) -> None:
        raise AssertionError(f"{path}: {why}")

    def wants(self, key: str, steps: int) -> bool:
        return False

    def propose(self, header: StateHeader, memory: bytes, snapshot: bytes) -> None:
        raise AssertionError("nothing is wanted")


@pytest.fixture(scope="module")
def rom(tmp_path_factory: pytest.TempPathFactory) -> Rom:
    return load_rom(str(loop_rom(tmp_path_factory.mktemp("rom"))))


@pytest.fixture(scope="module")
def config(rom: Rom) -> Config:
    states = str(CHECKOUT / "pyboy_states")
    return msgspec.structs.replace(
        load_config("puffer"), rom=rom.path, puffer=str(CHECKOUT), start_states=states, start_idle_frames_max=0
    )


@pytest.fixture(scope="module")
def states(config: Config, rom: Rom) -> dict[str, StartState]:
    given = read_given_states(config, rom)
    return {name: parse_state(data, Path(name)) for name, data in given.items()}


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    yield
    command = ["git", "-C", str(CHECKOUT), "status", "--porcelain", "--ignored"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""


def make(config: Config, rom: Rom, states: list[StartState], recorder: Recorder | None = None) -> Env:
    return Env(config, rom, World.for_rom(rom.sha1), 1, recorder, starts=Chosen(states))


def test_all_its_states_begin_as_on_our_console(config: Config, rom: Rom, states: dict[str, StartState]) -> None:
    """Masks, crop, context, milestones and screen are those of our own emulator and decoder at the same state."""
    assert len(states) == 29
    its = make(config, rom, list(states.values()))
    ours = make(msgspec.structs.replace(config, puffer="", rewards=RewardWeights()), rom, list(states.values()))
    for name in states:
        a, b = its.start(), ours.start()
        for field in a._fields:
            assert (getattr(a, field) == getattr(b, field)).all(), (name, field)
        assert len(np.unique(a.screen)) > 1, f"{name}: no picture"
        assert its.latch.reached == ours.latch.reached
        image = ram_image((CHECKOUT / "pyboy_states" / name).read_bytes())
        assert its.state.image == GameState(_live(image)).image, name
    its.close()
    ours.close()


def _live(image: bytes) -> bytes:
    live = np.zeros(ram.IMAGE_BYTES, np.uint8)
    for start, stop in ram.LIVE_RANGES:
        at = slice(start - ram.WRAM_START, stop - ram.WRAM_START)
        live[at] = np.frombuffer(image, np.uint8)[at]
    return live.tobytes()


def test_all_its_states_step_and_agree_with_its_own_reading(
    config: Config, rom: Rom, states: dict[str, StartState]
) -> None:
    env = make(config, rom, list(states.values()))
    theirs = env.console._theirs  # type: ignore[attr-defined]
    for name in states:
        env.start()
        for button in (0, 2, 4, 6):
            step = env.advance(button)
            state = env.state
            assert (state.x, state.y, state.map_id) == theirs.get_game_coords(), name
            assert state.party_count == theirs.read_m("wPartyCount")
            assert [member.level for member in state.party] == [
                theirs.party[slot].Level for slot in range(state.party_count)
            ], name
            assert state.badges.bit_count() == theirs.get_badges()
            assert [item for item, _ in state.bag] == [item.value for item in theirs.get_items_in_bag()], name
            assert step.reward == pytest.approx(env.console.reward * config.rewards.puffer)
            if step.terminated:
                break
    env.close()


@pytest.mark.timeout(1800)  # a script of its may take 500 frames
def test_its_episodes_replay_without_it(
    tmp_path: Path, config: Config, rom: Rom, states: dict[str, StartState]
) -> None:
    """Those in which its scripts cut, surf and push boulders among them."""
    identity = msgspec.structs.replace(identity_of(rom, 5), environment=environment_of(config))
    recorder = EpisodeRecorder(tmp_path, identity, ram_hash_interval_steps=2)
    env = make(config, rom, list(states.values()), recorder)
    frames = {}
    for name in states:
        env.start()
        for button in (0, 4, 3, 6, 1, 2):
            if env.advance(button).terminated:
                break
        env.stop()
        log = read_log(recorder.path)
        frames[name] = [unpack_script(script, name).frames for script in log.scripts]
        replay(log, rom, name, bool)
    env.close()
    assert max(map(max, frames.values())) > 24, "no script of it played"


def test_its_observation_on_our_environment_is_the_one_that_it_gives(
    config: Config, rom: Rom, states: dict[str, StartState]
) -> None:
    """All 26 keys, to the byte, at its own RAM and screen, with cells visited as it counts them."""
    env = make(config, rom, list(states.values()))
    keyed = PufferKeys(env)
    theirs = env.console._theirs  # type: ignore[attr-defined]
    assert set(keyed.observation_space) == set(theirs.observation_space)
    for name in states:
        seen = [keyed.reset()[0]]
        its = [theirs._get_obs()]
        for button in (0, 2, 4):
            observation, _, ended, _, _ = keyed.step(button)
            seen.append(observation)
            its.append(theirs._get_obs())
            if ended:
                break
        for mine, other in zip(seen, its, strict=True):
            for key, value in other.items():
                assert mine[key].dtype == value.dtype, key
                assert (mine[key].reshape(value.shape) == value).all(), (name, key)
    env.close()


def test_its_reward_alone_is_what_the_preset_pays(config: Config) -> None:
    weights = msgspec.to_builtins(config.rewards)
    assert weights == dict.fromkeys(msgspec.to_builtins(RewardWeights()), 0.0) | {"puffer": weights["puffer"]}
    assert weights["puffer"] > 0
