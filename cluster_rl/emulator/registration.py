"""The environment under gymnasium's names: `cluster_rl/Lanternvale-v0` and `cluster_rl/PokemonRed-v0`.

Importing `cluster_rl.emulator` registers both. Any process that trains with another library may use them. In: the
arguments of `gymnasium.make`. Out: an `Env` in gymnasium's usual wrappers.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from gymnasium.envs.registration import register, registry

from cluster_rl.errors import UserError

if TYPE_CHECKING:  # the emulator itself is imported once an environment is made
    from cluster_rl.config import Config
    from cluster_rl.emulator.env import Env

LANTERNVALE_ID = "cluster_rl/Lanternvale-v0"
RED_ID = "cluster_rl/PokemonRed-v0"

_INDEX_LIMIT = 2**31


def register_envs() -> None:
    """Makes both names known to gymnasium; a second call does nothing."""
    for name, maker in ((LANTERNVALE_ID, make_lanternvale), (RED_ID, make_red)):
        if name not in registry:
            register(name, entry_point=f"{__name__}:{maker.__name__}")


def make_lanternvale(
    config: Config | str | Path = "quickstart",
    rom: str | Path = "",
    index: int | None = None,
    render_mode: str | None = None,
) -> Env:
    """The small world, or another embedded one by `rom`.

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
