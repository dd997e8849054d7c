"""Stable-Baselines3's PPOs, as good as they are published: with our encoder, masks, and our random actions as a prior.

MaskablePPO takes its masks from the environment. RecurrentPPO of sb3-contrib knows none, so its policy adds them to the
logits, from the observation; so does the prior.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import torch
from sb3_contrib import MaskablePPO, RecurrentPPO
from sb3_contrib.common.maskable.policies import MaskableMultiInputActorCriticPolicy
from sb3_contrib.common.recurrent.policies import RecurrentMultiInputActorCriticPolicy
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecNormalize

from cluster_rl.config import Config
from cluster_rl.emulator.env import SHADE_GREY
from cluster_rl.emulator.spaces import observation_spec
from cluster_rl.model import build_model

from .agents import PPO_SETTINGS
from .cpu import Budget
from .emulators import record_infos, start_emulators
from .record import Recorder
from .starts import Starts


class Features(BaseFeaturesExtractor):
    """The very encoder that our network has before its recurrent cell.

    `log_weights` are those of the observations that it saw last: all paths through a policy begin here.
    """

    def __init__(self, observation_space: gymnasium.spaces.Dict, config: Config) -> None:
        network = build_model(config, observation_spec(config))
        super().__init__(observation_space, network.feature_size)
        # Its cell and head are not used, have no gradient and stay as they are. Stable-Baselines3's orthogonal
        # start of the weights cannot deal with channels_last.
        self.network = network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.log_weights = torch.zeros(0)

    def forward(self, observations: dict[str, torch.Tensor]) -> torch.Tensor:
        self.log_weights = observations["log_weights"]  # [B, A]
        features: torch.Tensor = self.network.encode_shades(
            (observations["screen"][:, 0] / int(SHADE_GREY)).round().byte(),
            (observations["context"] * 255.0).round().byte(),
            (observations["crop"] * 255.0).round().byte(),
            observations["prev_action"][:, 0].long(),
            observations["prev_reward"][:, 0],
        )
        return features


class WeightedMaskablePolicy(MaskableMultiInputActorCriticPolicy):
    """Buttons as likely as the observation's weights where the network says nothing, as it does at the start."""

    def _get_action_dist_from_latent(self, latent_pi: torch.Tensor) -> Any:
        logits = self.action_net(latent_pi) + self.features_extractor.log_weights
        return self.action_dist.proba_distribution(action_logits=logits)


class WeightedRecurrentPolicy(RecurrentMultiInputActorCriticPolicy):
    """The same with a recurrent cell. Its latent rows are those of the observations, in their order."""

    def _get_action_dist_from_latent(self, latent_pi: torch.Tensor) -> Any:
        logits = self.action_net(latent_pi) + self.features_extractor.log_weights
        return self.action_dist.proba_distribution(action_logits=logits)


def build_ppo(agent: str, config: Config, env: Any) -> Any:
    """The library's object, untrained, on a vector of emulators."""
    width = config.lstm_hidden_size
    policy: dict[str, Any] = {
        "features_extractor_class": Features,
        "features_extractor_kwargs": {"config": config},
        "normalize_images": False,  # the encoder scales its inputs
        "net_arch": {"pi": [width], "vf": [width]},  # as wide as our dueling head
        "activation_fn": torch.nn.ReLU,
    }
    arguments: dict[str, Any] = {**PPO_SETTINGS, "seed": config.base_seed, "device": "cpu"}
    if agent == "recurrent_ppo":
        policy["lstm_hidden_size"] = width
        return RecurrentPPO(WeightedRecurrentPolicy, env, policy_kwargs=policy, **arguments)
    if agent == "maskable_ppo_prior":
        # Rewards alone, by the deviation of the discounted return. Here and not in the others, which are PPO as its
        # library has it: with the prior it was PPO at its best in an audit.
        env = VecNormalize(env, norm_obs=False, gamma=PPO_SETTINGS["gamma"])
        return MaskablePPO(WeightedMaskablePolicy, env, policy_kwargs=policy, **arguments)
    return MaskablePPO("MultiInputPolicy", env, policy_kwargs=policy, **arguments)


def train_ppo(agent: str, config: Config, recorder: Recorder, budget: Budget, starts: Starts | None) -> int:
    """Trains until the budget is spent; returns the env steps."""

    class Records(BaseCallback):
        def _on_step(self) -> bool:
            record_infos(recorder, starts, self.locals["infos"], self.num_timesteps)
            return not budget.is_spent(self.num_timesteps, recorder.cpu)

    env = start_emulators(config, recorder, starts, prior=agent == "maskable_ppo_prior")
    if config.learner_threads:
        # As our learner. On two busy cores a second one waits, spinning, for what the first would have done by itself:
        # four times the processor time.
        torch.set_num_threads(config.learner_threads)
    model = build_ppo(agent, config, env)
    model.set_logger(Logger(None, []))  # its own makes a folder among the temporary files at each start
    model.learn(_ENDLESS_STEPS, callback=Records())
    env.close()
    return int(model.num_timesteps)


_ENDLESS_STEPS = 2**62  # the callback ends it; nothing of the settings falls with time
