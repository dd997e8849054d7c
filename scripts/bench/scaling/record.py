"""The raw records: `records.jsonl`, a line for each measurement, and what is made of them. No torch.

Every line has `kind` (see `measure.py`), `config`, `settings` (a hash of what both sides of a comparison must share),
`date` and figures; a `point` has `actors` and `samples_per_insert` besides. The newest line of its kind counts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from cluster_rl.config import Config, config_to_json
from cluster_rl.errors import UserError
from cluster_rl.runs.atomic import explain_os_error
from cluster_rl.training.rate_limiter import RateLimiter

from .model import Job, Parts, Setup

PARTS = ("actors", "sampling", "ingest", "updates")
POINT = "point"
Record = dict[str, Any]


class Records:
    """Those of one folder. Raises `UserError` for a file that cannot be read or written."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "records.jsonl"
        self._all: list[Record] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{self._path}: cannot be read ({error})") from None
        for number, line in enumerate(lines, start=1):
            try:
                self._all.append(json.loads(line))
            except ValueError:
                raise UserError(f"{self._path}: line {number} is damaged; delete it") from None

    def find(self, kind: str, config: str, **keys: float) -> Record | None:
        """The newest of a kind, as far as there is one."""
        wanted = {"kind": kind, "config": config, **keys}
        found = [record for record in self._all if all(record.get(key) == value for key, value in wanted.items())]
        return found[-1] if found else None

    def points(self, config: str) -> list[Record]:
        """The newest of each number of actors and ratio, in their order."""
        own = [record for record in self._all if (record["kind"], record["config"]) == (POINT, config)]
        keys = {(record["samples_per_insert"], record["actors"]) for record in own}
        found = [self.find(POINT, config, samples_per_insert=ratio, actors=count) for ratio, count in keys]
        return sorted((one for one in found if one), key=lambda one: (-one["samples_per_insert"], one["actors"]))

    def add(self, kind: str, config: str, settings: str, figures: Record) -> None:
        """Writes one line."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        cores = len(os.sched_getaffinity(0))
        record = {"kind": kind, "config": config, "settings": settings, "date": now, "cores": cores, **figures}
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise explain_os_error(error, self._path) from None
        self._all.append(record)

    def check(self, record: Record, settings: str) -> Record:
        """A record that was made with these settings. Raises `UserError` if it was made with others."""
        if record["settings"] != settings:
            raise UserError(
                f"{self._path}: {record['kind']} of {record['config']} has other settings; use another --out"
            )
        return record


def settings_hash(config: Config) -> str:
    """Of what all records of a config share: all but the number of actors and the ratio."""
    shared = msgspec.structs.replace(
        config, num_actors=1, actor_jobs=0, samples_per_insert=1.0, samples_per_insert_schedule=[]
    )
    return hashlib.sha256(config_to_json(shared)).hexdigest()[:16]


def parts_of(records: Records, config: str) -> Parts | None:
    """What the parts of a config cost; without `updates` for a learner with a GPU. None if a part is missing."""
    found = {kind: records.find(kind, config) for kind in PARTS}  # in their order: what a later one has too counts
    if any(found[kind] is None for kind in PARTS[:-1]):
        return None
    names = {field.name for field in dataclasses.fields(Parts)}
    return Parts(**{key: value for one in found.values() if one for key, value in one.items() if key in names})


def point_setup(config: Config, point: Record) -> Setup:
    """Where a point was measured: on one machine, with the cores that other programs left."""
    job = Job(point["actors"], point["cores"] - point["others_cpus"])
    return setup_of(config, [job], point["samples_per_insert"])


def setup_of(config: Config, jobs: Sequence[Job], samples_per_insert: float, **others: float | None) -> Setup:
    """A config's settings for these jobs; `others` are fields of `Setup`."""
    actors = sum(job.actors for job in jobs)
    ratio = {"samples_per_insert": samples_per_insert, "samples_per_insert_schedule": []}
    of_all = msgspec.structs.replace(config, num_actors=actors, actor_jobs=0, **ratio)
    return Setup(
        jobs=tuple(jobs),
        samples_per_insert=samples_per_insert,
        credit_sequences=config.credit_sequences,
        limiter_buffer=RateLimiter.from_config(of_all).buffer,
        params_poll_sec=config.params_poll_seconds,
        publish_interval=config.publish_interval,
        **others,  # type: ignore[arg-type]
    )
