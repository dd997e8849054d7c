"""Small actors and what they send, for the tests of acting."""

from __future__ import annotations

import torch

from cluster_rl.acting.loop import Actor
from cluster_rl.config import Config, load_config
from cluster_rl.emulator.spaces import block_spec, observation_spec
from cluster_rl.model import QNetwork, build_model
from cluster_rl.wire.codec import BlockArrays, SequenceHeader, decode_arrays

SMALL = (
    *("num_actors=1", "envs_per_actor=2", "episode_max_steps=50", "start_idle_frames_max=0"),
    "rewards.novelty=5.0",  # large, and of each step another: the network sees the previous reward
    *("unroll_length=8", "burn_in=4", "n_step=3", "lstm_hidden_size=16", "num_quantiles=4"),
    *("model.conv_channels=[4,4]", "model.context_width=8", "model.trunk_width=16", "model.noisy_sigma=2.0"),
)
CONFIGS = {
    "town": load_config("slim_cpu", [*SMALL, "return_cut=watkins"]),
    # Its curiosity has a value of its own.
    "new ground": load_config("slim_cpu", [*SMALL, "intrinsic_gamma=0.6", "rewards.novelty=0.5"]),
    # Its episodes end at a door, within the time limit as a rule; and with the other way to count values.
    "lesson": load_config(
        "slim_cpu",
        [*SMALL, "initial_state=school:password", "epsilon_base=1.0", "value_rescaling=false", "priority_eta=0.4"],
    ),
}
GAMES = tuple(CONFIGS)
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


def network(game: str) -> QNetwork:
    torch.manual_seed(0)
    made = build_model(CONFIGS[game], observation_spec(CONFIGS[game]))
    with torch.no_grad():  # values of several units, that depend on what is seen
        made.head_advantage.weight.mul_(10.0)
        made.head_value.weight.mul_(10.0)
        made.head_value.bias.add_(10.0)  # nowhere near 0: an end's value counts, whatever weights were drawn
    return made


def play(config: Config, weights: bytes, env_steps: int, index: int = 0) -> list[Block]:
    """What an actor sends of so many steps."""
    link = Collector(weights)
    actor = Actor(config, index, 1, link)
    steps = actor.run()
    while next(steps) < env_steps:
        pass
    actor.stop()
    return [decode_arrays(block, block_spec(config)) for block in link.blocks]
