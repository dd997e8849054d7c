"""Made-up episodes whose every value tells the step it came from, for the tests of sequences, codec and replay."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from cluster_rl.learning.sequences import (
    SCREEN_PACKED_SHAPE,
    BlockSpec,
    EpisodeStart,
    EpisodeSummary,
    Sequence,
    SequenceBuilder,
    StartTag,
)
from cluster_rl.wire.codec import decode_header


def small_spec(unroll_length: int = 4, burn_in: int = 3, n_step: int = 2) -> BlockSpec:
    return BlockSpec(
        unroll_length=unroll_length,
        burn_in=burn_in,
        n_step=n_step,
        num_actions=7,
        context_size=6,
        crop_side=3,
        hidden_size=8,
    )


def observation(spec: BlockSpec, episode: int, step: int) -> tuple[npt.NDArray[Any], ...]:
    """(screen, context, crop, mask) of a step; the context holds the step's number in base 256, and the episode's."""
    rng = np.random.default_rng([episode, step])
    context = np.zeros(spec.context_size, np.uint8)
    context[:3] = step % 256, step // 256, episode
    mask = np.zeros(spec.num_actions, np.bool_)
    mask[[step % spec.num_actions, (step + 2) % spec.num_actions]] = True
    return (
        rng.integers(0, 256, SCREEN_PACKED_SHAPE, np.uint8),
        context,
        rng.integers(0, 256, (2, spec.crop_side, spec.crop_side), np.uint8),
        mask,
    )


def action_of(step: int) -> int:
    return (3 * step + 1) % 7


def greedy_of(step: int) -> bool:
    return step * step % 5 < 2


def visits_of(step: int) -> int:
    return step % 4 * 100  # of which 300 is more than a byte tells


def reward_of(episode: int, step: int) -> float:
    return episode + step / 1024


def state_of(spec: BlockSpec, step: int, kind: int) -> npt.NDArray[np.float32]:
    """Zero at an episode's start, as in the actor; exact in float16."""
    return np.full(spec.hidden_size, (step + 1000 * kind * (step > 0)) % 2048, np.float32)


def play(
    builder: SequenceBuilder,
    episode: int,
    length: int,
    cuts: set[int] | None = None,
    *,
    terminated: bool = True,
    milestones: dict[int, list[str]] | None = None,
    summary: EpisodeSummary | None = None,
) -> list[Sequence]:
    """Plays one episode of `length` steps through the builder; `cuts` are the steps before which the clock cuts."""
    spec = builder.spec
    builder.begin(episode, summary.start.tag if summary is not None else "beginning")
    sequences: list[Sequence] = []
    for step in range(length):
        if cuts and step in cuts:
            builder.cut()
        sequences += builder.add(
            *observation(spec, episode, step),
            action=action_of(step),
            greedy=greedy_of(step),
            reward=reward_of(episode, step),
            visits=visits_of(step),
            state_h=state_of(spec, step, 0),
            state_c=state_of(spec, step, 1),
            milestones=(milestones or {}).get(step, []),
        )
    sequences += builder.end(*observation(spec, episode, length), terminated=terminated, summary=summary)
    return sequences


def make_builder(spec: BlockSpec, **kwargs: Any) -> SequenceBuilder:
    return SequenceBuilder(spec, actor=3, incarnation=10**18 + 7, emulator=1, epsilon=0.25, **kwargs)


def start_at(tag: StartTag, *milestones: str) -> EpisodeStart:
    """A start of this kind, where these milestones were reached already."""
    return EpisodeStart(id="boot" if tag == "beginning" else tag, tag=tag, milestones=list(milestones))


def summary_of(length: int, **changes: Any) -> EpisodeSummary:
    """The summary of an episode of `length` steps."""
    values: dict[str, Any] = {
        "episode_steps": length,
        "episode_return": 1.0,
        "terms": {},
        "milestones": [],
        "final_map": 1,
        "reason": "terminated",
        "seed": 7,
        "start": start_at("beginning"),
        "cells": 1,
        "loop_share": 0.0,
        "entropy": None,
    }
    return EpisodeSummary(**values | changes)


def resealed(block: bytes, header: bytes | None = None, payload: bytes | None = None) -> bytes:
    """The block with another header or payload and a right CRC: what a faulty or hostile actor could send."""
    length = struct.unpack_from("<I", block, 4)[0]
    header = block[8 : 8 + length] if header is None else header
    payload = block[8 + length : -4] if payload is None else payload
    body = block[:4] + struct.pack("<I", len(header)) + header + payload
    return body + struct.pack("<I", zlib.crc32(body))


def with_header(block: bytes, **changes: Any) -> bytes:
    """The block with other values in its header, also such as none may have."""
    changed = msgspec.structs.replace(decode_header(block), **changes)
    return resealed(block, header=msgspec.msgpack.encode(changed))
