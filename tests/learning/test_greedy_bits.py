"""The bit that actors store with each action: whether it was the policy's choice."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from acting_fixtures import SMALL, network, play

from cluster_rl.acting import exploration
from cluster_rl.config import load_config
from cluster_rl.model import params_to_bytes


def test_the_bit_of_an_action_is_whether_it_was_the_best_by_the_values_it_was_chosen_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against what the actor's exploration was given and drew, step by step: not whether a draw was at random."""
    options = [*SMALL, "wander_every_steps=20", "wander_steps=5", "epsilon_base=0.3", "epsilon_alpha=1.0"]
    config = load_config("slim_cpu", options)
    drawn: list[tuple[npt.NDArray[Any], ...]] = []  # of each step: values and masks [N, A], explored [N]
    draws = exploration._draws

    def spied(values: Any, masks: Any, *rest: Any) -> Any:
        found = draws(values, masks, *rest)
        drawn.append((values.copy(), masks.copy(), found[0]))
        return found

    monkeypatch.setattr(exploration, "_draws", spied)
    blocks = play(config, params_to_bytes(network("town")), 400)
    seen: dict[str, int] = {"chosen": 0, "drawn, and the best": 0, "drawn, and not the best": 0, "held, and not": 0}
    for header, arrays in blocks:
        assert not arrays.greedy[-1]
        step = config.episode_max_steps * header.episode + header.first_step  # episodes are cut by the limit alone
        for row in range(header.positions - 1):
            values, masks, explored = (part[header.emulator] for part in drawn[step + row - header.burn_in_length])
            assert np.array_equal(masks, arrays.mask[row])
            best = max((float(value), -action) for action, value in enumerate(values) if masks[action])
            assert arrays.greedy[row] == (arrays.action[row] == -best[1])
            kind = ", and the best" if arrays.greedy[row] else ", and not the best"
            seen[f"drawn{kind}" if explored else "chosen" if arrays.greedy[row] else "held, and not"] += 1
    assert min(seen.values()) >= 5, seen
