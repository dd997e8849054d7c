"""Every message between an actor and the learner: its fields, its bytes, its limits.

Used by both ends, through the channels; docs/wire.md says when each is sent. A message is a header frame (one byte of
protocol version, then a msgpack map of one tagged struct) and, for `SequenceMessage` and `Params`, one raw frame.
Decoding is strict: whatever is not exactly one of these messages raises `MessageError`.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Sequence
from typing import Annotated, TypeVar

import msgspec

from cluster_rl.runs.small_file import DECODE_ERRORS

PROTOCOL_VERSION = 5
MAX_PARTS = 2
MAX_HEADER_BYTES = 16 * 1024
MAX_BLOCK_BYTES = 8 * 1024 * 1024
MAX_PARAMS_BYTES = 512 * 1024 * 1024

# Half of what msgpack and the files of the log can hold, so that a sum of two is a number too.
_MAX_COUNT = 2**62 - 1
Count = Annotated[int, msgspec.Meta(ge=0, le=_MAX_COUNT)]
Version = Annotated[int, msgspec.Meta(ge=-1, le=_MAX_COUNT)]
Name = Annotated[str, msgspec.Meta(max_length=200)]
Words = Annotated[str, msgspec.Meta(max_length=1000)]
Values = Annotated[dict[Annotated[str, msgspec.Meta(max_length=100)], float], msgspec.Meta(max_length=200)]


class MessageError(Exception):
    """Bytes that are no message of this protocol. One line; the receiver counts it and goes on."""


class ProtocolMismatchError(MessageError):
    """A message of another protocol version: the peer runs other code and should be told so."""


class _Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the messages: immutable, every field required by name, no unknown fields."""


class Hello(_Message, frozen=True, tag="hello"):
    """Actor: I am here. Sent on every connection, and again whenever an answer is overdue."""

    run: Name
    schema_hash: Name
    actor: Count
    incarnation: Count  # unique to this actor process, growing with time
    lowest_unacked: Count  # nothing below it can be sent again
    next_seq: Count  # the number its next new sequence will get


class SequenceMessage(_Message, frozen=True, tag="sequence"):
    """Actor: one sequence block, in the raw frame."""

    incarnation: Count
    seq: Count
    block_bytes: Count
    crc32: Count


class ParamsRequest(_Message, frozen=True, tag="params_request"):
    """Actor: have you parameters newer than this version? -1 takes any."""

    newer_than: Version


class ActorStats(_Message, frozen=True, tag="actor_stats"):
    """Actor: how it is doing; also the sign that it lives. `values` are named numbers for the metrics."""

    env_steps_per_sec: float
    params_version: Version
    values: Values


class Goodbye(_Message, frozen=True, tag="goodbye"):
    """Actor: I end now, for this reason."""

    reason: Words


class Welcome(_Message, frozen=True, tag="welcome"):
    """Learner: the answer to Hello."""

    learner_incarnation: Count
    incarnation: Count  # the actor's, so that an answer to a predecessor of the same name is not taken
    expected_seq: Count  # send from here; everything below has arrived
    may_send_up_to: Count
    params_version: Version


class Ack(_Message, frozen=True, tag="ack"):
    """Learner: all sequences below `next_seq` are on the disk; send those below `may_send_up_to`."""

    incarnation: Count
    next_seq: Count
    may_send_up_to: Count


class Params(_Message, frozen=True, tag="params"):
    """Learner: the newest parameters, in the raw frame. `updates` is the learner's update count."""

    version: Count
    updates: Count
    size_bytes: Count
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class ParamsUnchanged(_Message, frozen=True, tag="params_unchanged"):
    """Learner: nothing newer than you have; -1 while none are published."""

    version: Version


class Stop(_Message, frozen=True, tag="stop"):
    """Learner: it stops. Send what is open, whatever the credit. `complete`: the run is, and no learner follows."""

    reason: Words
    complete: bool


class Wait(_Message, frozen=True, tag="wait"):
    """Learner: not now, and why; say Hello again in a second."""

    reason: Words


class Refused(_Message, frozen=True, tag="refused"):
    """Learner: you cannot take part, and why."""

    reason: Words


ActorMessage = Hello | SequenceMessage | ParamsRequest | ActorStats | Goodbye
LearnerMessage = Welcome | Ack | Params | ParamsUnchanged | Stop | Wait | Refused

_Decoded = TypeVar("_Decoded")
_encoder = msgspec.msgpack.Encoder()
_actor_decoder = msgspec.msgpack.Decoder(ActorMessage)
_learner_decoder = msgspec.msgpack.Decoder(LearnerMessage)
_VERSION_BYTE = bytes([PROTOCOL_VERSION])


def encode(message: ActorMessage | LearnerMessage) -> bytes:
    """The header frame of a message."""
    return _VERSION_BYTE + _encoder.encode(message)


def decode_from_actor(parts: Sequence[bytes], max_block_bytes: int = MAX_BLOCK_BYTES) -> tuple[ActorMessage, bytes]:
    """What an actor sent: the message and its raw frame (empty unless it is a `SequenceMessage`).

    Raises `MessageError` for anything else, a block with another size or checksum than announced included.
    """
    message, frame = _decode(parts, _actor_decoder, max_block_bytes)
    if isinstance(message, SequenceMessage):
        _check_frame(parts, message.block_bytes, "sequence block")
        if zlib.crc32(frame) != message.crc32:
            raise MessageError(f"sequence {message.seq}: its checksum does not match")
    elif len(parts) > 1:
        raise MessageError(f"{type(message).__name__} with a second frame")
    elif isinstance(message, ActorStats):
        figures = (message.env_steps_per_sec, *message.values.values())
        if not all(map(math.isfinite, figures)):
            raise MessageError("ActorStats with a figure that is not finite")
    return message, frame


def decode_from_learner(
    parts: Sequence[bytes], max_params_bytes: int = MAX_PARAMS_BYTES
) -> tuple[LearnerMessage, bytes]:
    """What the learner sent: the message and its raw frame (empty unless it is `Params`). Raises `MessageError`."""
    message, frame = _decode(parts, _learner_decoder, max_params_bytes)
    if isinstance(message, Params):
        _check_frame(parts, message.size_bytes, "parameters")
        if hashlib.sha256(frame).hexdigest() != message.sha256:
            raise MessageError(f"parameters {message.version}: their SHA-256 does not match")
    elif len(parts) > 1:
        raise MessageError(f"{type(message).__name__} with a second frame")
    return message, frame


def _decode(
    parts: Sequence[bytes], decoder: msgspec.msgpack.Decoder[_Decoded], max_frame_bytes: int
) -> tuple[_Decoded, bytes]:
    if not 1 <= len(parts) <= MAX_PARTS:
        raise MessageError(f"{len(parts)} frames, a message has 1 to {MAX_PARTS}")
    header, frame = parts[0], parts[1] if len(parts) == 2 else b""
    if not 2 <= len(header) <= MAX_HEADER_BYTES:
        raise MessageError(f"header of {len(header)} bytes, allowed are 2 to {MAX_HEADER_BYTES}")
    if len(frame) > max_frame_bytes:
        raise MessageError(f"frame of {len(frame)} bytes, at most {max_frame_bytes} are allowed")
    if header[0] != PROTOCOL_VERSION:
        raise ProtocolMismatchError(f"protocol {header[0]}, this side speaks {PROTOCOL_VERSION}")
    try:
        return decoder.decode(memoryview(header)[1:]), frame
    except DECODE_ERRORS as error:
        raise MessageError(f"not a message: {error}") from None


def _check_frame(parts: Sequence[bytes], announced_bytes: int, what: str) -> None:
    if len(parts) != 2:
        raise MessageError(f"{what}: the frame is missing")
    if len(parts[1]) != announced_bytes:
        raise MessageError(f"{what}: {len(parts[1])} bytes, announced were {announced_bytes}")
