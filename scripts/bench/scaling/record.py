"""The raw records: `records.jsonl`, a line for each measurement, and what is made of them. No torch.

Every line has `kind` (see `measure.py`), `config`, `date`, `cores` and figures; a `point` has `actors` and
`samples_per_insert` besides. The newest line of its kind counts. All lines of a config share their origin:

    settings       a hash of the config
    keys           `key=value`, what it was given beside its preset or file
    asked_seconds  --seconds
    commit         of the code, see `code_commit`

Records from before there were the last three lack them; tables and plot are made of them all the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from cluster_rl.config import Config, config_to_json
from cluster_rl.errors import UserError
from cluster_rl.runs.atomic import explain_os_error
from cluster_rl.training.rate_limiter import RateLimiter

from .model import Job, Parts, Setup, not_numbers

PARTS = ("actors", "sampling", "ingest", "updates")
POINT = "point"
CODE = ("cluster_rl", "scripts/bench/scaling")
"""Folders, from the repository's root, of what is measured and what measures."""
Record = dict[str, Any]
_SHARED = {"settings": "settings", "asked_seconds": "--seconds", "commit": "commit"}  # in words; keys are in `settings`
_PART_NAMES = frozenset(field.name for field in dataclasses.fields(Parts))


class Records:
    """Those of one folder. Raises `UserError` for a file that cannot be read or written."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "records.jsonl"
        self._all: list[Record] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{self.path}: cannot be read ({error})") from None
        for number, line in enumerate(lines, start=1):
            try:
                self._all.append(json.loads(line))
            except ValueError:
                raise UserError(f"{self.path}: line {number} is damaged; delete it") from None

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

    def origin(self, config: str) -> Record | None:
        """What all records of a config share; None without any. Raises `UserError` if they do not."""
        own = [record for record in self._all if record["config"] == config]
        for record in own[1:]:
            if differing := _differing(own[0], record):
                raise UserError(f"{self.path}: records of {config} are not of one measurement: {differing}")
        return {name: own[-1].get(name) for name in (*_SHARED, "keys")} if own else None

    def check(self, config: str, origin: Record) -> None:
        """Raises `UserError` if records of a config are there and have another origin."""
        there = self.origin(config)
        if there is not None and (differing := _differing(there, origin)):
            raise UserError(
                f"{self.path}: records of {config} were measured otherwise: {differing}; take another --out"
            )

    def add(self, kind: str, config: str, origin: Record, figures: Record) -> None:
        """Writes one line. Raises `UserError` for a part of which something was not measured."""
        unknown = [name for name in not_numbers(figures) if name in _PART_NAMES]
        if kind in PARTS and unknown:
            words = f"{kind} of {config}: not measured: {', '.join(unknown)}"
            raise UserError(f"{words}; try again, or with more --seconds into another --out")
        now = datetime.now(UTC).isoformat(timespec="seconds")
        cores = len(os.sched_getaffinity(0))
        record = {"kind": kind, "config": config, **origin, "date": now, "cores": cores, **figures}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise explain_os_error(error, self.path) from None
        self._all.append(record)


def settings_hash(config: Config) -> str:
    """Of what all records of a config share: all but the number of actors and the ratio."""
    shared = msgspec.structs.replace(
        config, num_actors=1, actor_jobs=0, samples_per_insert=1.0, samples_per_insert_schedule=[]
    )
    return hashlib.sha256(config_to_json(shared)).hexdigest()[:16]


def origin_of(config: Config, keys: Sequence[str], seconds: float, commit: str | None) -> Record:
    """What is noted in all records of a config."""
    return {"settings": settings_hash(config), "keys": list(keys), "asked_seconds": seconds, "commit": commit}


def code_commit(folder: Path) -> str | None:
    """The last commit that changed `CODE` in the repository at `folder`, and a hash of what was changed since.

    Not HEAD: records that are committed, or words in a document, are no other code. None if git does not tell.
    """
    # A hook's variables are of another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*words: str) -> bytes:
        command = ["git", "-C", str(folder), *words, "--", *CODE]
        return subprocess.run(command, capture_output=True, check=True, timeout=60, env=environment).stdout.strip()

    try:
        commit, changes = git("log", "-1", "--format=%H").decode(), git("diff", "--no-ext-diff", "HEAD")
    except (OSError, subprocess.SubprocessError):
        return None
    changed = f" with changes {hashlib.sha256(changes).hexdigest()[:8]}" if changes else ""
    return f"{commit}{changed}" if commit else None


def _differing(one: Record, other: Record) -> str:
    """What of their origins differs, in words; empty if nothing does."""

    def said(record: Record, name: str) -> str:
        keys = f" ({' '.join(record['keys'])})" if name == "settings" and record.get("keys") else ""
        return f"{record.get(name) or 'unknown'}{keys}"

    return "; ".join(
        f"{words} {said(one, name)}, not {said(other, name)}"
        for name, words in _SHARED.items()
        if one.get(name) != other.get(name)
    )


def parts_of(records: Records, config: str) -> Parts | None:
    """What the parts of a config cost; without `updates` for a learner with a GPU. None if a part is missing.

    Raises `UserError` for parts that were not measured, and for records of several origins.
    """
    records.origin(config)
    found = {kind: records.find(kind, config) for kind in PARTS}  # in their order: what a later one has too counts
    if any(found[kind] is None for kind in PARTS[:-1]):
        return None
    figures = {key: value for one in found.values() if one for key, value in one.items() if key in _PART_NAMES}
    try:
        return Parts(**figures)
    except UserError as error:
        raise UserError(f"{records.path}: parts of {config}: {error}") from None


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
