"""The bytes in `tests/data/wire/`, made anew: one of each message, a sequence block, a replay segment.

`python tests/wire_golden.py` writes them again, after a change of format that was meant; docs/wire.md and
docs/run_directory.md, `wire_reader.py` and the format's version change with it.
"""

from __future__ import annotations

import hashlib
import tempfile
import zlib
from pathlib import Path

import numpy as np
import torch

from cluster_rl.learning.sequences import BlockSpec, EpisodeStart, EpisodeSummary, Sequence
from cluster_rl.model import params_to_bytes
from cluster_rl.networks.frames import pack_screen
from cluster_rl.replay.log import ReplayLog
from cluster_rl.wire import messages
from cluster_rl.wire.codec import decode_header, encode_block

FOLDER = Path(__file__).resolve().parent / "data" / "wire"
ZSTD_VERSION = (1, 5, 7)
"""Of the library that made the files; another may compress the same content to other bytes."""
HOLD_ZSTD = ("sequence-block.bin", "sequence.bin", "segment.bin")  # the second has the first's size and CRC

ACTOR, INCARNATION = 3, 1_700_000_000_123_456_789
MILESTONES = frozenset({"LEFT_SCHOOL", "TALKED_ELDER", "LEFT_HOME", "FERN_BADGE"})
SPEC = BlockSpec(
    unroll_length=2, burn_in=1, n_step=1, num_actions=9, context_size=5, crop_side=3, hidden_size=3
)  # 9 actions take two bytes of mask


def files() -> dict[str, bytes]:
    """Name to content."""
    first, last = blocks()
    weights = _weights()
    sent: dict[str, messages.ActorMessage | messages.LearnerMessage] = {
        "hello": messages.Hello(
            run="red-1",
            schema_hash="0123456789abcdef",
            actor=ACTOR,
            incarnation=INCARNATION,
            lowest_unacked=5,
            next_seq=9,
        ),
        "sequence": messages.SequenceMessage(
            incarnation=INCARNATION, seq=300, block_bytes=len(last), crc32=zlib.crc32(last)
        ),
        "params_request": messages.ParamsRequest(newer_than=-1),
        "actor_stats": messages.ActorStats(env_steps_per_sec=812.5, params_version=70_000, values={"masked": 0.25}),
        "goodbye": messages.Goodbye(reason="Zeit um – fini"),
        "welcome": messages.Welcome(
            learner_incarnation=INCARNATION + 1,
            incarnation=INCARNATION,
            expected_seq=5,
            may_send_up_to=69,
            params_version=-1,
        ),
        "ack": messages.Ack(incarnation=INCARNATION, next_seq=9, may_send_up_to=73),
        "params": messages.Params(
            version=12, updates=12, size_bytes=len(weights), sha256=hashlib.sha256(weights).hexdigest()
        ),
        "params_unchanged": messages.ParamsUnchanged(version=12),
        "stop": messages.Stop(reason="target_total_steps reached", complete=True),
        "wait": messages.Wait(reason="another process plays as actor 3"),
        "refused": messages.Refused(reason="a newer process runs actor 3"),
    }
    return {
        **{f"{tag}.bin": messages.encode(message) for tag, message in sent.items()},
        "sequence-block.bin": last,
        "params-weights.bin": weights,
        "segment.bin": _second_segment(first, last),
    }


def blocks() -> tuple[bytes, bytes]:
    """The two sequences of an episode."""
    return encode_block(_first_sequence()), encode_block(_last_sequence())


def _first_sequence() -> Sequence:
    """Steps 0 and 1 of an episode that goes on: no burn-in, no action before, zero state."""
    return _sequence(first_step=0, burn_in_length=0, positions=3, milestones=["TALKED_ELDER"])


def _last_sequence() -> Sequence:
    """Steps 2 and 3 of it, which end the game's task."""
    sequence = _sequence(first_step=2, burn_in_length=1, positions=4, milestones=["LEFT_HOME", "FERN_BADGE"])
    sequence.first_prev_action, sequence.first_prev_reward = 6, 0.125
    sequence.state_h = np.array([1.5, -2.0, 0.25], np.float16)
    sequence.state_c = np.array([-0.5, 8.0, 65504.0], np.float16)
    sequence.terminated = sequence.segment_ended = True
    sequence.summary = EpisodeSummary(
        episode_steps=4,
        episode_return=3.5,
        terms={"event": 3.0, "step": 0.5},
        milestones=[("TALKED_ELDER", 2), ("LEFT_HOME", 3), ("FERN_BADGE", 4)],
        final_map=12,
        reason="terminated",
        seed=77,
        start=EpisodeStart(id="0123456789abcdef", tag="archive", milestones=["LEFT_SCHOOL"]),
        cells=3,
        loop_share=0.25,
        entropy=1.5,
    )
    return sequence


def _sequence(first_step: int, burn_in_length: int, positions: int, milestones: list[str]) -> Sequence:
    p, y, x = np.ogrid[:positions, :72, :80]
    mask = np.zeros((positions, SPEC.num_actions), np.bool_)
    mask[:, 8] = True
    mask[np.arange(positions), np.arange(positions)] = True
    action = np.array([8, 1, 2, 3][:positions], np.uint8)
    reward = np.array([0.5, -0.25, 1e-3, 7.0][:positions], np.float32)
    greedy = np.array([True, False, True, False][:positions], np.bool_)
    visits = np.array([1, 0, 255, 2][:positions], np.uint8)
    action[-1], greedy[-1], reward[-1], visits[-1] = 0, False, 0.0, 0
    return Sequence(
        actor=ACTOR,
        incarnation=INCARNATION,
        emulator=1,
        episode=5,
        first_step=first_step,
        burn_in_length=burn_in_length,
        train_length=2,
        screen_packed=pack_screen(((p + x + y // 3) % 4).astype(np.uint8)),
        context=np.arange(positions * 5, dtype=np.uint8).reshape(positions, 5),
        crop=100 + np.arange(positions * 18, dtype=np.uint8).reshape(positions, 2, 3, 3),
        mask=mask,
        action=action,
        greedy=greedy,
        reward=reward,
        visits=visits,
        first_prev_action=SPEC.num_actions,
        first_prev_reward=0.0,
        state_h=np.zeros(3, np.float16),
        state_c=np.zeros(3, np.float16),
        params_version=12,
        epsilon=0.4,
        initial_priority=2.5,
        milestones=milestones,
        start_tag="archive",
    )


def _weights() -> bytes:
    layer = torch.nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.5, -2.0]]))
        layer.bias.fill_(0.1)
    return params_to_bytes(layer)


def _second_segment(first: bytes, last: bytes) -> bytes:
    """The first block fills a segment, so the next one's header has totals. A number is missing between the two."""
    with tempfile.TemporaryDirectory() as folder:
        log = ReplayLog(
            Path(folder), SPEC, owner="run-id", milestones=MILESTONES, segment_bytes=1, segment_transitions=1000
        )
        log.append(ACTOR, INCARNATION, 0, first, decode_header(first))
        log.append(ACTOR, INCARNATION, 2, last, decode_header(last))
        content = log.segments[1].path.read_bytes()
        log.close()
    return content


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, content in files().items():
        (FOLDER / name).write_bytes(content)
