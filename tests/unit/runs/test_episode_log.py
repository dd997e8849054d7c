"""Episode logs on disk: what goes in comes out, and no damaged file is taken for a whole one."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_disk import SmallDisk

from cluster_rl.errors import StorageError, UserError
from cluster_rl.runs import atomic, episode_log
from cluster_rl.runs.atomic import remove_temporaries
from cluster_rl.runs.episode_log import (
    EpisodeIdentity,
    EpisodeRecorder,
    EpisodeStart,
    log_name,
    parse_log,
    read_header,
    read_log,
)

TESTS = Path(__file__).parents[2]
IDENTITY = EpisodeIdentity(
    rom_sha1="ab" * 20,
    rom_kind="cartridge",
    pyboy_version="2.8.1",
    frame_skip=24,
    run="test",
    actor=3,
    incarnation=0xBEEF,
    emulator=1,
)
START = EpisodeStart(id="0123456789abcdef", tag="archive", milestones=["TOOK_SEED"])
SNAPSHOT = bytes(range(256)) * 100


@dataclass
class CountingConsole:
    """A console whose answers tell how often it was asked."""

    steps: int = 0
    hashes: list[int] = field(default_factory=list)

    def position(self) -> tuple[int, int, int]:
        self.steps += 1
        return self.steps % 5, self.steps % 7, self.steps % 11

    def ram_hash(self) -> int:
        self.hashes.append(2**64 - self.steps)
        return self.hashes[-1]


@dataclass
class Summary:
    episode_return: float = 2.5
    terms: dict[str, float] = field(default_factory=lambda: {"event": 3.0, "step": -0.5})
    milestones: list[tuple[str, int]] = field(default_factory=lambda: [("left_home", 17)])
    reason: str = "truncated"


def record(folder: Path, steps: int, interval: int = 8, flush: int = 1000) -> EpisodeRecorder:
    """An episode of `steps` steps, still open."""
    recorder = EpisodeRecorder(folder, IDENTITY, interval, flush)
    recorder.set_context(params_version=12, epsilon=0.25)
    recorder.start(SNAPSHOT, object(), seed=99, start=START)
    console = CountingConsole()
    for step in range(steps):
        recorder.step(step % 7, step * 523 % 65536, console)
        if step in (29, 59):
            recorder.blackout()
    return recorder


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    recorder = record(tmp_path, 100)
    recorder.finish(Summary())
    return recorder.path


def test_what_was_recorded_is_read_back(whole: Path) -> None:
    log = read_log(whole)
    header = log.header
    assert whole.name == "a003-e01-beef-000000.eplog"
    assert {name: getattr(header, name) for name in msgspec.structs.asdict(IDENTITY)} == msgspec.structs.asdict(
        IDENTITY
    )
    assert (header.episode, header.seed, header.params_version, header.epsilon) == (0, 99, 12, 0.25)
    assert (header.steps, header.episode_return, header.reason, header.complete) == (100, 2.5, "truncated", True)
    assert header.start == START
    assert header.terms == {"event": 3.0, "step": -0.5}
    assert [(milestone.name, milestone.step) for milestone in header.milestones] == [("left_home", 17)]
    assert header.blackouts == [30, 60]
    assert log.snapshot == SNAPSHOT
    assert log.actions.tolist() == [step % 7 for step in range(100)]
    assert log.checks.tolist() == [step * 523 % 65536 for step in range(100)]
    assert log.positions.tolist() == [[n % 5, n % 7, n % 11] for n in range(1, 101)]
    assert log.ram_hashes.tolist() == [2**64 - n for n in range(8, 101, 8)]


def test_header_alone_equals_the_whole_files(whole: Path) -> None:
    assert read_header(whole) == read_log(whole).header


def test_log_survives_its_own_encoding(whole: Path) -> None:
    log = read_log(whole)
    flipped = dataclasses.replace(log, actions=log.actions ^ 1)
    again = parse_log(flipped.to_bytes(), "memory")
    assert again.actions.tolist() == (log.actions ^ 1).tolist()
    assert again.header == log.header
    assert log.to_bytes() == whole.read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("read", [read_log, read_header])
def test_a_cut_file_is_told(whole: Path, share: float, read: object) -> None:
    data = whole.read_bytes()
    whole.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError, match=r"cut short|not an episode log") as caught:
        read(whole)  # type: ignore[operator]
    assert str(whole) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_changed_byte_is_told(whole: Path) -> None:
    data = whole.read_bytes()
    for offset in range(len(data)):
        changed = bytearray(data)
        changed[offset] ^= 0x10
        with pytest.raises(UserError, match="episode log x: "):
            parse_log(bytes(changed), "x")


@given(st.binary(max_size=300))
def test_foreign_bytes_are_refused_in_words(data: bytes) -> None:
    with pytest.raises(UserError, match="episode log x: "):
        parse_log(data, "x")


def test_bytes_too_many_are_told(whole: Path) -> None:
    whole.write_bytes(whole.read_bytes() + b"x")
    with pytest.raises(UserError, match="1 bytes too many"):
        read_header(whole)


def test_another_format_version_is_named(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episode_log, "_FORMAT", episode_log._FORMAT._replace(version=7))
    newer = read_log_as_written_by_this_version(whole)
    monkeypatch.undo()
    with pytest.raises(UserError, match="format 7, this program reads 2; use the newer program"):
        parse_log(newer, "x")


def read_log_as_written_by_this_version(path: Path) -> bytes:
    recorder = record(path.parent / "newer", 10)
    recorder.finish(Summary())
    return recorder.path.read_bytes()


def test_a_missing_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_log(tmp_path / "none.eplog")


def test_columns_that_disagree_with_the_header_are_refused(whole: Path) -> None:
    log = read_log(whole)
    short = dataclasses.replace(log, actions=log.actions[:-1])
    with pytest.raises(UserError, match="actions holds 99 bytes where 100 steps need 100"):
        parse_log(short.to_bytes(), "x")


def test_open_episode_is_on_disk_as_incomplete_and_grows(tmp_path: Path) -> None:
    recorder = record(tmp_path, 29, flush=10)
    first = read_log(recorder.path)
    assert (first.header.steps, first.header.complete) == (20, False)
    console = CountingConsole()
    recorder.step(1, 2, console)
    assert read_header(recorder.path).steps == 30
    recorder.finish(Summary())
    assert read_header(recorder.path).complete
    assert [path.name for path in tmp_path.iterdir()] == [recorder.path.name]  # no temporary file stays


def test_episodes_are_numbered_and_an_unfinished_one_is_kept(tmp_path: Path) -> None:
    recorder = record(tmp_path, 5)
    recorder.start(SNAPSHOT, object(), seed=100, start=START)
    recorder.step(2, 3, CountingConsole())
    recorder.finish(Summary())
    headers = [read_header(path) for path in sorted(tmp_path.iterdir())]
    assert [(header.episode, header.steps, header.complete, header.seed) for header in headers] == [
        (0, 5, False, 99),
        (1, 1, True, 100),
    ]


def test_an_episode_holds_nothing_of_the_one_before_and_leaves_it_whole(tmp_path: Path) -> None:
    recorder, console = record(tmp_path, 20), CountingConsole()
    recorder.finish(Summary())
    recorder.start(SNAPSHOT, object(), seed=100, start=START)
    for step in range(9):
        recorder.step(step % 7, step * 523 % 65536, console)
    recorder.finish(Summary())
    recorder.start(SNAPSHOT, object(), seed=101, start=START)
    first, second = (read_log(path) for path in sorted(tmp_path.iterdir()))
    assert first.header.complete
    assert (first.header.blackouts, second.header.blackouts) == ([], [])
    alone = record(tmp_path / "alone", 9)
    alone.finish(Summary())
    for column in ("actions", "checks", "positions", "ram_hashes"):
        assert getattr(second, column).tolist() == getattr(read_log(alone.path), column).tolist(), column


def test_an_episode_without_steps_leaves_no_file(tmp_path: Path) -> None:
    recorder = record(tmp_path, 0)
    recorder.finish(Summary())
    assert list(tmp_path.iterdir()) == []


def test_names_sort_by_actor_emulator_and_episode() -> None:
    names = [
        log_name(msgspec.structs.replace(IDENTITY, actor=a, emulator=e), n)
        for a in (2, 10)
        for e in (1, 9)
        for n in (0, 11)
    ]
    assert names == sorted(names)
    assert len(set(names)) == len(names)


WRITER = """
import sys; sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_episode_log import CountingConsole, record
recorder = record(Path(sys.argv[1]), 0, flush=3)
console = CountingConsole()
while True:
    recorder.step(console.steps % 7, console.steps % 65536, console)
"""


def test_a_writer_killed_at_any_moment_leaves_a_whole_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path), str(Path(__file__).parent)]
    writer = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": f"{TESTS.parent}:{TESTS}"})
    try:
        path = tmp_path / log_name(IDENTITY, 0)
        deadline_sec = time.monotonic() + 20
        while not path.exists():
            assert time.monotonic() < deadline_sec, "the writer never wrote"
            time.sleep(0.01)
        for _ in range(50):  # also while it is being replaced
            read_log(path)
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    log = read_log(path)
    assert not log.header.complete
    assert log.actions.tolist() == [step % 7 for step in range(log.header.steps)]
    assert np.all(log.checks == np.arange(log.header.steps) % 65536)


def test_a_log_that_a_full_disk_refuses_is_left_out_and_told_of(
    disk: SmallDisk, capfd: pytest.CaptureFixture[str]
) -> None:
    """The actor plays on; episodes before and after have their logs, and no half one is left."""
    recorder = EpisodeRecorder(disk.folder / "logs", IDENTITY, 10, flush_steps=10, needed=False)
    console = CountingConsole()

    def episode(steps: int) -> None:
        recorder.start(SNAPSHOT, object(), seed=1, start=START)
        for step in range(steps):
            recorder.step(step % 7, step, console)
        recorder.finish(Summary())

    episode(25)
    with disk.full():
        episode(25)
        episode(5)
    episode(25)
    assert [read_log(path).header.episode for path in sorted((disk.folder / "logs").iterdir())] == [0, 3]
    began, ended = capfd.readouterr().out.splitlines()
    assert began.startswith(f"episode logs are left out for now: {disk.folder}/logs/a")
    assert "No space left on device" in began
    assert ended == "episode logs are written again; 2 were left out"


def test_a_job_that_begins_takes_no_log_from_an_actor_that_still_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file's first try is cleared away before it has its name."""
    cleared: list[str] = []

    def clear(point: str, _detail: str = "") -> None:
        if point in ("atomic.written", "episode_log.flush_written") and point not in cleared:
            cleared.append(point)
            remove_temporaries(tmp_path)

    monkeypatch.setattr(atomic, "crash_point", clear)
    recorder = record(tmp_path, steps=20, flush=10)
    assert read_log(recorder.path).header.steps == 20
    recorder.finish(Summary())
    assert cleared == ["episode_log.flush_written", "atomic.written"]
    assert read_log(recorder.path).header.complete


def test_a_log_that_is_needed_is_an_error(disk: SmallDisk) -> None:
    recorder = EpisodeRecorder(disk.folder / "logs", IDENTITY, 10)
    recorder.start(SNAPSHOT, object(), seed=1, start=START)
    recorder.step(1, 2, CountingConsole())
    with disk.full(), pytest.raises(StorageError, match="logs"):
        recorder.finish(Summary())
