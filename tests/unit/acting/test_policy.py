"""What the policy keeps of screens that it has encoded; test_model.py holds its results against the learner's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from cluster_rl.acting import policy
from cluster_rl.acting.policy import Policy
from cluster_rl.config import Config, ModelConfig
from cluster_rl.model import ObservationSpec, QNetwork, build_model
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


def test_new_weights_encode_all_screens_anew() -> None:
    network = made("slim")
    pool = np.random.default_rng(1).integers(0, 4, (3, 72, 80), dtype=np.uint8)
    before = quantiles_of(Policy(network), pool)
    with torch.no_grad():
        for part in network.screen_encoder.parameters():
            part.mul_(2.0)
    after = quantiles_of(Policy(network), pool)
    assert not np.allclose(before, after, rtol=1e-2)


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
