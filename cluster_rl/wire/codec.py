"""The block codec: a `Sequence` as bytes, the same on the wire, on disk and in the replay, and back to arrays.

The actor encodes; the learner reads the header when a block arrives and the arrays when it is sampled. No pickle: a
msgpack header and plain little-endian arrays. Layout, integers little-endian:

    u32  magic and version       b"SQ" and a u16
    u32  header length
    ...  header                  msgpack array, `SequenceHeader`
    ...  payload                 one zstd frame (level 1) of the arrays, each whole before the next, screens first
    u32  CRC-32                  of all bytes before it

A block from elsewhere is never trusted: every length is checked against the spec before anything is allocated, every
number has a bound, and whatever is wrong raises `BlockError`.
"""

from __future__ import annotations

import math
import struct
import threading
import zlib
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import zstandard

from cluster_rl.config import RewardWeights
from cluster_rl.learning.sequences import (
    SCREEN_PACKED_SHAPE,
    BlockSpec,
    EpisodeSummary,
    Names,
    Sequence,
    StartTag,
    Steps,
    is_elsewhere,
)
from cluster_rl.runs.small_file import DECODE_ERRORS

__all__ = [
    "BlockArrays",
    "BlockError",
    "BlockSpec",
    "SequenceHeader",
    "decode_arrays",
    "decode_header",
    "encode_block",
    "max_block_bytes",
]

MAGIC = int.from_bytes(b"SQ\x03\x00", "little")
MAX_HEADER_BYTES = 64 * 1024
_PREFIX = struct.Struct("<II")
_CRC = struct.Struct("<I")
_SCREEN_BYTES = math.prod(SCREEN_PACKED_SHAPE)


MAX_REWARD = 1e6
"""Largest absolute reward of a step; an episode's sums of rewards are at most this for each of its steps."""
MAX_PRIORITY = 1e9
MAX_EMULATORS = 64
"""As `envs_per_actor` allows at most."""
MAX_GAP_SEQUENCES = 1_000_000
"""How far an actor's number may jump: only a log restored from an older copy has lost what came between, and no more
than an actor sends in its life."""
_TERMS = frozenset(field.name for field in msgspec.structs.fields(RewardWeights))

Refusal = Literal["damaged", "header", "shape", "value", "name", "sender", "order"]


class BlockError(ValueError):
    """A block that cannot be what an actor with our spec has sent. One line; `reason` is its kind, for counters.

    `damaged`: not the bytes that were made; `header`: no header of this version; `shape`: of another spec; `value`: a
    number out of its bounds; `name`: of nothing in the game; `sender`: made by another actor than the one that it came
    from; `order`: it does not come behind what was logged.
    """

    def __init__(self, message: str, reason: Refusal) -> None:
        super().__init__(message)
        self.reason = reason


_Incarnation = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
_Version = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Small = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class SequenceHeader(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What is known of a block without decompressing it. Field meanings as in `Sequence`; P is `positions`."""

    actor: _Small
    incarnation: _Incarnation
    emulator: Annotated[int, msgspec.Meta(ge=0, lt=MAX_EMULATORS)]
    episode: _Small
    first_step: Steps
    burn_in_length: _Small
    train_length: _Small
    positions: _Small
    num_actions: _Small
    context_size: _Small
    crop_side: _Small
    hidden_size: _Small
    first_prev_action: _Small
    first_prev_reward: float
    terminated: bool
    segment_ended: bool
    params_version: _Version  # also above the learner's own: its last updates may be lost in a crash
    epsilon: float
    initial_priority: float
    milestones: Names
    start_tag: StartTag
    summary: EpisodeSummary | None

    @property
    def tail_length(self) -> int:
        """k, positions after the trained ones."""
        return self.positions - self.burn_in_length - self.train_length

    @property
    def end_step(self) -> int:
        """Index in the episode of the first step after the trained ones."""
        return self.first_step + self.train_length

    @property
    def elsewhere(self) -> bool:
        """Whether its episode began elsewhere than the run's episodes begin by its config."""
        return is_elsewhere(self.start_tag)

    @property
    def ends_whole_episode(self) -> bool:
        """Whether it is the last of an episode that was played to its end, not broken off by the job's."""
        return self.summary is not None and self.summary.is_whole

    def age(self, updates: int) -> int:
        """Updates made since the parameters that it was played with, when `updates` have been made."""
        return max(0, updates - self.params_version)

    def check(self, spec: BlockSpec) -> None:
        """Raises `BlockError` unless a builder with this spec can have made the block."""
        for name in ("num_actions", "context_size", "crop_side", "hidden_size"):
            if getattr(self, name) != getattr(spec, name):
                raise BlockError(f"block: {name} is {getattr(self, name)}, expected {getattr(spec, name)}", "shape")
        for name, value, low, high in (
            ("burn_in_length", self.burn_in_length, 0, min(spec.burn_in, self.first_step)),
            ("train_length", self.train_length, 1, spec.unroll_length),
            ("tail_length", self.tail_length, 1 if self.segment_ended else spec.n_step, spec.n_step),
        ):
            if not low <= value <= high:
                raise BlockError(f"block: {name} is {value}, expected {low} to {high}", "shape")

    def check_names(self, milestones: frozenset[str]) -> None:
        """Raises `BlockError` if it names a milestone that the game does not have."""
        reached = set(self.milestones)
        if self.summary is not None:
            reached |= {*self.summary.start.milestones, *(name for name, _ in self.summary.milestones)}
        if unknown := reached - milestones:
            raise BlockError(f"block: the game has no milestone {min(unknown)!r}", "name")


@dataclass(frozen=True)
class BlockArrays:
    """The arrays of one block, read-only views into its decompressed payload (`mask` and `greedy` excepted)."""

    screen_packed: npt.NDArray[np.uint8]  # [P, 72, 20]
    context: npt.NDArray[np.uint8]  # [P, C]
    crop: npt.NDArray[np.uint8]  # [P, 2, S, S]
    mask: npt.NDArray[np.bool_]  # [P, A]
    action: npt.NDArray[np.uint8]  # [P]
    greedy: npt.NDArray[np.bool_]  # [P]
    reward: npt.NDArray[np.float32]  # [P]
    visits: npt.NDArray[np.uint8]  # [P]
    state_h: npt.NDArray[np.float16]  # [H]
    state_c: npt.NDArray[np.float16]  # [H]

    def previous(self, header: SequenceHeader) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Action and reward of the step before each position, [P] each: those of the block, one position later."""
        action = np.empty(header.positions, np.int64)
        action[0], action[1:] = header.first_prev_action, self.action[:-1]
        reward = np.empty(header.positions, np.float32)
        reward[0], reward[1:] = header.first_prev_reward, self.reward[:-1]
        return action, reward


class _Zstd(threading.local):
    """zstd contexts are reused, but must not be shared between threads."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=1)
        self.decompressor = zstandard.ZstdDecompressor()


_zstd = _Zstd()


def encode_block(sequence: Sequence) -> bytes:
    """The block of a sequence. Raises `ValueError` for a sequence that no learner would accept."""
    positions, hidden_size = sequence.positions, len(sequence.state_h)
    header = SequenceHeader(
        actor=sequence.actor,
        incarnation=sequence.incarnation,
        emulator=sequence.emulator,
        episode=sequence.episode,
        first_step=sequence.first_step,
        burn_in_length=sequence.burn_in_length,
        train_length=sequence.train_length,
        positions=positions,
        num_actions=sequence.mask.shape[1],
        context_size=sequence.context.shape[1],
        crop_side=sequence.crop.shape[2],
        hidden_size=hidden_size,
        first_prev_action=sequence.first_prev_action,
        first_prev_reward=float(sequence.first_prev_reward),
        terminated=sequence.terminated,
        segment_ended=sequence.segment_ended,
        params_version=sequence.params_version,
        epsilon=float(sequence.epsilon),
        initial_priority=float(sequence.initial_priority),
        milestones=sequence.milestones,
        start_tag=sequence.start_tag,
        summary=sequence.summary,
    )
    payload = b"".join(
        np.ascontiguousarray(array, dtype).tobytes()
        for array, dtype in (
            (sequence.screen_packed, np.uint8),
            (sequence.context, np.uint8),
            (sequence.crop, np.uint8),
            (np.packbits(sequence.mask, axis=1, bitorder="little"), np.uint8),
            (sequence.action, np.uint8),
            (np.packbits(sequence.greedy, bitorder="little"), np.uint8),
            (sequence.reward, "<f4"),
            (sequence.visits, np.uint8),
            (sequence.state_h, "<f2"),
            (sequence.state_c, "<f2"),
        )
    )
    if len(payload) != _payload_bytes(header):
        raise ValueError(f"sequence: its arrays hold {len(payload)} bytes, expected {_payload_bytes(header)}")
    header_bytes = msgspec.msgpack.encode(header)
    if len(header_bytes) > MAX_HEADER_BYTES:
        raise ValueError(f"sequence: its header takes {len(header_bytes)} bytes, at most {MAX_HEADER_BYTES} may")
    _read_header(header_bytes)
    body = b"".join(
        (_PREFIX.pack(MAGIC, len(header_bytes)), header_bytes, _zstd.compressor.compress(payload)),
    )
    return body + _CRC.pack(zlib.crc32(body))


def decode_header(block: bytes | bytearray | memoryview, spec: BlockSpec | None = None) -> SequenceHeader:
    """The header of a block, its CRC checked, nothing decompressed; with a spec, also checked against it.

    Raises `BlockError`.
    """
    return _split(block, spec)[0]


def decode_arrays(block: bytes | bytearray | memoryview, spec: BlockSpec) -> tuple[SequenceHeader, BlockArrays]:
    """Header and arrays of a block, all checked but the milestones' names and the place in its actor's order.

    Raises `BlockError`, before allocating more than the spec allows.
    """
    header, compressed = _split(block, spec)
    payload = _decompress(compressed, _payload_bytes(header))
    p, a, s, h = header.positions, header.num_actions, header.crop_side, header.hidden_size
    offset = 0

    def take(dtype: str, *shape: int) -> npt.NDArray[Any]:
        nonlocal offset
        count = math.prod(shape)
        array = np.frombuffer(payload, dtype, count, offset).reshape(shape)
        offset += array.nbytes
        return array

    arrays = BlockArrays(
        screen_packed=take("u1", p, *SCREEN_PACKED_SHAPE),
        context=take("u1", p, header.context_size),
        crop=take("u1", p, 2, s, s),
        mask=np.unpackbits(take("u1", p, _bitmap_bytes(a)), axis=1, count=a, bitorder="little").view(np.bool_),
        action=take("u1", p),
        greedy=np.unpackbits(take("u1", _bitmap_bytes(p)), count=p, bitorder="little").view(np.bool_),
        reward=take("<f4", p),
        visits=take("u1", p),
        state_h=take("<f2", h),
        state_c=take("<f2", h),
    )
    _check_values(arrays, header)
    return header, arrays


def max_block_bytes(spec: BlockSpec) -> int:
    """No valid block of this spec is longer: for the limits of sockets and of the log's reader."""
    raw = _raw_bytes(spec, spec.max_positions)
    # zstd's own bound for data that cannot be compressed (ZSTD_COMPRESSBOUND).
    compressed = raw + (raw >> 8) + 64 + ((128 * 1024 - raw) >> 11 if raw < 128 * 1024 else 0)
    return _PREFIX.size + MAX_HEADER_BYTES + compressed + _CRC.size


def _split(block: bytes | bytearray | memoryview, spec: BlockSpec | None) -> tuple[SequenceHeader, memoryview]:
    """Header and compressed payload of a block whose CRC is right."""
    view = memoryview(block)
    if len(view) < _PREFIX.size + _CRC.size:
        raise BlockError(f"block: {len(view)} bytes are too few", "damaged")
    if spec is not None and len(view) > max_block_bytes(spec):
        raise BlockError(f"block: {len(view)} bytes, expected at most {max_block_bytes(spec)}", "shape")
    magic, header_length = _PREFIX.unpack_from(view)
    if magic != MAGIC:
        raise BlockError(
            f"block: begins with {magic:#010x}, expected {MAGIC:#010x} (another version of the program?)", "damaged"
        )
    end = len(view) - _CRC.size
    if header_length > min(MAX_HEADER_BYTES, end - _PREFIX.size):
        raise BlockError(f"block: a header of {header_length} bytes does not fit", "damaged")
    if zlib.crc32(view[:end]) != _CRC.unpack_from(view, end)[0]:
        raise BlockError("block: CRC mismatch", "damaged")
    split = _PREFIX.size + header_length
    header = _read_header(view[_PREFIX.size : split])
    if spec is not None:
        header.check(spec)
    return header, view[split:end]


def _read_header(data: bytes | memoryview) -> SequenceHeader:
    try:
        header = msgspec.msgpack.decode(data, type=SequenceHeader)
    except DECODE_ERRORS as error:
        raise BlockError(f"block: header cannot be read: {error}", "header") from None
    _check_header(header)
    if header.summary is not None:
        _check_summary(header.summary, header)
    return header


def _check_header(header: SequenceHeader) -> None:
    """What holds for every spec. Comparisons are such that NaN fails them."""
    if not (0 <= header.epsilon <= 1 and 0 <= header.initial_priority <= MAX_PRIORITY):
        raise BlockError("block: epsilon or initial priority is out of range", "value")
    if not abs(header.first_prev_reward) <= MAX_REWARD or header.first_prev_action > header.num_actions:
        raise BlockError("block: the first previous action or reward is out of range", "value")
    if header.train_length < 1 or header.tail_length < 1:
        raise BlockError("block: it has no trained position or no tail", "shape")
    if not header.segment_ended and (header.terminated or header.summary is not None):
        raise BlockError("block: terminated or summarised, but its segment has not ended", "value")


def _check_summary(summary: EpisodeSummary, header: SequenceHeader) -> None:
    steps, names = summary.episode_steps, {name for name, _ in summary.milestones}
    if steps != header.end_step:
        raise BlockError(f"block: its episode has {steps} steps, but it ends at step {header.end_step}", "value")
    if not all(1 <= step <= steps for _, step in summary.milestones) or len(names) < len(summary.milestones):
        raise BlockError("block: its episode reached a milestone twice, or outside of its steps", "value")
    if names.intersection(summary.start.milestones):
        raise BlockError("block: its episode reached a milestone that was reached where it began", "value")
    if summary.start.tag != header.start_tag:
        raise BlockError(
            f"block: its episode began at {summary.start.tag}, but the sequence at {header.start_tag}", "value"
        )
    if summary.cells > steps + 1:
        raise BlockError(f"block: its episode has {summary.cells} cells in {steps} steps", "value")
    if unknown := summary.terms.keys() - _TERMS:
        raise BlockError(f"block: there is no reward term {min(unknown)!r}", "name")
    if not all(abs(value) <= MAX_REWARD * steps for value in (summary.episode_return, *summary.terms.values())):
        raise BlockError("block: its episode's return or a term of it is out of range", "value")


def _check_values(arrays: BlockArrays, header: SequenceHeader) -> None:
    """What one bad actor could poison the learner with."""
    if int(arrays.action.max()) >= header.num_actions:
        raise BlockError(f"block: action {int(arrays.action.max())}, expected less than {header.num_actions}", "value")
    if not arrays.mask.any(axis=1).all():
        raise BlockError("block: a position has no valid action", "value")
    if not (np.abs(arrays.reward) <= MAX_REWARD).all():
        raise BlockError(f"block: a reward is not finite or above {MAX_REWARD:g}", "value")
    for name in ("state_h", "state_c"):
        if not np.isfinite(getattr(arrays, name)).all():
            raise BlockError(f"block: {name} is not finite", "value")


def _decompress(compressed: memoryview, expected_bytes: int) -> bytes:
    try:
        # The frame's own claim is what the decompressor would allocate.
        claimed = zstandard.frame_content_size(compressed)
        if claimed != expected_bytes:
            raise BlockError(f"block: payload claims {claimed} bytes, expected {expected_bytes}", "damaged")
        payload: bytes = _zstd.decompressor.decompress(compressed, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise BlockError(f"block: payload cannot be decompressed: {error}", "damaged") from None
    if len(payload) != expected_bytes:
        raise BlockError(f"block: payload has {len(payload)} bytes, expected {expected_bytes}", "damaged")
    return payload


def _bitmap_bytes(bits: int) -> int:
    return (bits + 7) // 8


def _payload_bytes(header: SequenceHeader) -> int:
    return _raw_bytes(header, header.positions)


def _raw_bytes(shapes: BlockSpec | SequenceHeader, positions: int) -> int:
    """Bytes of a payload. A position has an action (1), a reward (4) and visits (1), and all have a bit in `greedy`."""
    position = _SCREEN_BYTES + shapes.context_size + 2 * shapes.crop_side**2 + _bitmap_bytes(shapes.num_actions) + 6
    return positions * position + _bitmap_bytes(positions) + 4 * shapes.hidden_size
