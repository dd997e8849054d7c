"""The environment of pokemonred_puffer, played as it is from a checkout of it, as one of our consoles.

`Env` makes a `PufferConsole` where the config's `puffer` names a checkout, and all above it stays the same: masks, map
memory, context, milestones and archive read the RAM and the screen of that project's own emulator. In: a button. Out:
the same as of a `Console`, and what that environment paid, and whether it ended the episode. Nothing in the checkout is
changed or copied. What does not fit numpy 2 and PyBoy 2.8 is cured around it: names in its modules of this process.
docs/puffer.md tells what is the same and what is not.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import math
import re
import sys
import tempfile
import traceback
import types
from collections.abc import Callable, Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np

from cluster_rl.config import Config
from cluster_rl.configs.files import read_config_file
from cluster_rl.emulator import snapshot
from cluster_rl.emulator.console import Console, Frame, PyBoy
from cluster_rl.emulator.school import start_snapshot
from cluster_rl.emulator.script import Script, pack_script
from cluster_rl.emulator.watched_pyboy import WatchedPyBoy
from cluster_rl.errors import UserError
from cluster_rl.rom import Rom
from cluster_rl.runs.small_file import read_bytes

PROJECT = "pokemonred_puffer"
_KNOWN = "its commit e3bd1b1 is known to work"
_CODE = (".py", ".json", ".sym")
_SCIENTIFIC = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
_FIRST_LINES = 20  # of what it prints; it tells of a full bag at every step


def check_paid(config: Config) -> None:
    """Raises `UserError` for a config with a reward that nothing pays."""
    if config.rewards.puffer and not config.puffer:
        raise UserError(
            f"rewards.puffer is {config.rewards.puffer:g}, which our own environment does not pay; give --puffer "
            "FOLDER, a checkout of pokemonred_puffer, or --rewards.puffer 0 and weights of other rewards"
        )


def make_console(config: Config, rom: Rom) -> Console:
    """The console that a config plays on: ours, or pokemonred_puffer's environment. Raises `UserError`."""
    check_paid(config)
    return PufferConsole(rom, config) if config.puffer else Console(rom, config.frame_skip)


def environment_of(config: Config) -> str:
    """Whose environment a config plays, and a SHA-1 of its code and settings; empty for ours.

    Raises `UserError` for a folder that is no checkout.
    """
    if not config.puffer:
        return ""
    folder = _checkout(config.puffer)
    digest = hashlib.sha1()
    for path in sorted(path for path in (folder / PROJECT).rglob("*") if path.suffix in _CODE):
        digest.update(f"{path.relative_to(folder)}\0".encode())
        digest.update(read_bytes(path))
    env, reward = _settings(folder, config.puffer_reward)
    digest.update(json.dumps([env, reward, config.puffer_reward], sort_keys=True, default=str).encode())
    return f"{PROJECT} (SHA-1 {digest.hexdigest()})"


class PufferConsole(Console):
    """A `Console` whose emulator and whose step are those of a checkout's environment.

    `reward` and `ended` are what its newest step returned. What it remembers of an episode (cells, people, menus)
    begins anew with each `load`. Its settings are those of its `config.yaml`, but for the ROM, the state where it
    begins (the config's `initial_state` if there is one), the frames of a step (`frame_skip`), and its window, videos,
    statistics and saved states, which are off.

    Raises `UserError` for what is no checkout, another version of it, packages that are missing and a ROM that it does
    not play; and, at any time, for an error of its own.
    """

    def __init__(self, rom: Rom, config: Config) -> None:
        self._folder = _checkout(config.puffer)
        self._config = config
        env, _ = _settings(self._folder, config.puffer_reward)
        if config.initial_state:
            start = start_snapshot(config.initial_state, rom)
        else:
            path = self._folder / str(env.get("state_dir")) / f"{env.get('init_state')}.state"
            start = snapshot.load_savestate_file(str(path), rom)
        with tempfile.TemporaryDirectory(prefix="cluster_rl-") as state_dir:
            # Its first reset reads a file, as this PyBoy wants it.
            (Path(state_dir) / "start.state").write_bytes(snapshot.unpack(start, rom))
            self._state_dir = state_dir
            super().__init__(rom, config.frame_skip)
            with self._its("reset"):
                self._theirs.reset()

    def _make_pyboy(self, kind: type[PyBoy] = PyBoy, symbols: str | None = None) -> PyBoy:
        environment, reward_class = _import(self._folder, self._config.puffer_reward)
        from omegaconf import OmegaConf  # which `_import` has found

        env, reward = _settings(self._folder, self._config.puffer_reward)
        env |= {
            "gb_path": self.rom.path,
            "state_dir": self._state_dir,
            "init_state": "start",
            "action_freq": self.frame_skip,
            "headless": True,
            "save_video": False,
            "save_state": False,
            "log_frequency": 0,
        }

        def make(path: str, **options: Any) -> PyBoy:
            return super(PufferConsole, self)._make_pyboy(WatchedPyBoy, options.get("symbols"))

        with self._its(f"environment for {self.rom.path or self.rom.title}"):
            before, environment.PyBoy = environment.PyBoy, make
            try:
                self._theirs = reward_class(OmegaConf.create(env), OmegaConf.create(reward))
                return self._theirs.pyboy
            finally:
                environment.PyBoy = before

    def boot(self) -> None:
        """Nothing: its environment begins in a state, and is there."""

    def step(self, button: int | None, on_frame: Callable[[Frame], None] | None = None) -> None:
        """One step of its environment, which may press and write more than the button.

        With `on_frame`, every frame is drawn and handed over, more than `frame_skip` where its scripts play.
        """
        if button is None:
            raise ValueError("its environment has no step without a button")
        self._pyboy.clear()
        self._pyboy.on_frame = None if on_frame is None else lambda: on_frame(self.rgb())
        try:
            with self._its("step"):
                _, reward, ended, _, _ = self._theirs.step(button)
                self.reward, self.ended = float(reward), bool(ended)
                self._check_recorded()
                if not math.isfinite(self.reward):
                    raise UserError(
                        f"puffer {self._folder}: its step paid {self.reward}, which cannot be learned from; give "
                        f"another puffer_reward than {self._config.puffer_reward}, or mend its settings in config.yaml"
                    )
        finally:
            self._pyboy.on_frame = None

    def load(self, data: bytes, source: str = "snapshot") -> None:
        """As `Console.load`; its environment begins an episode there, and remembers nothing."""
        self._pyboy.settle()
        super().load(data, source)
        with self._its("reset"):
            self._theirs.init_mem()
            if hasattr(self._theirs, "max_event_rew"):
                self._theirs.max_event_rew = 0
            self._theirs.reset(options={"state": snapshot.unpack(data, self.rom, source)})

    def _check_recorded(self) -> None:
        """Raises `UserError` where its code did what no log can hold."""
        refused = self._pyboy.refused
        if self._theirs.pyboy is not self._pyboy:
            refused = "plays on another emulator than its first"
        if refused:
            raise UserError(
                f"puffer {self._folder}: its code {refused}, so that its episodes could not be played again from "
                "logs; switch off in config.yaml what does it"
            )

    def script(self) -> bytes:
        """The last step, as it was done to the emulator."""
        hidden = self._pyboy.is_hidden
        return pack_script(Script(self._pyboy.deeds, self.reward, self.save() if hidden else b""))

    @contextlib.contextmanager
    def _its(self, what: str) -> Iterator[None]:
        """Raises `UserError` for whatever fails in code of the checkout."""
        try:
            yield
        except UserError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001  (told; it is code of others)
            raise UserError(
                f"puffer {self._folder}: its {what} failed{_place(error, self._folder)}: {_words(error)}"
            ) from None


def _checkout(path: str) -> Path:
    """The folder, absolute. Raises `UserError` where it has no environment of that project in it."""
    folder = Path(path).absolute()
    if not folder.is_dir():
        raise UserError(f"puffer {path}: no such folder; give a checkout of {PROJECT}")
    if not (folder / PROJECT / "environment.py").is_file():
        raise UserError(f"puffer {path}: has no {PROJECT}/environment.py; give the folder of a checkout of {PROJECT}")
    return folder


def _settings(folder: Path, reward: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Its settings of the environment, and those of one reward class. Raises `UserError`."""
    path = folder / "config.yaml"
    found = read_config_file(path)
    env, rewards = (found.get(key) for key in ("env", "rewards"))
    if not isinstance(env, dict) or not isinstance(rewards, dict):
        raise UserError(f"puffer {path}: has no sections env and rewards; is it the config.yaml of {PROJECT}?")
    if reward not in rewards:
        raise UserError(f"puffer_reward {reward}: {path} has no such reward; it has {', '.join(map(str, rewards))}")
    chosen = _section(path, f"rewards.{reward}", rewards[reward])
    weights = _section(path, f"rewards.{reward}.reward", chosen.get("reward"))
    return _with_numbers(_section(path, "env", env)), _with_numbers(weights)


def _section(path: Path, name: str, found: Any) -> dict[str, Any]:
    """A section of its settings; empty where nothing is written. Raises `UserError` for what is no section."""
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise UserError(f"puffer {path}: {name} must be a mapping of keys to values, not {type(found).__name__}")
    _check_keys(path, name, found)
    return found


def _check_keys(path: Path, name: str, found: Any) -> None:
    """Raises `UserError` for a key that is no text, however deep: such keys have no order, and no place in JSON."""
    for key, value in found.items() if isinstance(found, dict) else enumerate(found):
        if isinstance(found, dict) and not isinstance(key, str):
            raise UserError(f"puffer {path}: {name} has the key {key!r}, which is no text; write it in quotes")
        if isinstance(value, dict | list):
            _check_keys(path, f"{name}.{key}", value)


def _with_numbers(section: dict[str, Any]) -> dict[str, Any]:
    """With 1e-4 as a number, as OmegaConf reads it; YAML 1.1 reads a text."""
    return {
        key: float(value) if isinstance(value, str) and _SCIENTIFIC.fullmatch(value) else value
        for key, value in section.items()
    }


def _import(folder: Path, reward: str) -> tuple[Any, Any]:
    """Its module `environment`, and the reward class, which is an environment. Raises `UserError`."""
    module, _, name = reward.partition(".")
    try:
        with _imports_from(folder):
            environment = importlib.import_module(f"{PROJECT}.environment")
            rewards = importlib.import_module(f"{PROJECT}.rewards.{module}")
            importlib.import_module("omegaconf")  # in which it takes its settings, whether it imports it or not
    except ModuleNotFoundError as error:
        raise _missing(folder, error) from None
    except (Exception, SystemExit) as error:  # noqa: BLE001  (told; it is code of others)
        raise UserError(f"puffer {folder}: cannot be imported{_place(error, folder)}: {_words(error)}") from None
    theirs, chosen = getattr(environment, "RedGymEnv", None), getattr(rewards, name, None)
    if not Path(str(environment.__file__)).is_relative_to(folder):
        raise UserError(f"puffer {folder}: this process has {environment.__file__} already; start another")
    if not isinstance(theirs, type) or not isinstance(chosen, type) or not issubclass(chosen, theirs):
        raise UserError(
            f"puffer {folder}: has no environment RedGymEnv with a reward {reward}; is it another version? {_KNOWN}"
        )
    _cure(environment)
    return environment, chosen


@contextlib.contextmanager
def _imports_from(folder: Path) -> Iterator[None]:
    """Its modules come before others of their names, and leave no compiled files beside them."""
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.dont_write_bytecode = writes


def _cure(environment: Any) -> None:
    """What its modules need in a process of today, once: names in them, and no file of it, are changed."""
    if "print" in vars(environment):
        return
    numpy, say = _numpy_before_2(), _first_lines()
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == PROJECT:
            if getattr(module, "np", None) is np:
                module.np = numpy  # type: ignore[attr-defined]
            module.print = say  # type: ignore[attr-defined]
    shared = getattr(environment.RedGymEnv, "env_id", None)
    if isinstance(shared, SharedMemory):
        # Its counter of environments, which it never frees: without a name it goes with the process, however that ends.
        shared.unlink()


def _numpy_before_2() -> types.ModuleType:
    """numpy, whose `sum` takes what a generator gives, as before 2.0."""
    module = types.ModuleType("numpy")
    vars(module).update(vars(np))

    def add_up(values: Any, *arguments: Any, **options: Any) -> Any:
        return np.sum(list(values) if isinstance(values, types.GeneratorType) else values, *arguments, **options)

    module.sum = add_up  # type: ignore[attr-defined]
    return module


def _first_lines() -> Callable[..., None]:
    """`print` for the first lines of a process; the last of them says that others are left out."""
    left = _FIRST_LINES

    def say(*words: Any, **_: Any) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            print(f"{PROJECT}:", *words, *([] if left else ["(and no more such lines)"]), flush=True)

    return say


def _missing(folder: Path, error: ModuleNotFoundError) -> UserError:
    if (error.name or "").partition(".")[0] == PROJECT:
        return UserError(f"puffer {folder}: has no {error.name}; is it another version? {_KNOWN}")
    return UserError(f"puffer {folder}: it needs {error.name}, which is missing; pip install 'cluster_rl[puffer]'")


def _place(error: BaseException, folder: Path) -> str:
    """` in FILE, line N`, the deepest of the checkout; empty where none is."""
    frames = traceback.extract_tb(error.__traceback__)
    mine = [frame for frame in frames if Path(frame.filename).is_relative_to(folder)]
    return f" in {mine[-1].filename}, line {mine[-1].lineno}" if mine else ""


def _words(error: BaseException) -> str:
    """One line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
