"""Old bytes or new bytes, nothing between: also when the writer is killed or the disk refuses."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_disk import SmallDisk

from cluster_rl.errors import StorageError, UserError
from cluster_rl.runs.atomic import append_whole, explain_os_error, replace_unsynced, why_unwritable, write_atomic
from cluster_rl.runs.rendezvous import Rendezvous, read_rendezvous, remove_rendezvous, write_rendezvous


def test_the_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_the_mode_is_set_from_the_first_byte(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_atomic(tmp_path / "secret", b"x", mode=0o600)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_a_failed_write_keeps_the_old_file_and_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"file: cannot be written: No space left on device; free some space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_missing_folder_is_our_fault_and_keeps_its_type(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "missing" / "file", b"x")
    quota = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
    assert isinstance(explain_os_error(quota, tmp_path), UserError)


def test_a_killed_writer_leaves_one_whole_version(tmp_path: Path) -> None:
    """A process rewrites a file without pause and is killed; what is read is always one version, entire."""
    path = tmp_path / "file"
    code = (
        "import sys, pathlib\n"
        "from cluster_rl.runs.atomic import write_atomic\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "for n in range(10**9): write_atomic(path, bytes([n % 256]) * 200_000)\n"
    )
    for delay_sec in (0.0, 0.013, 0.031):
        with subprocess.Popen([sys.executable, "-c", code, str(path)]) as writer:
            deadline = time.monotonic() + 20
            while not path.exists() and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(delay_sec)
            writer.send_signal(signal.SIGKILL)
        data = path.read_bytes()
        assert len(data) == 200_000
        assert len(set(data)) == 1


def make_rendezvous(incarnation: int = 7) -> Rendezvous:
    return Rendezvous(
        protocol=1, run="r", endpoint="tcp://127.0.0.1:5", public_key=None, incarnation=incarnation, slurm_job_id="42"
    )


def test_a_rendezvous_round_trips_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "rendezvous.json"
    assert read_rendezvous(path) is None
    written = make_rendezvous()
    write_rendezvous(path, written)
    assert read_rendezvous(path) == written
    assert (written.pid, written.slurm_job_id) == (os.getpid(), "42")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_only_the_own_rendezvous_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "rendezvous.json"
    write_rendezvous(path, make_rendezvous(incarnation=8))
    remove_rendezvous(path, incarnation=7)
    assert path.exists()
    remove_rendezvous(path, incarnation=8)
    assert not path.exists()
    remove_rendezvous(path, incarnation=8)


def test_a_rendezvous_that_others_may_write_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "rendezvous.json"
    write_rendezvous(path, make_rendezvous())
    path.chmod(0o620)
    with pytest.raises(UserError, match=r"other users may write it \(mode 0620\)"):
        read_rendezvous(path)


@pytest.mark.parametrize("data", [b"", b"{", b'{"protocol": "1"}', b"[]", b"\xff"])
def test_a_damaged_rendezvous_is_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "rendezvous.json"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(UserError, match="no rendezvous file that this program knows"):
        read_rendezvous(path)


# --- storage that takes nothing for a while ---


def test_a_full_disk_leaves_the_old_file_and_nothing_else(disk: SmallDisk) -> None:
    path = disk.folder / "file"
    for write in (write_atomic, replace_unsynced):
        write(path, b"old")
        with disk.full(), pytest.raises(StorageError, match="file: cannot be written: No space left") as error:
            write(path, bytes(10_000))
        assert (error.value.state, error.value.path) == ("disk full", path)
        assert path.read_bytes() == b"old"
        assert [p.name for p in disk.folder.iterdir()] == ["file"]


def test_a_read_only_file_system_is_storage_too(disk: SmallDisk) -> None:
    write_atomic(disk.folder / "file", b"old")
    assert why_unwritable(disk.folder) is None
    with disk.read_only():
        with pytest.raises(StorageError, match="Read-only file system"):
            write_atomic(disk.folder / "file", b"new")
        why = why_unwritable(disk.folder)
    assert why is not None
    assert why.state == "file system read-only"
    with disk.full():
        why = why_unwritable(disk.folder)
    assert why is not None
    assert why.state == "disk full"
    assert [p.name for p in disk.folder.iterdir()] == ["file"]


def test_a_folder_that_is_not_there_is_no_full_disk(tmp_path: Path) -> None:
    assert why_unwritable(tmp_path / "missing") is None


def test_a_piece_is_appended_whole_or_not_at_all(disk: SmallDisk) -> None:
    """A full disk takes the beginning of a piece, without an error."""
    path = disk.folder / "file"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        append_whole(descriptor, 0, b"a" * 5000)
        with disk.full(left_bytes=8192), pytest.raises(OSError, match="No space left"):
            append_whole(descriptor, 5000, b"b" * 50_000)
        assert path.read_bytes() == b"a" * 5000
        append_whole(descriptor, 5000, b"c" * 50_000)
        assert path.read_bytes() == b"a" * 5000 + b"c" * 50_000
        append_whole(descriptor, 5, b"d")  # what lies behind the whole bytes goes first
        assert path.read_bytes() == b"aaaaad"
    finally:
        os.close(descriptor)


def test_a_storage_error_comes_out_of_a_pool_as_it_was() -> None:
    error = explain_os_error(OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), Path("/data/x"))
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.path, again.number, again.state) == (str(error), Path("/data/x"), 122, "quota full")
