"""The environment under gymnasium's names, in a fresh process too, and what is said of wrong arguments."""

from __future__ import annotations

import configparser
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from cluster_rl import cartridge
from cluster_rl.config import Config
from cluster_rl.emulator.env import Env
from cluster_rl.emulator.registration import LANTERNVALE_ID, RED_ID, register_envs
from cluster_rl.errors import UserError

ROOT = Path(__file__).resolve().parents[3]


def made(name: str, **arguments: Any) -> Env:
    env = gymnasium.make(name, **arguments).unwrapped
    assert isinstance(env, Env)
    return env


def seeds(name: str, **arguments: Any) -> int:
    env = made(name, **arguments)
    seed = int(env.reset()[1]["seed"])
    env.close()
    return seed


@pytest.mark.parametrize(
    "lines",
    [
        "import cluster_rl.emulator, gymnasium; gymnasium.make('cluster_rl/Lanternvale-v0')",
        "import gymnasium, cluster_rl.emulator; gymnasium.make('cluster_rl/Lanternvale-v0')",
        "import gymnasium; gymnasium.make('cluster_rl.emulator:cluster_rl/Lanternvale-v0')",
        "import cluster_rl.emulator, importlib.util; assert importlib.util.find_spec('gymnasium'); "
        "import gymnasium.spaces; gymnasium.make('cluster_rl/Lanternvale-v0')",
    ],
)
def test_names_exist_in_a_fresh_process(lines: str) -> None:
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Overriding" not in done.stderr  # gymnasium's word for a name that is registered twice


def test_the_entry_point_leads_to_the_registration() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    name, _, target = setup["options.entry_points"]["gymnasium.envs"].strip().partition(" = ")
    module, _, function = target.partition(":")
    assert name == "__root__"  # the names have their namespace already
    assert getattr(import_module(module), function) is register_envs


def test_arguments_reach_the_environment() -> None:
    env = made(LANTERNVALE_ID, config="quickstart", index=3, render_mode="rgb_array")
    assert env.observation_space["crop"].shape == (2, 17, 17)
    assert env.render_mode == "rgb_array"
    env.close()
    assert seeds(LANTERNVALE_ID, index=3) == seeds(LANTERNVALE_ID, config=Config(), index=3)
    assert seeds(LANTERNVALE_ID, index=3) != seeds(LANTERNVALE_ID, index=4)
    assert seeds(LANTERNVALE_ID) != seeds(LANTERNVALE_ID)  # environments of a vector are made with equal arguments


def test_a_specification_makes_the_same_environment_again() -> None:
    env = gymnasium.make(LANTERNVALE_ID, config="quickstart", index=2)
    assert env.spec is not None
    again = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert env.reset()[1] == again.reset()[1]
    env.close()
    again.close()


def test_red_takes_the_rom_that_it_is_given() -> None:
    env = made(RED_ID, rom=cartridge.rom_path())
    env.reset(seed=0)
    env.close()
    env = made(RED_ID, config=Config(rom=str(cartridge.rom_path())))
    env.close()


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        (RED_ID, {}, "give your own ROM as rom="),
        (RED_ID, {"rom": "red.gb"}, "red.gb: no such file"),
        (LANTERNVALE_ID, {"render_mode": "human"}, "there is no window; take 'rgb_array'"),
        (LANTERNVALE_ID, {"render_mode": "ansi"}, "take 'rgb_array'"),
        (LANTERNVALE_ID, {"config": "quikstart"}, "did you mean quickstart"),
        (LANTERNVALE_ID, {"config": {"frame_skip": 20}}, "give a Config, the name of a preset or the path"),
        (LANTERNVALE_ID, {"config": None}, "give a Config, the name of a preset or the path"),
        (LANTERNVALE_ID, {"index": -1}, "index -1: give the number"),
        (LANTERNVALE_ID, {"index": "0"}, "index '0': give the number"),
    ],
)
def test_wrong_arguments_are_told(name: str, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        gymnasium.make(name, **arguments)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_registering_twice_says_nothing(recwarn: pytest.WarningsRecorder) -> None:
    register_envs()
    assert not recwarn.list
