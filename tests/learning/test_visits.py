"""The visits that actors store with each step: of the map tile that it entered."""

from __future__ import annotations

import numpy as np
from acting_fixtures import SMALL, network, play

from cluster_rl.config import load_config
from cluster_rl.model import params_to_bytes
from cluster_rl.rewards import TERMS


def test_visits_are_what_the_novelty_of_the_same_step_is_paid_by() -> None:
    """Of real play in which nothing else pays, step by step."""
    only_novelty = [f"rewards.{term}={float(term == 'novelty')}" for term in TERMS]
    config = load_config("slim_cpu", [*SMALL, *only_novelty, "epsilon_base=1.0", "episode_max_steps=200"])
    seen = set()
    for _, arrays in play(config, params_to_bytes(network("town")), 800):
        visits = arrays.visits.astype(np.float32)
        paid = np.divide(1.0, visits, out=np.zeros_like(visits), where=visits > 0)
        np.testing.assert_array_equal(arrays.reward, paid)
        seen |= set(arrays.visits.tolist())
    assert {0, 1, 2, 3} <= seen
