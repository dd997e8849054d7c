"""A replay log of small blocks, and its totals counted by hand, for tests in several processes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from sequence_fixtures import make_builder, play, small_spec, summary_of, with_header

from cluster_rl.replay.log import LogEntry, ReplayLog
from cluster_rl.replay.totals import Totals
from cluster_rl.wire.codec import decode_header, encode_block

SPEC = small_spec()
MILESTONES = frozenset({"first_badge", "second"})
SEQUENCES = play(make_builder(SPEC), 5, 11, milestones={1: ["first_badge"], 9: ["second"]}, summary=summary_of(11))
BLOCKS = [encode_block(sequence) for sequence in SEQUENCES]
HEADERS = [decode_header(block) for block in BLOCKS]
EPISODE_STEPS = sum(header.train_length for header in HEADERS)
assert len(BLOCKS) == 3


@functools.cache
def block_of(seq: int, actor: int = 0, incarnation: int = 1) -> bytes:
    """The block that an actor sends under a number: every three are an episode."""
    return with_header(BLOCKS[seq % 3], actor=actor, incarnation=incarnation, episode=seq // 3)


def open_log(
    folder: Path,
    *,
    transitions: int = 40,
    on_record: Callable[[LogEntry], None] | None = None,
    owner: str = "run-1",
) -> ReplayLog:
    return ReplayLog(
        folder,
        SPEC,
        owner=owner,
        milestones=MILESTONES,
        segment_bytes=2**20,
        segment_transitions=transitions,
        on_record=on_record,
    )


def append(log: ReplayLog, seq: int, actor: int = 0, incarnation: int = 1) -> LogEntry | None:
    block = block_of(seq, actor, incarnation)
    return log.append(actor, incarnation, seq, block, decode_header(block))


def fill(log: ReplayLog, count: int, actor: int = 0, incarnation: int = 1, first: int = 0) -> list[LogEntry]:
    entries = []
    for seq in range(first, first + count):
        entry = append(log, seq, actor, incarnation)
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
            reached = totals.milestones_elsewhere if entry.header.elsewhere else totals.milestones
            reached.setdefault(name, totals.env_steps)
        totals.next_seq.setdefault(entry.actor, {})[entry.incarnation] = entry.seq + 1
        emulators = totals.frontiers.setdefault(entry.actor, {}).setdefault(entry.incarnation, {})
        step = entry.header.first_step + entry.header.train_length
        emulators[entry.header.emulator] = (entry.header.episode, step)
    return totals


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("segment-*.log"))
