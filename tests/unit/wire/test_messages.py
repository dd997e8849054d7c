"""Strict decoding: every message comes back equal, and nothing else is taken for one."""

from __future__ import annotations

import hashlib
import zlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster_rl.wire import messages
from cluster_rl.wire.messages import MessageError, decode_from_actor, decode_from_learner, encode

BLOCK = b"block bytes"
WEIGHTS = b"weights"
FROM_ACTOR = [
    messages.Hello(run="r", schema_hash="s", actor=3, incarnation=2**62 - 1, lowest_unacked=5, next_seq=9),
    messages.SequenceMessage(incarnation=1, seq=0, block_bytes=len(BLOCK), crc32=zlib.crc32(BLOCK)),
    messages.ParamsRequest(newer_than=-1),
    messages.ActorStats(env_steps_per_sec=1.5, params_version=-1, values={"a": 1.0}),
    messages.Goodbye(reason="done"),
]
FROM_LEARNER = [
    messages.Welcome(learner_incarnation=1, incarnation=2, expected_seq=3, may_send_up_to=4, params_version=-1),
    messages.Ack(incarnation=1, next_seq=2, may_send_up_to=3),
    messages.Params(version=1, updates=20, size_bytes=len(WEIGHTS), sha256=hashlib.sha256(WEIGHTS).hexdigest()),
    messages.ParamsUnchanged(version=-1),
    messages.Stop(reason="target reached", complete=True),
    messages.Wait(reason="later"),
    messages.Refused(reason="no"),
]


def parts_of(message: messages.ActorMessage | messages.LearnerMessage) -> list[bytes]:
    frames = {messages.SequenceMessage: [BLOCK], messages.Params: [WEIGHTS]}.get(type(message), [])
    return [encode(message), *frames]


def header(fields: object) -> bytes:
    return bytes([messages.PROTOCOL_VERSION]) + msgspec.msgpack.encode(fields)


@pytest.mark.parametrize("message", FROM_ACTOR, ids=lambda m: type(m).__name__)
def test_actor_messages_round_trip(message: messages.ActorMessage) -> None:
    decoded, frame = decode_from_actor(parts_of(message))
    assert decoded == message
    assert frame == (BLOCK if isinstance(message, messages.SequenceMessage) else b"")


@pytest.mark.parametrize("message", FROM_LEARNER, ids=lambda m: type(m).__name__)
def test_learner_messages_round_trip(message: messages.LearnerMessage) -> None:
    decoded, frame = decode_from_learner(parts_of(message))
    assert decoded == message
    assert frame == (WEIGHTS if isinstance(message, messages.Params) else b"")


@pytest.mark.parametrize("message", FROM_ACTOR, ids=lambda m: type(m).__name__)
def test_a_message_of_the_other_direction_is_none(message: messages.ActorMessage) -> None:
    with pytest.raises(MessageError):
        decode_from_learner(parts_of(message))


SEQUENCE = FROM_ACTOR[1]
BAD = {
    "no frames": ([], "0 frames"),
    "empty header": ([b""], "header of 0 bytes"),
    "too many frames": ([encode(SEQUENCE), BLOCK, b""], "3 frames"),
    "unknown tag": ([header({"type": "pickle"})], "pickle"),
    "no tag": ([header({})], "type"),
    "not msgpack": ([bytes([messages.PROTOCOL_VERSION]) + b"\xc1\xc1"], "not a message"),
    "wrong type": ([header({"type": "params_request", "newer_than": "1"})], "newer_than"),
    "bool for a number": ([header({"type": "params_request", "newer_than": True})], "newer_than"),
    "negative": ([header({"type": "params_request", "newer_than": -2})], "newer_than"),
    "number too large": ([header({"type": "params_request", "newer_than": 2**62})], "newer_than"),
    "infinite figure": (
        [header({"type": "actor_stats", "env_steps_per_sec": 1.0, "params_version": 0, "values": {"a": float("inf")}})],
        "not finite",
    ),
    "no number for a figure": (
        [header({"type": "actor_stats", "env_steps_per_sec": float("nan"), "params_version": 0, "values": {}})],
        "not finite",
    ),
    "unknown field": ([header({"type": "params_request", "newer_than": 1, "extra": 1})], "extra"),
    "missing field": ([header({"type": "goodbye"})], "reason"),
    "header too long": ([header({"type": "goodbye", "reason": "x" * 20_000})], "header of"),
    "words too long": ([header({"type": "goodbye", "reason": "x" * 2_000})], "reason"),
    "not UTF-8": (
        [header({"type": "goodbye"})[:1] + b"\x82\xa4type\xa7goodbye\xa6reason\xa2\xff\xfe"],
        "not a message",
    ),
    "frame missing": ([encode(SEQUENCE)], "the frame is missing"),
    "frame not expected": ([encode(FROM_ACTOR[4]), b"x"], "Goodbye with a second frame"),
    "frame too short": ([encode(SEQUENCE), BLOCK[:-1]], "announced were"),
    "frame changed": ([encode(SEQUENCE), b"BLOCK bytes"], "checksum"),
    "frame too large": ([encode(SEQUENCE), bytes(101)], "at most 100"),
    "trailing bytes": ([encode(FROM_ACTOR[4]) + b"\x00"], "not a message"),
}


@pytest.mark.parametrize(("parts", "says"), BAD.values(), ids=BAD.keys())
def test_bad_messages_are_refused_in_one_line(parts: list[bytes], says: str) -> None:
    with pytest.raises(MessageError, match=says) as caught:
        decode_from_actor(parts, max_block_bytes=100)
    assert "\n" not in str(caught.value)


def test_another_protocol_version_has_its_own_error() -> None:
    other = bytes([messages.PROTOCOL_VERSION + 1]) + encode(FROM_ACTOR[0])[1:]
    with pytest.raises(messages.ProtocolMismatchError, match=f"this side speaks {messages.PROTOCOL_VERSION}"):
        decode_from_actor([other])


def test_params_with_another_digest_are_refused() -> None:
    with pytest.raises(MessageError, match="SHA-256"):
        decode_from_learner([encode(FROM_LEARNER[2]), b"weighty"])


def test_deep_nesting_is_no_crash() -> None:
    deep = bytes([messages.PROTOCOL_VERSION]) + b"\x82\xa4type\xa7goodbye\xa6reason" + b"\x91" * 10_000 + b"\x00"
    with pytest.raises(MessageError):
        decode_from_actor([deep])
    unknown = bytes([messages.PROTOCOL_VERSION]) + b"\x82\xa1x" + b"\x91" * 10_000 + b"\x00"
    with pytest.raises(MessageError):
        decode_from_actor([unknown])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=4), st.booleans())
def test_any_bytes_decode_or_raise_message_error(parts: list[bytes], with_version: bool) -> None:
    if with_version and parts:
        parts = [bytes([messages.PROTOCOL_VERSION]) + parts[0], *parts[1:]]
    for decode in (decode_from_actor, decode_from_learner):
        try:
            decode(parts)
        except MessageError as error:
            assert str(error)  # noqa: PT017 (any other exception fails the test)
