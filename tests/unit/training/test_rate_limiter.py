"""The rate limiter keeps the ratio, and never stops both sides."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster_rl.config import load_config
from cluster_rl.training.rate_limiter import RateLimiter

limiters = st.builds(
    lambda ratio, min_size, tolerance, sample, insert: RateLimiter(
        ratio, min_size, tolerance, sample_chunk=sample, insert_chunk=insert
    ),
    st.floats(0.01, 100),
    st.integers(1, 5000),
    st.floats(0.01, 2),
    st.integers(1, 6000),
    st.integers(1, 6000),
)


@settings(max_examples=200, deadline=None)
@given(
    limiter=limiters, resumed=st.none() | st.tuples(st.integers(0, 10**7), st.integers(0, 10**6)), seed=st.integers(0)
)
def test_never_both_refused_and_the_ratio_is_held(
    limiter: RateLimiter, resumed: tuple[int, int] | None, seed: int
) -> None:
    rng = random.Random(seed)
    caught_up = False
    if resumed:
        limiter.load_state_dict({"sampled": resumed[0]}, inserted=resumed[1])
    for _ in range(100):
        # The largest chunks come often: they are what both sides are refused by first.
        sample_n = rng.choice([limiter.sample_chunk, rng.randint(1, limiter.sample_chunk)])
        insert_n = rng.choice([limiter.insert_chunk, rng.randint(1, limiter.insert_chunk)])
        may_sample, may_insert = limiter.may_sample(sample_n), limiter.room() >= insert_n
        assert may_sample or may_insert
        if may_sample and (not may_insert or rng.random() < 0.5):
            limiter.record_sample(sample_n)
        else:
            limiter.record_insert(insert_n)
        if limiter.inserted < limiter.min_size:
            assert limiter.sampled == 0 or not may_sample
        elif caught_up := caught_up or limiter.ahead >= -limiter.buffer:
            assert abs(limiter.ahead) <= limiter.buffer + 1
        else:
            assert limiter.room() == 0


@pytest.mark.parametrize("ratio", [0.25, 1.0, 4.0])
def test_the_long_run_ratio_is_samples_per_insert(ratio: float) -> None:
    limiter = RateLimiter(ratio, 1000, 0.1, sample_chunk=64, insert_chunk=16)
    for fast_side in ("sample", "insert"):
        for _ in range(40_000):
            # One side wants to go on as fast as it may.
            if limiter.may_sample(64) and (fast_side == "sample" or limiter.room() < 16):
                limiter.record_sample(64)
            elif limiter.room() >= 16:
                limiter.record_insert(16)
        assert limiter.sampled / limiter.inserted == pytest.approx(ratio, rel=0.05)


def test_nothing_is_sampled_below_the_minimum() -> None:
    limiter = RateLimiter(1.0, 100, 0.5, sample_chunk=10, insert_chunk=10)
    limiter.record_insert(99)
    assert not limiter.may_sample(1)
    limiter.record_insert(1)
    assert limiter.may_sample(1)


def test_the_first_positions_are_owed_their_samples_before_more_come() -> None:
    limiter = RateLimiter(4.0, 1000, 0.1, sample_chunk=10, insert_chunk=10)
    while limiter.inserted < 1000:
        assert limiter.room() >= limiter.insert_chunk
        limiter.record_insert(limiter.insert_chunk)
    while limiter.room() == 0:
        assert limiter.may_sample(10)
        limiter.record_sample(10)
    assert limiter.sampled == pytest.approx(4 * limiter.inserted, abs=limiter.buffer + 10)


def test_each_side_waits_for_the_other() -> None:
    limiter = RateLimiter(2.0, 100, 0.5, sample_chunk=10, insert_chunk=10)
    assert limiter.buffer == 100
    limiter.record_insert(100)
    limiter.record_sample(300)
    assert not limiter.may_sample(1)
    limiter.record_insert(100)
    assert limiter.ahead == -100
    assert limiter.room() == 0
    limiter.record_sample(2)
    assert limiter.room() == 1


def test_a_resumed_run_goes_on_where_it_was() -> None:
    limiter = RateLimiter(1.0, 1000, 0.1, sample_chunk=20, insert_chunk=20)
    limiter.record_insert(500_000)
    limiter.record_sample(499_950)
    resumed = RateLimiter(1.0, 1000, 0.1, sample_chunk=20, insert_chunk=20)
    resumed.load_state_dict(limiter.state_dict(), inserted=500_000)
    assert (resumed.sampled, resumed.ahead) == (499_950, limiter.ahead)
    burst = 0
    while resumed.may_sample(1):
        resumed.record_sample(1)
        burst += 1
    assert burst <= 2 * resumed.buffer


def test_what_the_first_positions_are_owed_is_owed_after_a_resume_too() -> None:
    def limiter() -> RateLimiter:
        return RateLimiter(16.0, 8000, 0.2, sample_chunk=320, insert_chunk=320)

    behind = limiter()
    behind.record_insert(8000)
    behind.record_sample(6400)
    resumed = limiter()
    resumed.load_state_dict(behind.state_dict(), inserted=8000)
    assert (resumed.sampled, resumed.room()) == (6400, 0)
    crashed = limiter()  # more was logged since that checkpoint
    crashed.load_state_dict(behind.state_dict(), inserted=9000)
    assert crashed.ahead == behind.ahead
    other = RateLimiter(64.0, 8000, 0.2, sample_chunk=320, insert_chunk=320)  # a larger ratio is no debt
    other.load_state_dict(behind.state_dict(), inserted=8000)
    assert other.ahead == min(-other.buffer, behind.ahead)


def test_updates_lost_in_a_crash_give_no_burst_and_a_lost_log_no_standstill() -> None:
    behind = RateLimiter(1.0, 1000, 0.1, sample_chunk=20, insert_chunk=20)
    behind.load_state_dict({"sampled": 1000}, inserted=500_000)  # without the band: 498,000 updates at once
    assert behind.ahead == -behind.buffer
    lost = RateLimiter(1.0, 1000, 0.1, sample_chunk=20, insert_chunk=20)
    lost.load_state_dict({"sampled": 499_000}, inserted=0)
    while not lost.may_sample(20):
        lost.record_insert(20)
    assert lost.inserted <= 1020


def test_the_limiter_follows_the_config() -> None:
    options = ["samples_per_insert=3.0", "samples_per_insert_tolerance=0.5", "min_replay_transitions=9000"]
    limiter = RateLimiter.from_config(load_config(None, [*options, "batch_size=8", "num_actors=2"]))
    assert (limiter.samples_per_insert, limiter.min_size) == (3.0, 9000)
    assert limiter.buffer == 0.5 * 3.0 * 9000


def test_chunks_are_bounded_by_what_the_buffer_was_made_for() -> None:
    limiter = RateLimiter.from_config(load_config(None, ["batch_size=8", "unroll_length=10", "num_actors=2"]))
    assert limiter.sample_chunk == 80
    assert limiter.insert_chunk == 2 * 8 * 10
    limiter.may_sample(80)
    with pytest.raises(ValueError, match="asked for"):
        limiter.may_sample(81)


def test_room_is_what_may_be_inserted() -> None:
    limiter = RateLimiter(2.0, 100, 0.5, sample_chunk=10, insert_chunk=10)
    assert limiter.room() == 100 + limiter.insert_chunk  # below the minimum always beyond it, in whole chunks
    limiter.record_insert(100)
    assert limiter.room() == 0
    limiter.record_sample(200)
    assert limiter.room() == limiter.buffer / 2
    limiter.record_insert(limiter.room())
    assert limiter.room() == 0
    assert limiter.ahead == -limiter.buffer
