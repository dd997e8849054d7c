"""The rule of a chain of jobs, as histories of (exit code, env steps, cancelled)."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster_rl.batch_system.chain import ChainState, after_job, read_chain, save_chain
from cluster_rl.errors import UserError

ON = None
HISTORIES = {
    "time is up again and again": [(85, 10, False, ON), (85, 20, False, ON), (85, 30, False, ON), (0, 40, False, 0)],
    "cancelled": [(85, 10, False, ON), (0, 20, True, 0)],
    "cancelled as the time was up": [(85, 10, True, 0)],
    "three crashes": [(1, 10, False, ON), (-9, 20, False, ON), (139, 30, False, 139)],
    "two crashes, then well": [(1, 10, False, ON), (1, 20, False, ON), (85, 30, False, ON), (1, 30, False, ON)],
    "two jobs without progress": [(85, 10, False, ON), (85, 10, False, ON), (85, 10, False, 1)],
    "one without progress": [(85, 10, False, ON), (85, 10, False, ON), (85, 11, False, ON), (85, 11, False, ON)],
    "the first job makes none": [(85, 0, False, ON), (85, 0, False, 1)],
    "a crash between two without progress": [(85, 0, False, ON), (1, 0, False, ON), (85, 0, False, 1)],
    "a disk that is full at each end": [
        (75, 10, False, ON),
        (75, 20, False, ON),
        (75, 30, False, ON),
        (0, 40, False, 0),
    ],
    "a disk that is full from the start": [(75, 0, False, ON), (75, 0, False, ON), (75, 0, False, 75)],
    "between crashes": [(1, 10, False, ON), (1, 10, False, ON), (75, 20, False, ON), (1, 20, False, ON)],
    "bad input": [(2, 10, False, 2)],
}


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
def test_histories(history: list[tuple[int, int, bool, int | None]]) -> None:
    state = ChainState()
    for exit_code, env_steps, cancelled, expected in history:
        state, verdict = after_job(state, exit_code, env_steps, cancelled, requeued=False, when_done="done")
        assert verdict.goes_on == (expected is None), verdict
        if expected is not None:
            assert verdict.exit_code == expected
            assert (state.crashes, state.stalls) == (0, 0)  # submitted by hand, it begins anew


def test_a_job_that_was_refused_ends_no_chain() -> None:
    crashed = ChainState(crashes=2, env_steps=7)
    state, verdict = after_job(crashed, 2, 9, cancelled=False, requeued=False, when_done="done")
    assert not verdict.goes_on
    assert state == crashed


def test_a_job_that_slurm_takes_back_counts_as_nothing() -> None:
    before = ChainState(crashes=1, stalls=1, env_steps=7)
    for exit_code in (0, 85, 143):
        state, verdict = after_job(before, exit_code, 7, cancelled=True, requeued=True, when_done="done")
        assert (state, verdict.goes_on, verdict.exit_code) == (before, False, 0)
        assert "goes on with the run when it starts again" in verdict.reason
        assert "cancelled" not in verdict.reason


def test_the_file(tmp_path: Path) -> None:
    path = tmp_path / "chain.json"
    assert read_chain(path) == ChainState()
    save_chain(path, ChainState(crashes=1, env_steps=7))
    assert read_chain(path) == ChainState(crashes=1, env_steps=7)
    path.write_text('{"crashes": "many"}')
    with pytest.raises(UserError, match=r"chain\.json: damaged"):
        read_chain(path)
