"""The environment under gymnasium's names: `cluster_rl/Lanternvale-v0` and `cluster_rl/PokemonRed-v0`.

Importing `cluster_rl.emulator` registers both, in whatever process trains with another library; one that does not
import gymnasium is spared it. In: the arguments of `gymnasium.make`. Out: an `Env` in gymnasium's usual wrappers.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from cluster_rl.errors import UserError

if TYPE_CHECKING:  # the emulator itself is imported once an environment is made
    from cluster_rl.config import Config
    from cluster_rl.emulator.env import Env

LANTERNVALE_ID = "cluster_rl/Lanternvale-v0"
RED_ID = "cluster_rl/PokemonRed-v0"

_INDEX_LIMIT = 2**31


def register_envs() -> None:
    """Makes both names known to gymnasium; a second call does nothing."""
    from gymnasium.envs.registration import register, registry

    for name, maker in ((LANTERNVALE_ID, make_lanternvale), (RED_ID, make_red)):
        if name not in registry:
            register(name, entry_point=f"{__name__}:{maker.__name__}")


class _Watch(MetaPathFinder):
    """Registers as soon as gymnasium has been imported, by whomever."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "gymnasium":
            return None
        others = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((found for found in others if found is not None), None)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_register(module: ModuleType) -> None:
                load(module)
                register_envs()

            spec.loader.exec_module = load_and_register  # type: ignore[method-assign]
        return spec


def register_with_gymnasium() -> None:
    """Registers now if gymnasium is there, else when it is imported: it takes a tenth of a second and 12 MB."""
    if "gymnasium" in sys.modules:
        register_envs()
    else:
        sys.meta_path.insert(0, _Watch())


def make_lanternvale(
    config: Config | str | Path = "quickstart",
    rom: str | Path = "",
    index: int | None = None,
    render_mode: str | None = None,
) -> Env:
    """The embedded cartridge, or another build of it by `rom`.

    `config` is a `Config`, the name of a preset or the path of a config file. `index` numbers environments that are to
    differ from each other but be the same in the next process; without it each differs from all others. After
    `reset(seed=...)` all depends on that seed alone. Raises `UserError` as `make_env` does.
    """
    return _make(config, rom, index, render_mode)


def make_red(
    config: Config | str | Path = "red",
    rom: str | Path = "",
    index: int | None = None,
    render_mode: str | None = None,
) -> Env:
    """Pokémon Red; arguments as for `make_lanternvale`, but `rom` must be given, here or in the config."""
    return _make(config, rom, index, render_mode, needs_rom=True)


def _make(
    config: Config | str | Path, rom: str | Path, index: int | None, render_mode: str | None, needs_rom: bool = False
) -> Env:
    import msgspec

    from cluster_rl.emulator.env import given_config, make_env

    config = given_config(config)
    if rom:
        config = msgspec.structs.replace(config, rom=os.fspath(rom))
    if needs_rom and not config.rom:
        raise UserError(
            f"{RED_ID}: Pokémon Red is not shipped; give your own ROM as rom='red.gb', or make {LANTERNVALE_ID}"
        )
    return make_env(config, secrets.randbelow(_INDEX_LIMIT) if index is None else index, render_mode=render_mode)
