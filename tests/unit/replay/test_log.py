"""The replay log on real files: what survives is counted exactly, whatever byte the process died at."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from replay_log_fixtures import (
    EPISODE_STEPS,
    HEADERS,
    MILESTONES,
    SPEC,
    append,
    block_of,
    files,
    fill,
    open_log,
    totals_of,
)
from sequence_fixtures import make_builder, play, summary_of

from cluster_rl.errors import EXIT_FAILURE, BusyError, UserError, exit_code_of
from cluster_rl.exploration.bayes_quests import QuestRecord
from cluster_rl.replay import folder_lock
from cluster_rl.replay.log import LogEntry, ReplayLog
from cluster_rl.replay.totals import INCARNATIONS_KEPT, Totals
from cluster_rl.wire.codec import decode_header, encode_block

TESTS = Path(__file__).parents[2]


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
        assert after.segment.read(after.offset, after.length) == block_of(after.seq)
    fill(again, 3, first=30)
    assert again.totals.env_steps == 11 * EPISODE_STEPS
    again.close()


def test_totals_outlive_evicted_segments(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    written = fill(log, 60)
    while len(log.segments) > 2:
        log.evict_oldest()
    log.delete_evicted()
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
    log.delete_evicted()
    assert not entry.segment.path.exists()
    assert entry.segment.read(entry.offset, entry.length) == block_of(0)
    fd = entry.segment.fd
    os.fstat(fd)
    del entry
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_duplicates_gaps_and_incarnations(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    fill(log, 3)
    assert append(log, 2) is None
    assert append(log, 5) is not None  # 3 and 4 never came
    assert log.totals.gaps == 2
    assert append(log, 4) is None
    assert log.expected_seq(0, 1) == 6
    fill(log, 2, incarnation=9)
    # The older incarnation's own numbers still count, new or seen.
    assert append(log, 5) is None
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
    again.delete_evicted()
    again.close()
    assert list(open_log(tmp_path).totals.next_seq[0]) == [10**18, 1, 3, 5]


def test_episodes_that_the_end_of_a_job_broke_off_do_not_count(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    for seq, reason in enumerate(["stopped", "truncated", "stopped", "terminated"]):
        sequence = play(make_builder(SPEC), seq, 3, summary=summary_of(3, reason=reason))[-1]
        block = encode_block(sequence)
        assert log.append(sequence.actor, sequence.incarnation, seq, block, decode_header(block)) is not None
    assert (log.totals.sequences, log.totals.episodes) == (4, 2)
    log.close()
    assert open_log(tmp_path).totals.episodes == 2


def test_merged_totals_take_the_further_of_each() -> None:
    ahead = Totals(90, 9, 2, 1, 12, {"a": 30, "b": 80}, {0: {8: 3, 9: 1}, 1: {1: 5}})
    behind = Totals(50, 5, 3, 0, 7, {"a": 20, "c": 50}, {0: {6: 1, 7: 4, 5: 2, 8: 6}, 2: {2: 2}})
    ahead.milestones_elsewhere, behind.milestones_elsewhere = {"a": 9, "d": 7}, {"a": 8, "b": 60}
    tried = QuestRecord(successes=1.5, failures=0.25, trials=3, reached=2, best_low=0.125, blocks=[(2, 3)])
    ahead.quests, behind.quests = {"a": QuestRecord(trials=2), "b": QuestRecord()}, {"a": tried}
    for merged in (ahead.merged(behind), behind.merged(ahead)):
        expected = Totals(
            90, 9, 3, 1, 12, {"a": 20, "b": 80, "c": 50}, {0: {7: 4, 5: 2, 8: 6, 9: 1}, 1: {1: 5}, 2: {2: 2}}
        )
        expected.milestones_elsewhere = {"a": 8, "b": 60, "d": 7}
        expected.quests = {"a": tried, "b": QuestRecord()}
        assert merged == expected
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
sys.path.insert(0, {str(TESTS)!r})
from replay_log_fixtures import fill, open_log
log = open_log(Path({str(tmp_path)!r}))
fill(log, 1)
print("open", flush=True)
sys.stdin.readline()
fill(log, 1, first=1)
log.sync()
print("written", flush=True)
sys.stdin.readline()
"""
    monkeypatch.setattr(folder_lock, "LOCK_WAIT_SEC", 0.3)
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == "open\n"
    with pytest.raises(BusyError, match=rf"in use by process {child.pid} on ") as error:
        open_log(tmp_path)
    assert "\n" not in str(error.value)
    assert exit_code_of(error.value) == EXIT_FAILURE, "bad input would end a chain"
    # It is waited for, and the kernel frees the log of a process that was killed.
    monkeypatch.setattr(folder_lock, "LOCK_WAIT_SEC", 20.0)
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
        ReplayLog(tmp_path, other, owner="run-1", milestones=MILESTONES, segment_bytes=2**20, segment_transitions=40)
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
sys.path.insert(0, {str(TESTS)!r})
from replay_log_fixtures import BLOCKS, fill, open_log
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
sys.path.insert(0, {str(TESTS)!r})
from replay_log_fixtures import fill, open_log
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
