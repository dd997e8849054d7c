"""What a run's replay holds now, by where its episodes began and by the maps that they were on.

The report's page uses it. The replay keeps the newest sequences, so it holds the newest env steps: how many,
`progress.json` says, and what they were, the rows and logs of the episodes that ended in them. Nothing is read of the
replay's own files, which are large, and the learner counts nothing for it. In: `RunFacts`. Out: steps by name.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from cluster_rl.report.heatmap import VisitCounts
from cluster_rl.report.run_facts import RunFacts
from cluster_rl.report.run_rows import Start
from cluster_rl.report.visits import log_of, spread_evenly


@dataclass(frozen=True)
class ReplayContent:
    """Of `episodes` that ended within the newest `transitions` env steps: (name, steps, share of all) by start and by
    map, largest first. Starts are of all of them, maps of the `logs` of some."""

    transitions: int
    episodes: int
    by_start: list[tuple[str, int, float]]
    by_map: list[tuple[str, int, float]]
    logs: int


def replay_content(run: RunFacts) -> ReplayContent | None:
    """None where the run has not said how much its replay holds, or no episode has ended in it. Episodes count whole,
    also those that reach back further than the replay does. Raises `StorageError`."""
    if run.progress is None or not run.episodes.count:
        return None
    begin = run.progress.env_steps - run.progress.replay.transitions
    columns = run.episodes.columns
    inside = columns["env_steps"] > begin
    if not inside.any():
        return None
    by_start: Counter[str] = Counter()
    steps = np.bincount(columns["start"][inside].astype(np.int64), columns["steps"][inside])
    for start, count in zip(run.episodes.starts, steps.tolist(), strict=False):  # of the last ones there may be none
        by_start[start_words(start, run)] += int(count)
    visits, logs = VisitCounts(), 0
    rows = {row.name: row for row in [*run.episodes.spread, *run.episodes.newest] if row.env_steps > begin}
    for row in spread_evenly(list(rows.values())):
        log = log_of(run.run_dir, row, [])  # the map tells of those that cannot be read
        if log is not None:
            visits.add(log.positions)
            logs += 1
    by_map: Counter[str] = Counter()
    for map_id, counts in visits.maps.items():
        by_map[run.world.map_name(map_id)] += int(counts.sum())
    return ReplayContent(run.progress.replay.transitions, int(inside.sum()), _shares(by_start), _shares(by_map), logs)


def start_words(start: Start, run: RunFacts) -> str:
    """What a start is called: of one from the archive by the last in the order of play that was reached there."""
    if start.tag == "beginning":
        return "the beginning"
    if start.tag == "school":
        return f"school {run.school}"
    kind = {"state": "a state of yours", "archive": "the archive"}.get(start.tag, start.tag)
    order = [milestone.name for milestone in run.world.milestones]
    furthest = max(start.milestones, key=lambda name: order.index(name) if name in order else -1, default="")
    return f"{kind}, after {furthest}" if furthest else f"{kind}, before any milestone"


def _shares(steps: Counter[str]) -> list[tuple[str, int, float]]:
    return [(name, count, count / steps.total()) for name, count in steps.most_common() if count]
