"""The replay log on real files: what survives is counted exactly, whatever byte the process died at."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sequence_fixtures import make_builder, play, small_spec

from cluster_rl.errors import UserError
from cluster_rl.replay_log import INCARNATIONS_KEPT, LogEntry, ReplayLog, Totals
from cluster_rl.wire.codec import decode_header, encode_block

SPEC = small_spec()
SEQUENCES = play(make_builder(SPEC), 5, 11, milestones={1: ["first_badge"], 9: ["second"]}, summary={"return": 1.5})
BLOCKS = [encode_block(sequence) for sequence in SEQUENCES]
HEADERS = [decode_header(block) for block in BLOCKS]
EPISODE_STEPS = sum(header.train_length for header in HEADERS)
assert len(BLOCKS) == 3


def open_log(folder: Path, *, transitions: int = 40, on_record: Callable[[LogEntry], None] | None = None) -> ReplayLog:
    return ReplayLog(folder, SPEC, segment_bytes=2**20, segment_transitions=transitions, on_record=on_record)


def fill(log: ReplayLog, count: int, actor: int = 0, incarnation: int = 1, first: int = 0) -> list[LogEntry]:
    entries = []
    for seq in range(first, first + count):
        entry = log.append(actor, incarnation, seq, BLOCKS[seq % 3], HEADERS[seq % 3])
        assert entry is not None
        entries.append(entry)
    return entries


def totals_of(entries: list[LogEntry]) -> Totals:
    """Counted by hand from the entries themselves."""
    totals = Totals()
    for entry in entries:
        totals.env_steps += entry.header.train_length
        totals.sequences += 1
        totals.episodes += entry.header.summary is not None
        totals.next_id = entry.id + 1
        for name in entry.header.milestones:
            totals.milestones.setdefault(name, totals.env_steps)
        totals.next_seq.setdefault(entry.actor, {})[entry.incarnation] = entry.seq + 1
    return totals


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("segment-*.log"))


def test_everything_comes_back_on_opening(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    written = fill(log, 30)
    assert log.totals == totals_of(written)
    assert (log.totals.env_steps, log.totals.episodes) == (10 * EPISODE_STEPS, 10)
    assert log.totals.milestones == {"first_badge": HEADERS[0].train_length, "second": EPISODE_STEPS}
    log.close()
    assert len(files(tmp_path)) > 1

    found: list[LogEntry] = []
    again = open_log(tmp_path, on_record=found.append)
    assert again.totals == totals_of(written)
    assert again.damaged == 0
    assert again.bytes_on_disk == sum(path.stat().st_size for path in files(tmp_path))
    for before, after in zip(written, found, strict=True):
        assert dataclasses.replace(after, segment=before.segment) == before
        assert after.segment.read(after.offset, after.length) == BLOCKS[after.seq % 3]
    fill(again, 3, first=30)
    assert again.totals.env_steps == 11 * EPISODE_STEPS
    again.close()


def test_totals_outlive_evicted_segments(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    written = fill(log, 60)
    while len(log.segments) > 2:
        log.evict_oldest()
    fill(log, 3, first=60)
    expected = log.totals
    log.close()
    found: list[LogEntry] = []
    again = open_log(tmp_path, on_record=found.append)
    assert again.totals == expected
    assert again.totals.env_steps == 21 * EPISODE_STEPS
    assert again.totals.milestones["first_badge"] == HEADERS[0].train_length
    assert len(found) < len(written)
    assert found[0].id == 63 - len(found)
    assert again.expected_seq(0, 1) == 63


def test_an_evicted_segment_stays_readable_while_it_is_held(tmp_path: Path) -> None:
    log = open_log(tmp_path, transitions=1)
    entry = fill(log, 2)[0]
    log.evict_oldest()
    assert not entry.segment.path.exists()
    assert entry.segment.read(entry.offset, entry.length) == BLOCKS[0]
    fd = entry.segment.fd
    os.fstat(fd)
    del entry
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_duplicates_gaps_and_incarnations(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    fill(log, 3)
    assert log.append(0, 1, 2, BLOCKS[2], HEADERS[2]) is None
    assert log.append(0, 1, 5, BLOCKS[2], HEADERS[2]) is not None  # 3 and 4 never came
    assert log.totals.gaps == 2
    assert log.append(0, 1, 4, BLOCKS[1], HEADERS[1]) is None
    assert log.expected_seq(0, 1) == 6
    fill(log, 2, incarnation=9)
    # The older incarnation's own numbers still count, new or seen.
    assert log.append(0, 1, 5, BLOCKS[2], HEADERS[2]) is None
    fill(log, 1, incarnation=1, first=6)
    fill(log, 1, actor=1)
    steps = log.totals.env_steps
    log.close()
    again = open_log(tmp_path)
    assert (again.totals.env_steps, again.totals.gaps) == (steps, 2)
    assert [again.expected_seq(0, i) for i in (1, 9, 10)] == [7, 2, 0]
    assert again.expected_seq(1, 1) == 1


def test_forgotten_incarnations_count_as_seen(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    for incarnation in range(1, INCARNATIONS_KEPT + 2):
        fill(log, 1, incarnation=10 * incarnation)
    assert len(log.totals.next_seq[0]) == INCARNATIONS_KEPT
    assert log.append(0, 10, 0, BLOCKS[0], HEADERS[0]) is None
    assert log.append(0, 10, 1, BLOCKS[1], HEADERS[1]) is None
    assert log.append(0, 25, 0, BLOCKS[0], HEADERS[0]) is not None


@pytest.mark.parametrize("records", [1, 3])
def test_every_truncation_of_the_newest_segment(tmp_path: Path, records: int) -> None:
    """A log of one whole segment and `records` more, cut at every byte of the newest file."""
    source = tmp_path / "source"
    log = open_log(source, transitions=EPISODE_STEPS)
    written = fill(log, 3 + records)
    log.close()
    newest = files(source)[-1]
    content = newest.read_bytes()
    ends = [entry.offset + entry.length for entry in written[3:]]
    assert ends[-1] == len(content)
    folder = tmp_path / "copy"
    rng = np.random.default_rng(0)
    near_edges = {edge + d for edge in [0, *ends] for d in (-2, -1, 0, 1, 30, 41)}
    sizes = {s for s in near_edges | set(rng.integers(0, len(content), 60).tolist()) if 0 <= s <= len(content)}
    for size in sorted(sizes):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        with (folder / newest.name).open("r+b") as file:
            file.truncate(size)
        survivors = written[: 3 + sum(end <= size for end in ends)]
        reopened = open_log(folder, transitions=EPISODE_STEPS)
        assert reopened.totals == totals_of(survivors), size
        assert reopened.bytes_on_disk == sum(path.stat().st_size for path in files(folder))
        assert reopened.damaged == 0
        # It goes on as if the lost ones had never come: the actor sends them again.
        resent = [reopened.append(0, 1, seq, BLOCKS[seq % 3], HEADERS[seq % 3]) for seq in range(3 + records)]
        assert [entry is None for entry in resent] == [True] * len(survivors) + [False] * (3 + records - len(survivors))
        assert reopened.totals == totals_of(written)
        reopened.close()
        final = open_log(folder, transitions=EPISODE_STEPS)
        assert final.totals == totals_of(written)
        assert final.damaged == 0
        final.close()


def test_a_damaged_record_in_an_older_segment_is_skipped_and_counted(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    written = fill(log, 30)
    expected = log.totals
    log.close()
    for victim, at in ((written[1], 40), (written[4], -30), (written[5], -3)):  # in a block, in record headers
        with files(tmp_path)[0].open("r+b") as file:
            file.seek(victim.offset + at)
            byte = file.read(1)[0]
            file.seek(victim.offset + at)
            file.write(bytes([byte ^ 0x55]))
    found: list[LogEntry] = []
    again = open_log(tmp_path, on_record=found.append)
    assert [entry.id for entry in found] == [entry.id for entry in written if entry.id not in (1, 4, 5)]
    assert again.damaged == 2  # 4 and 5 are neighbours: one damaged stretch
    assert again.totals == expected
    for entry in found:
        assert entry.segment.read(entry.offset, entry.length) == BLOCKS[entry.seq % 3]


def test_a_damaged_segment_header_does_not_lose_the_records(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    fill(log, 60)
    expected = log.totals
    log.close()
    with files(tmp_path)[1].open("r+b") as file:
        file.seek(20)
        file.write(b"\0\0\0")
    found: list[LogEntry] = []
    again = open_log(tmp_path, on_record=found.append)
    assert (again.damaged, len(found)) == (1, 60)
    assert again.totals == expected


def test_other_shapes_are_refused_in_one_line(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    fill(log, 1)
    log.close()
    other = dataclasses.replace(SPEC, unroll_length=80)
    with pytest.raises(UserError, match=r"unroll_length 4, the run now has 80") as error:
        ReplayLog(tmp_path, other, segment_bytes=2**20, segment_transitions=40)
    assert "\n" not in str(error.value)


def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("x")
    with pytest.raises(UserError, match="cannot be opened"):
        open_log(blocker / "replay")


def test_a_failed_write_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    """A file size limit stands for a full disk: the write of a record stops in the middle."""
    script = f"""
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_replay_log import BLOCKS, fill, open_log
from cluster_rl.errors import UserError
log = open_log(Path({str(tmp_path)!r}), transitions=10**6)
fill(log, 4)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
size = log.bytes_on_disk
resource.setrlimit(resource.RLIMIT_FSIZE, (size + len(BLOCKS[1]) // 2, resource.RLIM_INFINITY))
try:
    fill(log, 1, first=4)
except UserError as error:
    assert "free space" in str(error), error
else:
    sys.exit("the write did not fail")
assert log.bytes_on_disk == size == log.segments[0].path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
fill(log, 1, first=4)
log.close()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    again = open_log(tmp_path)
    assert (again.totals.sequences, again.damaged) == (5, 0)


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """A real process appends, syncs and reports in a loop until it is killed."""
    folder = tmp_path / "log"
    script = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_replay_log import fill, open_log
log = open_log(Path({str(folder)!r}))
seq = log.expected_seq(0, 1)
while True:
    fill(log, 7, first=seq)
    seq += 7
    log.sync()
    print(seq, flush=True)
"""
    for _ in range(2):
        child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        lines = [child.stdout.readline()]
        deadline = time.monotonic() + 0.2
        while time.monotonic() < deadline:
            lines.append(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.read().split("\n")
        child.wait()
        acknowledged = max(int(line) for line in lines if line.strip())
        found: list[LogEntry] = []
        log = open_log(folder, on_record=found.append)
        assert log.expected_seq(0, 1) >= acknowledged
        assert log.damaged == 0
        assert [entry.seq for entry in found] == list(range(log.expected_seq(0, 1)))
        assert log.totals == totals_of(found)
        log.close()
