"""Which agents are compared, and with what settings.

In: a config and an agent's name. Out: the config and the hyperparameters that the agent plays and learns with. What
belongs to the environment (game, rewards, buttons, masks, episode length, emulators) is the same for all.
"""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import msgspec

from cluster_rl.config import Config, config_to_json
from cluster_rl.errors import UserError
from cluster_rl.game.buttons import BUTTONS, NUM_BUTTONS

AGENTS = {
    "r2d2": "our learner",
    "r2d2_feedforward": "our learner, no recurrence",
    "r2d2_no_prior": "our learner, uniform random actions",
    "table_q": "Q-table, our random actions",
    "maskable_ppo_prior": "MaskablePPO, our random actions as prior",
    "maskable_ppo": "MaskablePPO",
    "recurrent_ppo": "RecurrentPPO, masked",
    "explore": "our random actions, no learning",
    "random": "random valid buttons",
}
OURS = ("r2d2", "r2d2_feedforward", "r2d2_no_prior", "r2d2_unmasked")
"""The last, which may press every button, is no rival: `scripts.bench.ablations` trains it."""
PPOS = ("maskable_ppo_prior", "maskable_ppo", "recurrent_ppo")
"""What a user would otherwise pick."""
UNLEARNED = ("explore", "random")
"""These play at the end of a training as at its beginning, so that a short one tells all."""

# What rl-baselines3-zoo publishes for Atari, of PPO as of RecurrentPPO (hyperparams/ppo.yml and ppo_lstm.yml: 8
# emulators, as here; the values of Schulman et al. 2017), and Stable-Baselines3's defaults where that says nothing. One
# thing is other: step size and clipping stay where they begin. There they fall to zero over ten million steps; over the
# hundred thousand of here the end of each training would be lost to them. PokemonRedExperiments' values (PWhiddy,
# v2/baseline_fast_v2.py: one epoch over rollouts of 64 x 2,560 steps, gamma 0.997) make no update in that time.
PPO_SETTINGS: dict[str, Any] = {
    "n_steps": 128,
    "batch_size": 256,
    "n_epochs": 4,
    "learning_rate": 2.5e-4,
    "clip_range": 0.1,
    "ent_coef": 0.01,
    "vf_coef": 0.5,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "max_grad_norm": 0.5,
}

# Trace and step size as in textbooks (Sutton & Barto 2018, chapter 12), and each episode swept backwards as it ends
# with some of the last ones again (Lin 1992): values that an audit of this project took before it saw a result.
TABLE_SETTINGS: dict[str, Any] = {"trace": 0.9, "step_size": 0.3, "episodes_kept": 60, "episodes_again": 4}

_ENVIRONMENT_PREFIXES = ("affordance_",)
_ENVIRONMENT_KEYS = (
    *("rom", "initial_state", "frame_skip", "episode_max_steps", "start_idle_frames_max", "start_button"),
    *("occupancy_crop_radius", "rewards", "num_actors", "envs_per_actor"),
    *("lstm_hidden_size", "use_spatial_attention", "model"),  # the other agents' networks have the same sizes
)
_START_KEYS = ("archive_entries", "archive_megabytes", "start_states", "start_share", "start_weighting")
_EXPLORATION_KEYS = ("epsilon_hold_steps_max", "wander_every_steps", "wander_steps", "frontier_weight")
_TABLE_KEYS = (*_EXPLORATION_KEYS, "epsilon_base", "epsilon_alpha", "min_replay_transitions", "gamma")


def agent_config(agent: str, config: Config, seed: int, env_steps: int) -> Config:
    """The config of one training: as given, but for seed and length, what is not compared, and what the agent is.

    Agents without our random actions take each of theirs for one step, and none but where epsilon says so.
    """
    model = config.model
    if agent == "r2d2_feedforward":
        model = msgspec.structs.replace(model, recurrent_cell="none")
    uniform = agent in ("r2d2_no_prior", "random")
    return msgspec.structs.replace(
        config,
        base_seed=seed,
        target_total_steps=env_steps,
        total_episodes=0,
        max_runtime_seconds=0,
        log_episodes_for_replay=False,
        device="cpu",
        model=model,
        epsilon_hold_steps_max=1 if uniform else config.epsilon_hold_steps_max,
        wander_every_steps=0 if uniform else config.wander_every_steps,
    )


def settings(agent: str, config: Config, cpu_sec: float) -> dict[str, Any]:
    """What decides an agent's result, as plain data: kept with its records, so that different ones are not mixed.

    `config` comes from `agent_config`. The learner's own keys do not matter to the agents that are not ours.
    `cpu_sec`: processor seconds that a training goes on for, at least.
    """
    raw: dict[str, Any] = json.loads(config_to_json(config))  # as it comes back from a record: lists, not tuples
    length = {"cpu_seconds": 0.0 if agent in UNLEARNED else cpu_sec}
    if agent in OURS:
        return {"config": raw, **length}
    names = [name for name in raw if name in _ENVIRONMENT_KEYS or name.startswith(_ENVIRONMENT_PREFIXES)]
    starts = _START_KEYS if config.starts_elsewhere else ()
    kept = {name: raw[name] for name in (*names, *starts, "base_seed", "target_total_steps")}
    if agent in UNLEARNED:
        return {"config": kept | {name: raw[name] for name in _EXPLORATION_KEYS}, **length}
    if agent == "table_q":
        return {"config": kept | {name: raw[name] for name in _TABLE_KEYS}, "table": TABLE_SETTINGS, **length}
    if agent == "maskable_ppo_prior":
        kept["frontier_weight"] = raw["frontier_weight"]
    own = {"ppo": PPO_SETTINGS, "actions": action_count(config), "learner_threads": config.learner_threads}
    return {"config": kept, **own, **length}


def action_count(config: Config) -> int:
    """Buttons that PPO chooses from: START is none where `start_button` forbids it to all."""
    assert BUTTONS[-1] == "start"
    return NUM_BUTTONS if config.start_button else NUM_BUTTONS - 1


def check_installed(agents: list[str]) -> None:
    """Raises `UserError` if a library that one of the agents needs is missing."""
    needed = dict.fromkeys((*UNLEARNED, "table_q"), "stable_baselines3") | dict.fromkeys(PPOS, "sb3_contrib")
    for agent in agents:
        if agent in needed and importlib.util.find_spec(needed[agent]) is None:
            raise UserError(f"agent {agent}: {needed[agent]} is missing; pip install 'cluster_rl[bench]'")
