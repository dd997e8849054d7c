"""The target network values a position with its own recurrent state, never with a zero one.

The cue alone decides the last reward, and returns are of one step: what a step is worth is known only through the
target's value of the next one, which sees no cue but in its state.
"""

from __future__ import annotations

from memory_tasks import FAIL_GAP, PASS_GAP, ROWS, judged, pass_gap, train, value_gaps

ROW = ROWS["target's own state"]


def test_the_cue_reaches_the_value_of_every_step() -> None:
    """The true gap is 2, discounted."""
    assert pass_gap(ROW, seed=1) >= PASS_GAP


def test_a_target_with_zero_state_stops_it_at_the_last_step() -> None:
    """The last step has its reward at hand: that it is learned shows that only the target lacks memory."""
    gaps = value_gaps(train(ROW.ablation, seed=1), ROW.ablation)
    assert gaps[-1] >= PASS_GAP
    assert max(abs(gap) for gap in judged(ROW.ablation, gaps)) < FAIL_GAP
