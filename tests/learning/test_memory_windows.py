"""Memory over windows that are too short for it: by the stored state, by a burn-in, and by both in turn.

The stored states are those of a player whose parameters are refreshed now and then, so they are as stale as an actor's.
Without stored state and burn-in the task is impossible: the trained window of the query holds nothing of the cue.
"""

from __future__ import annotations

import numpy as np
import pytest
from memory_tasks import (
    FAIL_GAP,
    PASS_GAP,
    ROWS,
    SPEC,
    Player,
    Variant,
    ablation_gap,
    observation,
    pass_gap,
)

from cluster_rl.learning.r2d2 import R2D2
from cluster_rl.learning.sequences import Sequence

STORED, BURN_IN, BOTH = ROWS["stored state"], ROWS["burn-in"], ROWS["both"]


def query_windows(variant: Variant) -> list[Sequence]:
    """The windows of one episode of every emulator that train the query."""
    player = Player(variant, seed=1)
    player.load(R2D2(variant.config, SPEC, "cpu", seed=1).params_bytes())
    sequences = player.play_episode()
    return [s for s in sequences if s.first_step <= variant.length - 1 < s.first_step + s.train_length]


def holds_cue(variant: Variant, sequence: Sequence) -> bool:
    cues = [observation(variant, 0, cue)[0] for cue in (0, 1)]
    return any(np.array_equal(context, cue) for context in sequence.context for cue in cues)


@pytest.mark.parametrize(
    ("variant", "cue_inside", "state_before"),
    [
        pytest.param(STORED.whole, False, True, id="stored state"),
        pytest.param(BURN_IN.whole, True, False, id="burn-in"),
        pytest.param(BOTH.whole, False, True, id="both"),
    ],
)
def test_the_windows_hold_what_the_rows_are_about(variant: Variant, cue_inside: bool, state_before: bool) -> None:
    windows = query_windows(variant)
    assert len(windows) == variant.config.envs_per_actor
    for sequence in windows:
        assert sequence.train_length < variant.length
        assert sequence.burn_in_length == variant.config.burn_in
        assert holds_cue(variant, sequence) == cue_inside
        # A state at the episode's start is zero and tells nothing.
        assert bool(np.any(sequence.state_h)) == state_before


def test_a_stored_state_bridges_windows() -> None:
    assert pass_gap(STORED, seed=1) >= PASS_GAP


def test_a_burn_in_rebuilds_the_state() -> None:
    assert pass_gap(BURN_IN, seed=1) >= PASS_GAP


def test_a_burn_in_goes_on_from_the_stored_state() -> None:
    assert pass_gap(BOTH, seed=1) >= PASS_GAP


def test_with_zero_state_and_no_burn_in_nothing_is_learned() -> None:
    assert BURN_IN.ablation is STORED.ablation
    assert ablation_gap(STORED, seed=1) < FAIL_GAP


def test_a_burn_in_behind_the_cue_does_not_replace_the_stored_state() -> None:
    assert ablation_gap(BOTH, seed=1) < FAIL_GAP
