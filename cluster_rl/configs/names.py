"""What somebody meant by a key that is none of ours: a misspelt one, or another project's name of the same thing.

`config.py` asks, to answer a whole config at once. In: the key as written, and the keys that there are. Out: words.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# By our key: what it is called in earlier configs of this project, PokemonRedExperiments, pokemonred_puffer, Acme's
# R2D2, JORLDY and Stable-Baselines3. Only names whose spelling does not lead to ours.
_NAMES_ELSEWHERE = {
    "target_total_steps": "total_timesteps timesteps num_timesteps run_step num_steps steps max_env_steps",
    "total_episodes": "num_episodes",
    "max_runtime_seconds": "max_time time_limit walltime time runtime duration timeout",
    "base_seed": "seed random_seed rng_seed",
    "rom": "rom_path rom_file gb_path gb_file game game_path",
    "initial_state": "state state_path state_file state_dir savestate",
    "frame_skip": "action_freq skip_frame ticks_per_step",
    "episode_max_steps": "max_steps max_steps_per_episode ep_length episode_length segment_length",
    "start_idle_frames_max": "no_op noop_max",
    "num_actors": "num_workers workers n_workers num_cpu",
    "envs_per_actor": "num_envs n_envs envs",
    "epsilon_base": "epsilon_init epsilon_actor_start epsilon_actor_end",
    "epsilon_alpha": "epsilon_decay epsilon_decay_steps num_epsilons exploration_fraction",
    "epsilon_hold_steps_max": "sticky_actions sticky_action_prob",
    "affordance_expiry_steps": "affordance_decay",
    "unroll_length": "sequence_length seq_len trace_length unroll unroll_steps bptt_horizon",
    "burn_in": "burn_in_length",
    "n_step": "bootstrap_n multi_step",
    "replay_capacity_transitions": "buffer_size replay_size memory_size max_replay_size",
    "min_replay_transitions": "learn_start_steps learning_starts start_train_step warmup_steps train_start",
    "samples_per_insert": "train_frequency train_freq replay_ratio updates_per_step gradient_steps utd_ratio",
    "prioritized_alpha": "alpha per_alpha prio_alpha priority_exponent",
    "importance_beta": "beta per_beta prio_beta0 prioritized_beta prioritized_beta_frames importance_sampling_exponent",
    "priority_eta": "eta",
    "batch_size": "batch bs",
    "device": "gpu use_gpu cuda use_cuda",
    "gamma": "discount discount_factor",
    "learning_rate": "lr step_size",
    "adam_epsilon": "eps",
    "max_grad_norm": "grad_clip clip_grad grad_clip_norm gradient_clip_norm",
    "target_update_interval": "target_sync target_sync_interval_updates",
    "publish_interval": "sync_interval param_sync_interval",
    "params_poll_seconds": "variable_update_period",
    "value_rescaling": "tx_pair",
    "aux_loss_weight": "auxiliary_loss_coef aux_coef context_recon_weight",
    "mixed_precision": "amp fp16 bf16",
    "lstm_hidden_size": "gru_hidden hidden_dim",
    "use_spatial_attention": "attention",
    "model.attention_heads": "nhead num_heads",
    "model.recurrent_cell": "use_rnn rnn_type",
    "log_episodes_for_replay": "save_replays record_episodes",
    "metrics_interval_seconds": "log_interval log_interval_steps log_frequency log_every",
    "checkpoint_interval_seconds": "checkpoint_freq checkpoint_every_episodes save_every save_freq save_period "
    "snapshot_interval_minutes interval_minutes",
    "bind_host": "host address",
    "rewards.badge": "badge_reward",
    "rewards.event": "event_reward story_flag_default_reward",
    "rewards.milestone": "required_event required_item",
    "rewards.new_map": "map_visit_reward map_reward",
    "rewards.novelty": "exploration explore explore_weight exploration_reward mapexplore_base",
    "rewards.talk": "explore_npcs",
    "rewards.species": "caught_pokemon seen_pokemon pokedex_new_species_reward",
    "rewards.item": "item_reward useful_item",
    "rewards.level": "level_reward",
    "rewards.blackout": "blackout_penalty death_penalty battle_loss_penalty",
    "rewards.step": "step_penalty step_cost",
}
_KEY_OF = {name: key for key, names in _NAMES_ELSEWHERE.items() for name in names.split()}

# Said on the command line, and no part of a config.
_OPTIONS = {
    "--run-name": "run_name exp_name experiment_name",
    "--runs": "runs run_dir save_dir log_dir output_dir data_dir session_path video_dir replay_log_dir snapshots_dir",
    "--config": "config config_path",
    "--dry-run": "dry_run",
    "--fresh": "fresh fresh_start from_scratch overwrite",
    "--no-video of train_slim": "no_video",
}
_OPTION_OF = {name: option for option, names in _OPTIONS.items() for name in names.split()}


def meant(name: str, siblings: Iterable[str], keys: Iterable[str]) -> str:
    """`did you mean KEY?`, or which option of the command it is; empty where nothing here is like it.

    `name` is the key's last part, `siblings` the dotted keys of the section that it is in, `keys` all dotted keys.
    """
    word = name.lower().replace("-", "_")
    ours = {key.rpartition(".")[2]: key for key in (*keys, *siblings)}
    known = _KEY_OF | ours
    if word not in known and word in _OPTION_OF:
        return f"that is the option {_OPTION_OF[word]}"
    # Another project's name a letter off goes before one of ours that looks a little like it.
    ways = ((known, 0.85), ([*ours, *_OPTION_OF], 0.7))
    tries = ([word] if word in known else difflib.get_close_matches(word, names, 1, ratio) for names, ratio in ways)
    near = next(filter(None, tries), [])
    return f"did you mean {known.get(near[0]) or _OPTION_OF[near[0]]}?" if near else ""
