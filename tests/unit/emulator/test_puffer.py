"""The PufferLib bridge; skipped where PufferLib is not installed, but for its message."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest

from cluster_rl.config import Config
from cluster_rl.emulator.env import make_env
from cluster_rl.emulator.puffer import make_puffer_env
from cluster_rl.emulator.puffer_keys import PufferKeys
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


def test_keys_of_pokemonred_puffer_are_read_from_the_same_game() -> None:
    env = make_env(Config(initial_state="", occupancy_crop_radius=2), 0)
    keyed = PufferKeys(env)
    observation, _ = keyed.reset(seed=3)
    assert len(observation) == 26
    assert keyed.observation_space.contains(observation)
    assert not observation["visited_mask"].any()
    walked = {(env.state.x, env.state.y)}
    for action in [3, 3, 0, 0, 2, 2, 1, 1] * 4:
        observation, *_ = keyed.step(action)
        walked.add((env.state.x, env.state.y))
    assert keyed.observation_space.contains(observation)
    unpacked = observation["screen"] >> np.array([6, 4, 2, 0], np.uint8) & 3  # [72, 20, 4]
    assert (unpacked.reshape(72, 80) == 3 - env.console.screen()).all()
    assert observation["map_id"] == [env.state.map_id]
    assert observation["level"].tolist()[: env.state.party_count] == [member.level for member in env.state.party]
    seen = (observation["visited_mask"] >> np.array([6, 4, 2, 0], np.uint8) & 3).reshape(72, 80)
    assert len(walked) > 1
    assert (seen == 3).sum() == 64 * len(walked)
    env.close()


@needs_puffer
def test_its_keys_reach_pufferlib() -> None:
    import pufferlib.vector

    vector = pufferlib.vector.make(
        make_puffer_env, env_kwargs={"config": Config(), "keys": "puffer"}, backend="Serial", num_envs=2
    )
    rows, _ = vector.reset(3)
    rows, *_ = vector.step(np.array([0, 0]))
    alone = PufferKeys(make_env(Config(), 0))
    alone.reset(seed=3)
    observation, *_ = alone.step(0)
    for value in observation.values():
        assert np.ascontiguousarray(value).tobytes() in rows[0].tobytes()
    alone.close()
    vector.close()


def test_other_keys_are_refused() -> None:
    pytest.importorskip("pufferlib")
    with pytest.raises(UserError, match="keys 'theirs': give 'ours', or 'puffer'"):
        make_puffer_env(Config(), keys="theirs")  # type: ignore[arg-type]


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
