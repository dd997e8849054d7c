"""The prioritised replay: the log's blocks, an index of them in memory, and batches drawn from both.

Runs in the learner. In: blocks as they arrive, priorities as they are learned. Out: time-major batches as numpy arrays,
whose rows `learning/batch.py` explains. Nothing of a block is kept in memory: a sampled block is read from its segment
file (the page cache holds what fits) and decompressed straight into the batch.

One lock guards index and log. Reading, decompressing and what waits for the disk (syncing, beginning and deleting
segments) go on outside it. So one thread may append, another sample and a third update priorities. `sample` itself is
for one thread at a time, as is `append`.
"""

from __future__ import annotations

import collections
import errno
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cluster_rl.config import Config
from cluster_rl.errors import StorageError
from cluster_rl.exploration.bayes_quests import NO_QUESTS, QuestRules, Records
from cluster_rl.learning.priorities import importance_weights
from cluster_rl.learning.sequences import BlockSpec
from cluster_rl.replay.batch_arrays import empty_batch, fill_column
from cluster_rl.replay.index import ReplayIndex
from cluster_rl.replay.log import LogEntry, ReplayLog
from cluster_rl.replay.totals import Totals
from cluster_rl.wire.codec import BlockArrays, BlockError, SequenceHeader, decode_arrays, decode_header

SEGMENTS_OF_CAPACITY = 20  # eviction takes a whole segment: at most this fraction of the replay at once
MAX_SEGMENT_BYTES = 64 * 2**20
BATCHES_KEPT = 3  # one in the learner, one waiting, one being filled
_BAD_PLACE_READS = 3  # failed ones of a sequence in as many batches, none good between: it lies on a bad place


class Ending(NamedTuple):
    """The last sequence of an episode in the log."""

    id: int
    env_steps: int  # of the run, with it
    header: SequenceHeader


@dataclass(frozen=True)
class AppendResult:
    """What became of a block. `id` is None where it was logged before (a duplicate)."""

    id: int | None
    header: SequenceHeader
    arrays: BlockArrays


class Replay:
    """The replay of the run `owner`, on a log in `folder`. What the log holds on opening is part of it at once.

    `milestones` are the names of all that the game has: a block that names another is refused. `quests` says which of
    them are monitored.

    Ids count the sequences ever logged.

    Raises `UserError` if the log cannot be opened, is in use, or was written by another run or with other shapes.
    """

    def __init__(
        self,
        config: Config,
        spec: BlockSpec,
        folder: Path,
        owner: str,
        milestones: frozenset[str],
        quests: QuestRules = NO_QUESTS,
    ) -> None:
        self.damaged_samples = 0  # sampled blocks that could not be read, and were taken out
        self.stale_updates = 0  # priority updates of sequences evicted since they were sampled
        self.found_endings: list[Ending] = []  # in the log on opening, oldest first; for the caller to take away
        self._config = config
        self._spec = spec
        self._lock = threading.Lock()
        self._index = ReplayIndex(config.prioritized_alpha)
        self._batches: list[dict[str, npt.NDArray[Any]]] = []
        self._failed_reads: collections.Counter[int] = collections.Counter()  # by id, since the last good one
        self.undeleted: StorageError | None = None  # why an evicted segment's file is still there
        self._log = ReplayLog(
            folder,
            spec,
            owner=owner,
            milestones=milestones,
            quests=quests,
            segment_bytes=MAX_SEGMENT_BYTES,
            segment_transitions=math.ceil(config.replay_capacity_transitions / SEGMENTS_OF_CAPACITY),
            on_record=self._find,
        )
        self._index.plant()
        self._note_lost_beginning()
        self._evict()
        self._delete_evicted()

    # Counters: the log's are of the whole run, the others of what is kept.

    @property
    def env_steps(self) -> int:
        """Trained positions logged in the whole run: the truth about env steps."""
        return self._log.totals.env_steps

    @property
    def episodes(self) -> int:
        """Episodes logged in the whole run; those that the end of a job broke off are not counted."""
        return self._log.totals.episodes

    @property
    def logged_sequences(self) -> int:
        """Sequences logged in the whole run."""
        return self._log.totals.sequences

    @property
    def milestones(self) -> dict[str, int]:
        """Name of each milestone that an episode reached from where the run's begin, and the env steps logged then."""
        with self._lock:
            return dict(self._log.totals.milestones)

    @property
    def milestones_elsewhere(self) -> dict[str, int]:
        """The same of episodes that began elsewhere than the run's do by its config."""
        with self._lock:
            return dict(self._log.totals.milestones_elsewhere)

    def quests(self) -> Records:
        """What was learned of each milestone that an episode of the run could reach; the caller's own."""
        with self._lock:
            return {name: record.copy() for name, record in self._log.totals.quests.items()}

    @property
    def gaps(self) -> int:
        """Sequences that an actor numbered but that never came."""
        return self._log.totals.gaps

    @property
    def damaged(self) -> int:
        """Records that could not be read or are of no use, on opening or when sampled."""
        return self._log.damaged + self.damaged_samples

    @property
    def notes(self) -> list[str]:
        """What was damaged or of no use in the log when it was opened, one line each."""
        return self._log.notes

    @property
    def next_id(self) -> int:
        """The id that the next sequence gets."""
        return self._log.totals.next_id

    @property
    def sequences(self) -> int:
        """Sequences that can be sampled now."""
        return self._index.sequences

    @property
    def transitions(self) -> int:
        """Trained positions that can be sampled now."""
        return self._index.transitions

    @property
    def bytes_on_disk(self) -> int:
        """Size of the segment files."""
        with self._lock:
            return self._log.bytes_on_disk

    @property
    def index_bytes(self) -> int:
        """Memory of the index."""
        with self._lock:
            return self._index.nbytes

    def expected_seq(self, actor: int, incarnation: int) -> int:
        """The number that this incarnation of an actor must send next."""
        with self._lock:
            return self._log.expected_seq(actor, incarnation)

    def next_incarnation(self, actor: int) -> int:
        """A number above every known incarnation of an actor; 1 for one that was never seen."""
        with self._lock:
            return self._log.next_incarnation(actor)

    def totals(self) -> dict[str, Any]:
        """The log's totals for the checkpoint, as data that JSON keeps exactly."""
        with self._lock:
            return self._log.totals.to_plain()

    def adopt_totals(self, saved: dict[str, Any]) -> bool:
        """Raises the log's totals to those of `totals()` in a checkpoint, where it has lost records.

        Says whether a counter rose.

        Env steps and episodes so never fall back, no sequence's id is given twice, and the totals are at once on disk.
        Raises `UserError` for data that is not from `totals()`, and `StorageError` if the disk is full or fails.
        """
        with self._lock:
            return self._log.adopt(Totals.from_plain(saved))

    def append(self, actor: int, incarnation: int, seq: int, block: bytes | memoryview) -> AppendResult:
        """Checks and logs one block and makes it sampleable. It is on disk for sure only after `sync`.

        The whole block is read: what is let in can be sampled. Raises `BlockError` for one that cannot be the next of
        this actor in this run, and `StorageError` if the disk is full or fails: the replay is then as it was, and the
        block may be handed in again. An evicted segment's file that cannot be deleted is `undeleted`, and tried again.
        """
        if not (0 <= actor < 2**32 and 0 <= incarnation < 2**62 and 0 <= seq < 2**62):
            raise BlockError(
                f"block: actor {actor}, incarnation {incarnation} or number {seq} is out of range", "order"
            )
        header, arrays = decode_arrays(block, self._spec)
        self._log.open_segment_for_append()
        with self._lock:
            entry = self._log.append(actor, incarnation, seq, block, header)
            if entry is None:
                return AppendResult(None, header, arrays)
            self._index.insert(entry)
            self._evict()
        self._delete_evicted()
        return AppendResult(entry.id, header, arrays)

    def sync(self) -> None:
        """Puts everything appended so far on disk: one fsync for many blocks. Call it before acknowledging.

        Raises `StorageError` if the disk or the quota is full or the disk fails; a later call makes up for it.
        """
        with self._lock:
            sync = self._log.prepare_sync()
        sync()

    def close(self) -> None:
        """Syncs and closes the log. Nothing else may be called afterwards."""
        with self._lock:
            self._log.close()

    def sample(self, rng: np.random.Generator, batch_size: int) -> dict[str, npt.NDArray[Any]]:
        """Draws N = `batch_size` sequences in proportion to priority^alpha, stratified and with replacement.

        Returns arrays named as in `learning.batch.Batch` (L = burn_in + unroll_length + n_step rows), weights being
        (N P(i))^-beta over the largest in the batch. Unused rows are zero, with every action valid. The arrays are kept
        buffers: they are overwritten by the `BATCHES_KEPT`-th call from this one on.

        A sequence that is damaged is taken out, and another one drawn. So is one that fails again and again while
        others can be read: it lies on a bad place of the disk. Raises `StorageError` if the log cannot be read now, or
        if nothing whole is left in it, and `ValueError` if the replay is empty.
        """
        batch = self._next_batch(batch_size)
        with self._lock:
            ids, segments, entries, probabilities = self._index.draw(rng, batch_size)
        batch["ids"][:] = ids
        unreadable: set[int] = set()
        for column in range(batch_size):
            refused = 0
            while True:
                sequence_id, segment, entry = int(batch["ids"][column]), segments[column], entries[column]
                try:
                    block = segment.read(int(entry["offset"]), int(entry["length"]))
                    header, arrays = decode_arrays(block, self._spec)
                    self._failed_reads.pop(sequence_id, None)
                    unreadable.discard(sequence_id)
                    break
                except BlockError:
                    self._remove_damaged(sequence_id)
                    if not self.sequences:
                        words = f"replay log {self._log.folder}: nothing whole is left to sample"
                        raise StorageError(words, self._log.folder, errno.EIO) from None
                except OSError as error:
                    unreadable.add(sequence_id)
                    refused += 1
                    # Another error, or one after the other: that is no bad place of the disk.
                    if error.errno != errno.EIO or refused > batch_size:
                        words = f"replay log {segment.path}: cannot be read: {error.strerror}"
                        raise StorageError(words, segment.path, error.errno) from None
                with self._lock:
                    one = self._index.draw(rng, 1)
                batch["ids"][column], segments[column] = one.ids[0], one.segments[0]
                entries[column], probabilities[column] = one.entries[0], one.probabilities[0]
            fill_column(batch, column, header, arrays, self._spec)
        self._count_failed_reads(unreadable)
        batch["weights"][:] = importance_weights(probabilities, self._config.importance_beta)
        return batch

    def read(self, sequence_id: int) -> tuple[SequenceHeader, bytes] | None:
        """Header and block of one sequence; None if it is not in the replay (any more) or damaged."""
        with self._lock:
            place = self._index.place(sequence_id)
        if place is None:
            return None
        segment, offset, length = place
        try:
            block = segment.read(offset, length)
            return decode_header(block), block
        except (BlockError, OSError):
            return None

    def update_priorities(self, ids: npt.NDArray[np.int64], priorities: npt.NDArray[np.floating[Any]]) -> None:
        """Sets the priorities [N] of the sequences `ids` [N]; those evicted since are dropped and counted.

        Raises `ValueError` for a priority that is negative or not finite.
        """
        values = np.asarray(priorities, np.float64)
        if not (np.isfinite(values).all() and (values >= 0).all()):
            raise ValueError("Replay.update_priorities: priorities must be finite and not negative")
        with self._lock:
            self.stale_updates += len(ids) - self._index.set_priorities(np.asarray(ids, np.int64), values)

    def effective_sample_size(self) -> float:
        """(sum p)^2 / sum p^2 / N of p = priority^alpha over the N sequences.

        1 is a uniform draw, near 0 a few sequences over and over; 0 for an empty replay.
        """
        with self._lock:
            weights = self._index.live_weights()
        return float(weights.sum() ** 2 / (weights**2).sum() / len(weights)) if len(weights) else 0.0

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """What the log cannot tell: the learned priorities, float32 [M], and their ids, int64 [M]."""
        with self._lock:
            ids, priorities = self._index.priorities()
        return {"ids": ids, "priorities": priorities}

    def load_state_dict(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Restores priorities by id. Ids evicted since are ignored; newer sequences keep their actor's priority."""
        with self._lock:
            ids, priorities = np.asarray(state["ids"], np.int64), np.asarray(state["priorities"], np.float64)
            self._index.set_priorities(ids, priorities)

    # Opening, eviction, sampling.

    def _find(self, entry: LogEntry) -> None:
        """A record that the log held on opening."""
        self._index.find(entry)
        if entry.header.summary is not None:
            self.found_endings.append(Ending(entry.id, entry.env_steps, entry.header))

    def _note_lost_beginning(self) -> None:
        """Eviction takes what does not fit, a segment at a time: with more room than that, files were removed."""
        capacity = self._config.replay_capacity_transitions
        (sequences, env_steps), room = self._log.evicted, capacity - self.transitions
        if sequences and room > 2 * math.ceil(capacity / SEGMENTS_OF_CAPACITY):
            self._log.notes.append(
                f"replay log {self._log.folder}: its first {sequences} sequences ({env_steps} env steps) "
                f"are not there, and there is room for {room} env steps more: removed, or evicted under a smaller "
                "replay_capacity_transitions"
            )

    def _evict(self) -> None:
        """Takes out oldest segments until the capacity holds; never the one that is being written.

        What lies in the files counts, also what was taken out of the index as damaged.
        """
        while self._log.transitions > self._config.replay_capacity_transitions and len(self._log.segments) > 1:
            self._index.evict(self._log.evict_oldest())

    def _delete_evicted(self) -> None:
        """Not under the lock."""
        try:
            self._log.delete_evicted()
            self.undeleted = None
        except StorageError as error:
            self.undeleted = error

    def _count_failed_reads(self, ids: set[int]) -> None:
        """Counts a failed read of each of `ids` in a batch that was filled; takes out those on a bad place."""
        for sequence_id in ids:
            self._failed_reads[sequence_id] += 1
            if self._failed_reads[sequence_id] >= _BAD_PLACE_READS:
                self._remove_damaged(sequence_id)
        for sequence_id in [one for one in self._failed_reads if one < self._index.oldest_id]:
            del self._failed_reads[sequence_id]

    def _remove_damaged(self, sequence_id: int) -> None:
        self._failed_reads.pop(sequence_id, None)
        with self._lock:
            # It may be evicted by now, or have been drawn twice in the batch.
            self.damaged_samples += self._index.remove(sequence_id)

    def _next_batch(self, batch_size: int) -> dict[str, npt.NDArray[Any]]:
        """The kept buffers in turn; made anew when the batch size changes."""
        if self._batches and len(self._batches[0]["ids"]) != batch_size:
            self._batches.clear()
        if len(self._batches) < BATCHES_KEPT:
            self._batches.append(empty_batch(self._spec, batch_size))
        else:
            self._batches.append(self._batches.pop(0))
        return self._batches[-1]
