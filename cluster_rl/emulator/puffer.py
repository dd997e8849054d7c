"""The same environment for users of PufferLib; optional, `pip install cluster_rl[puffer]`.

Their training process uses it: `pufferlib.vector.make(make_puffer_env, backend="Serial", num_envs=4)`. In: flat buffers
of PufferLib. Out: its `GymnasiumPufferEnv` over `Env`, which packs the dict observation into one row of bytes.
"""

from __future__ import annotations

from typing import Any, Literal

import gymnasium

from cluster_rl.config import Config
from cluster_rl.emulator.env import make_env
from cluster_rl.emulator.puffer_keys import PufferKeys
from cluster_rl.errors import UserError


class _NumericInfo(gymnasium.Wrapper[Any, Any, Any, Any]):
    """PufferLib takes the mean of whatever lists `info` holds: it gets numbers only, once an episode."""

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        observation, _ = self.env.reset(**arguments)
        return observation, {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        numbers: dict[str, Any] = {}
        if "summary" in info:
            summary = info["summary"]
            numbers = {name: summary[name] for name in ("episode_return", "episode_steps", "terms")}
            numbers["milestones"] = len(summary["milestones"])
        return observation, reward, terminated, truncated, numbers


def make_puffer_env(
    config: Config | str | None = None, buf: Any = None, seed: int = 0, keys: Literal["ours", "puffer"] = "ours"
) -> Any:
    """A `pufferlib.emulation.GymnasiumPufferEnv` of the environment number `seed`; PufferLib hands in `buf` and `seed`.

    `keys` "puffer": its observations are those of pokemonred_puffer's environment, see `puffer_keys`.
    Raises `UserError` where PufferLib is not installed.
    """
    try:
        from pufferlib.emulation import GymnasiumPufferEnv
    except ModuleNotFoundError as error:
        raise UserError(
            f"PufferLib cannot be used: {error.name} is missing; pip install 'cluster_rl[puffer]'"
        ) from None
    if keys not in ("ours", "puffer"):
        raise UserError(f"keys {keys!r}: give 'ours', or 'puffer' for the observations of pokemonred_puffer")
    ours = make_env(config if config is not None else Config(), seed)
    env = _NumericInfo(PufferKeys(ours) if keys == "puffer" else ours)
    return GymnasiumPufferEnv(env=env, buf=buf, seed=seed)
