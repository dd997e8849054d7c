"""`episodes.jsonl`: a row for each episode of the run, exactly once, whatever kills the learner.

The learner writes it. In: the last sequence of each episode, with its number in the replay log. Out: rows, and which
records they are of, by which others know what they have counted. The log is the truth: a row is written only
once its sequence is synced there, rows come in the log's order, and a start writes those that are missing behind the
last one. So a death doubles no row, and costs none of what the log still has.
"""

from __future__ import annotations

import collections
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from cluster_rl.errors import UserError, read_error
from cluster_rl.learning.sequences import EndReason, EpisodeSummary, StartTag
from cluster_rl.runs.atomic import explain_os_error
from cluster_rl.runs.crash_points import crash_half_way, crash_point
from cluster_rl.runs.growing_file import GrowingFile, cut_torn_line, move_end_aside
from cluster_rl.runs.metrics_tail import MAX_ROW_BYTES, last_row
from cluster_rl.runs.small_file import Count, UnreadableError, decode_json
from cluster_rl.wire.codec import SequenceHeader


class UnreadableRowError(UserError):
    """A row that is no row; `end` is the byte behind it."""

    def __init__(self, message: str, end: int) -> None:
        super().__init__(message)
        self.end = end


class EpisodeRow(msgspec.Struct, kw_only=True, frozen=True):
    """One episode. `record` is the number of its last sequence in the run, and grows from row to row; `env_steps` are
    the run's with it. `epsilon` and `params_version` are of its last sequence; all else as in `EpisodeSummary`."""

    time: float
    record: Count
    env_steps: Count
    actor: Count
    incarnation: Count
    emulator: Count
    episode: Count
    start_id: str
    start_tag: StartTag
    start_milestones: list[str]
    steps: Count
    episode_return: float = msgspec.field(name="return")
    terms: dict[str, float]
    milestones: dict[str, int]
    final_map: Count
    reason: EndReason
    entropy: float | None
    loop_share: float
    cells: Count
    epsilon: float
    params_version: Count
    seed: Count

    @classmethod
    def of(cls, record: int, env_steps: int, header: SequenceHeader, summary: EpisodeSummary) -> EpisodeRow:
        """The row of the episode that ends with this record, as of now."""
        return cls(
            time=round(time.time(), 3),
            record=record,
            env_steps=env_steps,
            actor=header.actor,
            incarnation=header.incarnation,
            emulator=header.emulator,
            episode=header.episode,
            start_id=summary.start.id,
            start_tag=summary.start.tag,
            start_milestones=summary.start.milestones,
            steps=summary.episode_steps,
            episode_return=summary.episode_return,
            terms=summary.terms,
            milestones=dict(summary.milestones),
            final_map=summary.final_map,
            reason=summary.reason,
            entropy=summary.entropy,
            loop_share=summary.loop_share,
            cells=summary.cells,
            epsilon=header.epsilon,
            params_version=header.params_version,
            seed=summary.seed,
        )


class EpisodeRows:
    """The file. `offer` may be called by one thread and the rest by another.

    What cannot be read at the file's end, or is of records that the log has lost or never had (a run that started
    over), is moved to `episodes.jsonl.damaged`, and rows go on with what the log has; a line in `notes` says so.
    """

    def __init__(self, path: Path, next_record: int) -> None:
        """`next_record` is the number that the log gives next. Raises `UserError` if the file cannot be written."""
        self._path = path
        self._waiting: collections.deque[tuple[int, int, SequenceHeader]] = collections.deque()
        try:
            self.notes = cut_torn_line(path)
            try:
                self._newest = _last_record(path)
                if self._newest >= next_record:
                    raise UnreadableError(path, f"tells of record {self._newest}, and the log had only {next_record}")
            except UnreadableError as error:
                self._newest, end = _last_before(path, next_record)
                aside = move_end_aside(path, end)
                words = f"all from byte {end} on is moved to {aside.name}, rows go on with what the replay log has"
                self.notes.append(f"{error}; {words}")
            self._file = GrowingFile(path)
        except OSError as error:
            raise explain_os_error(error, path) from None

    def offer(self, record: int, env_steps: int, header: SequenceHeader) -> None:
        """Takes note of a logged sequence; it makes a row if it ends an episode that has none."""
        if header.summary is not None and record > self._newest:
            self._waiting.append((record, env_steps, header))

    def end_before(self, record: int) -> int:
        """The byte behind the last row of a record below this one. Raises `UserError` if the file cannot be read."""
        try:
            return _last_before(self._path, record)[1]
        except OSError as error:
            raise read_error(error, self._path) from None

    def write(self, sync: Callable[[], None]) -> None:
        """Writes the rows of all episodes that wait, once `sync` has put their sequences on disk.

        Raises `StorageError` if the disk is full or fails; they wait on then.
        """
        ready = [self._waiting[number] for number in range(len(self._waiting))]
        if not ready:
            return
        sync()
        rows = [
            EpisodeRow.of(record, env_steps, header, header.summary)
            for record, env_steps, header in ready
            if header.summary is not None
        ]
        data = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
        crash_half_way("episodes.half_a_row", self._file.append, data)
        try:
            self._file.append(data)
        except OSError as error:
            raise explain_os_error(error, self._path) from None
        crash_point("episodes.rows_written")
        self._newest = ready[-1][0]
        for _ in ready:
            self._waiting.popleft()

    def close(self) -> None:
        """What was written is with the kernel already."""
        self._file.close()


def read_episode_rows(path: Path, begin: int = 0) -> Iterator[tuple[EpisodeRow, int]]:
    """The rows from byte `begin` on, each with the byte behind it; a torn last line is left out.

    Raises `UnreadableRowError` for a damaged row, `UserError` for a file that cannot be read.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    except OSError as error:
        raise read_error(error, path) from None
    with file:
        file.seek(begin)
        for line in file:
            if not line.endswith(b"\n"):
                return
            begin += len(line)
            try:
                row = decode_json(line, EpisodeRow, f"{path}: the row before byte {begin}")
            except UnreadableError as error:
                raise UnreadableRowError(f"{error}; delete that line", begin) from None
            yield row, begin


class _Record(msgspec.Struct):
    record: Count


def _last_record(path: Path) -> int:
    """`record` of the last row, -1 without any. Raises `UnreadableError` where it cannot be read."""
    try:
        row = last_row(path)
    except FileNotFoundError:
        return -1
    return decode_json(row, _Record, path).record if row else -1


def _last_before(path: Path, next_record: int) -> tuple[int, int]:
    """`record` of the last row of one below `next_record`, and the byte behind that row; (-1, 0) without any.

    Damaged rows are passed over. Raises `OSError`.
    """
    newest, end, position = -1, 0, 0
    with path.open("rb") as file:
        while line := file.readline(MAX_ROW_BYTES):
            position += len(line)
            with contextlib.suppress(UnreadableError):
                record = decode_json(line, _Record, path).record
                if record < next_record:
                    newest, end = record, position
    return newest, end
