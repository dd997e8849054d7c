"""Other libraries on our environment, with their default calls: Stable-Baselines3, sb3-contrib, gymnasium's vectors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from sb3_contrib import MaskablePPO, RecurrentPPO
from sb3_contrib.common.maskable.utils import get_action_masks
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecFrameStack, VecNormalize

from cluster_rl.config import load_config
from cluster_rl.emulator.env import make_env
from cluster_rl.game.buttons import BUTTONS

LANTERNVALE = "cluster_rl.emulator:cluster_rl/Lanternvale-v0"  # names its module: children of any kind know it then
AGENTS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "PPO": (PPO, "MultiInputPolicy", {"n_steps": 64, "n_epochs": 1}),
    "DQN": (DQN, "MultiInputPolicy", {"learning_starts": 64, "buffer_size": 500}),
    "RecurrentPPO": (RecurrentPPO, "MultiInputLstmPolicy", {"n_steps": 64, "n_epochs": 1}),
    "MaskablePPO": (MaskablePPO, "MultiInputPolicy", {"n_steps": 64, "n_epochs": 1}),
}


@pytest.mark.parametrize("agent", AGENTS)
def test_agents_train(agent: str) -> None:
    algorithm, policy, short = AGENTS[agent]
    env = make_env(load_config("quickstart"), index=0)
    model = algorithm(policy, env, **short)
    before = [weight.detach().clone() for weight in model.policy.parameters()]
    model.learn(128)
    assert any(not old.equal(new) for old, new in zip(before, model.policy.parameters(), strict=True))
    env.close()


@pytest.mark.slow
@pytest.mark.parametrize("agent", AGENTS)
def test_agents_train_with_default_settings(agent: str) -> None:
    algorithm, policy, _ = AGENTS[agent]
    env = make_env(load_config("quickstart"), index=0)
    assert algorithm(policy, env).learn(1000).num_timesteps >= 1000
    env.close()


@pytest.mark.slow
def test_maskable_ppo_trains_in_processes_with_default_settings() -> None:
    env = SubprocVecEnv([functools.partial(make_env, "quickstart", index) for index in range(2)])
    assert MaskablePPO("MultiInputPolicy", env).learn(1000).num_timesteps >= 1000
    env.close()


def test_the_screen_alone_is_a_picture_of_grey_levels() -> None:
    env = make_env("quickstart", 0)
    spaces = env.observation_space.spaces
    assert [name for name, space in spaces.items() if is_image_space(space, check_channels=True)] == ["screen"]
    assert is_image_space_channels_first(spaces["screen"])
    observation, _ = env.reset(seed=0)
    np.testing.assert_array_equal(observation["screen"], 85 * env.observation.screen[None])
    np.testing.assert_array_equal(np.rint(observation["crop"] * 255), env.observation.crop)
    extractors = PPO("MultiInputPolicy", env, n_steps=8, batch_size=8).policy.features_extractor.extractors
    assert [name for name, module in extractors.items() if isinstance(module, NatureCNN)] == ["screen"]
    env.close()


def valid_steps(env: VecEnv, steps: int) -> None:
    """MaskablePPO without training, for some steps: only valid buttons are pressed."""
    model = MaskablePPO("MultiInputPolicy", env, n_steps=8, batch_size=8)
    observation = env.reset()
    for _ in range(steps):
        masks = get_action_masks(env)
        np.testing.assert_array_equal(masks, observation["action_mask"])
        actions, _ = model.predict(observation, action_masks=masks)
        assert masks[np.arange(env.num_envs), actions].all()
        observation, *_ = env.step(actions)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda: make_env("quickstart", 0),
        lambda: Monitor(gymnasium.make(LANTERNVALE)),
        lambda: gymnasium.wrappers.TimeLimit(make_env("quickstart", 0), 5),
    ],
    ids=["bare", "monitor of gymnasium.make", "time limit"],
)
def test_masks_are_found_through_wrappers(wrapped: Callable[[], Any]) -> None:
    env = DummyVecEnv([wrapped])
    valid_steps(env, 10)
    env.close()


def test_maskable_ppo_trains_in_processes_and_their_environments_differ() -> None:
    env = make_vec_env(LANTERNVALE, 2, vec_env_cls=SubprocVecEnv, vec_env_kwargs={"start_method": "spawn"})
    MaskablePPO("MultiInputPolicy", env, n_steps=32, n_epochs=1).learn(64)
    valid_steps(env, 5)
    infos = env.reset_infos
    assert infos[0]["seed"] != infos[1]["seed"]
    env.close()


def test_frames_can_be_stacked_and_observations_normalised() -> None:
    env = VecNormalize(VecFrameStack(DummyVecEnv([functools.partial(make_env, "quickstart", 0)]), 4))
    assert env.reset()["screen"].shape == (1, 4, 72, 80)
    PPO("MultiInputPolicy", env, n_steps=64, n_epochs=1).learn(64)
    env.close()


def test_masked_buttons_are_pressed_and_a_prediction_is_an_action() -> None:
    env = make_env("quickstart", 0)
    observation, _ = env.reset(seed=0)
    start = BUTTONS.index("start")
    assert not env.action_masks()[start]
    env.step(start)
    assert env.state.menu is not None
    assert env.state.menu.is_start_menu
    action, _ = PPO("MultiInputPolicy", env, n_steps=8, batch_size=8).predict(observation)
    assert action.shape == ()
    env.step(action)
    env.close()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_gymnasium_vectors_give_what_one_environment_gives(mode: str) -> None:
    config = load_config("quickstart", ["episode_max_steps=4"])
    arguments = {"context": "spawn"} if mode == "async" else None
    vector = gymnasium.make_vec(
        LANTERNVALE, num_envs=2, vectorization_mode=mode, vector_kwargs=arguments, config=config
    )
    one = make_env(config, 0)
    observations, _ = vector.reset(seed=[5, 6])
    expected, _ = one.reset(seed=5)
    for action in (3, 0, 4, 0):
        for name, value in expected.items():
            np.testing.assert_array_equal(observations[name][0], value)
        observations, rewards, _, truncated, infos = vector.step(np.array([action, 1]))
        expected, reward, *_ = one.step(action)
        assert rewards[0] == pytest.approx(reward)
    assert truncated.tolist() == [True, True]
    assert infos["summary"]["episode_steps"].tolist() == [4, 4]
    vector.close()
    one.close()


def test_videos_have_the_speed_of_the_game(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = gymnasium.make(LANTERNVALE, config=load_config("quickstart", ["frame_skip=20"]), render_mode="rgb_array")
    assert env.metadata["render_fps"] == pytest.approx(60 / 20)
    assert make_env("quickstart", 0).metadata["render_fps"] == pytest.approx(60 / 24)
    venv = DummyVecEnv([lambda: env])
    assert venv.metadata["render_fps"] == pytest.approx(3)  # what VecVideoRecorder reads
    env.reset(seed=0)
    picture = env.render()
    assert isinstance(picture, np.ndarray)
    assert (picture.shape, picture.dtype) == ((144, 160, 3), np.uint8)
    venv.close()
