"""A checkout with the surface of pokemonred_puffer's environment and none of its code, written into a folder.

Its `RedGymEnv` is made and stepped as that project's is, and does to PyBoy what that project does: presses with
delayed releases, helper scripts of several presses, writes to RAM between frames and, by a hook, within one; it reads
an empty slice, and its reward class sums a generator with numpy. Where there is no omegaconf, a stand-in serves.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from blank_rom import blank_rom
from recorded_episodes import HASH_INTERVAL_STEPS, identity_of

from cluster_rl.config import Config
from cluster_rl.emulator import snapshot
from cluster_rl.emulator.console import Console
from cluster_rl.emulator.env import make_env
from cluster_rl.emulator.puffer_env import PROJECT, environment_of
from cluster_rl.game import ram
from cluster_rl.rom import load_rom
from cluster_rl.runs.episode_log import EpisodeRecorder

REWARD = "baseline.FakeReward"
ENVIRONMENT = "pokemonred_puffer/environment.py"
BUTTONS = [0, 2, 4, 2, 6, 0, 1, 5, 3, 2] * 2
SCRIPT_STEP, HOOK_STEP, EMPTY_STEP, END_STEP = 5, 7, 3, 40
"""Numbers of steps in which it plays a script, writes in the middle of a frame, has an empty bag, and ends."""

# LD HL,$DEF0; INC (HL); for $10, the buttons, and $20, the arrows: LD A,n; LDH (0),A; LDH A,(0); INC L; ADD A,(HL);
# LD (HL),A; then JP $0100
_LOOP = bytes.fromhex("21f0de 34 3e10e000f000 2c8677 3e20e000f000 2c8677 c30001")

_ENVIRONMENT = f"""
from multiprocessing import shared_memory
from pathlib import Path

from pyboy import PyBoy
from pyboy.utils import WindowEvent

from pokemonred_puffer.places import PLACES

_PRESSES = [WindowEvent.PRESS_ARROW_DOWN, WindowEvent.PRESS_ARROW_LEFT, WindowEvent.PRESS_ARROW_RIGHT,
            WindowEvent.PRESS_ARROW_UP, WindowEvent.PRESS_BUTTON_A, WindowEvent.PRESS_BUTTON_B,
            WindowEvent.PRESS_BUTTON_START]


class RedGymEnv:
    env_id = shared_memory.SharedMemory(create=True, size=4)

    def __init__(self, env_config):
        self.settings = env_config
        self.path = Path(env_config.state_dir) / (env_config.init_state + ".state")
        self.pyboy = PyBoy(str(env_config.gb_path), window="null", sound_emulated=False)
        self.pyboy.hook_register(0, 0x2000, self.hook, None)
        self.first = True
        self.writes = False
        self.max_event_rew = 0
        self.init_mem()

    def init_mem(self):
        self.seen = set()

    def hook(self, _):
        self.seen.add("hook")
        if self.writes:
            self.writes = False
            self.pyboy.memory[{ram.wPlayerMoney}] = 0x12

    def reset(self, seed=None, options=None):
        state = (options or {{}}).get("state")
        if self.first and state is None:
            with self.path.open("rb") as file:
                self.pyboy.load_state(file)
            self.base = 1
        elif state is not None:
            import io
            self.pyboy.load_state(io.BytesIO(state))
        self.base + 0  # made by the first reset alone
        self.first = False
        self.steps = 0
        self.total = self.get_game_state_reward()
        return {{}}, {{}}

    def step(self, action):
        self.steps += 1
        print("a line of every step")
        memory = self.pyboy.memory
        if self.steps == {EMPTY_STEP}:
            assert memory[0xD31E:0xD31E] == []
        memory[0xD347:0xD34A] = int(10000).to_bytes(3, "little")
        self.pyboy.send_input(_PRESSES[action])
        self.pyboy.send_input(_PRESSES[action] + 8, delay=8)
        self.writes = self.steps == {HOOK_STEP}
        self.pyboy.tick(self.settings.action_freq - 1, render=False)
        memory[{ram.wXCoord}] = (memory[{ram.wXCoord}] + (1 if action == 2 else 0)) % 16
        memory[{ram.wYCoord}] = (memory[{ram.wYCoord}] + (1 if action == 0 else 0)) % 16
        if self.steps == {SCRIPT_STEP}:
            for button in ("START", "a", "down"):
                self.pyboy.button(button, 8)
                self.pyboy.tick(self.settings.action_freq, render=True)
            memory[{ram.wObtainedBadges}] = memory[{ram.wObtainedBadges}] | 1
        self.seen.add((memory[{ram.wXCoord}], memory[{ram.wYCoord}], PLACES))
        self.pyboy.tick(1, render=True)
        before, self.total = self.total, self.get_game_state_reward()
        return {{}}, self.total - before, self.steps >= {END_STEP}, False, {{}}
"""

_BASELINE = """
import numpy as np
from omegaconf import OmegaConf

from pokemonred_puffer.environment import RedGymEnv


class FakeReward(RedGymEnv):
    def __init__(self, env_config, reward_config):
        self.weights = OmegaConf.to_object(reward_config)
        super().__init__(env_config)

    def get_game_state_reward(self):
        self.max_event_rew = max(self.max_event_rew, len(self.seen))
        return self.weights["seen"] * np.sum(1 for _ in self.seen) + 0.001 * self.max_event_rew
"""

_OMEGACONF = """
import types


class OmegaConf:
    create = staticmethod(lambda values: types.SimpleNamespace(**values))
    to_object = staticmethod(vars)
"""

_CONFIG = """
env:
  headless: False
  state_dir: pyboy_states
  init_state: Begin
  action_freq: 1
  save_video: False
  save_state: True
  log_frequency: 2000
rewards:
  baseline.FakeReward:
    reward:
      seen: 0.25
      tiny: 1e-4
"""


def loop_rom(folder: Path) -> Path:
    """A ROM that does nothing but count in RAM how often it came round, and add up what the joypad told it then; what a
    state holds besides stays as it is. So RAM depends on every cycle and on every frame of a press."""
    path = blank_rom(folder, "POKEMON RED")
    data = bytearray(path.read_bytes())
    for vector in range(0x40, 0x68, 8):
        data[vector] = 0xD9  # reti
    for end in range(0x4000, len(data) + 1, 0x4000):
        data[end - 32 : end - 32 + len(_LOOP)] = _LOOP
    path.write_bytes(data)
    return path


def fake_checkout(folder: Path, rom: Path) -> Path:
    """Writes the checkout; its one state stands on map 40 with one Pokémon of level 5."""
    root = folder / "checkout"
    for name, text in {
        "pokemonred_puffer/__init__.py": "",
        "pokemonred_puffer/places.py": "PLACES = 1\n",
        "pokemonred_puffer/environment.py": _ENVIRONMENT,
        "pokemonred_puffer/rewards/__init__.py": "",
        "pokemonred_puffer/rewards/baseline.py": _BASELINE,
        "config.yaml": _CONFIG,
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "pyboy_states").mkdir()
    for name, x in (("Begin", 3), ("elsewhere", 9)):
        (root / "pyboy_states" / f"{name}.state").write_bytes(_state(rom, x))
    return root


def _state(rom: Path, x: int) -> bytes:
    with Console(load_rom(str(rom)), 24) as console:
        console.boot()
        member = ram.wPartyMons
        fields = {ram.wCurMap: 40, ram.wXCoord: x, ram.wYCoord: 4, ram.wPartyCount: 1, member: 0x99, member + 33: 5}
        fields |= {member + 2: 20, member + 35: 20, ram.wCurMapHeight: 8, ram.wCurMapWidth: 8}
        for address, value in fields.items():
            console._memory[address] = value
        return snapshot.unpack(console.save(), None)


def puffer_config(rom: Path, root: Path, **changes: object) -> Config:
    """Of a run on it, paid by it alone."""
    config = Config(rom=str(rom), puffer=str(root), puffer_reward=REWARD, start_idle_frames_max=5, episode_max_steps=60)
    nothing = dict.fromkeys(config.rewards.__struct_fields__, 0.0)
    rewards = msgspec.convert(nothing | {"puffer": 1.0}, type(config.rewards))
    return msgspec.structs.replace(config, rewards=rewards, **changes)


def recorded(folder: Path, config: Config, steps: int, hash_interval_steps: int = HASH_INTERVAL_STEPS) -> Path:
    """The log of an episode of so many steps, which was not the first."""
    identity = msgspec.structs.replace(identity_of(load_rom(config.rom), 5), environment=environment_of(config))
    recorder = EpisodeRecorder(folder, identity, hash_interval_steps)
    env = make_env(config, 0, recorder)
    env.start()
    env.advance(0)
    env.start()
    for step in range(steps):
        env.advance(BUTTONS[step % len(BUTTONS)])
    env.stop()
    env.close()
    return recorder.path


def spoil(root: Path, name: str, before: str, after: str) -> None:
    """Writes something else into a file of a checkout, in the place of what stands there."""
    path = root / name
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


@contextmanager
def forgotten() -> Iterator[None]:
    """Another checkout may be imported inside, and is forgotten afterwards; a stand-in for omegaconf if need be."""
    _forget()
    stands_in = importlib.util.find_spec("omegaconf") is None
    if stands_in:
        sys.modules["omegaconf"] = _omegaconf()
    try:
        yield
    finally:
        if stands_in:
            del sys.modules["omegaconf"]
        _forget()


def _forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == PROJECT]:
        del sys.modules[name]


def stand_in_for_omegaconf(folder: Path) -> Path:
    """Writes a module of that name into a folder of `folder`, for the paths of other processes."""
    path = folder / "modules" / "omegaconf.py"
    path.parent.mkdir()
    path.write_text(_OMEGACONF)
    return path.parent


def _omegaconf() -> types.ModuleType:
    module = types.ModuleType("omegaconf")
    exec(_OMEGACONF, vars(module))
    return module
