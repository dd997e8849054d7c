"""What actors hand over, against the learner's network: stored states, initial priorities, actions, ends.

And what greedy evaluation plays.
"""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import torch
from acting_fixtures import CONFIGS, GAMES, SMALL, Block, Collector, network, play
from cartridge_fixtures import meet_trainer, new_env
from torch import Tensor

from cluster_rl.acting import loop
from cluster_rl.acting.exploration import epsilon_ladder
from cluster_rl.acting.loop import Actor
from cluster_rl.acting.rollout import Rollout
from cluster_rl.acting.wandering import wander_weights
from cluster_rl.config import Config, load_config
from cluster_rl.emulator.spaces import block_spec, observation_spec
from cluster_rl.evaluate import play_episodes
from cluster_rl.learning import targets
from cluster_rl.model import QNetwork, build_model, params_to_bytes
from cluster_rl.wire.codec import BlockArrays, decode_arrays


def played_rows(block: Block) -> range:
    """The rows of a block that were played, burn-in and trained."""
    return range(block[0].burn_in_length + block[0].train_length)


def trained_rows(block: Block) -> range:
    """The rows that this block alone holds as trained ones."""
    return range(block[0].burn_in_length, block[0].burn_in_length + block[0].train_length)


def prefers_low_numbers(config: Config) -> QNetwork:
    """A network that likes the first of the valid actions best as it counts values, without rescaling.

    With h undone it is the last one: the riskier values, behind, are then worth more.
    """
    made = build_model(config, observation_spec(config))
    number, sign = torch.arange(7.0), torch.tensor([1.0, -1.0]).repeat(config.num_quantiles // 2)
    quantiles = (100.0 - 3.0 * number).unsqueeze(1) + (90.0 * number).unsqueeze(1) * sign  # [A, K]
    assert (targets.h_inv(quantiles).mean(1).diff() > 0).all()
    with torch.no_grad():
        made.head_advantage.bias.copy_(quantiles.flatten())
        made.head_value.bias.copy_(quantiles.mean(0))  # what the dueling head takes away again
    return made


def random_weights(arrays: BlockArrays, row: int, frontier_weight: float) -> npt.NDArray[np.float64]:
    """How likely each action is as a random one, [A]."""
    mask, crop, context = (part[row : row + 1] for part in (arrays.mask, arrays.crop, arrays.context))
    weights = wander_weights(mask, crop, context, frontier_weight)[0]
    return weights / weights.sum()


@functools.cache
def played(game: str) -> list[Block]:
    """120 steps with two emulators, ended episodes among them."""
    return play(CONFIGS[game], params_to_bytes(network(game)), 120)


def by_episode(blocks: list[Block]) -> list[list[Block]]:
    """The blocks of each episode in their order."""
    episodes: dict[tuple[int, int], list[Block]] = {}
    for block in sorted(blocks, key=lambda block: block[0].first_step):
        episodes.setdefault((block[0].emulator, block[0].episode), []).append(block)
    return list(episodes.values())


def unroll(block: Block, made: QNetwork) -> Tensor:
    """Recurrent outputs [P, 1, H] of the learner's network from the block's stored state on."""
    header, arrays = block
    prev_action = torch.tensor([header.first_prev_action, *arrays.action[:-1].tolist()])
    prev_reward = torch.tensor([header.first_prev_reward, *arrays.reward[:-1].tolist()])
    screens, context, crop = (torch.from_numpy(x.copy()) for x in (arrays.screen_packed, arrays.context, arrays.crop))
    features = made.encode(screens, context, crop, prev_action, prev_reward).unsqueeze(1)
    state_h, state_c = (torch.from_numpy(x.astype("float32")).view(1, 1, -1) for x in (arrays.state_h, arrays.state_c))
    outputs, _ = made.recur(features, (state_h, state_c))
    return outputs


def priority_by_hand(block: Block, quantiles: Tensor, config: Config) -> float:
    """The learner's formula, step by step: quantiles [P, A, S K] on both sides."""
    header, arrays = block
    h, h_inv = (targets.h, targets.h_inv) if config.value_rescaling else (torch.clone, torch.clone)
    tile_worth, unit = config.rewards.novelty, config.rewards.novelty / (1 - config.intrinsic_gamma)
    streams = quantiles.chunk(2 if config.intrinsic_gamma else 1, -1)

    def best(t: int) -> int:
        values = sum(unit**number * h_inv(part[t]).mean(-1) for number, part in enumerate(streams))
        assert isinstance(values, Tensor)
        return int(values.masked_fill(~torch.from_numpy(arrays.mask[t].copy()), -1e9).argmax())

    def reward(number: int, t: int) -> float:
        visits = int(arrays.visits[t])
        tile = tile_worth / visits if visits and len(streams) == 2 else 0.0
        return tile / unit if number else float(arrays.reward[t]) - tile

    errors = []
    for t in range(header.burn_in_length, header.burn_in_length + header.train_length):
        m = min(config.n_step, len(quantiles) - 1 - t)
        if config.return_cut == "watkins":
            m = min([m, *(j for j in range(1, m) if not arrays.greedy[t + j])])
        ended = header.terminated and t + m == len(quantiles) - 1
        error, action = 0.0, int(arrays.action[t])
        for number, (part, gamma) in enumerate(zip(streams, (config.gamma, config.intrinsic_gamma), strict=False)):
            future = 0.0 if ended else gamma**m * h_inv(part[t + m, best(t + m)])
            returned = sum(gamma**j * reward(number, t + j) for j in range(m))
            here = h_inv(part[t]).mean(-1)
            samples = h(returned - config.advantage_alpha * (here[best(t)] - here[action]) + future + torch.zeros(1))
            error += unit**number * float(samples.mean() - part[t, action].mean())
        errors.append(abs(error))
    return config.priority_eta * max(errors) + (1 - config.priority_eta) * sum(errors) / len(errors)


@pytest.mark.parametrize("game", GAMES)
def test_initial_priorities_are_the_learners_from_values_without_noise(game: str) -> None:
    made, config = network(game), CONFIGS[game]
    made.resample_noise(torch.Generator().manual_seed(1))
    noise_shows = 0
    with torch.no_grad():
        for block in played(game):
            outputs = unroll(block, made)[:, 0]
            found = block[0].initial_priority
            assert found == pytest.approx(priority_by_hand(block, made.head(outputs, noise=False), config), rel=2e-2)
            noise_shows += found != pytest.approx(
                priority_by_hand(block, made.head(outputs, noise=True), config), rel=2e-2
            )
    assert len(played(game)) >= 14
    assert noise_shows > len(played(game)) // 2


def test_initial_priorities_are_given_how_often_each_tile_was_entered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too little beside the values of a network drawn at random to be seen in the priority itself."""
    given: list[npt.NDArray[np.uint8]] = []
    whole = loop.actor_priorities

    def spied(*args: Any, **more: Any) -> Tensor:
        given.extend(args[5].numpy().T)
        return whole(*args, **more)

    monkeypatch.setattr(loop, "actor_priorities", spied)
    blocks = play(CONFIGS["new ground"], params_to_bytes(network("new ground")), 120)
    for column, (header, arrays) in zip(given, blocks, strict=True):
        expected = np.zeros_like(column)
        expected[: len(arrays.visits) - header.burn_in_length] = arrays.visits[header.burn_in_length :]
        np.testing.assert_array_equal(column, expected)
    assert sum(column.any() for column in given) > len(given) // 2


def test_actors_act_on_noise_that_is_new_at_every_edge() -> None:
    config = load_config("slim_cpu", [*SMALL, "episode_max_steps=1000", "epsilon_base=0", "wander_every_steps=0"])
    made = network("town")
    blocks = [block for block in play(config, params_to_bytes(made), 160) if block[0].train_length == 8]
    # The actor's generator, see `Actor`.
    noise_seed = np.random.SeedSequence([config.base_seed, 0, 1]).spawn(3)[2]
    generator = torch.Generator().manual_seed(int(noise_seed.generate_state(1)[0]))

    def agreement(noise: bool, new_at_every_edge: bool) -> float:
        """Share of actions that are the greedy ones."""
        right: list[bool] = []
        drawn = generator.clone_state()
        for edge in range(0, 80, config.unroll_length):
            if edge == 0 or new_at_every_edge:
                made.resample_noise(drawn)
            for block in blocks:
                header, arrays = block
                if header.first_step == edge:
                    with torch.no_grad():
                        quantiles = made.head(unroll(block, made)[:, 0], noise=noise)
                    values = targets.expected_values(quantiles, config.value_rescaling, config.stream_weights)
                    greedy = values.masked_fill(~torch.from_numpy(arrays.mask.copy()), -1e9).argmax(-1).numpy()
                    right += (greedy == arrays.action)[trained_rows(block)].tolist()
        assert len(right) >= 100
        return sum(right) / len(right)

    assert agreement(noise=True, new_at_every_edge=True) > 0.97  # stored states are rounded
    assert agreement(noise=False, new_at_every_edge=True) < 0.8
    assert agreement(noise=True, new_at_every_edge=False) < 0.8


@pytest.mark.parametrize("game", GAMES)
def test_initial_priorities_use_the_runs_own_formula(game: str) -> None:
    """With the other way to count values, another mix or another n, they are others: the test above sees each."""
    made, config = network(game), CONFIGS[game]
    for changes in (
        {"value_rescaling": not config.value_rescaling},
        {"priority_eta": 0.0},
        {"n_step": 1},
        {"gamma": 0.5},
        *([{"intrinsic_gamma": 0.95}] if game == "new ground" else []),
        {"advantage_alpha": 0.0},
        {"return_cut": "none" if config.return_cut == "watkins" else "watkins"},
    ):
        other = msgspec.structs.replace(config, **changes)
        with torch.no_grad():
            differ = [
                block[0].initial_priority
                != pytest.approx(priority_by_hand(block, made.head(unroll(block, made)[:, 0], False), other), rel=2e-2)
                for block in played(game)
            ]
        assert sum(differ) > len(differ) // 3, changes


def test_a_finished_task_is_sent_as_terminated_and_a_time_limit_is_not() -> None:
    """What the learner may not bootstrap over: marked in the blocks that reach the end, and so in their priority."""
    reasons = []
    for game in GAMES:
        made, config = network(game), CONFIGS[game]
        for blocks in by_episode(played(game)):
            summary = blocks[-1][0].summary
            assert summary is not None
            reasons.append(summary.reason)
            for header, arrays in blocks:
                last_step = header.first_step - header.burn_in_length + len(arrays.mask) - 1  # its tail may reach it
                ended = reasons[-1] == "terminated" and last_step == summary.episode_steps
                assert header.terminated == ended
            if reasons[-1] != "terminated":
                continue
            header, arrays = blocks[-1]
            as_truncated = (msgspec.structs.replace(header, terminated=False), arrays)
            with torch.no_grad():
                quantiles = made.head(unroll(blocks[-1], made)[:, 0], noise=False)
            assert header.initial_priority != pytest.approx(priority_by_hand(as_truncated, quantiles, config), rel=2e-2)
    assert reasons.count("terminated") >= 2
    assert reasons.count("truncated") >= 2


@pytest.mark.parametrize("game", GAMES)
def test_stored_states_are_the_actors_before_the_first_position(game: str) -> None:
    """The state stored with a window is the one that the network reaches over all steps of the episode before it."""
    made = network(game)
    checked = 0
    with torch.no_grad():
        for blocks in by_episode(played(game)):
            first = blocks[0]
            assert first[0].burn_in_length == 0
            assert not first[1].state_h.any()
            assert not first[1].state_c.any()
            for before, after in itertools.pairwise(blocks):
                # The later window's position 0 is this far into the earlier one; outputs are the h of the step after.
                ahead = after[0].first_step - after[0].burn_in_length
                ahead -= before[0].first_step - before[0].burn_in_length
                if ahead == 0:  # both begin with the episode
                    assert not after[1].state_h.any()
                    continue
                reached = unroll(before, made)[ahead - 1, 0]
                stored = torch.from_numpy(after[1].state_h.astype("float32"))
                torch.testing.assert_close(stored, reached, rtol=2e-2, atol=2e-3)
                assert not torch.allclose(unroll(before, made)[ahead, 0], stored, rtol=2e-2, atol=2e-3)
                checked += 1
    assert checked >= 8


def test_the_actors_count_of_steps_is_that_of_the_trained_ones_it_sends() -> None:
    link = Collector(params_to_bytes(network("town")))
    actor = Actor(CONFIGS["town"], 0, 1, link)
    counts = list(itertools.islice(actor.run(), 60))  # episodes end after 50
    actor.stop()
    headers = [decode_arrays(block, block_spec(CONFIGS["town"]))[0] for block in link.blocks]
    assert counts[-1] == actor.env_steps == sum(header.train_length for header in headers) == 120


def test_an_episodes_entropy_is_the_mean_over_its_steps() -> None:
    """Of two emulators whose episodes end apart from each other, one after the other; by the values acted on."""
    config = load_config("slim_cpu", [*SMALL, "initial_state=school:password", "model.noisy_sigma=0.0"])
    made = build_model(config, observation_spec(config))
    with torch.no_grad():
        made.head_advantage.weight.mul_(10.0)
    blocks = play(config, params_to_bytes(made), 160)
    whole = 0
    for episode in by_episode(blocks):
        summary = episode[-1][0].summary
        assert summary is not None
        entropies: list[float] = []
        with torch.no_grad():
            for block in episode:
                quantiles = made.head(unroll(block, made)[:, 0], noise=False)
                values = targets.h_inv(quantiles).mean(-1).double()
                logits = values.masked_fill(~torch.from_numpy(block[1].mask.copy()), -1e9)
                entropy = torch.distributions.Categorical(logits=logits).entropy()
                entropies += entropy[trained_rows(block)].tolist()
        assert len(entropies) == summary.episode_steps
        assert summary.entropy == pytest.approx(np.mean(entropies), rel=2e-2)
        whole += summary.reason != "stopped"
    assert whole >= 3


@pytest.mark.parametrize("game", GAMES)
def test_every_action_is_a_valid_one(game: str) -> None:
    refused = 0
    for block in played(game):
        rows, arrays = played_rows(block), block[1]
        assert arrays.mask.any(-1).all()
        assert arrays.mask[rows, arrays.action[rows]].all()
        refused += int((~arrays.mask[rows]).sum())
    assert refused > 0  # or the test would prove nothing


def test_random_stretches_begin_by_chance_and_end_with_the_episode() -> None:
    """Stretches that never end by themselves begin after 30 steps on average, and each episode begins without.

    The network prefers the first of the valid actions, so every other one is a random one.
    """
    options = (*SMALL, "episode_max_steps=60", "wander_every_steps=30", "wander_steps=1000000", "epsilon_base=0.0")
    options += ("epsilon_hold_steps_max=1", "model.noisy_sigma=0.0", "value_rescaling=false")
    config = load_config("slim_cpu", options)
    greedy_steps, at_random = [], []
    for blocks in by_episode(play(config, params_to_bytes(prefers_low_numbers(config)), 3000)):
        others = [
            int(block[1].action[row]) != int(np.flatnonzero(block[1].mask[row])[0])
            for block in blocks
            for row in trained_rows(block)
        ]
        first = others.index(True) if True in others else len(others)
        greedy_steps.append(first)
        at_random += others[first + 1 :]
    assert len(greedy_steps) >= 48
    assert np.mean(greedy_steps) == pytest.approx(30 * (1 - np.exp(-2)), rel=0.3)  # cut off at 60
    assert np.mean(at_random) > 0.5


@pytest.mark.parametrize("start", ["home", "battle", "frontier"])
def test_random_actions_are_as_likely_as_their_weights(start: str, tmp_path: Path) -> None:
    """Every action is a random one here: how likely the weights called those that were taken, in the mean."""
    options = [*SMALL, "epsilon_base=1.0", "epsilon_alpha=0.0", "epsilon_hold_steps_max=1"]
    if start == "battle":
        env = new_env()
        meet_trainer(env)
        (tmp_path / "battle.state").write_bytes(env.console.save())
        env.close()
        options += [f"initial_state={tmp_path / 'battle.state'}", "episode_max_steps=20"]
    if start == "frontier":
        options.append("frontier_weight=12")
    config = load_config("slim_cpu", options)
    taken, by_weights, uniformly = [], [], []
    for block in play(config, params_to_bytes(build_model(config, observation_spec(config))), 1500):
        arrays = block[1]
        for row in trained_rows(block):
            likely = random_weights(arrays, row, config.frontier_weight)
            taken.append(likely[arrays.action[row]])
            by_weights.append((likely**2).sum())
            uniformly.append(1 / arrays.mask[row].sum())
    assert len(taken) > 1400
    assert np.mean(taken) == pytest.approx(np.mean(by_weights), rel=0.06)
    assert np.mean(uniformly) < 0.88 * np.mean(by_weights)  # or the test would prove nothing


def test_each_emulator_plays_by_its_own_rung_of_the_ladder() -> None:
    """Two actors, two emulators each. The network's first choice is the first valid action, so others are random."""
    options = ["num_actors=2", "wander_every_steps=0", "epsilon_base=0.8", "epsilon_alpha=12.0"]
    options += ["epsilon_hold_steps_max=1", "model.noisy_sigma=0.0", "value_rescaling=false"]
    config = load_config("slim_cpu", [*SMALL, *options])
    weights = params_to_bytes(prefers_low_numbers(config))
    ladder = epsilon_ladder(4, 0.8, 12.0)  # 0.8, 0.33, 0.13, 0.06
    sent = [play(config, weights, 1200, actor) for actor in range(2)]
    for actor, emulator in itertools.product(range(2), range(2)):
        epsilon = ladder[actor + 2 * emulator]
        others, likely = [], []
        for block in (block for block in sent[actor] if block[0].emulator == emulator):
            assert block[0].epsilon == pytest.approx(epsilon)
            for row in trained_rows(block):
                first = int(np.flatnonzero(block[1].mask[row])[0])
                others.append(int(block[1].action[row]) != first)
                likely.append(epsilon * (1.0 - random_weights(block[1], row, 0.0)[first]))
        assert len(others) >= 590
        error = np.sqrt(np.mean(likely) / len(likely))
        assert abs(np.mean(others) - np.mean(likely)) < 4 * error
        assert np.mean(likely) > 4 * error  # or no random action at all would pass as well


@pytest.mark.parametrize("rescaling", [True, False])
def test_evaluation_plays_the_best_valid_action_by_the_runs_own_values(
    rescaling: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first valid one without rescaling, the last one with it."""
    config = load_config("slim_cpu", [*SMALL, "model.noisy_sigma=0.0", f"value_rescaling={rescaling}"])
    chosen: list[tuple[npt.NDArray[np.bool_], int]] = []
    press = Rollout.play

    def spied(rollout: Rollout, actions: list[int], rows: list[int]) -> Any:
        chosen.extend((rollout.mask[row].copy(), actions[row]) for row in rows)
        return press(rollout, actions, rows)

    monkeypatch.setattr(Rollout, "play", spied)
    play_episodes(config, prefers_low_numbers(config), 3, seed=1)
    best = -1 if rescaling else 0
    assert [action for _, action in chosen] == [int(np.flatnonzero(mask)[best]) for mask, _ in chosen]
    assert len(chosen) == 150
    assert not all(mask[best] for mask, _ in chosen)  # or the test would prove nothing of masks
