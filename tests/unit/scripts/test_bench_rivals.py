"""The comparison's other agents: what they see and may press, the prior of their policies, and the Q-table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from cluster_rl.acting.wandering import wander_weights
from cluster_rl.config import load_config
from cluster_rl.emulator.env import make_env
from cluster_rl.emulator.spaces import NO_ACTION
from cluster_rl.game.buttons import BUTTONS, NUM_BUTTONS

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))  # scripts/ is no part of the package

from scripts.bench.learning.agents import TABLE_SETTINGS, settings  # noqa: E402
from scripts.bench.learning.emulators import FORBIDDEN_LOGIT, AsOurs, log_weights  # noqa: E402
from scripts.bench.learning.starts import Starts  # noqa: E402
from scripts.bench.learning.table_q import Episode, Move, TableQ, state_key  # noqa: E402
from scripts.bench.learning.uniform_actor import uniform_weights  # noqa: E402

TINY = ["num_actors=1", "envs_per_actor=1", "lstm_hidden_size=16"]
ALL = np.ones(NUM_BUTTONS, np.bool_)


@pytest.mark.parametrize("prior", [False, True])
def test_what_ours_sees_the_others_see(prior: bool) -> None:
    config = load_config("cpu")
    inner = make_env(config, 0)
    env = AsOurs(inner, config, prior)
    buttons = BUTTONS.index("start")  # which the preset forbids
    assert env.action_space == gymnasium.spaces.Discrete(buttons)
    observation, _ = env.reset(seed=3)
    assert (observation["prev_action"][0], observation["prev_reward"][0]) == (NO_ACTION, 0.0)
    masked = directed = 0
    for step in range(60):
        assert env.observation_space.contains(observation)
        mask = env.action_masks()
        assert mask.any()
        assert mask.tolist() == observation["action_mask"][:buttons].astype(bool).tolist()
        seen = inner.observation
        weights = seen.mask[np.newaxis].astype(np.float64)
        if prior:
            weights = wander_weights(seen.mask[np.newaxis], seen.crop[np.newaxis], seen.context[np.newaxis])
        likely = np.exp(observation["log_weights"])
        np.testing.assert_allclose(likely, weights[0, :buttons], rtol=1e-6)
        masked += int((~mask).sum())
        directed += len(set(likely[mask])) > 1
        action = int(np.flatnonzero(mask)[step % mask.sum()])
        observation, reward, *_ = env.step(np.int64(action))
        assert (observation["prev_action"][0], observation["prev_reward"][0]) == (action, np.float32(reward))
    assert masked > 0
    assert (directed > 0) == prior
    env.close()


def test_log_weights_make_buttons_as_likely_as_their_weights() -> None:
    logits = log_weights(np.array([0.0, 1.0, 3.0]))
    assert logits[0] == FORBIDDEN_LOGIT
    assert torch.softmax(torch.from_numpy(logits), 0).tolist() == pytest.approx([0.0, 0.25, 0.75])


def test_without_our_prior_all_valid_buttons_are_alike() -> None:
    masks = np.array([[True, False, True], [True, True, True]])
    assert uniform_weights(masks, None, None).tolist() == [[1, 0, 1], [1, 1, 1]]


@pytest.mark.parametrize("agent", ["recurrent_ppo", "maskable_ppo_prior"])
def test_policies_follow_the_weights_of_their_observation(agent: str) -> None:
    """Each row those of its own observation, as in training, where many come at once."""
    pytest.importorskip("sb3_contrib")
    from sb3_contrib.common.recurrent.type_aliases import RNNStates
    from stable_baselines3.common.vec_env import DummyVecEnv

    from scripts.bench.learning.ppo import build_ppo

    config = load_config("cpu", TINY)
    env = DummyVecEnv([lambda: AsOurs(make_env(config, 0), config, True)])
    policy = build_ppo(agent, config, env).policy
    policy.action_net.weight.data.zero_()  # so that the network says nothing
    first = env.reset()
    env.close()
    weights = np.array([[0.0, 1.0, 3.0, 0.0, 4.0, 0.0], [1.0] * 6, [0.0, 0.0, 0.0, 0.0, 0.0, 5.0]])
    rows = {name: torch.from_numpy(np.repeat(values, 3, axis=0)) for name, values in first.items()}
    rows["log_weights"] = torch.from_numpy(log_weights(weights))
    likely = torch.from_numpy(weights / weights.sum(axis=1, keepdims=True)).float()
    for button in range(6):
        actions = torch.full((3,), button)
        if agent == "recurrent_ppo":
            zero = torch.zeros(1, 1, config.lstm_hidden_size)
            state = RNNStates((zero, zero), (zero, zero))
            _, logs, entropy = policy.evaluate_actions(rows, actions, state, torch.zeros(3))
        else:
            _, logs, entropy = policy.evaluate_actions(rows, actions, action_masks=weights > 0)
        torch.testing.assert_close(logs.exp(), likely[:, button], rtol=1e-4, atol=1e-6)
        expected = torch.special.entr(likely).sum(dim=1)
        torch.testing.assert_close(entropy, expected, rtol=1e-4, atol=1e-5)


def test_a_state_of_the_table_is_the_context_and_what_lies_around() -> None:
    context, crop = np.zeros(4, np.float32), np.zeros((2, 5, 5), np.float32)
    here = state_key(context, crop)

    def changed(array: np.ndarray[Any, Any], *at: int) -> np.ndarray[Any, Any]:
        other = array.copy()
        other[at] = np.float32(1 / 255)
        return other

    assert state_key(changed(context, 3), crop) != here
    assert state_key(context, changed(crop, 1, 1, 3)) != here
    assert state_key(context, changed(crop, 1, 0, 2)) == here  # two cells away
    assert state_key(context, changed(crop, 0, 2, 2)) == here  # visits


def table(**settings: int) -> TableQ:
    """One that sweeps new episodes alone, if not said otherwise."""
    return TableQ(0.5, TABLE_SETTINGS | {"episodes_again": 0} | settings, np.random.default_rng(0))


def walk(*steps: tuple[bytes, int, float], terminated: bool = True) -> Episode:
    return Episode([Move(key, ALL, action, reward) for key, action, reward in steps], b"end", ALL, terminated)


def test_table_learns_the_way_to_a_reward_in_one_sweep() -> None:
    found = table()
    found.learn(walk((b"a", 0, 0.0), (b"b", 1, 0.0), (b"c", 2, 8.0)))
    assert found.values([b"a", b"b", b"c", b"new"])[:, :3].tolist() == [[2, 0, 0], [0, 4, 0], [0, 0, 8], [0, 0, 0]]
    # A worse way from b: its own value sinks, b's best and so a's does not.
    found.learn(walk((b"a", 0, 0.0), (b"b", 0, -1.0)))
    assert found.values([b"b"])[0, :2].tolist() == [-1, 4]
    assert found.values([b"a"])[0, 0] == 2.0


def test_values_are_means_at_first_and_follow_the_newest_later() -> None:
    found = table()
    for reward, value in ((9.0, 9.0), (0.0, 4.5), (0.0, 3.0), (0.0, 2.1), (0.0, 1.47)):
        found.learn(walk((b"a", 0, reward)))
        assert found.values([b"a"])[0, 0] == pytest.approx(value)


def test_table_weighs_what_was_played_against_what_is_known() -> None:
    found = table()
    found.learn(walk((b"b", 1, 4.0)))
    found.learn(walk((b"b", 2, 10.0)))
    found.learn(walk((b"a", 0, 0.0), (b"b", 1, 12.0)))
    # b1 is now the mean of 4 and 12; a has a tenth of b's best (10) and nine tenths of what was played (12).
    assert found.values([b"b"])[0, 1:3].tolist() == [8.0, 10.0]
    assert found.values([b"a"])[0, 0] == pytest.approx(0.5 * (0.1 * 10.0 + 0.9 * 12.0))


def test_a_time_limit_is_no_end_and_masked_buttons_are_worth_nothing() -> None:
    found = table()
    found.learn(walk((b"end", 3, 6.0)))
    found.learn(walk((b"a", 0, 1.0), terminated=False))
    found.learn(walk((b"b", 0, 1.0)))
    assert found.values([b"a", b"b"])[:, 0].tolist() == [1.0 + 0.5 * 6.0, 1.0]
    mask = ALL.copy()
    mask[3] = False
    found.learn(Episode([Move(b"c", ALL, 0, 1.0)], b"end", mask, False))
    assert found.values([b"c"])[0, 0] == 1.0


def test_episodes_are_swept_again_while_they_are_kept() -> None:
    found = table(episodes_kept=2, episodes_again=50)
    found.learn(walk((b"old", 0, 0.0), (b"shared", 0, 0.0)))
    found.learn(walk((b"shared", 1, 8.0)))
    assert found.values([b"old"])[0, 0] == pytest.approx(4.0, rel=0.01)  # which it was not told of as it was played
    found.learn(walk((b"new", 0, 0.0)))
    found.learn(walk((b"shared", 2, 20.0)))
    assert found.values([b"old"])[0, 0] == pytest.approx(4.0, rel=0.01)  # of two it is none


def test_rivals_begin_at_a_users_own_states_too(tmp_path: Path) -> None:
    env = make_env("cpu", 0)
    env.start()
    for _ in range(20):
        env.advance(0)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "one.state").write_bytes(env.console.save())
    env.close()
    config = load_config("cpu", [f"start_states={tmp_path / 'mine'}", "start_share=0.9"])
    chooser, rng = Starts(config, tmp_path / "archive").of(0), np.random.default_rng(1)
    drawn = [chooser.choose(rng) for _ in range(40)]
    assert {start.header.key for start in drawn if start is not None} == {"one.state"}
    assert 0 < sum(start is None for start in drawn) < 15  # four are expected


def test_trainings_with_and_without_a_frontier_are_told_apart() -> None:
    config, other = load_config("cpu"), load_config("cpu", ["frontier_weight=12"])
    for agent in ("explore", "table_q", "maskable_ppo_prior", "r2d2"):
        assert settings(agent, config, 0.0) != settings(agent, other, 0.0)
    assert settings("maskable_ppo", config, 0.0) == settings("maskable_ppo", other, 0.0)  # has no random actions
