"""Figures over time: `metrics.jsonl` and TensorBoard event files, both from the same rows.

The learner writes rows; people, reports and TensorBoard read them. In: flat dicts of floats, arrays whose distribution
matters, and what TensorBoard alone shows: pictures, and what the job is. No torch.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from cluster_rl.errors import UserError, read_error
from cluster_rl.runs.atomic import explain_os_error
from cluster_rl.runs.crash_points import crash_half_way, crash_point
from cluster_rl.runs.growing_file import GrowingFile, cut_torn_line
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.metrics_tail import newest_point
from cluster_rl.runs.small_file import UnreadableError, decode_json
from cluster_rl.training.event_file import About, Distributions, EventFile, Pictures

_PERCENTS = (0, 1, 10, 50, 90, 99, 100)
_PERCENT_NAMES = ("min", "p01", "p10", "p50", "p90", "p99", "max")


class MetricsWriter:
    """Appends rows to a run's metrics. A line cut short by a crash is cut off when the file is opened again.

    `notes` says what was damaged there, one line each.

    No point is there twice: `grown` says whether a row would lie behind the last one, of this job or an earlier one.
    """

    def __init__(self, run_dir: RunDir, about: About | None = None) -> None:
        """`about` the job is what TensorBoard says of it. Raises `UserError` if the files cannot be written."""
        self._path = run_dir.metrics
        self._events_dir = run_dir.tensorboard
        self._about = about
        self._events: EventFile | None = None
        try:
            self.notes = cut_torn_line(self._path)
            self._newest = newest_point(self._path)[:2]  # (env_steps, updates)
            self._rows = GrowingFile(self._path)
        except OSError as error:
            raise explain_os_error(error, self._path) from None

    @property
    def newest_env_steps(self) -> int:
        """Env steps of the newest row, of this job or an earlier one; -1 without any."""
        return self._newest[0]

    def grown(self, env_steps: int, updates: int) -> bool:
        """Whether there are more env steps than in the newest row, or as many and more updates.

        There are not while nothing happens, at a job's start, and after a crash that took back what a row tells of.
        """
        return (env_steps, updates) > self._newest

    def write(
        self,
        env_steps: int,
        updates: int,
        values: Mapping[str, float],
        distributions: Distributions | None = None,
        pictures: Pictures | None = None,
    ) -> None:
        """One row: `time` (Unix seconds), `env_steps`, `updates` and `values`, a NaN as null.

        Of each of `distributions` (name: finite numbers of any shape; an empty one is left out) the row gets what
        `summarise` says as `name/p50` and so on, and TensorBoard a histogram `name` besides. `pictures` (name: grey
        levels, uint8 [h, w]) are only there. In TensorBoard the step is `env_steps`; `updates` is a scalar of its own.
        Raises `StorageError` for a full disk; the row is in neither file then, or only in the first.
        """
        now = time.time()
        drawn = {name: array.ravel() for name, array in (distributions or {}).items() if array.size}
        scalars = {name: float(value) for name, value in values.items()}
        for name, numbers in drawn.items():
            scalars |= {f"{name}/{statistic}": value for statistic, value in summarise(numbers).items()}
        row = {"time": round(now, 3), "env_steps": env_steps, "updates": updates, **scalars}
        line = msgspec.json.encode(row) + b"\n"
        crash_half_way("metrics.half_a_row", self._rows.append, line)
        try:
            self._rows.append(line)
            self._newest = (env_steps, updates)
            crash_point("metrics.row_written")
            if self._events is None:
                self._events = EventFile(self._events_dir, self._about)
            self._events.write(now, env_steps, {"updates": float(updates), **scalars}, drawn, pictures or {})
        except OSError as error:
            raise explain_os_error(error, self._path) from None

    def close(self) -> None:
        """Closes both files; every row is already with the kernel."""
        self._rows.close()
        if self._events is not None:
            self._events.close()


def read_metrics(path: Path) -> list[dict[str, float | None]]:
    """All rows; a last line that is not finished is left out. Raises `UserError` for a damaged line before it."""
    try:
        lines = path.read_bytes().split(b"\n")  # all of a long run: no small file
    except FileNotFoundError:
        return []
    except OSError as error:
        raise read_error(error, path) from None
    rows: list[dict[str, float | None]] = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            rows.append(decode_json(line, dict[str, float | None], f"{path}: line {number}"))
        except UnreadableError as error:
            raise UserError(f"{error}; delete that line") from None
    return rows


def summarise(values: npt.NDArray[Any]) -> dict[str, float]:
    """mean, min, p01, p10, p50, p90, p99 and max of `values`, at least one number, of any shape."""
    numbers = np.percentile(values, _PERCENTS)
    return {"mean": float(np.mean(values)), **dict(zip(_PERCENT_NAMES, numbers.tolist(), strict=True))}


class RateMeter:
    """Events a second over the last `window_sec` seconds."""

    def __init__(self, window_sec: float = 60.0) -> None:
        self._window_sec = window_sec
        self._points: deque[tuple[float, int]] = deque()  # (time, total so far), oldest first

    def update(self, total: int, now_sec: float | None = None) -> float:
        """Notes a counter's present total and returns its rate. `now_sec` is `time.monotonic()` by default."""
        now = time.monotonic() if now_sec is None else now_sec
        self._points.append((now, total))
        # The newest point that is at least a window old stays: the window's left edge.
        while len(self._points) > 2 and self._points[1][0] <= now - self._window_sec:
            self._points.popleft()
        (first, total_first), (last, total_last) = self._points[0], self._points[-1]
        return (total_last - total_first) / (last - first) if last > first else 0.0
