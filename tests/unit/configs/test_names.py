"""What an unknown key is answered: the key of ours that was meant."""

from __future__ import annotations

import pytest

from cluster_rl.config import config_keys
from cluster_rl.configs import names
from cluster_rl.configs.names import meant

KEYS = list(config_keys())
LAST_PARTS = {key.rpartition(".")[2] for key in KEYS}


def test_the_table_names_keys_that_there_are_and_only_names_that_are_not_ours() -> None:
    assert set(names._NAMES_ELSEWHERE) <= set(KEYS)
    written = [name for text in names._NAMES_ELSEWHERE.values() for name in text.split()]
    written += [name for text in names._OPTIONS.values() for name in text.split()]
    assert len(written) == len(set(written))
    assert not LAST_PARTS & set(written)


def test_the_table_holds_only_what_spelling_does_not_find(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "_KEY_OF", {})
    monkeypatch.setattr(names, "_OPTION_OF", {})
    found = [
        name
        for key, text in names._NAMES_ELSEWHERE.items()
        for name in text.split()
        if meant(name, (), KEYS) == f"did you mean {key}?"
    ]
    assert found == []


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ("max_steps_per_episode", "episode_max_steps"),
        ("target_sync_interval", "target_update_interval"),
        ("learn_start_steps", "min_replay_transitions"),
        ("num_workers", "num_actors"),
        ("max_step", "episode_max_steps"),
        ("numenvs", "envs_per_actor"),
        ("time_limt", "max_runtime_seconds"),
        ("sequence_length", "unroll_length"),
        ("total_timesteps", "target_total_steps"),
        ("gb_path", "rom"),
        ("init_state", "initial_state"),
        ("Target-Update-Period", "target_update_interval"),
        ("lerning_rate", "learning_rate"),
        ("rom_pth", "rom"),
        ("gamma", "gamma"),  # of a section that is not ours
        ("badge", "rewards.badge"),
        ("runname", "--run-name"),
        ("steps", "target_total_steps"),
        ("timesteps", "target_total_steps"),
        ("lr", "learning_rate"),
        ("timeout", "max_runtime_seconds"),
        ("gpu", "device"),
    ],
)
def test_nearest(written: str, key: str) -> None:
    assert meant(written, (), KEYS) == f"did you mean {key}?"


def test_the_section_that_it_is_in_goes_first() -> None:
    assert meant("stepp", ["model.step"], KEYS) == "did you mean model.step?"


@pytest.mark.parametrize(("written", "option"), [("run_name", "--run-name"), ("save_dir", "--runs")])
def test_options_of_the_command(written: str, option: str) -> None:
    assert meant(written, (), KEYS) == f"that is the option {option}"


@pytest.mark.parametrize("written", ["headless", "vf_coef", "optimizer", "reduce_res", "dir"])
def test_nothing_is_made_up(written: str) -> None:
    assert meant(written, (), KEYS) == ""
