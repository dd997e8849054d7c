"""The replay log: received blocks in segment files, and the totals that follow from them.

Runs in the learner. In: blocks with their actor, incarnation and number. Out: where each one lies, and the truth about
env steps, episodes, milestones and what each actor has delivered. Scanning the files (`segments.py` has their format)
on opening gives all of it again, also after `kill -9` and after old segments were evicted.

A process that is killed leaves at most the beginning of one record at the newest segment's end, which is cut off on
opening. What is then in the newest segment is written and synced again, for it counts as acknowledged. Anything else is
damage: it is counted and told in `notes`. What has no good record behind it and would be in the way of new ones is
moved to `segment-00000042.log.damaged`; an empty segment takes an older one's place, so that a number that is missing
is a file that was taken away. A whole record that `append` would refuse, as an earlier
version may have logged it, is passed over and told too.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cluster_rl.errors import StorageError, UserError, is_of_storage, read_error
from cluster_rl.exploration.bayes_quests import NO_QUESTS, Counting, QuestRules
from cluster_rl.learning.sequences import BlockSpec
from cluster_rl.replay.folder_lock import FolderLock
from cluster_rl.replay.segments import (
    RECORD_HEADER_BYTES,
    Segment,
    SegmentHeader,
    create_segment,
    is_torn_record,
    next_record,
    numbered_segments,
    open_segment,
    read_header,
    read_record_fields,
    record_bytes,
    set_aside,
)
from cluster_rl.replay.totals import Totals, merged_frontiers
from cluster_rl.runs.aside import free_damaged_path
from cluster_rl.runs.atomic import sync_folder, write_atomic
from cluster_rl.runs.crash_points import crash_point
from cluster_rl.wire.codec import BlockError, SequenceHeader, decode_header, max_block_bytes


@dataclass(frozen=True)
class LogEntry:
    """One record: where its block lies and what is known of it."""

    id: int
    actor: int
    incarnation: int
    seq: int
    segment: Segment
    offset: int  # of the block in the segment file
    length: int
    header: SequenceHeader
    env_steps: int  # logged in the run, with this record


class ReplayLog:
    """The log of the run `owner` in `folder`, which is made if it does not exist. Not thread-safe.

    Only one process has it open: opening waits a while for the one before to end (`folder_lock.py`). A segment is
    closed when it holds `segment_bytes` bytes or `segment_transitions` trained positions. `milestones` are the names of
    all that the game has, `quests` says which of them are monitored and how. `on_record(entry)` is called, oldest
    first, for every record that is found on opening.

    Raises `UserError` if the folder cannot be used, is in use, or was written by another run or with other shapes, and
    `StorageError` if the disk is full or fails.
    """

    def __init__(
        self,
        folder: Path,
        spec: BlockSpec,
        *,
        owner: str,
        milestones: frozenset[str],
        segment_bytes: int,
        segment_transitions: int,
        quests: QuestRules = NO_QUESTS,
        on_record: Callable[[LogEntry], None] | None = None,
    ) -> None:
        self.folder = folder
        self.totals = Totals(quests_counted_by=quests.counting) if quests.quests else Totals()
        self.damaged = 0  # damaged stretches, segment headers and records of no use that were found on opening
        self.notes: list[str] = []  # what was damaged and where it is now, or is missing, one line each
        self.evicted = (0, 0)  # sequences and env steps that lay in files before the oldest one
        self.segments: list[Segment] = []
        self.evicted_segments: list[Segment] = []  # whose files are still to be deleted
        self._owner = owner
        self._spec = spec
        self._milestones = milestones
        self._quests = quests
        self._spec_items = {name: int(value) for name, value in vars(spec).items()}
        self._max_block_bytes = max_block_bytes(spec)
        self._segment_bytes = segment_bytes
        self._segment_transitions = segment_transitions
        self._other_rules: Totals | None = None  # of the newest header, if its quests were counted by other rules
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(folder)
            try:
                crash_point("restore.folder_locked")
                for leftover in folder.glob(".segment-*.log.*.tmp"):
                    leftover.unlink()
                self._scan(on_record or (lambda entry: None))
            except BaseException:
                self._lock.release()
                raise
        except OSError as error:
            where = error.filename or folder
            words = f"replay log {where}: cannot be opened: {error.strerror or error}"
            raise (StorageError(words, where, error.errno) if is_of_storage(error) else UserError(words)) from None

    @property
    def bytes_on_disk(self) -> int:
        """Size of all segment files."""
        return sum(segment.size_bytes for segment in (*self.segments, *self.evicted_segments))

    @property
    def transitions(self) -> int:
        """Trained positions in the segments: what decides whether the oldest must go."""
        return sum(segment.transitions for segment in self.segments)

    def expected_seq(self, actor: int, incarnation: int) -> int:
        """The number that this incarnation of an actor must send next, 0 if nothing of it was logged."""
        return self.totals.next_seq.get(actor, {}).get(incarnation, 0)

    def next_incarnation(self, actor: int) -> int:
        """A number above every known incarnation of an actor; 1 for one that was never seen."""
        return 1 + max(self.totals.next_seq.get(actor, {}), default=0)

    def append(
        self, actor: int, incarnation: int, seq: int, block: bytes | memoryview, header: SequenceHeader
    ) -> LogEntry | None:
        """Logs one block (`header` is its decoded one); None for a number that was logged before.

        A number above the expected one is accepted and what is missing is counted in `totals.gaps`. Not on disk for
        sure before `sync`.

        Raises `BlockError` for a block of another actor, of milestones that the game does not have, or that does not
        come behind what was logged; `StorageError` if it cannot be written (disk full). The log then stays as it was.
        """
        if seq < self.expected_seq(actor, incarnation):
            return None
        self._check(actor, incarnation, seq, header)
        segment = self.open_segment_for_append()
        crash_point("replay.before_append")
        segment.write(record_bytes(block, self.totals.next_id, actor, incarnation, seq))
        offset = segment.size_bytes - len(block)
        entry = LogEntry(
            self.totals.next_id,
            actor,
            incarnation,
            seq,
            segment,
            offset,
            len(block),
            header,
            self._env_steps_with(header),
        )
        self._count(entry)
        crash_point("replay.appended")
        return entry

    def open_segment_for_append(self) -> Segment:
        """The segment that the next record goes to: the newest, or a new one where that is full.

        `append` asks for it. Who holds a lock around `append` calls this before, for it may wait for the disk. Raises
        `StorageError` if the disk takes no new file, or not the end of the one before.
        """
        if self.segments:
            newest = self.segments[-1]
            if newest.size_bytes < self._segment_bytes and newest.transitions < self._segment_transitions:
                return newest
        return self._begin_segment()

    def prepare_sync(self) -> Callable[[], None]:
        """A function that puts everything appended so far on disk: one fsync for many records.

        Apart from `sync` so that it can run without the lock that the caller holds around `append`. Raises
        `StorageError` if the disk or the quota is full or the disk fails; what was appended is kept then, and written
        again by the next one.
        """
        newest = self.segments[-1:]  # older ones were synced when they were closed

        def run() -> None:
            crash_point("replay.before_sync")
            for segment in newest:
                segment.sync()
            crash_point("replay.synced")

        return run

    def sync(self) -> None:
        """Puts everything appended so far on disk."""
        self.prepare_sync()()

    def adopt(self, saved: Totals) -> bool:
        """Raises the totals to those `saved` elsewhere, where the log has lost records; whether a counter rose.

        They are at once on disk, in a new segment's header.
        """
        before, merged = self.totals, self.totals.merged(saved)
        if saved.quests and not merged.quests:
            self._note_recount(saved.quests_counted_by)
        if merged != before:
            self.totals = merged
            self._begin_segment()
        return merged.counters != before.counters

    def evict_oldest(self) -> Segment:
        """Takes the oldest segment out of the log; its file is deleted by `delete_evicted`.

        Its bytes stay readable while somebody holds the `Segment`.
        """
        self.evicted_segments.append(self.segments.pop(0))
        return self.evicted_segments[-1]

    def delete_evicted(self) -> None:
        """Deletes the files of evicted segments: all that it can, whichever is refused.

        For the thread that appends; apart from `evict_oldest` so that it can run without the caller's lock. Raises
        `StorageError` of the first one that cannot be deleted; the next call tries it again.
        """
        refused: StorageError | None = None
        for segment in self.evicted_segments.copy():
            crash_point("replay.before_eviction")
            try:
                segment.path.unlink(missing_ok=True)
            except OSError as error:
                words = f"replay log {segment.path}: cannot be deleted: {error.strerror}"
                refused = refused or StorageError(words, segment.path, error.errno)
                continue
            crash_point("replay.evicted")
            self.evicted_segments.remove(segment)
        if refused is not None:
            raise refused

    def close(self) -> None:
        """Syncs and closes all files, and lets others open the log."""
        try:
            self.sync()
        finally:
            for segment in self.segments:
                segment.close()
            self.segments.clear()
            self.evicted_segments.clear()
            self._lock.release()

    def _check(self, actor: int, incarnation: int, seq: int, header: SequenceHeader) -> None:
        """Raises `BlockError` unless the block may be the next record: asked of each that comes and that is found."""
        if (header.actor, header.incarnation) != (actor, incarnation):
            raise BlockError(
                f"block: made by actor {header.actor} (incarnation {header.incarnation}), but it is actor {actor}'s "
                f"(incarnation {incarnation})",
                "sender",
            )
        header.check_names(self._milestones)
        self.totals.check_next(actor, incarnation, seq, header)

    def _env_steps_with(self, header: SequenceHeader) -> int:
        return self.totals.env_steps + header.train_length

    def _count(self, entry: LogEntry) -> None:
        self.totals.count(entry.id, entry.actor, entry.incarnation, entry.seq, entry.header, self._quests)
        entry.segment.transitions += entry.header.train_length
        entry.segment.end_id = entry.id + 1

    def _begin_segment(self) -> Segment:
        if self.segments:
            # Otherwise the new segment's totals could be on disk, after a power cut, without what they count.
            self.segments[-1].sync()
        return self._add_segment(self.segments[-1].number + 1 if self.segments else 0)

    def _add_segment(self, number: int) -> Segment:
        segment = create_segment(self.folder, number, SegmentHeader(self._owner, self._spec_items, self.totals))
        segment.end_id = self.totals.next_id
        self.segments.append(segment)
        return segment

    # Opening

    def _scan(self, on_record: Callable[[LogEntry], None]) -> None:
        numbered = numbered_segments(self.folder)
        content, gap = b"", False
        previous: int | None = None
        for number, path in numbered:
            gap = gap or (previous is not None and number > previous + 1)
            previous = number
            try:
                segment = open_segment(path, number)
                crash_point("restore.segment_opened")
                content = path.read_bytes()
            except OSError as error:
                raise read_error(error, path, "replay log") from None
            segment.size_bytes = len(content)
            counted = self.totals
            start = self._take_header(content, path)
            if start is not None:
                self._note_missing(number, path, counted, gap)
                gap = False
            segment.end_id = self.totals.next_id
            damaged: list[tuple[int, int]] = []  # stretches [begin, end) of the file
            if start is None:
                first_record = next_record(content, 0)
                start = len(content) if first_record is None else first_record
                damaged.append((0, start))
            useless: list[BlockError] = []  # why records are of no use
            end = self._scan_records(segment, content, start, on_record, damaged, useless)
            if useless:
                self.damaged += len(useless)
                self._note(path, f"{len(useless)} records are of no use and are passed over; the first: {useless[0]}")
            if damaged and damaged[0][0] == 0 and not segment.transitions:
                segment.close()
                self.damaged += len(damaged)
                self._note(path, f"{len(content)} bytes without any record; moved to {set_aside(path).name}")
                if number != numbered[-1][0]:
                    with contextlib.suppress(StorageError):  # else it is told again at the next opening
                        self._add_segment(number)
                continue
            if number == numbered[-1][0] and end < len(content):
                self._cut_tail(segment, content, end, damaged)
            if damaged:
                self.damaged += len(damaged)
                size = sum(last - first for first, last in damaged)
                self._note(path, f"{size} damaged bytes in {len(damaged)} stretches, their sequences are lost")
            self.segments.append(segment)

        if self.segments and self.segments[-1].number == previous:
            self.segments[-1].write_again(content[: self.segments[-1].size_bytes])
        sync_folder(self.folder)
        if self._other_rules is not None:
            if self._other_rules.quests or self.totals.quests:
                self._note_recount(self._other_rules.quests_counted_by)
            self._begin_segment()  # whose header has the new counts, whatever is evicted

    def _cut_tail(self, segment: Segment, content: bytes, end: int, damaged: list[tuple[int, int]]) -> None:
        """Makes the newest segment end with its last good record, so that new ones can follow."""
        if damaged[-1] == (end, len(content)) and is_torn_record(content[end:]):
            damaged.pop()
        else:
            path = free_damaged_path(segment.path)
            write_atomic(path, content[end:])
            self._note(segment.path, f"damaged from byte {end} to its end; these bytes were moved to {path.name}")
        os.ftruncate(segment.fd, end)
        crash_point("restore.tail_cut")
        segment.size_bytes = end

    def _note_missing(self, number: int, path: Path, counted: Totals, gap: bool) -> None:
        """Notes what files held that are missing before this one: what its header counts more than was `counted`.

        `gap`: numbers are missing since the last header. Those before the first one may have been evicted.
        """
        if not self.segments:
            self.evicted = (self.totals.sequences, self.totals.env_steps) if number else (0, 0)
            return
        sequences = self.totals.sequences - counted.sequences
        env_steps = self.totals.env_steps - counted.env_steps
        if gap and sequences > 0:
            words = f"{sequences} sequences ({env_steps} env steps) that lay before it are missing, with their files"
            self._note(path, words)

    def _note_recount(self, before: Counting) -> None:
        now = self._quests.counting
        budgets = "" if now.budgets == before.budgets else ", and by other quest_budgets"
        self._note(
            self.folder,
            f"quests were counted by quest_budget_steps {before.budget_steps} and quest_half_life_episodes "
            f"{before.half_life_episodes:g}, now {now.budget_steps} and {now.half_life_episodes:g}{budgets}: they are "
            "counted anew, from the episodes that the log still has",
        )

    def _note(self, path: Path, words: str) -> None:
        self.notes.append(f"replay log {path}: {words}")

    def _take_header(self, content: bytes, path: Path) -> int | None:
        """Takes over the totals at a segment's start; returns where its records begin, None if it is damaged."""
        found = read_header(content, path)
        if found is None:
            return None
        header, start = found
        if header.owner != self._owner:
            raise UserError(
                f"replay log {path}: belongs to the run {header.owner!r}, this run is {self._owner!r}; "
                "use another replay_dir or run name, or move the folder away"
            )
        for name, value in self._spec_items.items():
            if header.spec.get(name) != value:
                raise UserError(
                    f"replay log {path}: written with {name} {header.spec.get(name)}, the run now has {value}; "
                    "use another run name or replay_dir, or set it back"
                )
        scanned, self.totals = self.totals, header.before
        # Logs of earlier versions have none in their headers.
        self.totals.frontiers = merged_frontiers(self.totals.next_seq, scanned.frontiers, self.totals.frontiers)
        self._other_rules = None
        if self._quests.quests and header.before.quests_counted_by != self._quests.counting:
            self._other_rules = header.before
            self.totals = msgspec.structs.replace(
                header.before, quests=scanned.quests, quests_counted_by=self._quests.counting
            )
        return start

    def _scan_records(
        self,
        segment: Segment,
        content: bytes,
        start: int,
        on_record: Callable[[LogEntry], None],
        damaged: list[tuple[int, int]],
        useless: list[BlockError],
    ) -> int:
        """Counts every good record from `start` on, adds what lies between, and why whole ones are of no use.

        Returns the end of the last record.
        """
        offset = end = start
        while offset < len(content):
            found = self._read_record(segment, content, offset)
            if found is not None:
                offset = end = found[0]
                if isinstance(found[1], BlockError):
                    useless.append(found[1])
                else:
                    self._count(found[1])
                    on_record(found[1])
                    crash_point("restore.record_found")
                continue
            following = next_record(content, offset + 1)
            following = len(content) if following is None else following
            damaged.append((offset, following))
            offset = following
        return end

    def _read_record(self, segment: Segment, content: bytes, offset: int) -> tuple[int, LogEntry | BlockError] | None:
        """Where the record at `offset` ends, and what it holds or why that is of no use; None if it is not whole."""
        fields = read_record_fields(content, offset)
        if fields is None:
            return None
        length, record_id, actor, incarnation, seq = fields
        start = offset + RECORD_HEADER_BYTES
        if length > self._max_block_bytes or start + length > len(content) or record_id < self.totals.next_id:
            return None
        try:
            header = decode_header(memoryview(content)[start : start + length], self._spec)
            self._check(actor, incarnation, seq, header)
        except BlockError as error:
            if error.reason == "damaged":
                return None
            self.totals.next_id = record_id + 1  # a checkpoint may have a priority for the id
            return start + length, error
        return start + length, LogEntry(
            record_id, actor, incarnation, seq, segment, start, length, header, self._env_steps_with(header)
        )
