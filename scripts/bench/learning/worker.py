"""One training of one agent, in a process of its own: `python -m scripts.bench.learning.worker ARGUMENTS`.

The comparison starts it, with a JSON object of agent, seed, config and path. Out: the training's records. All agents
use the processor alone and as many emulators as the config has.

Ours is the learner process with its actor processes over the wire, as the launcher starts them; records are taken where
the learner logs a sequence, so a milestone is noted up to one sequence later than it was reached. PPO and random
play have each emulator in a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import gymnasium
import msgspec
import numpy as np
import torch

from cluster_rl import learner
from cluster_rl.acting.exploration import Exploration
from cluster_rl.acting.wandering import wander_weights
from cluster_rl.config import Config, config_from_builtins, config_to_json
from cluster_rl.emulator.env import SHADE_GREY, Env, make_env
from cluster_rl.emulator.spaces import NO_ACTION, observation_spec
from cluster_rl.errors import EXIT_FAILURE, EXIT_OK, UserError, run_command
from cluster_rl.game.buttons import NUM_BUTTONS
from cluster_rl.jobs.opening import begin_job, check_job
from cluster_rl.jobs.signals import die_with_parent
from cluster_rl.model import build_model
from cluster_rl.replay_buffer import AppendResult
from cluster_rl.runs.layout import RunDir
from cluster_rl.training.trainer import Trainer

from .agents import OURS, PPO_SETTINGS, action_count, settings
from .record import Recorder

_ACTOR_WAIT_SEC = 10.0


def train(agent: str, seed: int, config: Config, path: Path) -> bool:
    """Trains one agent for `config.target_total_steps` and writes its records; whether it got to the end.

    `config` comes from `agents.agent_config`.
    """
    recorder = Recorder(path, agent, seed, settings(agent, config))
    if agent in OURS:
        env_steps = _train_ours(config, recorder, path)
    elif agent in ("random", "explore"):
        env_steps = _play_randomly(config, recorder, directed=agent == "explore")
    else:
        env_steps = _train_ppo(agent, config, recorder)
    if env_steps < config.target_total_steps:
        return False  # stopped by a signal
    recorder.close(env_steps)
    return True


# Ours.


def _train_ours(config: Config, recorder: Recorder, path: Path) -> int:
    actors: list[subprocess.Popen[bytes]] = []
    env_steps = 0

    class RecordedTrainer(Trainer):
        """The learner's trainer, with notes of what it logs."""

        def ingest(self, actor: int, incarnation: int, seq: int, block: bytes) -> AppendResult:
            nonlocal env_steps
            result = super().ingest(actor, incarnation, seq, block)
            if result.id is not None:
                env_steps = self.replay.env_steps
                recorder.milestones(result.header.milestones, env_steps)
                summary = result.header.summary
                if summary is not None and summary.is_whole:
                    recorder.episode(msgspec.to_builtins(summary), env_steps)
            return result

        def tick(self) -> None:
            super().tick()
            for index, process in enumerate(actors):
                if process.poll():
                    raise RuntimeError(f"actor {index} ended with exit code {process.returncode}")

    # Kept, so that `cluster_rl.evaluate` can play with what was learned; an unfinished one is of no use.
    run_dir = RunDir(path.parents[1] / "runs", path.stem)
    if run_dir.exists():
        shutil.rmtree(run_dir.path)
    rom = check_job(config, run_dir).rom
    run_dir.create()
    begin_job(config, run_dir, rom)
    try:
        actors += [_start_actor(run_dir, index) for index in range(config.num_actors)]
        with mock.patch.object(learner, "Trainer", RecordedTrainer):
            learner.run_learner(config, run_dir, "", time.monotonic())
    finally:
        for process in actors:
            process.terminate()
        for process in actors:
            process.wait(_ACTOR_WAIT_SEC)
    return env_steps


def _start_actor(run_dir: RunDir, index: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cluster_rl.actor", "--run-dir", str(run_dir.path), "--slot", str(index)]
    parent_pid = os.getpid()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    # Killed: there is nobody to send to, and what an unfinished training learned is of no use.
    return subprocess.Popen(command, env=environment, preexec_fn=lambda: die_with_parent(parent_pid, signal.SIGKILL))


# The others, on Stable-Baselines3's vector of environments.


class WithPrevious(gymnasium.Wrapper[dict[str, Any], np.int64, dict[str, Any], np.int64]):
    """Adds the previous action and reward to the observation: our network sees them too.

    Every one of the config's buttons may be pressed, masked or not; a masked one does nothing, as in the game.
    """

    def __init__(self, env: Env, config: Config) -> None:
        super().__init__(env)
        self.action_space = gymnasium.spaces.Discrete(action_count(config))
        box, spaces = gymnasium.spaces.Box, dict(env.observation_space.items())
        spaces["prev_action"] = box(0, NO_ACTION, (1,), np.uint8)
        spaces["prev_reward"] = box(-np.inf, np.inf, (1,), np.float32)
        self.observation_space = gymnasium.spaces.Dict(spaces)

    def reset(self, **arguments: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        observation, info = self.env.reset(**arguments)
        return _with_previous(observation, NO_ACTION, 0.0), info

    def step(self, action: np.int64) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return _with_previous(observation, int(action), float(reward)), float(reward), terminated, truncated, info


def _with_previous(observation: dict[str, Any], action: int, reward: float) -> dict[str, Any]:
    previous = {"prev_action": np.array([action], np.uint8), "prev_reward": np.array([reward], np.float32)}
    return observation | previous


def _emulators(config: Config) -> Any:
    from stable_baselines3.common.vec_env import SubprocVecEnv

    parent_pid = os.getpid()

    def maker(index: int) -> Any:
        def make() -> WithPrevious:
            # In the child. Each holds the others' pipes open, so none would see that their owner is gone.
            die_with_parent(parent_pid, signal.SIGKILL)
            return WithPrevious(make_env(config, index), config)

        return make

    # Forked before anything has computed in this process, so that there is no thread whose lock could be copied.
    return SubprocVecEnv([maker(i) for i in range(config.num_actors * config.envs_per_actor)], start_method="fork")


def _record_infos(recorder: Recorder, infos: list[Mapping[str, Any]], env_steps: int) -> None:
    for info in infos:
        recorder.milestones(info["milestones"], env_steps)
        if "summary" in info:
            recorder.episode(info["summary"], env_steps)


def _play_randomly(config: Config, recorder: Recorder, directed: bool) -> int:
    """Valid buttons, all alike for one step each, or as our actors play before the first update."""
    rng = np.random.default_rng([config.base_seed, 2])
    env = _emulators(config)
    exploration = Exploration(env.num_envs, config.epsilon_hold_steps_max if directed else 1, 0, 1)
    values, epsilons = np.zeros((env.num_envs, NUM_BUTTONS), np.float32), np.ones(env.num_envs)
    observations = env.reset()
    env_steps = 0
    while env_steps < config.target_total_steps:
        masks = observations["action_mask"].astype(np.bool_)
        weights = masks.astype(np.float64)
        if directed:
            crops = np.rint(observations["crop"] * 255).astype(np.uint8)
            weights = wander_weights(masks, crops, observations["context"])
        actions = exploration.select(values, masks, weights, epsilons, rng)
        observations, _, ended, infos = env.step(actions)
        for row in np.flatnonzero(ended):
            exploration.release(row)
        env_steps += len(infos)
        _record_infos(recorder, infos, env_steps)
    env.close()
    return env_steps


def _train_ppo(agent: str, config: Config, recorder: Recorder) -> int:
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

    class Features(BaseFeaturesExtractor):
        """The very encoder that our network has before its recurrent cell."""

        def __init__(self, observation_space: gymnasium.spaces.Dict) -> None:
            network = build_model(config, observation_spec(config))
            super().__init__(observation_space, network.feature_size)
            # Its cell and head are not used, have no gradient and stay as they are. Stable-Baselines3's orthogonal
            # start of the weights cannot deal with channels_last.
            self.network = network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

        def forward(self, observations: dict[str, torch.Tensor]) -> torch.Tensor:
            features: torch.Tensor = self.network.encode_shades(
                (observations["screen"][:, 0] / int(SHADE_GREY)).round().byte(),
                (observations["context"] * 255.0).round().byte(),
                (observations["crop"] * 255.0).round().byte(),
                observations["prev_action"][:, 0].long(),
                observations["prev_reward"][:, 0],
            )
            return features

    class Records(BaseCallback):
        def _on_step(self) -> bool:
            _record_infos(recorder, self.locals["infos"], self.num_timesteps)
            return self.num_timesteps < config.target_total_steps

    width = config.lstm_hidden_size
    policy: dict[str, Any] = {
        "features_extractor_class": Features,
        "normalize_images": False,  # the encoder scales its inputs
        "net_arch": {"pi": [width], "vf": [width]},  # as wide as our dueling head
        "activation_fn": torch.nn.ReLU,
    }
    arguments: dict[str, Any] = {**PPO_SETTINGS, "gamma": config.gamma, "seed": config.base_seed, "device": "cpu"}
    env = _emulators(config)
    model: Any
    if agent == "recurrent_ppo":
        from sb3_contrib import RecurrentPPO

        policy["lstm_hidden_size"] = width
        model = RecurrentPPO("MultiInputLstmPolicy", env, policy_kwargs=policy, **arguments)
    else:
        model = PPO("MultiInputPolicy", env, policy_kwargs=policy, **arguments)
    model.learn(config.target_total_steps, callback=Records())
    env.close()
    return int(model.num_timesteps)


def worker_command(agent: str, seed: int, config: Config, path: Path) -> list[str]:
    """The command that runs `train` in a process of its own."""
    arguments = {"agent": agent, "seed": seed, "config": json.loads(config_to_json(config)), "path": str(path)}
    return [sys.executable, "-m", __name__, json.dumps(arguments)]


def main() -> int:
    """`python -m scripts.bench.learning.worker ARGUMENTS`."""
    if len(sys.argv) != 2:
        raise UserError("usage: python -m scripts.bench.learning; it starts this module itself")
    given = json.loads(sys.argv[1])
    config = config_from_builtins(given["config"], "worker")
    return EXIT_OK if train(given["agent"], given["seed"], config, Path(given["path"])) else EXIT_FAILURE


if __name__ == "__main__":
    run_command(main)
