"""Writes that storage refuses: tried again with growing pauses, counted where they are lost, and told in two lines."""

from __future__ import annotations

import errno
import itertools
import math
import os
import re
import time
from pathlib import Path

import pytest

from cluster_rl.errors import StorageError, UserError
from cluster_rl.runs.atomic import explain_os_error
from cluster_rl.training import outage as outage_module
from cluster_rl.training.outage import Outage, Writer


class Disk:
    """Refuses with `number` until it is 0."""

    number = errno.ENOSPC
    taken = 0

    def write(self) -> None:
        if self.number:
            raise explain_os_error(OSError(self.number, os.strerror(self.number)), Path("/data/run/file"))
        self.taken += 1


def test_what_is_refused_is_tried_again_with_growing_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    disk, lines = Disk(), []
    writer = Writer(Outage(lines.append), "the log")
    tries = []
    for _ in range(2000):
        if writer.is_due:
            tries.append(now)
            assert not writer.write(disk.write)
        now += 0.1
    pauses = [round(later - before) for before, later in itertools.pairwise(tries)]
    assert pauses[:7] == [1, 2, 4, 8, 16, 30, 30]
    writer.hurry()
    assert writer.is_due
    disk.number = 0
    assert writer.write(disk.write)
    disk.number = errno.EIO
    assert not writer.write(disk.write)
    assert not writer.is_due
    now += 1.1
    assert writer.is_due
    assert disk.taken == 1


def test_what_is_written_now_and_then_waits_its_interval_or_less_after_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    disk = Disk()
    writer = Writer(Outage(lambda line: None), "checkpoint", interval_sec=300)
    assert not writer.write(disk.write)
    now += 1.0
    assert writer.is_due, "a checkpoint that failed waited for the next one"
    disk.number = 0
    assert writer.write(disk.write)
    now += 299
    assert not writer.is_due
    now += 1
    assert writer.is_due


def test_an_outage_is_told_when_it_begins_and_when_it_ends() -> None:
    lines: list[str] = []
    outage, disk = Outage(lines.append), Disk()
    log, rows = Writer(outage, "the log"), Writer(outage, "metrics", dropped="rows of metrics")
    assert outage.words == ""
    for _ in range(3):
        log.write(disk.write)
        rows.write(disk.write)
    began = r"disk full since \d\d:\d\d \(/data/run/file: No space left on device\)"
    assert re.fullmatch(began, outage.words)
    (line,) = lines
    assert re.fullmatch(f"{began}: what must be written is tried again until it is taken", line)
    disk.number = 0
    assert log.write(disk.write)
    assert outage.words, "metrics are still refused"
    assert rows.write(disk.write)
    assert outage.words == ""
    assert re.fullmatch(rf"{began} is over after \d+ s; 3 rows of metrics dropped", lines[1])


def test_a_disk_that_is_full_by_turns_does_not_fill_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    outage, disk = Outage(lines.append), Disk()
    writer = Writer(outage, "the log")
    for number in [errno.ENOSPC, 0] * 50:
        disk.number = number
        writer.write(disk.write)
    assert len(lines) == 2
    monkeypatch.setattr(outage_module, "_TOLD_INTERVAL_SEC", 0.0)
    disk.number = errno.EROFS
    writer.write(disk.write)
    assert lines[2].startswith("file system read-only since ")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "quota full since"),
        (OSError(errno.ESTALE, "Stale file handle"), "file server away since"),
        (OSError(errno.EFBIG, "File too large"), "limit on file sizes reached since"),
        (OSError(errno.EACCES, "Permission denied"), "a file cannot be written since"),
        (
            UserError("checkpoint x: what was written\nreads back differently"),
            r"\(checkpoint x: what was written reads",
        ),
    ],
)
def test_the_words_for_what_is_the_matter(error: OSError | UserError, words: str) -> None:
    outage = Outage(lambda line: None)

    def fail() -> None:
        raise explain_os_error(error, Path("/data/x")) if isinstance(error, OSError) else error

    assert not Writer(outage, "it").write(fail)
    assert re.search(words, outage.words)
    assert "\n" not in outage.words


def test_a_mistake_of_the_program_is_not_taken_for_a_full_disk() -> None:
    def mistaken() -> None:
        raise ValueError("ours")

    with pytest.raises(ValueError, match="ours"):
        Writer(Outage(), "it").write(mistaken)


def test_the_last_tries_end_in_time() -> None:
    disk = Disk()
    writer = Writer(Outage(lambda line: None), "the last checkpoint")
    began = time.monotonic()
    assert not writer.write_while(disk.write, lambda: began + 0.6 - time.monotonic())
    assert time.monotonic() - began < 5

    def heals() -> None:
        disk.number, number = 0, disk.number
        if number:
            raise StorageError("no", "/data", number)

    assert writer.write_while(heals, lambda: 60.0)


def test_who_has_time_tries_with_growing_pauses_and_then_hurries(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "sleep", sleep)
    disk, tries = Disk(), []

    def write() -> None:
        tries.append(now - 100)
        disk.write()

    writer = Writer(Outage(lambda line: None), "the last checkpoint", interval_sec=600)
    assert not writer.write_while(write, lambda: 220 - now if now > 217 else math.inf)
    assert tries[:6] == [0, 1, 3, 7, 15, 31]
    told = [second for second in tries if second > 117]
    assert told[0] <= 118
    assert [later - before for before, later in itertools.pairwise(told)] == [0.5] * (len(told) - 1)
    assert told[-1] >= 119.5
