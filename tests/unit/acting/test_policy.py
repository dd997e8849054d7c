"""What the policy keeps of screens that it has encoded; test_model.py holds its results against the learner's."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from cluster_rl.acting import loop, policy
from cluster_rl.acting.loop import Actor
from cluster_rl.acting.policy import Policy
from cluster_rl.config import Config, ModelConfig, load_config
from cluster_rl.emulator.spaces import observation_spec
from cluster_rl.model import ObservationSpec, QNetwork, build_model, params_to_bytes
from cluster_rl.networks.frames import pack_screen

SPEC = ObservationSpec(context_size=6, crop_size=5, num_actions=7)
SMALL = {"conv_channels": [4, 4], "context_width": 8, "trunk_width": 16}
CONFIGS = {
    "slim": Config(lstm_hidden_size=16, num_quantiles=4, model=ModelConfig(kind="slim", **SMALL)),
    "unified": Config(lstm_hidden_size=16, num_quantiles=4, model=ModelConfig(kind="unified", **SMALL)),
}


def made(kind: str) -> QNetwork:
    torch.manual_seed(0)
    return build_model(CONFIGS[kind], SPEC).eval()


def quantiles_of(acting: Policy, screens: npt.NDArray[np.uint8], seed: int = 0) -> npt.NDArray[np.float32]:
    """Clean quantiles [N, A, K] of these screens [N, 72, 80], all else drawn from the seed."""
    count, rng = len(screens), np.random.default_rng(seed)
    others: tuple[Any, ...] = (
        rng.integers(0, 256, (count, 6), dtype=np.uint8),
        rng.integers(0, 256, (count, 2, 5, 5), dtype=np.uint8),
        rng.integers(0, 8, count),
        rng.normal(size=count).astype(np.float32),
    )
    state = (np.zeros((count, 16), np.float32), np.zeros((count, 16), np.float32))
    return acting.act(screens, pack_screen(screens), *others, state)[1]


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_screen_is_encoded_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    acting = Policy(made(kind))
    encoded: list[npt.NDArray[np.uint8]] = []
    encode = acting._encoder.screens

    def spied(shades: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        encoded.extend(shades)
        return encode(shades)

    monkeypatch.setattr(acting._encoder, "screens", spied)
    pool = np.random.default_rng(1).integers(0, 4, (6, 72, 80), dtype=np.uint8)
    pool[3:, :-1] = pool[:3, :-1]  # the last row alone tells them apart
    for seed, order in enumerate(([0, 1, 0, 2], [2, 3, 3, 1], [1, 1, 0, 2], [4, 0, 5, 4])):
        found = quantiles_of(acting, pool[order], seed)
        np.testing.assert_allclose(found, quantiles_of(Policy(made(kind)), pool[order], seed), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(np.stack(encoded), pool)


@pytest.mark.parametrize("kind", CONFIGS)
def test_screens_are_remembered_within_bounds(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "_MAX_SCREENS", 5)
    acting = Policy(made(kind))
    pool = np.random.default_rng(1).integers(0, 4, (9, 72, 80), dtype=np.uint8)
    for seed, order in enumerate(([0, 1, 2], [3, 4, 3], [0, 1, 2], [8, 7, 6], [5, 5, 5], [0, 4, 8])):
        found = quantiles_of(acting, pool[order], seed)
        np.testing.assert_allclose(found, quantiles_of(Policy(made(kind)), pool[order], seed), rtol=1e-4, atol=1e-5)
    assert len(acting._known) <= 5


LARGE = Config(
    lstm_hidden_size=256,
    num_quantiles=8,
    model=ModelConfig(kind="unified", conv_channels=[4, 16], context_width=8, trunk_width=512),
)
"""Large enough that the trunk, the cell and the head are not left to numpy."""


def test_large_products_are_the_learners_and_in_bfloat16_nearly_so() -> None:
    torch.manual_seed(0)
    network = build_model(LARGE, SPEC).eval()
    half, full = Policy(network, bfloat16=True), Policy(network)
    assert not full._cell._gates._few  # type: ignore[union-attr]
    rng = np.random.default_rng(0)
    state = learner_state = (torch.zeros(1, 8, 256), torch.zeros(1, 8, 256))
    after = after_half = tuple(part[0].numpy() for part in state)
    differ = 0.0
    for _ in range(20):
        shades = rng.integers(0, 4, (8, 72, 80), dtype=np.uint8)
        frames = (
            pack_screen(shades),
            rng.integers(0, 256, (8, 6), dtype=np.uint8),
            rng.integers(0, 256, (8, 2, 5, 5), dtype=np.uint8),
            rng.integers(0, 8, 8),
            rng.normal(size=8).astype(np.float32),
        )
        _, found, after = full.act(shades, *frames, after)  # type: ignore[arg-type]
        _, in_half, after_half = half.act(shades, *frames, after_half)  # type: ignore[arg-type]
        with torch.no_grad():
            features = network.encode(*(torch.from_numpy(part) for part in frames)).unsqueeze(0)
            outputs, learner_state = network.recur(features, learner_state)
            expected = network.head(outputs, noise=False)[0].numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(after[1], learner_state[1][0].numpy(), rtol=1e-4, atol=1e-5)
        # Rounding does not add up over steps: the cell forgets it.
        np.testing.assert_allclose(in_half, expected, atol=0.02 * np.abs(expected).max())
        np.testing.assert_allclose(after_half[1], after[1], atol=0.02 * np.abs(after[1]).max())
        differ = max(differ, float(np.abs(in_half - found).max()))
    assert differ > 1e-4  # or it was not bfloat16


class _Link:
    """Gives parameters at the edges that it is told to."""

    def __init__(self, by_edge: dict[int, bytes]) -> None:
        self._by_edge, self._edges = by_edge, -1

    def send(self, block: bytes) -> None:
        pass

    def take_params(self) -> tuple[int, bytes] | None:
        self._edges += 1
        return (self._edges, self._by_edge[self._edges]) if self._edges in self._by_edge else None


def policies_of_edges(config: Config, by_edge: dict[int, int], edges: int) -> list[Policy]:
    """The policy that an actor plays by after each edge. by_edge: seed of the parameters that came."""
    weights = {}
    for edge, seed in by_edge.items():
        torch.manual_seed(seed)
        weights[edge] = params_to_bytes(build_model(config, observation_spec(config)))
    actor = Actor(config, 0, 1, _Link(weights))
    play, policies = actor.run(), []
    for _ in range(edges):
        for _ in range(config.unroll_length):
            next(play)
        policies.append(actor._rollout._policy)
    actor.stop()
    return policies


ACTING = ["envs_per_actor=1", "unroll_length=3", "burn_in=2", "n_step=1", "lstm_hidden_size=16", "num_quantiles=4"]
ACTING += ["model.conv_channels=[4,4]", "model.trunk_width=16", "model.context_width=8"]


def test_a_policy_is_kept_until_parameters_or_noise_change() -> None:
    config = load_config("slim", ACTING)
    policies = policies_of_edges(config, {0: 1, 2: 2, 3: 3}, 5)
    kept = [one is other for one, other in itertools.pairwise(policies)]
    assert kept == [True, False, False, True]
    torch.manual_seed(3)
    newest = Policy(build_model(config, observation_spec(config)))
    np.testing.assert_array_equal(policies[-1]._encoder._crop._columns, newest._encoder._crop._columns)  # type: ignore[union-attr]
    policies = policies_of_edges(load_config("slim", [*ACTING, "model.noisy_sigma=0.5"]), {0: 1}, 3)
    assert len(set(map(id, policies))) == 3


@pytest.mark.parametrize(
    ("options", "has_it", "used"),
    [
        (["device=cuda"], True, True),
        (["device=auto"], True, True),
        (["device=cuda"], False, False),
        (["device=cpu"], True, False),
        (["device=cuda", "mixed_precision=false"], True, False),
    ],
)
def test_bfloat16_where_the_learner_uses_it_and_the_processor_has_it(
    options: list[str], has_it: bool, used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "multiplies_bfloat16", lambda: has_it)
    config = load_config("gpu", [*ACTING, *options])
    policies = policies_of_edges(config, {0: 1}, 1)
    assert (policies[0]._encoder._precision == torch.bfloat16) == used  # type: ignore[union-attr]


_BLAS_THREADS = """
import json, threadpoolctl, torch
from cluster_rl.acting.policy import Policy
from cluster_rl.config import load_config
from cluster_rl.emulator.spaces import observation_spec
from cluster_rl.model import build_model

def threads():
    return [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]

config = load_config("password")
torch.set_num_threads(2)
before = threads()
Policy(build_model(config, observation_spec(config)))
print(json.dumps([before, threads(), torch.get_num_threads()]))
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores: numpy takes one thread for each")
def test_a_policy_multiplies_in_one_thread_and_leaves_torch_its_own() -> None:
    variables = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", _BLAS_THREADS], capture_output=True, text=True, env=variables, check=True
    )
    before, after, of_torch = json.loads(done.stdout)
    assert before
    assert max(before) > 1
    assert set(after) == {1}
    assert of_torch == 2
