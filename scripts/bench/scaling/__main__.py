"""A scale model of the cluster job: how many env steps a second, and what limits them.

    python -m scripts.bench.scaling [--config cpu] [--actors 1 2 4] [--samples-per-insert 32 4] [--gpu-config gpu]
                                    [--seconds 60] [--out results/scaling] [--key value ...]
    python -m scripts.bench.scaling --plot-only

From the repository's root. Measures what the parts of a run cost, each by itself (see `measure.py`), then whole runs of
`train_cluster`, and holds what the model (`model.py`) makes of the parts against these. Then it extrapolates: to jobs
of 8 CPUs, as one of the cluster's users may have four of, and to 256 actors. Of `--gpu-config` only the parts that run
on CPUs are measured; how many updates a GPU makes is not known here, so there is a row for each of several rates.
Network and disk are given, not measured, and time for a sync may be (`--sync-ms`, where the file server is slower).

Each measurement is a line of OUT/records.jsonl and is not done again, so the same command goes on after an
interruption. Other settings, other --seconds or other code than of the records that are there are refused; they take
another --out. What is played lies in OUT/runs and may be deleted. CPU seconds hardly depend on what else runs; whole
runs do: what other programs take of the cores meanwhile is noted, and taken off what the model is given. Leave the
machine alone all the same. At the end, and with --plot-only from the records alone, OUT gets table.md and scaling.png;
with --plot-only the records say the keys, too.
Exits with 1 if a prediction is more than 20 % off.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster_rl.config import Config, load_config, split_overrides
from cluster_rl.errors import EXIT_FAILURE, EXIT_OK, UserError, run_command
from cluster_rl.runs.arguments import Arguments
from cluster_rl.runs.layout import RunDir

from .record import PARTS, POINT, Records, code_commit, origin_of
from .report import compared, missed, write_report

_ROOT = Path(__file__).resolve().parents[3]
_NEVER_ENOUGH = ["min_replay_transitions=1000000000", "replay_capacity_transitions=1000000000"]
_FREE_RUNNING = [
    *("samples_per_insert=1000", "samples_per_insert_tolerance=10", "min_replay_transitions=100"),
    "replay_capacity_transitions=1000000000",
]
"""Nobody inserts while the learner is timed: its limiter must not stop it."""


class Bench:
    """What is measured of one config, into records, as far as it is not there yet.

    Raises `UserError` if records are there that were measured otherwise.
    """

    def __init__(self, records: Records, name: str, overrides: list[str], seconds: float, runs: Path) -> None:
        from . import measure  # torch: --plot-only does without

        self._measure, self._records, self._name = measure, records, name
        self._overrides, self._seconds, self._runs = overrides, seconds, runs
        self._origin = origin_of(load_config(name, overrides), overrides, seconds, code_commit(_ROOT))
        records.check(name, self._origin)

    def parts(self, with_updates: bool) -> None:
        """All parts; the learner's updates only where it is a CPU."""
        measure, seconds = self._measure, self._seconds
        cores = len(os.sched_getaffinity(0))
        played = RunDir(self._runs, f"{self._name}-actors")
        collecting = self._given(*_NEVER_ENOUGH, f"num_actors={cores}")
        wanted = PARTS if with_updates else PARTS[:-1]
        # The others need what was played, which may have been deleted.
        play_again = not played.config.exists() and any(not self._records.find(one, self._name) for one in wanted)
        self._do(
            "actors",
            lambda: measure.measure_actors(self._name, collecting, emptied(played), seconds, cores),
            again=play_again,
        )
        config = load_config(self._name, collecting)
        self._do("sampling", lambda: measure.measure_sampling(config, played))
        self._do("ingest", lambda: self._ingest(played))
        if with_updates:
            self._do("updates", lambda: self._updates(played))

    def _ingest(self, played: RunDir) -> dict[str, Any]:
        measure = self._measure
        run_dir = emptied(RunDir(self._runs, f"{self._name}-ingest"))
        config = load_config(self._name, self._given(*_NEVER_ENOUGH, f"num_actors={measure.SENDERS}"))
        recording = measure.Recording(measure.recorded_blocks(config, played))
        found = measure.measure_ingest(config, run_dir, recording, measure.ingest_seconds(self._seconds))
        emptied(run_dir)  # of gigabytes
        return found

    def _updates(self, played: RunDir) -> dict[str, Any]:
        run_dir = emptied(RunDir(self._runs, f"{self._name}-updates"))
        shutil.copytree(played.path, run_dir.path)
        config = load_config(self._name, self._given(*_FREE_RUNNING, "num_actors=1"))
        return self._measure.measure_updates(config, run_dir, min(30.0, self._seconds))

    def point(self, actors: int, samples_per_insert: float) -> None:
        """A whole run."""
        own = self._given(f"num_actors={actors}", f"samples_per_insert={samples_per_insert:g}")
        run_dir = RunDir(self._runs, f"{self._name}-{actors}-{samples_per_insert:g}")
        config = load_config(self._name, own)
        self._do(
            POINT,
            lambda: self._measure.measure_point(self._name, config, own, emptied(run_dir), self._seconds),
            actors=actors,
            samples_per_insert=samples_per_insert,
        )

    def _given(self, *overrides: str) -> list[str]:
        return [*self._overrides, *self._measure.common(self._seconds), *overrides]

    def _do(self, kind: str, measure: Callable[[], dict[str, Any]], again: bool = False, **keys: float) -> None:
        there = self._records.find(kind, self._name, **keys)
        words = " ".join([kind, self._name, *(f"{key} {value:g}" for key, value in keys.items())])
        if there is not None and not again:
            print(f"{words}: recorded {there['date']}", file=sys.stderr, flush=True)
            return
        print(f"{words}: measuring, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
        self._records.add(kind, self._name, self._origin, {**measure(), **keys})


def emptied(run_dir: RunDir) -> RunDir:
    """A run that is not there: one that was interrupted is not gone on with."""
    shutil.rmtree(run_dir.path, ignore_errors=True)
    return run_dir


def main() -> int:
    wide = argparse.RawDescriptionHelpFormatter
    parser = Arguments(prog="python -m scripts.bench.scaling", description=__doc__, formatter_class=wide)
    parser.add_argument("--config", default="cpu", help="preset or file whose runs are measured (default: %(default)s)")
    parser.add_argument("--actors", nargs="+", type=int, default=[1, 2, 4], help="default: 1 2 4")
    parser.add_argument(
        "--samples-per-insert",
        nargs="+",
        type=float,
        metavar="RATIO",
        help="of whole runs (default: 4 and the config's)",
    )
    parser.add_argument(
        "--gpu-config", default="gpu", help="extrapolated with a GPU (default: %(default)s); '' for none"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of each measurement (default: %(default)s)")
    parser.add_argument("--network-gbit", type=float, default=1.0, help="of the learner's node (default: %(default)s)")
    parser.add_argument("--rtt-ms", type=float, default=1.0, help="between nodes (default: %(default)s)")
    parser.add_argument(
        "--disk-mb", type=float, default=100.0, help="MB a second that storage takes (default: %(default)s)"
    )
    parser.add_argument("--sync-ms", type=float, help="of a sync of the replay log (default: as measured here)")
    parser.add_argument("--out", type=Path, default=Path("results/scaling"), help="default: %(default)s")
    parser.add_argument("--plot-only", action="store_true", help="tables and plot from the records that are there")
    known, rest = parser.parse_known_args()
    if min(known.actors) < 1 or not all(given > 0 for given in (known.seconds, known.network_gbit, known.disk_mb)):
        raise UserError("--actors must be at least 1, --seconds, --network-gbit and --disk-mb more than 0")
    overrides = split_overrides(rest)
    records = Records(known.out)
    if known.plot_only:
        if overrides:
            raise UserError(f"--plot-only takes the keys of the records; leave out {' '.join(overrides)}")
        overrides = (records.origin(known.config) or {}).get("keys") or []
    configs: dict[str, Config] = {known.config: load_config(known.config, overrides)}
    if known.gpu_config and known.gpu_config != known.config:
        configs[known.gpu_config] = load_config(known.gpu_config)
    if not known.plot_only:
        runs = known.out / "runs"
        runs.mkdir(parents=True, exist_ok=True)
        # All of them first: what does not go with the records is told before anything is measured.
        bench, *others = (
            Bench(records, name, overrides if name == known.config else [], known.seconds, runs) for name in configs
        )
        bench.parts(with_updates=True)
        for ratio in known.samples_per_insert or sorted({configs[known.config].samples_per_insert, 4.0}):
            for actors in known.actors:
                bench.point(actors, ratio)
        for other in others:
            other.parts(with_updates=False)
    links = {
        "network_bytes_per_sec": known.network_gbit * 1e9 / 8,
        "network_rtt_sec": known.rtt_ms / 1e3,
        "disk_bytes_per_sec": known.disk_mb * 1e6,
    }
    pairs = compared(records, known.config, configs[known.config])
    if not pairs:
        raise UserError(f"{known.out}: no records of whole runs of {known.config}; run without --plot-only first")
    print(write_report(records, configs, links, known.sync_ms and known.sync_ms / 1e3, known.out))
    return EXIT_FAILURE if missed(pairs) else EXIT_OK


if __name__ == "__main__":
    run_command(main)
