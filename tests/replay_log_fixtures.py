"""A replay log of small blocks, and its totals counted by hand, for tests in several processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sequence_fixtures import make_builder, play, small_spec

from cluster_rl.replay.log import LogEntry, ReplayLog
from cluster_rl.replay.totals import Totals
from cluster_rl.wire.codec import decode_header, encode_block

SPEC = small_spec()
SEQUENCES = play(
    make_builder(SPEC), 5, 11, milestones={1: ["first_badge"], 9: ["second"]}, summary={"reason": "terminated"}
)
BLOCKS = [encode_block(sequence) for sequence in SEQUENCES]
HEADERS = [decode_header(block) for block in BLOCKS]
EPISODE_STEPS = sum(header.train_length for header in HEADERS)
assert len(BLOCKS) == 3


def open_log(
    folder: Path,
    *,
    transitions: int = 40,
    on_record: Callable[[LogEntry], None] | None = None,
    owner: str = "run-1",
) -> ReplayLog:
    return ReplayLog(
        folder, SPEC, owner=owner, segment_bytes=2**20, segment_transitions=transitions, on_record=on_record
    )


def fill(log: ReplayLog, count: int, actor: int = 0, incarnation: int = 1, first: int = 0) -> list[LogEntry]:
    entries = []
    for seq in range(first, first + count):
        entry = log.append(actor, incarnation, seq, BLOCKS[seq % 3], HEADERS[seq % 3])
        assert entry is not None
        entries.append(entry)
    return entries


def totals_of(entries: list[LogEntry]) -> Totals:
    """Counted by hand from the entries themselves."""
    totals = Totals()
    for entry in entries:
        totals.env_steps += entry.header.train_length
        totals.sequences += 1
        totals.episodes += entry.header.summary is not None
        totals.next_id = entry.id + 1
        for name in entry.header.milestones:
            totals.milestones.setdefault(name, totals.env_steps)
        totals.next_seq.setdefault(entry.actor, {})[entry.incarnation] = entry.seq + 1
    return totals


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("segment-*.log"))
