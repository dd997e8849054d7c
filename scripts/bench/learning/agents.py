"""Which agents are compared, and with what settings.

In: a config and an agent's name. Out: the config and the hyperparameters that the agent plays and learns with. What
belongs to the environment (game, rewards, buttons, episode length, emulators, discount) is the same for all.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import msgspec

from cluster_rl.config import Config
from cluster_rl.errors import UserError
from cluster_rl.game.buttons import BUTTONS, NUM_BUTTONS

AGENTS = {
    "r2d2": "our learner",
    "r2d2_feedforward": "our learner, no recurrence",
    "random": "random valid buttons",
    "explore": "our random actions, no learning",
    "ppo": "SB3 PPO",
    "recurrent_ppo": "sb3-contrib RecurrentPPO",
}
OURS = ("r2d2", "r2d2_feedforward")
RIVALS = ("ppo", "recurrent_ppo")
"""What a user would otherwise pick."""

# The values published for PPO on Atari (Schulman et al. 2017, rl-zoo3), with 8 emulators, and lr 2.5e-4 and clipping
# held constant: our learner's step size is constant too. What is not named is Stable-Baselines3's default.
PPO_SETTINGS: dict[str, Any] = {
    "n_steps": 128,
    "batch_size": 256,
    "n_epochs": 4,
    "learning_rate": 2.5e-4,
    "clip_range": 0.1,
    "ent_coef": 0.01,
    "vf_coef": 0.5,
    "gae_lambda": 0.95,
    "max_grad_norm": 0.5,
}

_ENVIRONMENT_PREFIXES = ("affordance_",)
_ENVIRONMENT_KEYS = (
    *("rom", "initial_state", "frame_skip", "episode_max_steps", "start_idle_frames_max", "start_button"),
    *("occupancy_crop_radius", "rewards", "num_actors", "envs_per_actor", "gamma"),
    *("lstm_hidden_size", "use_spatial_attention", "model"),  # the other agents' networks have the same sizes
)


def agent_config(agent: str, config: Config, seed: int, env_steps: int) -> Config:
    """The config of one training: as given, but for seed and length, what is not compared, and what the agent is."""
    model = config.model
    if agent == "r2d2_feedforward":
        model = msgspec.structs.replace(model, recurrent_cell="none")
    return msgspec.structs.replace(
        config,
        base_seed=seed,
        target_total_steps=env_steps,
        total_episodes=0,
        max_runtime_seconds=0,
        log_episodes_for_replay=False,
        device="cpu",
        model=model,
    )


def settings(agent: str, config: Config) -> dict[str, Any]:
    """What decides an agent's result, as plain data: kept with its records, so that different ones are not mixed.

    `config` comes from `agent_config`. The learner's own keys do not matter to the agents that are not ours.
    """
    raw: dict[str, Any] = msgspec.to_builtins(config)
    if agent in OURS:
        return {"config": raw}
    names = [name for name in raw if name in _ENVIRONMENT_KEYS or name.startswith(_ENVIRONMENT_PREFIXES)]
    kept = {name: raw[name] for name in (*names, "base_seed", "target_total_steps")}
    if agent == "random":
        return {"config": kept}
    if agent == "explore":
        return {"config": kept | {"epsilon_hold_steps_max": config.epsilon_hold_steps_max}}
    return {"config": kept, "ppo": PPO_SETTINGS, "actions": action_count(config)}


def action_count(config: Config) -> int:
    """Buttons that PPO chooses from: without masks, START would be pressed also where `start_button` forbids it."""
    assert BUTTONS[-1] == "start"
    return NUM_BUTTONS if config.start_button else NUM_BUTTONS - 1


def check_installed(agents: list[str]) -> None:
    """Raises `UserError` if a library that one of the agents needs is missing."""
    needed = dict.fromkeys(("random", "explore", "ppo"), "stable_baselines3") | {"recurrent_ppo": "sb3_contrib"}
    for agent in agents:
        if agent in needed and importlib.util.find_spec(needed[agent]) is None:
            raise UserError(f"agent {agent}: {needed[agent]} is missing; pip install 'cluster_rl[bench]'")
