"""Blocks: a round trip keeps every field, and nothing but `BlockError` comes of bad bytes."""

from __future__ import annotations

import dataclasses
import struct
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from sequence_fixtures import make_builder, play, resealed, small_spec, summary_of, with_header

from cluster_rl.learning.sequences import BlockSpec, Sequence
from cluster_rl.wire.codec import (
    BlockError,
    SequenceHeader,
    decode_arrays,
    decode_header,
    encode_block,
    max_block_bytes,
)

SPEC = small_spec()
SEQUENCES = play(make_builder(SPEC), 5, 11, milestones={1: ["first_badge"]}, summary=summary_of(11))


def changed_arrays(sequence: Sequence, **changes: Any) -> bytes:
    return encode_block(dataclasses.replace(sequence, **changes))


@pytest.mark.parametrize("index", range(len(SEQUENCES)))
def test_round_trip(index: int) -> None:
    sequence = SEQUENCES[index]
    sequence.initial_priority = 2.5
    block = encode_block(sequence)
    assert len(block) <= max_block_bytes(SPEC)
    header, arrays = decode_arrays(block, SPEC)
    assert header == decode_header(block, SPEC) == decode_header(memoryview(block))
    for field in dataclasses.fields(arrays):
        expected, got = getattr(sequence, field.name), getattr(arrays, field.name)
        assert got.dtype == expected.dtype
        assert np.array_equal(got, expected), field.name
    for name in SequenceHeader.__struct_fields__:
        if hasattr(sequence, name):
            assert getattr(header, name) == getattr(sequence, name), name
    assert header.tail_length == sequence.tail_length


def test_the_header_needs_no_payload() -> None:
    block = resealed(encode_block(SEQUENCES[0]), payload=b"not zstd at all")
    assert decode_header(block, SPEC).train_length == SPEC.unroll_length
    with pytest.raises(BlockError, match="payload"):
        decode_arrays(block, SPEC)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_flipped_and_missing_bytes_raise_block_error(data: st.DataObject) -> None:
    block = bytearray(encode_block(SEQUENCES[data.draw(st.integers(0, len(SEQUENCES) - 1))]))
    if data.draw(st.booleans()):
        for position in data.draw(st.sets(st.integers(0, len(block) - 1), min_size=1, max_size=4)):
            block[position] ^= data.draw(st.integers(1, 255))
    else:
        del block[data.draw(st.integers(0, len(block) - 1)) :]
    with pytest.raises(BlockError):
        decode_header(block, SPEC)
    with pytest.raises(BlockError):
        decode_arrays(block, SPEC)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damage_under_a_right_crc_never_gives_another_exception(data: st.DataObject) -> None:
    block = encode_block(SEQUENCES[1])
    length = struct.unpack_from("<I", block, 4)[0]
    parts = [bytearray(block[8 : 8 + length]), bytearray(block[8 + length : -4])]
    part = parts[data.draw(st.integers(0, 1))]
    for position in data.draw(st.sets(st.integers(0, len(part) - 1), min_size=1, max_size=3)):
        part[position] = data.draw(st.integers(0, 255))
    try:
        header, arrays = decode_arrays(resealed(block, bytes(parts[0]), bytes(parts[1])), SPEC)
    except BlockError:
        return
    # A value was changed into another allowed one.
    assert arrays.reward.shape == (header.positions,)
    assert np.isfinite(arrays.reward).all()


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_raise_block_error(noise: bytes) -> None:
    for data in (noise, resealed(encode_block(SEQUENCES[0]), header=noise)):
        with pytest.raises(BlockError):
            decode_arrays(data, SPEC)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": 2**31 - 1}, "tail_length"),
        ({"positions": 1}, "no tail"),
        ({"train_length": SPEC.unroll_length + 1}, "train_length"),
        ({"train_length": 0}, "no trained position"),
        ({"burn_in_length": 1}, "burn_in_length"),
        ({"context_size": 2**31 - 1}, "context_size"),
        ({"num_actions": 8}, "num_actions"),
        ({"crop_side": 1}, "crop_side"),
        ({"hidden_size": 2**30}, "hidden_size"),
        ({"terminated": True}, "has not ended"),
        ({"initial_priority": float("nan")}, "priority"),
        ({"initial_priority": -1.0}, "priority"),
        ({"first_prev_reward": float("inf")}, "reward"),
        ({"first_prev_action": 8}, "previous action"),
        ({"epsilon": 1.5}, "epsilon"),
        ({"actor": -1}, "header"),
        ({"milestones": ["m"] * 257}, "header"),
    ],
)
def test_impossible_headers_are_refused_before_the_payload_is_touched(changes: dict[str, Any], message: str) -> None:
    block = with_header(encode_block(SEQUENCES[0]), **changes)
    with pytest.raises(BlockError, match=message):
        decode_header(block, SPEC)


@pytest.mark.parametrize("name", ["unroll_length", "burn_in", "n_step", "num_actions", "context_size", "hidden_size"])
def test_a_block_of_another_spec_is_refused(name: str) -> None:
    smaller = dataclasses.replace(SPEC, **{name: getattr(SPEC, name) - 1})
    fullest = SEQUENCES[1]
    assert (fullest.burn_in_length, fullest.train_length, fullest.tail_length) == (3, 4, 2)
    decode_header(encode_block(fullest), SPEC)
    with pytest.raises(BlockError, match="expected"):
        decode_header(encode_block(fullest), smaller)


def test_a_decompression_bomb_is_refused_by_its_claim() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(50_000_000))
    block = resealed(encode_block(SEQUENCES[0]), payload=bomb)
    assert len(block) < max_block_bytes(SPEC)
    with pytest.raises(BlockError, match="claims 50000000 bytes"):
        decode_arrays(block, SPEC)
    unsized = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    payload = unsized.compress(bytes(50_000_000)) + unsized.flush()
    with pytest.raises(BlockError, match="claims"):
        decode_arrays(resealed(encode_block(SEQUENCES[0]), payload=payload), SPEC)


def test_bytes_after_the_frame_are_refused() -> None:
    block = encode_block(SEQUENCES[0])
    length = struct.unpack_from("<I", block, 4)[0]
    with pytest.raises(BlockError, match="decompressed"):
        decode_arrays(resealed(block, payload=block[8 + length : -4] + b"more"), SPEC)


def test_oversized_blocks_are_refused_by_their_length() -> None:
    with pytest.raises(BlockError, match="expected at most"):
        decode_header(bytes(max_block_bytes(SPEC) + 1), SPEC)


def test_another_version_says_so() -> None:
    block = bytearray(encode_block(SEQUENCES[0]))
    block[2] += 1
    with pytest.raises(BlockError, match="another version"):
        decode_header(block)


def test_values_that_would_poison_the_learner_are_refused() -> None:
    sequence = SEQUENCES[0]
    reward = sequence.reward.copy()
    reward[0] = np.nan
    action = sequence.action.copy()
    action[0] = SPEC.num_actions
    mask = sequence.mask.copy()
    mask[2] = False
    state = sequence.state_h.copy()
    state[0] = np.inf
    for changes, message in (
        ({"reward": reward}, "reward is not finite"),
        ({"action": action}, "action 7"),
        ({"mask": mask}, "no valid action"),
        ({"state_c": state}, "state_c is not finite"),
    ):
        with pytest.raises(BlockError, match=message):
            decode_arrays(changed_arrays(sequence, **changes), SPEC)


def test_an_actor_cannot_encode_what_the_learner_refuses() -> None:
    with pytest.raises(ValueError, match="priority"):
        changed_arrays(SEQUENCES[0], initial_priority=float("nan"))
    with pytest.raises(ValueError, match="arrays hold"):
        changed_arrays(SEQUENCES[0], context=SEQUENCES[0].context[:-1])
    with pytest.raises(ValueError, match="header takes"):
        changed_arrays(SEQUENCES[0], milestones=["\U0001f30d" * 64] * 256)


def test_no_block_is_longer_than_the_bound() -> None:
    rng = np.random.default_rng(0)
    spec = BlockSpec(80, 40, 5, 7, 200, 9, 512)
    p = spec.max_positions
    noise = Sequence(
        *(0, 0, 0, 0, 40, 40, 80),
        screen_packed=rng.integers(0, 256, (p, 72, 20), np.uint8),
        context=rng.integers(0, 256, (p, 200), np.uint8),
        crop=rng.integers(0, 256, (p, 2, 9, 9), np.uint8),
        mask=np.ones((p, 7), np.bool_),
        action=rng.integers(0, 7, p).astype(np.uint8),
        greedy=rng.random(p) < 0.5,
        reward=rng.normal(size=p).astype(np.float32),
        visits=rng.integers(0, 256, p, np.uint8),
        first_prev_action=7,
        first_prev_reward=0.0,
        state_h=rng.normal(size=512).astype(np.float16),
        state_c=rng.normal(size=512).astype(np.float16),
    )
    block = encode_block(noise)
    assert decode_header(block, spec).positions == p
    assert len(block) <= max_block_bytes(spec)
