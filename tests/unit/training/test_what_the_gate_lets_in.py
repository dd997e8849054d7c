"""Whatever `Trainer.ingest` takes, nothing that reads it raises and all figures stay finite, also after a restart."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from hypothesis import event, given, settings
from hypothesis import strategies as st
from sequence_fixtures import make_builder, play, start_at, summary_of, with_header
from trainer_fixtures import BLOCK, MILESTONES, changed, open_trainer

from cluster_rl.config import RewardWeights
from cluster_rl.training.metrics import read_metrics
from cluster_rl.training.trainer import Trainer
from cluster_rl.wire.codec import MAX_EMULATORS, MAX_PRIORITY, MAX_REWARD, BlockError, encode_block

ACTOR, INCARNATION = 2, 10**18
STEPS = 6  # of an episode: windows of 4 and 2 steps
FIRST, LAST = (encode_block(sequence) for sequence in play(make_builder(BLOCK), 0, STEPS, summary=summary_of(STEPS)))
TERMS = [field.name for field in msgspec.structs.fields(RewardWeights)]

numbers = st.one_of(
    st.floats(), st.floats(-1e6, 1e6), st.sampled_from([0.0, 1e6, 6e6, MAX_PRIORITY, 1.7e308, 3.5e38, 5e-324])
)
counts = st.one_of(st.integers(0, 7), st.integers(-1, 2**63), st.sampled_from([2**31 - 1, 2**53, 2**62]))
names = st.one_of(st.sampled_from([*MILESTONES, *TERMS]), st.text(max_size=70))
reached = st.lists(st.tuples(names, counts).map(list), max_size=4)
starts = st.fixed_dictionaries(
    {
        "id": names,
        "tag": st.sampled_from(["beginning", "school", "state", "archive", "other"]),
        "milestones": st.lists(names, max_size=3),
    }
)
summaries = st.one_of(
    st.none(),
    st.just(msgspec.to_builtins(summary_of(STEPS))),
    st.fixed_dictionaries(
        {
            "episode_steps": st.one_of(st.just(STEPS), counts),
            "episode_return": st.one_of(numbers, st.text(max_size=3)),
            "terms": st.dictionaries(names, numbers, max_size=4),
            "milestones": reached,
            "final_map": counts,
            "reason": st.sampled_from(["terminated", "truncated", "stopped", "other"]),
            "seed": counts,
            "start": st.one_of(st.just(msgspec.to_builtins(start_at("beginning"))), starts),
            "cells": counts,
            "loop_share": st.one_of(st.floats(0, 1), numbers),
            "entropy": st.one_of(st.none(), numbers),
        },
        optional={"more": numbers},
    ),
)
changes = st.fixed_dictionaries(
    {},
    optional={
        "emulator": counts,
        "params_version": counts,
        "epsilon": st.one_of(st.floats(0, 1), numbers),
        "initial_priority": numbers,
        "first_prev_action": counts,
        "first_prev_reward": numbers,
        "terminated": st.booleans(),
        "segment_ended": st.booleans(),
        "milestones": st.lists(names, max_size=3),
        "summary": summaries,
    },
)
allowed = st.fixed_dictionaries(
    {},
    optional={
        "emulator": st.integers(0, MAX_EMULATORS - 1),
        "params_version": st.sampled_from([0, 1, 2**53]),
        "epsilon": st.floats(0, 1),
        "initial_priority": st.one_of(st.floats(0, MAX_PRIORITY), st.sampled_from([0.0, 5e-324, MAX_PRIORITY])),
        "first_prev_reward": st.floats(-MAX_REWARD, MAX_REWARD),
        "milestones": st.lists(st.sampled_from(sorted(MILESTONES)), max_size=3),
    },
)


def look(trainer: Trainer) -> None:
    """All that a learner makes of what arrived."""
    trainer.write_metrics()
    trainer.write_progress()
    json.dumps(trainer.replay.totals())
    if trainer.replay.sequences:
        arrays = trainer.replay.sample(trainer.sample_rng, 8)
        for array in arrays.values():
            assert np.isfinite(array).all()
        assert arrays["weights"].max() == 1
        assert 0 < trainer.replay.effective_sample_size() <= 1.0001
    row = read_metrics(trainer.run_dir.metrics)[-1]
    assert not [name for name, value in row.items() if value is None]
    assert {name.partition("/")[2] for name in row if name.startswith("milestone")} <= MILESTONES
    assert {name.partition("/")[2] for name in row if name.startswith("reward/")} <= set(TERMS)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([FIRST, LAST]), st.one_of(allowed, changes)), min_size=4, max_size=12))
def test_what_is_let_in_does_no_harm(sent: list[tuple[bytes, dict[str, Any]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trainer = open_trainer(Path(folder), changed(min_replay_transitions=1))
        let_in, steps = 0, 0
        for episode, (block, change) in enumerate(sent):
            numbers_of = {"actor": ACTOR, "incarnation": INCARNATION, "episode": episode}
            try:
                result = trainer.ingest(ACTOR, INCARNATION, episode, with_header(block, **numbers_of, **change))
            except BlockError:
                continue
            let_in, steps = let_in + 1, steps + result.header.train_length
        event(f"{let_in > 0} let in, {let_in < len(sent)} refused")
        look(trainer)
        trainer.checkpoint()
        kept = (trainer.replay.env_steps, trainer.replay.episodes, trainer.replay.totals())
        assert kept[0] == steps
        trainer.replay.close()  # killed
        again = open_trainer(Path(folder), trainer.config)
        assert (again.replay.env_steps, again.replay.episodes, again.replay.totals()) == kept
        assert (again.replay.sequences, again.replay.damaged) == (let_in, 0)
        look(again)
        if let_in:
            again.update(again.sample())
            assert np.isfinite(again.replay.state_dict()["priorities"]).all()
        again.close("test")
