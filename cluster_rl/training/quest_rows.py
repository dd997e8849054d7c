"""`quests.jsonl`: what is known of each quest, a row with the first episode and every hour or hundred episodes.

The learner writes it, `debug_rollout` reads the newest row, `report.run_rows` all. In: the records of quests, as the
replay log has counted them. Out: rows. The newest row in the file says when the next is due, so none is there twice or
missing after a crash: no other file need agree with it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import msgspec

from cluster_rl.exploration.bayes_quests import QuestRecord, QuestRow, QuestRules, assess_all, frontier
from cluster_rl.runs.atomic import explain_os_error
from cluster_rl.runs.crash_points import crash_half_way, crash_point
from cluster_rl.runs.growing_file import GrowingFile, cut_torn_line
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.metrics_tail import last_row
from cluster_rl.runs.small_file import Count, UnixSeconds, UnreadableError, decode_json

ROW_EPISODES, ROW_SEC = 100, 3600.0


def newest_quests(run_dir: RunDir) -> QuestRow | None:
    """What a run has told of its quests last; None if it has none yet. Raises `UnreadableError` for a damaged row."""
    try:
        row = last_row(run_dir.quests)
    except FileNotFoundError:
        return None
    return decode_json(row, QuestRow, run_dir.quests) if row else None


class _Newest(msgspec.Struct):
    episodes: Count = 0
    time: UnixSeconds = 0.0


class QuestRows:
    """Appends rows to a run's `quests.jsonl`. `notes` says what was damaged there, one line each."""

    def __init__(self, run_dir: RunDir) -> None:
        """Raises `UserError` if the file cannot be written."""
        self._path = run_dir.quests
        self._newest = _Newest()
        try:
            self.notes = cut_torn_line(self._path)
            self._rows = GrowingFile(self._path)
            try:
                row = last_row(self._path)
                self._newest = decode_json(row, _Newest, self._path) if row else self._newest
            except UnreadableError as error:
                self.notes.append(f"{error}; rows go on behind it")
        except OSError as error:
            raise explain_os_error(error, self._path) from None

    def is_due(self, episodes: int) -> bool:
        """Whether a row should be written when so many episodes of the run are logged."""
        new = episodes - self._newest.episodes
        return new >= ROW_EPISODES or (new > 0 and time.time() - self._newest.time >= ROW_SEC)

    def write(self, episodes: int, env_steps: int, records: Mapping[str, QuestRecord], rules: QuestRules) -> None:
        """One row. Raises `StorageError` for a full disk; the row is not there then."""
        now = round(time.time(), 3)
        row = QuestRow(
            time=now,
            episodes=episodes,
            env_steps=env_steps,
            frontier=frontier(records, rules),
            quests=assess_all(records, rules),
        )
        line = msgspec.json.encode(row) + b"\n"
        crash_half_way("quests.half_a_row", self._rows.append, line)
        try:
            self._rows.append(line)
        except OSError as error:
            raise explain_os_error(error, self._path) from None
        self._newest = _Newest(episodes, now)
        crash_point("quests.row_written")

    def close(self) -> None:
        """Every row is already with the kernel."""
        self._rows.close()
