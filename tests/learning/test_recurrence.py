"""The learner, whole, learns a task that needs memory, and fails it when its recurrent state is taken away.

The tasks and the other rows of the table are explained in `memory_tasks.py`; ten seeds of all rows are in
results/diary/memory_and_password.md (`python scripts/bench/memory_seeds.py`).
"""

from __future__ import annotations

from memory_tasks import FAIL_GAP, PASS_GAP, ROWS, ablation_gap, pass_gap

ROW = ROWS["recurrence"]


def test_memory_is_learned_through_the_recurrent_state() -> None:
    """The true gap is 2."""
    assert pass_gap(ROW, seed=1) >= PASS_GAP


def test_without_recurrent_state_the_same_learner_knows_nothing() -> None:
    assert ablation_gap(ROW, seed=1) < FAIL_GAP
