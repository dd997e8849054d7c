"""The archive on disk: what is let in, its bounds under many actors, deaths at each of its files, and what is unfit."""

from __future__ import annotations

import multiprocessing
import signal
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from small_disk import SmallDisk

from cluster_rl.errors import StorageError, UserError
from cluster_rl.exploration import archive as archive_module
from cluster_rl.exploration.archive import (
    PENDING_OF_ACTOR,
    Archive,
    ArchiveDir,
    StartState,
    StartStates,
    StateHeader,
    pack_state,
    parse_state,
    read_state,
)
from cluster_rl.runs import crash_points
from cluster_rl.runs.atomic import remove_temporaries, write_atomic

ROM = "ab" * 20
SNAPSHOT = bytes(range(256)) * 8


def header_of(key: str, steps: int = 10, *milestones: str, **changes: object) -> StateHeader:
    values = {"tag": "archive", "rom_sha1": ROM, "map_id": 1, "x": 2, "y": 3, "step": steps, "start_id": "boot"}
    return StateHeader(key=key, steps=steps, milestones=list(milestones), **values | changes)  # type: ignore[arg-type]


def open_archive(
    folder: Path, max_entries: int = 100, max_bytes: int = 10**6, said: list[str] | None = None
) -> Archive:
    return Archive(folder, ROM, "frontier", max_entries, max_bytes, say=(said if said is not None else []).append)


def starts_of(folder: Path, actor: int = 0, share: float = 1.0) -> StartStates:
    return StartStates(folder, actor, share, proposes=True, read_sec=0.0)


def keys(archive: Archive) -> list[str]:
    return sorted(entry.key for entry in archive.entries)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in ArchiveDir(folder).states.iterdir())


def test_a_state_comes_back_as_it_was_put_in(tmp_path: Path) -> None:
    archive, starts = open_archive(tmp_path), starts_of(tmp_path)
    header = header_of("cell", 7, "a", "b", episode=(3, 5, 1, 8))
    assert starts.choose(np.random.default_rng(0)) is None  # nothing is published yet
    starts.propose(header, b"memory", SNAPSHOT)
    assert archive.admit() == 1
    assert starts.choose(np.random.default_rng(0)) is None
    archive.publish()
    found = starts.choose(np.random.default_rng(0))
    assert found == StartState(ArchiveDir(tmp_path).states / "cell.start", header, b"memory", SNAPSHOT)
    assert list(ArchiveDir(tmp_path).incoming.iterdir()) == []


def test_only_what_is_new_or_clearly_better_is_wanted_and_let_in(tmp_path: Path) -> None:
    archive, starts = open_archive(tmp_path), starts_of(tmp_path)
    assert starts.wants("cell", 100)
    starts.propose(header_of("cell", 100), b"", SNAPSHOT)
    assert not starts.wants("cell", 81)  # it waits to be let in
    assert starts.wants("cell", 80)
    archive.admit()
    archive.publish()
    other = starts_of(tmp_path, actor=1)
    other.choose(np.random.default_rng(0))
    assert (other.wants("cell", 81), other.wants("cell", 80), other.wants("next", 81)) == (False, True, True)
    for steps, left in ((81, 100), (80, 80)):
        other.propose(header_of("cell", steps), b"", SNAPSHOT)
        archive.admit()
        assert [entry.steps for entry in archive.entries] == [left]
        assert read_state(ArchiveDir(tmp_path).states / "cell.start").header.steps == left
    assert not StartStates(tmp_path, 0, 1.0, proposes=False).wants("next", 1)


def test_the_share_from_the_beginning_is_kept(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    starts_of(tmp_path).propose(header_of("cell"), b"", SNAPSHOT)
    archive.admit()
    archive.publish()
    rng, starts, draws = np.random.default_rng(3), starts_of(tmp_path, share=0.3), 2000
    elsewhere = sum(starts.choose(rng) is not None for _ in range(draws))
    assert abs(elsewhere - 0.3 * draws) < 4 * (0.3 * 0.7 * draws) ** 0.5


def test_what_followed_is_of_the_cell_and_outlives_jobs(tmp_path: Path) -> None:
    archive, starts = open_archive(tmp_path), starts_of(tmp_path)
    starts.propose(header_of("old", 100), b"", SNAPSHOT)
    archive.admit()
    starts.propose(header_of("new", 150, start_id="old", episode=(0, 1, 2, 3)), b"", SNAPSHOT)
    archive.admit()
    archive.count("old", (0, 1, 2, 3), reached=False)  # it found a new cell
    archive.count("old", (0, 1, 2, 4), reached=False)
    archive.count("old", (0, 1, 2, 5), reached=True)
    archive.count("gone", (0, 1, 2, 6), reached=True)
    starts.propose(header_of("old", 50), b"", SNAPSHOT)
    archive.admit()
    archive.next_record = 777
    archive.publish()
    again = open_archive(tmp_path)
    old = next(entry for entry in again.entries if entry.key == "old")
    assert (old.drawn, old.steps) == (3, 50)
    assert old.followed == pytest.approx(1 + 0.98**2)
    assert old.episodes == pytest.approx(1 + 0.98 + 0.98**2)
    assert (again.next_record, keys(again)) == (777, ["new", "old"])


def _propose_many(folder: Path, actor: int, states: int) -> None:
    starts = starts_of(folder, actor)
    for number in range(states):
        starts.propose(header_of(f"{actor}-{number}", 10 + number), bytes(100), SNAPSHOT)


def test_bounds_hold_under_many_actors_that_write_at_once(tmp_path: Path) -> None:
    size = len(pack_state(header_of("0-0"), bytes(100), SNAPSHOT))
    archive = open_archive(tmp_path, max_entries=20, max_bytes=15 * (size + 40))
    forks = multiprocessing.get_context("fork")
    actors = [forks.Process(target=_propose_many, args=(tmp_path, actor, 60)) for actor in range(6)]
    for actor in actors:
        actor.start()
    while any(actor.is_alive() for actor in actors):
        archive.admit()
        archive.publish()
        assert len(archive.entries) <= 20
        assert archive.size_bytes <= 15 * (size + 40)
    assert [actor.exitcode for actor in actors] == [0] * 6
    assert len(list(ArchiveDir(tmp_path).incoming.iterdir())) <= 6 * PENDING_OF_ACTOR
    while archive.admit():
        pass
    assert archive.admitted >= 6 * PENDING_OF_ACTOR
    assert files(tmp_path) == [f"{key}.start" for key in keys(archive)]
    assert sum(path.stat().st_size for path in ArchiveDir(tmp_path).states.iterdir()) == archive.size_bytes
    assert 0 < len(archive.entries) == 15  # the bytes are what is tight
    assert archive.unfit == 0  # nobody's file was read half written


def test_a_smaller_bound_evicts_the_least_weight_at_the_next_start(tmp_path: Path) -> None:
    archive, starts = open_archive(tmp_path), starts_of(tmp_path)
    for number in range(6):
        starts.propose(header_of(f"cell {number}"), b"", SNAPSHOT)
    archive.admit()
    for key in ("cell 1", "cell 4"):
        archive.count(key, (0, 0, 0, 0), reached=False)
    archive.publish()
    assert keys(open_archive(tmp_path, max_entries=4)) == ["cell 0", "cell 2", "cell 3", "cell 5"]
    assert len(files(tmp_path)) == 4
    only_given = open_archive(tmp_path, max_entries=0)  # the archive is off: nothing of it is drawn, or deleted
    assert (only_given.entries, len(files(tmp_path))) == ([], 4)


def test_the_number_of_states_is_bounded_as_they_come(tmp_path: Path) -> None:
    archive, starts = open_archive(tmp_path, max_entries=2), starts_of(tmp_path)
    for number in range(5):
        starts.propose(header_of(f"cell {number}"), b"", SNAPSHOT)
    assert archive.admit() == 5
    assert (len(archive.entries), len(files(tmp_path)), archive.evicted) == (2, 2, 3)
    assert "cell 4" in keys(archive)  # the newest has not been tried


def test_states_larger_than_the_bound_are_dropped(tmp_path: Path) -> None:
    archive = open_archive(tmp_path, max_bytes=1000)
    starts_of(tmp_path).propose(header_of("cell"), b"", SNAPSHOT)
    assert (archive.admit(), files(tmp_path)) == (0, [])


DEATHS = (
    *("archive.taken", "archive.admitted", "archive.evicted"),
    *(f"atomic.{when}@index.json" for when in ("begin", "written", "renamed")),
    *(f"atomic.{when}@*.start" for when in ("begin", "written", "renamed")),
)
BOUND = 8


def _live(folder: Path, requests: Path | None, first: int) -> None:
    """One actor and the learner in turn; where no death is asked for, all that was proposed is looked at."""
    crash_points._FOLDER = None if requests is None else str(requests)
    places = ArchiveDir(folder).create()
    for each in (places.path, places.incoming, places.states):
        remove_temporaries(each)  # as the launcher does
    archive, starts = open_archive(folder, max_entries=BOUND), starts_of(folder)
    for number in range(first, first + 12):
        starts.propose(header_of(f"cell {number:03}"), b"memory", SNAPSHOT)
        archive.admit()
        archive.publish()


@pytest.mark.parametrize("point", DEATHS)
def test_a_death_anywhere_leaves_a_whole_archive(tmp_path: Path, point: str) -> None:
    folder, requests = tmp_path / "archive", tmp_path / "requests"
    requests.mkdir()
    forks = multiprocessing.get_context("fork")
    _live(folder, None, 0)
    (requests / point).touch()
    life = forks.Process(target=_live, args=(folder, requests, 100))
    life.start()
    life.join()
    assert life.exitcode == -signal.SIGKILL
    assert list(requests.iterdir()) == []
    _live(folder, None, 200)
    said: list[str] = []
    archive = open_archive(folder, max_entries=BOUND, said=said)
    assert (said, archive.unfit) == ([], 0)
    assert len(archive.entries) == BOUND
    assert files(folder) == [f"{key}.start" for key in keys(archive)]  # nothing hidden, nothing half
    for path in ArchiveDir(folder).states.iterdir():
        assert read_state(path).snapshot == SNAPSHOT
    assert list(ArchiveDir(folder).incoming.glob("*.start")) == []


def test_a_state_that_was_let_in_and_not_published_is_there_at_the_next_start(tmp_path: Path) -> None:
    archive, starts = open_archive(tmp_path), starts_of(tmp_path)
    starts.propose(header_of("cell", 100), b"", SNAPSHOT)
    archive.admit()
    archive.publish()
    archive.count("cell", (0, 0, 0, 0), reached=True)
    archive.publish()
    starts.propose(header_of("cell", 9), b"longer", SNAPSHOT)
    starts.propose(header_of("other"), b"", SNAPSHOT)
    archive.admit()
    again = {entry.key: entry for entry in open_archive(tmp_path).entries}
    assert (again["cell"].steps, again["cell"].drawn, again["other"].drawn) == (9, 1, 0)


def test_damaged_states_are_set_aside_counted_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    archive, starts = open_archive(tmp_path, said=said), starts_of(tmp_path)
    for key in ("one", "two"):
        starts.propose(header_of(key), b"memory", SNAPSHOT)
    archive.admit()
    archive.publish()
    for key in ("one", "two"):
        path = ArchiveDir(tmp_path).states / f"{key}.start"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    assert starts.choose(np.random.default_rng(0)) is None  # both tried, both set aside
    assert starts.unfit == archive.unfit == 2
    out = capsys.readouterr().out
    assert out.count("damaged (cut short, or a part does not match its checksum); moved to") == 2
    (ArchiveDir(tmp_path).incoming / "a000-0.start").write_bytes(b"half a st")
    assert archive.admit() == 0
    assert "a000-0.start.taken: damaged (no start state, or cut short); moved to" in said[0]
    assert archive.unfit == 3
    assert keys(open_archive(tmp_path)) == []


@pytest.mark.parametrize("cut", [0, 3, 40, 70, 200, -1])
def test_a_cut_file_is_no_state(tmp_path: Path, cut: int) -> None:
    data = pack_state(header_of("cell"), b"memory", SNAPSHOT)
    assert parse_state(data, tmp_path).memory == b"memory"
    with pytest.raises(UserError, match="damaged"):
        parse_state(data[:cut], tmp_path)
    with pytest.raises(UserError, match="damaged"):
        parse_state(data + b"x", tmp_path)


def as_newer(data: bytes) -> bytes:
    """A `.start` file with the version after this one, and the checksum of its first 48 bytes."""
    head = data[:8] + struct.pack("<I", 2) + data[12:48]
    return head + struct.pack("<I", zlib.crc32(head)) + data[52:]


def test_a_newer_format_is_named(tmp_path: Path) -> None:
    data = as_newer(pack_state(header_of("cell"), b"", SNAPSHOT))
    with pytest.raises(UserError, match="format 2, this program reads 1; use the newer program"):
        parse_state(data, tmp_path)
    path = ArchiveDir(tmp_path).create().states / "cell.start"
    path.write_bytes(data)
    with pytest.raises(UserError, match="use the newer program"):
        open_archive(tmp_path)
    assert path.read_bytes() == data  # what a newer program kept is its own


def test_a_newer_state_that_is_drawn_stays_and_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive, starts, rng = open_archive(tmp_path), starts_of(tmp_path), np.random.default_rng(0)
    for key in ("one", "two"):
        starts.propose(header_of(key), b"memory", SNAPSHOT)
    archive.admit()
    archive.publish()
    paths = [ArchiveDir(tmp_path).states / f"{key}.start" for key in ("one", "two")]
    for path in paths:
        path.write_bytes(as_newer(path.read_bytes()))
    before = [path.read_bytes() for path in paths]
    assert starts.choose(rng) is None
    starts.propose(header_of("readable"), b"memory", SNAPSHOT)
    archive.admit()
    archive.publish()
    for _ in range(10):
        found = starts.choose(rng)
        assert found is not None
        assert found.header.key == "readable"
    assert [path.read_bytes() for path in paths] == before
    assert (starts.unfit, archive.unfit, starts.newer) == (0, 0, set(paths))
    assert capsys.readouterr().out.count("use the newer program; it and what else there is of a newer format") == 1


def test_a_newer_proposal_waits_for_the_newer_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    archive = open_archive(tmp_path, said=said)
    for number in range(3):
        path = ArchiveDir(tmp_path).incoming / f"a00{number}-0.start"
        path.write_bytes(as_newer(pack_state(header_of(f"cell {number}"), b"memory", SNAPSHOT)))
    starts_of(tmp_path, actor=7).propose(header_of("readable"), b"memory", SNAPSHOT)
    assert (archive.admit(), archive.admit()) == (1, 0)
    assert (keys(archive), archive.newer, archive.unfit) == (["readable"], 3, 0)
    assert len(said) == 1
    assert "use the newer program" in said[0]
    again = open_archive(tmp_path, said=said)
    assert (keys(again), again.newer, again.unfit, len(said)) == (["readable"], 3, 0, 2)
    (ArchiveDir(tmp_path).states / "readable.start").unlink()
    monkeypatch.setattr(archive_module, "FORMAT", archive_module.FORMAT._replace(version=2))
    assert keys(open_archive(tmp_path)) == ["cell 0", "cell 1", "cell 2"]
    assert again.newer == 0


def test_states_of_another_game_are_refused_by_name(tmp_path: Path) -> None:
    said: list[str] = []
    archive, starts = open_archive(tmp_path, said=said), starts_of(tmp_path)
    starts.propose(header_of("cell", rom_sha1="cd" * 20), b"", SNAPSHOT)
    assert archive.admit() == 0
    assert f"made in the ROM with SHA-1 {'cd' * 20}, but this run plays {ROM}; moved to" in said[0]
    starts.propose(header_of("good"), b"", SNAPSHOT)
    archive.admit()
    archive.publish()
    other = Archive(tmp_path, "cd" * 20, "frontier", 10, 10**6, say=said.append)
    assert (other.entries, other.unfit) == ([], 2)
    assert f"made in the ROM with SHA-1 {ROM}, but this run plays {'cd' * 20}" in said[1]


def test_a_damaged_index_is_made_anew_from_the_states(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    starts_of(tmp_path).propose(header_of("cell"), b"", SNAPSHOT)
    archive.admit()
    archive.publish()
    write_atomic(ArchiveDir(tmp_path).index, b'{"schema_version": 1')
    said: list[str] = []
    assert keys(open_archive(tmp_path, said=said)) == ["cell"]
    assert "it is made anew from the states" in said[0]
    write_atomic(ArchiveDir(tmp_path).index, b'{"schema_version": 9}')
    with pytest.raises(UserError, match="use the newer program"):
        open_archive(tmp_path)


def test_a_full_disk_loses_proposals_and_nothing_else(disk: SmallDisk, capsys: pytest.CaptureFixture[str]) -> None:
    folder = disk.folder / "archive"
    archive, starts = open_archive(folder), starts_of(folder)
    starts.propose(header_of("before"), b"", SNAPSHOT)
    archive.admit()
    with disk.full():
        starts.propose(header_of("lost"), b"", SNAPSHOT)
        starts.propose(header_of("lost too"), b"", SNAPSHOT)
        with pytest.raises(StorageError):
            archive.publish()
    assert capsys.readouterr().out.count("start states are left out for now") == 1
    starts.propose(header_of("after"), b"", SNAPSHOT)
    archive.admit()
    archive.publish()
    assert keys(open_archive(folder)) == ["after", "before"]
