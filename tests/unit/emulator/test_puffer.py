"""The PufferLib bridge; skipped where PufferLib is not installed, but for its message."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest

from cluster_rl.config import Config
from cluster_rl.emulator.env import make_env
from cluster_rl.emulator.puffer import make_puffer_env
from cluster_rl.errors import UserError

needs_puffer = pytest.mark.skipif(
    importlib.util.find_spec("pufferlib") is None, reason="PufferLib is not installed: pip install 'cluster_rl[puffer]'"
)


def test_message_without_pufferlib(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "pufferlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pufferlib", None)
    with pytest.raises(UserError, match="pip install"):
        make_puffer_env(Config())


@needs_puffer
def test_vectorised_environments_give_what_env_gives() -> None:
    import pufferlib.vector

    config = Config(episode_max_steps=8)
    vector = pufferlib.vector.make(make_puffer_env, env_args=[config], backend="Serial", num_envs=2)
    env = make_env(config, 0)
    rows, _ = vector.reset(11)
    observation, _ = env.reset(seed=11)
    assert rows.dtype == np.uint8
    summaries = []
    for action in (0, 3, 3, 4, 6, 1, 2, 5):
        for value in observation.values():
            assert np.ascontiguousarray(value).tobytes() in rows[0].tobytes()
        rows, rewards, _, truncated, infos = vector.step(np.array([action, action]))
        observation, reward, _, _, _ = env.step(action)
        assert rewards[0] == pytest.approx(reward)
        summaries += infos
    assert truncated.all()
    assert [info["episode_steps"] for info in summaries] == [8, 8]
    env.close()
    vector.close()
