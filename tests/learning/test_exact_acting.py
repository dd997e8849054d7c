"""What actors hand over, against the learner's network: stored states, initial priorities, actions within the mask."""

from __future__ import annotations

import functools
import itertools

import msgspec
import pytest
import torch
from torch import Tensor

from cluster_rl.actor import Actor
from cluster_rl.config import Config, load_config
from cluster_rl.learning import targets
from cluster_rl.model import QNetwork, build_model, params_to_bytes
from cluster_rl.spaces import block_spec, observation_spec
from cluster_rl.wire.codec import BlockArrays, SequenceHeader, decode_arrays

CONFIG = load_config(
    "slim_cpu",
    [
        *("num_actors=1", "envs_per_actor=2", "episode_max_steps=50", "start_idle_frames_max=0"),
        *("unroll_length=8", "burn_in=4", "n_step=3", "lstm_hidden_size=16", "num_quantiles=4"),
        *("model.conv_channels=[4,4]", "model.context_width=8", "model.trunk_width=16", "model.noisy_sigma=2.0"),
    ],
)
Block = tuple[SequenceHeader, BlockArrays]


class Collector:
    """The learner's side of an actor: one set of parameters out, blocks in."""

    def __init__(self, weights: bytes) -> None:
        self.blocks: list[bytes] = []
        self._params: tuple[int, bytes] | None = (1, weights)

    def send(self, block: bytes) -> None:
        self.blocks.append(block)

    def take_params(self) -> tuple[int, bytes] | None:
        params, self._params = self._params, None
        return params


def network() -> QNetwork:
    torch.manual_seed(0)
    made = build_model(CONFIG, observation_spec(CONFIG))
    with torch.no_grad():  # values of several units, that depend on what is seen
        made.head_advantage.weight.mul_(10.0)
        made.head_value.weight.mul_(10.0)
    return made


@functools.cache
def played() -> list[Block]:
    """What an actor sends of 120 steps with two emulators, truncated episodes among them."""
    link = Collector(params_to_bytes(network()))
    actor = Actor(CONFIG, 0, 1, link)
    steps = actor.run()
    while next(steps) < 120:
        pass
    actor.stop()
    return [decode_arrays(block, block_spec(CONFIG)) for block in link.blocks]


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
    """The learner's formula, step by step: quantiles [P, A, K] on both sides."""
    header, arrays = block
    errors = []
    for t in range(header.burn_in_length, header.burn_in_length + header.train_length):
        m = min(config.n_step, len(quantiles) - 1 - t)
        values = targets.h_inv(quantiles[t + m]).mean(-1)
        values = values.masked_fill(~torch.from_numpy(arrays.mask[t + m].copy()), -1e9)
        future = config.gamma**m * targets.h_inv(quantiles[t + m, values.argmax()])
        if header.terminated and t + m == len(quantiles) - 1:
            future = torch.zeros_like(future)
        returned = sum(config.gamma**j * float(arrays.reward[t + j]) for j in range(m))
        samples = targets.h(returned + future)
        errors.append(abs(float(samples.mean() - quantiles[t, int(arrays.action[t])].mean())))
    return config.priority_eta * max(errors) + (1 - config.priority_eta) * sum(errors) / len(errors)


def test_initial_priorities_are_the_learners_from_values_without_noise() -> None:
    made = network()
    made.resample_noise(torch.Generator().manual_seed(1))
    noise_shows = 0
    with torch.no_grad():
        for block in played():
            outputs = unroll(block, made)[:, 0]
            found = block[0].initial_priority
            assert found == pytest.approx(priority_by_hand(block, made.head(outputs, noise=False), CONFIG), rel=2e-2)
            noise_shows += found != pytest.approx(
                priority_by_hand(block, made.head(outputs, noise=True), CONFIG), rel=2e-2
            )
    assert len(played()) >= 14
    assert noise_shows > len(played()) // 2


def test_initial_priorities_use_the_runs_own_formula() -> None:
    """Without rescaling, with another mix or another n, they are others: none of it is left at a default."""
    made = network()
    for changes in ({"priority_eta": 0.0}, {"n_step": 1}, {"gamma": 0.5}):
        other = msgspec.structs.replace(CONFIG, **changes)
        with torch.no_grad():
            differ = [
                block[0].initial_priority
                != pytest.approx(priority_by_hand(block, made.head(unroll(block, made)[:, 0], False), other), rel=2e-2)
                for block in played()
            ]
        assert sum(differ) > len(differ) // 2, changes


def test_stored_states_are_the_actors_before_the_first_position() -> None:
    """The state stored with a window is the one that the network reaches over all steps of the episode before it."""
    made = network()
    checked = 0
    by_episode: dict[tuple[int, int], list[Block]] = {}
    for block in played():
        by_episode.setdefault((block[0].emulator, block[0].episode), []).append(block)
    with torch.no_grad():
        for blocks in by_episode.values():
            blocks.sort(key=lambda block: block[0].first_step)
            first = blocks[0]
            assert first[0].burn_in_length == 0
            assert not first[1].state_h.any()
            assert not first[1].state_c.any()
            for before, after in itertools.pairwise(blocks):
                # The later window's position 0 is this far into the earlier one; outputs are the h of the step after.
                ahead = after[0].first_step - after[0].burn_in_length
                ahead -= before[0].first_step - before[0].burn_in_length
                reached = unroll(before, made)[ahead - 1, 0]
                stored = torch.from_numpy(after[1].state_h.astype("float32"))
                torch.testing.assert_close(stored, reached, rtol=2e-2, atol=2e-3)
                assert not torch.allclose(unroll(before, made)[ahead, 0], stored, rtol=2e-2, atol=2e-3)
                checked += 1
    assert checked >= 8


def test_every_action_is_a_valid_one() -> None:
    refused = 0
    for header, arrays in played():
        assert arrays.mask.any(-1).all()
        steps = header.burn_in_length + header.train_length
        assert arrays.mask[range(steps), arrays.action[:steps]].all()
        refused += int((~arrays.mask[:steps]).sum())
    assert refused > 0  # or the test would prove nothing
