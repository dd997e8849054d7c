"""The rate limiter keeps the ratio, and never stops both sides."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster_rl.config import load_config
from cluster_rl.errors import UserError
from cluster_rl.training.rate_limiter import RateLimiter

schedules = st.dictionaries(st.integers(1, 100_000), st.floats(0.01, 100), max_size=3).map(
    lambda stages: sorted(stages.items())
)
limiters = st.builds(
    lambda ratio, min_size, tolerance, sample, insert, schedule: RateLimiter(
        ratio, min_size, tolerance, sample_chunk=sample, insert_chunk=insert, schedule=schedule
    ),
    st.floats(0.01, 100),
    st.integers(1, 5000),
    st.floats(0.01, 2),
    st.integers(1, 6000),
    st.integers(1, 6000),
    schedules,
)


@settings(max_examples=200, deadline=None)
@given(
    limiter=limiters, resumed=st.none() | st.tuples(st.integers(0, 10**7), st.integers(0, 10**6)), seed=st.integers(0)
)
def test_never_both_refused_and_the_ratio_is_held(
    limiter: RateLimiter, resumed: tuple[int, int] | None, seed: int
) -> None:
    rng = random.Random(seed)
    if resumed:
        limiter.load_state_dict({"sampled": resumed[0]}, inserted=resumed[1])
    for _ in range(100):
        # The largest chunks come often: they are what both sides are refused by first.
        sample_n = rng.choice([limiter.sample_chunk, rng.randint(1, limiter.sample_chunk)])
        insert_n = rng.choice([limiter.insert_chunk, rng.randint(1, limiter.insert_chunk)])
        may_sample, may_insert = limiter.may_sample(sample_n), limiter.room() >= insert_n
        assert may_sample or may_insert
        below, buffer = limiter.inserted < limiter.min_size, limiter.buffer
        assert not (may_sample and below)
        if may_sample and (not may_insert or rng.random() < 0.5):
            limiter.record_sample(sample_n)
            assert limiter.ahead <= buffer + 1
        else:
            limiter.record_insert(insert_n)
            assert below or limiter.ahead >= -buffer - 1


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


def play_and_train(limiter: RateLimiter, inserted: int) -> None:
    """Both sides as fast as they may, until so many positions are there."""
    while limiter.inserted < inserted:
        if limiter.room() >= limiter.insert_chunk:
            limiter.record_insert(limiter.insert_chunk)
        else:
            assert limiter.may_sample(limiter.sample_chunk)
            limiter.record_sample(limiter.sample_chunk)


def test_each_stretch_of_a_schedule_has_its_own_ratio() -> None:
    limiter = RateLimiter(32.0, 100, 0.1, sample_chunk=64, insert_chunk=16, schedule=[(10_000, 8.0), (30_000, 2.0)])
    before = 0
    for inserted, ratio in ((10_000, 32.0), (30_000, 8.0), (130_000, 2.0)):
        start = limiter.inserted
        play_and_train(limiter, inserted)
        assert (limiter.sampled - before) / (limiter.inserted - start) == pytest.approx(ratio, rel=0.05)
        before = limiter.sampled
    assert limiter.owed(130_000) == 32 * 10_000 + 8 * 20_000 + 2 * 100_000


@settings(deadline=None)
@given(limiter=limiters, inserted=st.integers(0, 200_000), sampled=st.integers(0, 10**7))
def test_room_is_as_much_as_the_schedule_lets_in(limiter: RateLimiter, inserted: int, sampled: int) -> None:
    limiter.inserted, limiter.sampled = limiter.min_size + inserted, sampled
    room = limiter.room()
    assert sampled - limiter.owed(limiter.inserted + room + 1) < -limiter.buffer + 1e-3
    if room:
        assert sampled - limiter.owed(limiter.inserted + room) >= -limiter.buffer - 1e-3


def test_a_schedule_that_is_changed_between_jobs_is_no_debt_and_no_standstill() -> None:
    before = RateLimiter(8.0, 1000, 0.1, sample_chunk=64, insert_chunk=16)
    play_and_train(before, 50_000)
    for schedule in ([(10_000, 64.0)], [(10_000, 1.0)]):
        after = RateLimiter(8.0, 1000, 0.1, sample_chunk=64, insert_chunk=16, schedule=schedule)
        after.load_state_dict(before.state_dict(), inserted=before.inserted)
        assert abs(after.ahead) <= after.buffer + 1
        assert after.sampled == before.sampled  # what was sampled stays true
        # On from the edge of the band, where a resume may put it, into its middle.
        if after.ahead < 0:
            after.record_sample(int(after.buffer / 2))
        else:
            after.record_insert(int(after.buffer / 2))
        assert 0 < abs(after.ahead) < after.buffer
        again = RateLimiter(8.0, 1000, 0.1, sample_chunk=64, insert_chunk=16, schedule=schedule)
        again.load_state_dict(after.state_dict(), inserted=after.inserted)
        assert (again.sampled, again.ahead) == (after.sampled, after.ahead)


def test_a_rate_that_comes_later_widens_nothing_before_it() -> None:
    """Nor does one that is past leave its wide buffer behind."""
    plain = RateLimiter(1.0, 1000, 0.2, sample_chunk=64, insert_chunk=16)
    rising = RateLimiter(1.0, 1000, 0.2, sample_chunk=64, insert_chunk=16, schedule=[(50_000, 32.0)])
    falling = RateLimiter(32.0, 1000, 0.2, sample_chunk=64, insert_chunk=16, schedule=[(10_000, 1.0)])
    for limiter in (plain, rising, falling):
        limiter.record_insert(20_000)
        assert limiter.buffer == 200
    rising.record_insert(30_000)
    assert rising.buffer == 0.2 * 32 * 1000


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
    options.append("samples_per_insert_schedule=[[10000, 2], [20000, 0.5]]")
    config = load_config(None, [*options, "batch_size=8", "num_actors=2"])
    limiter = RateLimiter.from_config(config)
    assert limiter.min_size == 9000
    assert limiter.buffer == 0.5 * 3.0 * 9000
    assert limiter.owed(40_000) == 3 * 10_000 + 2 * 10_000 + 0.5 * 20_000
    assert [config.samples_per_insert_at(steps) for steps in (0, 9_999, 10_000, 19_999, 20_000)] == [3, 3, 2, 2, 0.5]


@pytest.mark.parametrize(
    "schedule", ["[[20000, 16], [10000, 8]]", "[[10000, 16], [10000, 8]]", "[[1, .inf]]", "[[1, 0]]", "[[0, 1]]", "8"]
)
def test_a_schedule_that_makes_no_sense_is_refused(tmp_path: Path, schedule: str) -> None:
    (tmp_path / "config.yaml").write_text(f"samples_per_insert_schedule: {schedule}")
    with pytest.raises(UserError, match="samples_per_insert_schedule"):
        load_config(tmp_path / "config.yaml")


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
