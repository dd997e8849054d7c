"""What writers have until they are done: each its own, and what killed ones left is removed, but not what lives."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster_rl.report import whole_output
from cluster_rl.report.whole_output import Partial

NAMES = pytest.mark.parametrize("name", ["x.mp4", "x[1].gif"])
KINDS = pytest.mark.parametrize("is_folder", [False, True])


def killed_writer(whole: Path, is_folder: bool) -> Path:
    """What a writer that was killed has left."""
    script = (
        "import os, pathlib, signal, cluster_rl.report.whole_output as here\n"
        f"partial = here.Partial(pathlib.Path({str(whole)!r}), {is_folder})\n"
        "(partial.path / 'frame' if partial.path.is_dir() else partial.path).write_bytes(b'half')\n"
        "print(partial.path, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert done.returncode == -signal.SIGKILL
    return Path(done.stdout.strip())


@NAMES
@KINDS
def test_the_next_writer_removes_what_a_killed_one_left_and_nothing_else(
    tmp_path: Path, name: str, is_folder: bool
) -> None:
    whole = tmp_path / name
    living, other = Partial(whole, is_folder), Partial(tmp_path / f"{name}.mp4", is_folder)
    mine = tmp_path / f".{name}.mine.partial"
    mine.touch()
    left = killed_writer(whole, is_folder)
    assert left.exists()
    assert left not in (living.path, other.path)
    mine_too = Partial(whole, is_folder)
    assert sorted(tmp_path.iterdir()) == sorted((living.path, other.path, mine, mine_too.path))
    for partial in (living, mine_too, other):
        partial.drop()
        partial.drop()  # harmless
    assert list(tmp_path.iterdir()) == [mine]


@KINDS
def test_it_gets_its_name_once_it_is_kept(tmp_path: Path, is_folder: bool) -> None:
    partial = Partial(tmp_path / "x", is_folder)
    inode = partial.path.stat().st_ino
    partial.keep()
    partial.drop()  # there is nothing to remove any more
    assert [path.stat().st_ino for path in tmp_path.iterdir()] == [inode]
    assert (tmp_path / "x").is_dir() == is_folder


@KINDS
def test_what_another_writer_took_for_left_is_made_again(
    tmp_path: Path, is_folder: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its making and its lock, and between its opening and its lock."""
    taken: list[Path] = []
    true_open, true_flock = whole_output._open, fcntl.flock

    def open_late(path: Path) -> int:
        if not taken:
            taken.append(path)
            whole_output._remove(path)
        return true_open(path)

    def lock_late(descriptor: int, how: int) -> None:
        if len(taken) == 1:
            (path,) = tmp_path.iterdir()
            taken.append(path)
            whole_output._remove(path)
        true_flock(descriptor, how)

    monkeypatch.setattr(whole_output, "_open", open_late)
    monkeypatch.setattr(fcntl, "flock", lock_late)
    partial = Partial(tmp_path / "x", is_folder)
    assert len(taken) == 2
    assert list(tmp_path.iterdir()) == [partial.path]
    assert partial.path not in taken


@KINDS
def test_without_locks_all_is_left_alone(tmp_path: Path, is_folder: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    left = killed_writer(tmp_path / "x", is_folder)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    first, second = Partial(tmp_path / "x", is_folder), Partial(tmp_path / "x", is_folder)
    assert sorted(tmp_path.iterdir()) == sorted((left, first.path, second.path))
    first.keep()
    assert second.path.exists()
