"""The window rules of `SequenceBuilder`, against an independent statement of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sequence_fixtures import (
    action_of,
    greedy_of,
    make_builder,
    observation,
    play,
    reward_of,
    small_spec,
    state_of,
    summary_of,
    visits_of,
)

from cluster_rl.config import load_config
from cluster_rl.learning.sequences import BlockSpec, Sequence


def check_contents(sequence: Sequence, spec: BlockSpec, episode_length: int, terminated: bool) -> None:
    """Every field of a sequence must be what the episode had at that position."""
    start, stop = sequence.first_step, sequence.first_step + sequence.train_length
    b = min(spec.burn_in, start)
    last = min(stop - 1 + spec.n_step, episode_length)
    assert sequence.burn_in_length == b
    assert 1 <= sequence.train_length <= spec.unroll_length
    assert sequence.positions == last - (start - b) + 1
    assert sequence.tail_length == last - stop + 1
    assert 1 <= sequence.tail_length <= spec.n_step
    for row, step in enumerate(range(start - b, last + 1)):
        screen, context, crop, mask = observation(spec, sequence.episode, step)
        assert np.array_equal(sequence.screen_packed[row], screen)
        assert np.array_equal(sequence.context[row], context)
        assert np.array_equal(sequence.crop[row], crop)
        assert np.array_equal(sequence.mask[row], mask)
        if step < last:
            assert sequence.action[row] == action_of(step)
            assert sequence.greedy[row] == greedy_of(step)
            assert sequence.reward[row] == np.float32(reward_of(sequence.episode, step))
            assert sequence.visits[row] == min(255, visits_of(step))
    assert sequence.action[-1] == 0
    assert not sequence.greedy[-1]
    assert sequence.reward[-1] == 0
    assert sequence.visits[-1] == 0
    first = start - b
    assert sequence.first_prev_action == (action_of(first - 1) if first else spec.num_actions)
    assert sequence.first_prev_reward == (np.float32(reward_of(sequence.episode, first - 1)) if first else 0)
    assert np.array_equal(sequence.state_h, state_of(spec, first, 0))
    assert np.array_equal(sequence.state_c, state_of(spec, first, 1))
    # A window whose full tail fits strictly before the final observation goes out while the segment goes on.
    assert sequence.segment_ended == (stop - 1 + spec.n_step >= episode_length)
    assert sequence.terminated == (sequence.segment_ended and terminated)


@settings(max_examples=80, deadline=None)
@given(
    spec=st.builds(small_spec, st.integers(1, 7), st.integers(0, 6), st.integers(1, 6)),
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    phase=st.integers(0, 6),
    terminated=st.booleans(),
)
def test_every_step_is_trained_exactly_once(spec: BlockSpec, lengths: list[int], phase: int, terminated: bool) -> None:
    builder = make_builder(spec)
    clock = phase  # the actor's step clock runs on over episodes
    for episode, length in enumerate(lengths):
        cuts = {step for step in range(length) if (clock + step) % spec.unroll_length == 0}
        sequences = play(builder, episode, length, cuts, terminated=terminated, summary=summary_of(length))
        clock += length
        trained = [s.first_step + i for s in sequences for i in range(s.train_length)]
        assert trained == list(range(length))
        edges = {s.first_step for s in sequences} - {0}
        assert edges == cuts - {0}
        for sequence in sequences:
            assert sequence.episode == episode
            check_contents(sequence, spec, length, terminated)
        assert [s.summary for s in sequences] == [None] * (len(sequences) - 1) + [summary_of(length)]


@settings(max_examples=60, deadline=None)
@given(cuts=st.sets(st.integers(0, 40)), spec=st.builds(small_spec, st.integers(1, 9)), length=st.integers(1, 40))
def test_cuts_at_any_step_and_windows_without_a_clock(cuts: set[int], spec: BlockSpec, length: int) -> None:
    sequences = play(make_builder(spec), 0, length, cuts)
    assert [s.first_step + i for s in sequences for i in range(s.train_length)] == list(range(length))
    for sequence in sequences:
        check_contents(sequence, spec, length, terminated=True)


def test_window_comes_with_the_observation_that_completes_its_tail() -> None:
    spec = small_spec(unroll_length=4, burn_in=3, n_step=2)
    builder = make_builder(spec)
    builder.begin(0)
    came = {}
    for step in range(12):
        for sequence in builder.add(
            *observation(spec, 0, step), 0, True, 0.0, 0, state_of(spec, step, 0), state_of(spec, step, 1)
        ):
            came[sequence.first_step] = step
    assert came == {0: 5, 4: 9}


def test_params_version_and_epsilon_are_those_of_the_first_trained_step() -> None:
    spec = small_spec(unroll_length=4, n_step=2)
    builder = make_builder(spec)
    builder.begin(0)
    builder.params_version, builder.epsilon = 7, 1.0
    sequences: list[Sequence] = []
    for step in range(8):
        if step == 2:
            builder.params_version, builder.epsilon = 8, 0.5
        sequences += builder.add(
            *observation(spec, 0, step), 0, True, 0.0, 0, state_of(spec, step, 0), state_of(spec, step, 1)
        )
    sequences += builder.end(*observation(spec, 0, 8), terminated=False)
    assert [(s.first_step, s.params_version, s.epsilon) for s in sequences] == [(0, 7, 1.0), (4, 8, 0.5)]


def test_milestones_go_with_the_window_that_trains_their_step() -> None:
    spec = small_spec(unroll_length=4, n_step=3)
    reached = {0: ["a"], 3: ["b", "c"], 4: ["d"], 9: ["e"]}
    sequences = play(make_builder(spec), 0, 10, milestones=reached)
    assert [s.milestones for s in sequences] == [["a", "b", "c"], ["d"], ["e"]]


def test_quantiles_cover_trained_and_tail_positions() -> None:
    spec = small_spec(unroll_length=4, burn_in=3, n_step=2)
    builder = make_builder(spec, head_outputs=2)
    builder.begin(0)

    def quantiles(step: int) -> np.ndarray:
        return np.full((7, 2), step, np.float32)

    sequences: list[Sequence] = []
    for step in range(6):
        state = state_of(spec, step, 0)
        sequences += builder.add(*observation(spec, 0, step), 0, True, 0.0, 0, state, state, quantiles(step))
    sequences += builder.end(*observation(spec, 0, 6), terminated=True)
    rows = [s.quantiles[:, 0, 0].tolist() for s in sequences if s.quantiles is not None]
    # The terminal observation got none: nothing bootstraps from it.
    assert rows == [[0, 1, 2, 3, 4, 5], [4, 5, 0]]
    assert sequences[1].burn_in_length == 3


def test_an_unfinished_episode_is_dropped_by_begin_and_an_empty_one_gives_nothing() -> None:
    spec = small_spec()
    builder = make_builder(spec)
    builder.begin(0)
    for step in range(5):
        builder.add(
            *observation(spec, 0, step), 0, True, 9.0, 0, state_of(spec, 5, 0), state_of(spec, 5, 1), milestones=["x"]
        )
    assert [(s.first_step, s.milestones) for s in play(builder, 1, 3)] == [(0, [])]
    builder.begin(2)
    assert builder.end(*observation(spec, 2, 0), terminated=False, summary=summary_of(0)) == ()


def test_a_step_outside_an_episode_is_refused() -> None:
    spec = small_spec()
    builder = make_builder(spec)
    play(builder, 0, 3)
    with pytest.raises(RuntimeError, match="no episode"):
        builder.add(*observation(spec, 0, 0), 0, True, 0.0, 0, state_of(spec, 0, 0), state_of(spec, 0, 1))
    with pytest.raises(RuntimeError, match="no episode"):
        builder.end(*observation(spec, 0, 0), terminated=True)


def test_sequences_are_copies() -> None:
    spec = small_spec()
    builder = make_builder(spec)
    first = play(builder, 0, 9)
    before = [s.screen_packed.copy() for s in first]
    play(builder, 1, 40)
    assert all(np.array_equal(s.screen_packed, screen) for s, screen in zip(first, before, strict=True))


def test_spec_follows_the_config() -> None:
    config = load_config(None, ["unroll_length=11", "burn_in=5", "n_step=3", "occupancy_crop_radius=2"])
    spec = BlockSpec.from_config(config, context_size=50, num_actions=7)
    assert spec.max_positions == 19
    assert spec.crop_side == 5
    assert (spec.context_size, spec.num_actions, spec.hidden_size) == (50, 7, config.lstm_hidden_size)
