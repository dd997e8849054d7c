"""The replay log on real files: what survives is counted exactly, whatever byte the process died at."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sequence_fixtures import make_builder, play, small_spec

from cluster_rl import replay_log
from cluster_rl.errors import UserError
from cluster_rl.replay_log import LogEntry, ReplayLog
from cluster_rl.replay_totals import INCARNATIONS_KEPT, Totals
from cluster_rl.wire.codec import decode_header, encode_block

SPEC = small_spec()
SEQUENCES = play(
    make_builder(SPEC), 5, 11, milestones={1: ["first_badge"], 9: ["second"]}, summary={"reason": "terminated"}
)
BLOCKS = [encode_block(sequence) for sequence in SEQUENCES]
HEADERS = [decode_header(block) for block in BLOCKS]
EPISODE_STEPS = sum(header.train_length for header in HEADERS)
assert len(BLOCKS) == 3


def open_log(
    folder: Path,
    *,
    transitions: int = 40,
    on_record: Callable[[LogEntry], None] | None = None,
    owner: str = "run-1",
) -> ReplayLog:
    return ReplayLog(
        folder, SPEC, owner=owner, segment_bytes=2**20, segment_transitions=transitions, on_record=on_record
    )


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


def test_incarnations_age_by_arrival_not_by_number(tmp_path: Path) -> None:
    """A clock that was set back, or serial mode's small numbers after those of a cluster."""
    log = open_log(tmp_path)
    assert log.next_incarnation(0) == 1
    arrivals = [10**18 + 3, 10**18 + 2, 7, 10**18, 1, 3]
    for number, incarnation in enumerate(arrivals):
        assert log.expected_seq(0, incarnation) == 0
        fill(log, 2, incarnation=incarnation)
        assert list(log.totals.next_seq[0]) == arrivals[: number + 1][-INCARNATIONS_KEPT:]
    fill(log, 1, incarnation=7, first=2)  # still alive, but no younger for it
    assert log.totals.env_steps == sum(HEADERS[seq % 3].train_length for seq in [0, 1] * 6 + [2])
    assert log.next_incarnation(0) == 10**18 + 1
    assert log.next_incarnation(1) == 1
    log.close()
    again = open_log(tmp_path)
    assert list(again.totals.next_seq[0].items()) == [(7, 3), (10**18, 2), (1, 2), (3, 2)]
    fill(again, 60, incarnation=5)  # the order is in the next segments' headers too
    while len(again.segments) > 1:
        again.evict_oldest()
    again.close()
    assert list(open_log(tmp_path).totals.next_seq[0]) == [10**18, 1, 3, 5]


def test_episodes_that_the_end_of_a_job_broke_off_do_not_count(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    for seq, reason in enumerate(["stopped", "truncated", "stopped", "terminated"]):
        sequence = play(make_builder(SPEC), seq, 3, summary={"reason": reason})[-1]
        block = encode_block(sequence)
        assert log.append(0, 1, seq, block, decode_header(block)) is not None
    assert (log.totals.sequences, log.totals.episodes) == (4, 2)
    log.close()
    assert open_log(tmp_path).totals.episodes == 2


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
    header_end = content.index(b"\xf1\x9eRC")  # a segment appears with its header whole
    assert header_end < written[3].offset
    near_edges = {edge + d for edge in [header_end, *ends] for d in (-2, -1, 0, 1, 3, 4, 5, 30, 36, 41)}
    drawn = set(rng.integers(header_end, len(content), 60).tolist())
    sizes = {size for size in near_edges | drawn if header_end <= size <= len(content)}
    for size in sorted(sizes):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        with (folder / newest.name).open("r+b") as file:
            file.truncate(size)
        survivors = written[: 3 + sum(end <= size for end in ends)]
        reopened = open_log(folder, transitions=EPISODE_STEPS)
        assert reopened.totals == totals_of(survivors), size
        assert reopened.bytes_on_disk == sum(path.stat().st_size for path in files(folder))
        assert (reopened.damaged, reopened.notes) == (0, [])
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


def damage(path: Path, at: int, content: bytes = b"\x55\xaa\x55") -> None:
    """Overwrites bytes of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def test_records_behind_a_damaged_one_in_the_newest_segment_are_kept(tmp_path: Path) -> None:
    log = open_log(tmp_path, transitions=10**6)
    written = fill(log, 6)
    log.close()
    damage(files(tmp_path)[0], written[2].offset + 40)
    for _ in range(2):
        found: list[LogEntry] = []
        again = open_log(tmp_path, transitions=10**6, on_record=found.append)
        assert [entry.id for entry in found] == [0, 1, 3, 4, 5]
        assert (again.damaged, again.totals.gaps, again.expected_seq(0, 1)) == (1, 1, 6)
        (note,) = again.notes
        assert files(tmp_path)[0].name in note
        again.close()
    assert not list(tmp_path.glob("*.damaged*"))


@pytest.mark.parametrize("whole", [True, False])
def test_a_damaged_end_of_the_newest_segment_is_told_and_moved_away(tmp_path: Path, whole: bool) -> None:
    """The last records are damaged; where the file is not whole, the very last is cut off in its middle besides."""
    log = open_log(tmp_path, transitions=10**6)
    written = fill(log, 6)
    log.close()
    path = files(tmp_path)[0]
    damage(path, written[4].offset + 40)
    if whole:
        damage(path, written[5].offset + 40)
    else:
        os.truncate(path, path.stat().st_size - 7)
    content = path.read_bytes()
    again = open_log(tmp_path, transitions=10**6)
    end = written[3].offset + written[3].length
    assert again.totals == totals_of(written[:4])
    assert again.damaged == 2
    assert path.stat().st_size == end == again.bytes_on_disk
    moved = path.with_name(f"{path.name}.damaged")
    assert moved.read_bytes() == content[end:]
    assert any(moved.name in note for note in again.notes)
    assert all("\n" not in note for note in again.notes)
    fill(again, 2, first=4)
    again.close()

    # The next damage has its own file.
    damage(path, path.stat().st_size - 30)
    third = open_log(tmp_path, transitions=10**6)
    assert (third.damaged, third.totals.sequences) == (1, 5)
    assert moved.read_bytes() == content[end:]
    assert moved.with_name(f"{moved.name}-2").exists()
    third.close()
    clean = open_log(tmp_path, transitions=10**6)
    assert (clean.damaged, clean.notes, clean.totals.sequences) == (0, [], 5)


def test_the_beginnings_of_two_records_are_more_than_a_torn_one(tmp_path: Path) -> None:
    log = open_log(tmp_path, transitions=10**6)
    written = fill(log, 5)
    log.close()
    path = files(tmp_path)[0]
    content = path.read_bytes()
    end, fourth, fifth = written[2].offset + written[2].length, written[3], written[4]
    tail = content[end : fourth.offset + 10] + content[fourth.offset + fourth.length : fifth.offset + 10]
    assert len(tail) < fourth.length
    path.write_bytes(content[:end] + tail)
    again = open_log(tmp_path, transitions=10**6)
    assert (again.damaged, again.totals) == (2, totals_of(written[:3]))
    assert next(tmp_path.glob("*.damaged")).read_bytes() == tail


def test_zeros_at_the_end_are_not_taken_for_a_torn_record(tmp_path: Path) -> None:
    """What a power cut may leave of records that were never synced."""
    log = open_log(tmp_path)
    written = fill(log, 2)
    log.close()
    with files(tmp_path)[0].open("ab") as file:
        file.write(bytes(10))
    again = open_log(tmp_path)
    assert (again.damaged, again.totals) == (1, totals_of(written))
    assert next(tmp_path.glob("*.damaged")).read_bytes() == bytes(10)


@pytest.mark.parametrize("left", [0, 5, 40])
def test_a_newest_segment_without_its_header_is_damage(tmp_path: Path, left: int) -> None:
    log = open_log(tmp_path, transitions=EPISODE_STEPS)
    written = fill(log, 4)
    log.close()
    newest = files(tmp_path)[-1]
    content = newest.read_bytes()[:left]
    os.truncate(newest, left)
    again = open_log(tmp_path, transitions=EPISODE_STEPS)
    assert (again.damaged, again.totals) == (1, totals_of(written[:3]))
    assert newest.with_name(f"{newest.name}.damaged").read_bytes() == content
    assert len(again.notes) == 1
    fill(again, 1, first=3)
    again.close()
    final = open_log(tmp_path, transitions=EPISODE_STEPS)
    assert (final.damaged, final.totals) == (0, totals_of(written))


def test_adopted_totals_hold_after_the_newest_segment_was_damaged(tmp_path: Path) -> None:
    log = open_log(tmp_path, transitions=10**6)
    written = fill(log, 6)
    saved = Totals.from_plain(log.totals.to_plain())
    log.close()
    os.truncate(files(tmp_path)[0], written[3].offset)
    again = open_log(tmp_path, transitions=10**6)
    assert again.totals == totals_of(written[:3])
    assert again.adopt(saved)
    again.segments.clear()  # as after kill -9: nothing is synced any more
    again.close()
    final = open_log(tmp_path, transitions=10**6)
    assert final.totals == saved == totals_of(written)
    assert final.append(0, 1, 5, BLOCKS[2], HEADERS[2]) is None
    assert fill(final, 1, first=6)[0].id == 6
    assert not final.adopt(saved)


def test_merged_totals_take_the_further_of_each() -> None:
    ahead = Totals(90, 9, 2, 1, 12, {"a": 30, "b": 80}, {0: {8: 3, 9: 1}, 1: {1: 5}})
    behind = Totals(50, 5, 3, 0, 7, {"a": 20, "c": 50}, {0: {6: 1, 7: 4, 5: 2, 8: 6}, 2: {2: 2}})
    for merged in (ahead.merged(behind), behind.merged(ahead)):
        assert merged == Totals(
            90, 9, 3, 1, 12, {"a": 20, "b": 80, "c": 50}, {0: {7: 4, 5: 2, 8: 6, 9: 1}, 1: {1: 5}, 2: {2: 2}}
        )
        assert list(merged.next_seq[0]) == [7, 5, 8, 9]
        assert Totals.from_plain(merged.to_plain()) == merged
        assert list(Totals.from_plain(merged.to_plain()).next_seq[0]) == [7, 5, 8, 9]


def test_the_log_of_another_run_is_refused_in_one_line(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    fill(log, 1)
    log.close()
    with pytest.raises(UserError, match=r"the run 'run-1', this run is 'run-2'; use another replay_dir") as error:
        open_log(tmp_path, owner="run-2")
    assert "\n" not in str(error.value)
    assert open_log(tmp_path).totals.sequences == 1  # the refused one holds no lock


def test_two_processes_never_have_the_log_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_replay_log import fill, open_log
log = open_log(Path({str(tmp_path)!r}))
fill(log, 1)
print("open", flush=True)
sys.stdin.readline()
fill(log, 1, first=1)
log.sync()
print("written", flush=True)
sys.stdin.readline()
"""
    monkeypatch.setattr(replay_log, "LOCK_WAIT_SEC", 0.3)
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == "open\n"
    with pytest.raises(UserError, match=rf"in use by process {child.pid} on ") as error:
        open_log(tmp_path)
    assert "\n" not in str(error.value)
    # It is waited for, and the kernel frees the log of a process that was killed.
    monkeypatch.setattr(replay_log, "LOCK_WAIT_SEC", 20.0)
    child.stdin.write("\n")
    assert child.stdout.readline() == "written\n"
    killer = threading.Timer(0.3, child.kill)
    killer.start()
    began = time.monotonic()
    log = open_log(tmp_path)
    assert 0.2 < time.monotonic() - began < 10
    assert log.totals.sequences == 2
    child.communicate()
    log.close()
    assert not (tmp_path / "lock.holder").exists()


def test_a_disk_that_fails_on_sync_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while a full segment is closed; the lock is given back all the same."""
    for number, remedy in ((errno.ENOSPC, "free space"), (errno.EDQUOT, "free space"), (errno.EIO, "check the disk")):
        log = open_log(tmp_path / str(number), transitions=EPISODE_STEPS)
        fill(log, 3)

        def failing(fd: int, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing)
            for action in (log.sync, log.prepare_sync(), lambda log=log: fill(log, 1, first=3), log.close):
                with pytest.raises(UserError, match=remedy) as error:
                    action()
                assert "\n" not in str(error.value)
                assert os.strerror(number) in str(error.value)
        assert open_log(tmp_path / str(number)).totals.sequences == 3
        empty = open_log(tmp_path / f"empty-{number}")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing)
            with pytest.raises(UserError, match=os.strerror(number)):
                fill(empty, 1)
        assert empty.totals == Totals()
        fill(empty, 1)


def test_what_a_segment_left_that_was_never_finished_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".segment-00000003.log.0a1b2c3d.tmp").write_bytes(b"half")
    (tmp_path / ".mine.tmp").write_bytes(b"somebody else's")
    log = open_log(tmp_path)
    fill(log, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".mine.tmp",
        "lock",
        "lock.holder",
        "segment-00000000.log",
    ]


def test_other_shapes_are_refused_in_one_line(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    fill(log, 1)
    log.close()
    other = dataclasses.replace(SPEC, unroll_length=80)
    with pytest.raises(UserError, match=r"unroll_length 4, the run now has 80") as error:
        ReplayLog(tmp_path, other, owner="run-1", segment_bytes=2**20, segment_transitions=40)
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
