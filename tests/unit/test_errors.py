"""How a command writes and ends: its work is done whatever its output comes to; a line for all but our own mistakes."""

from __future__ import annotations

import errno
import os
import pty
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import zmq
from small_disk import mounted

from cluster_rl import errors
from cluster_rl.errors import (
    EXIT_BAD_INPUT,
    EXIT_FAILURE,
    EXIT_STORAGE,
    StorageError,
    UserError,
    describe_exit,
    mend,
    run_command,
)


def raising(error: Exception) -> int:
    raise error


def ended(main: Callable[[], int]) -> int:
    with pytest.raises(SystemExit) as end:
        run_command(main)
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("first\n  second"), "error: first second\n"),
        (UserError("two are wrong", ["a:\n1", "b"]), "error: two are wrong\n  a: 1\n  b\n"),
        (
            PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/home/other/red.gb"),
            "error: /home/other/red.gb: Permission denied; give another path, or ask its owner\n",
        ),
        (
            ModuleNotFoundError("No module named 'torch'", name="torch"),
            "error: No module named 'torch'; a package is missing or broken, install it anew\n",
        ),
    ],
)
def test_bad_input(error: Exception, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(lambda: raising(error)) == EXIT_BAD_INPUT
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (StorageError("the log is full", "/data/log", errno.ENOSPC), "error: the log is full\n"),
        (
            OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), b"/data"),
            "error: /data: Disk quota exceeded; free some of the quota, of space or of the number of files, "
            "and start again\n",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "error: No space left on device; free some space and start again\n",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "/data"),
            "error: /data: Read-only file system; give another path: the file system is mounted read-only\n",
        ),
        (
            OSError(errno.EIO, "Input/output error", "/data"),
            "error: /data: Input/output error; check the disk or its server, and start again\n",
        ),
        (OSError(errno.ENOTCONN, "not connected", "/data"), "error: /data: not connected\n"),
    ],
)
def test_storage_that_takes_nothing_now(error: Exception, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Another job of a chain may find it mended, so it is no bad input."""
    assert ended(lambda: raising(error)) == EXIT_STORAGE
    assert capsys.readouterr().err == line


def test_a_socket_is_no_storage(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(lambda: raising(OSError(errno.ENOTCONN, "not connected"))) == EXIT_FAILURE
    assert "not connected" in capsys.readouterr().err


def too_many_files() -> int:
    held = []
    while True:
        held.append(Path("/dev/null").open())  # noqa: SIM115  (the limit is the point)


def address_in_use() -> int:
    context = zmq.Context()
    try:
        first, second = context.socket(zmq.PULL), context.socket(zmq.PULL)
        first.bind("tcp://127.0.0.1:*")
        second.bind(first.getsockopt_string(zmq.LAST_ENDPOINT))
    finally:
        context.destroy(0)
    return 0


def no_thread() -> int:
    raise RuntimeError("can't start new thread")  # as Python says at the limit, which root does not have


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (lambda: raising(OSError(errno.ENXIO, "No such device", "/data")), "/data: No such device"),
        (lambda: raising(BrokenPipeError(errno.EPIPE, "Broken pipe")), "Broken pipe"),  # another one than stdout
        (too_many_files, "/dev/null: Too many open files; .*`ulimit -n`.*"),
        (lambda: len(bytes(1 << 60)), "not enough memory; give it more .*"),
        (lambda: torch.empty(1 << 60, dtype=torch.uint8).dim(), ".*(can't allocate memory|not enough memory).*"),
        (lambda: raising(torch.OutOfMemoryError("CUDA out of memory.\nTried")), "CUDA out of memory. Tried"),
        (lambda: raising(torch.AcceleratorError("CUDA error: busy")), "CUDA error: busy"),
        (address_in_use, r"Address already in use \(addr='tcp://127.*"),
        (no_thread, "can't start new thread"),
        (lambda: raising(TimeoutError()), "TimeoutError"),
    ],
)
def test_what_fails_outside_is_a_line(main: Callable[[], int], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, limits[1]))
    try:
        assert ended(main) == EXIT_FAILURE
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    said = capsys.readouterr().err
    assert re.fullmatch(f"error: {words}\n", said), said


def test_the_line_names_the_place(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from cluster_rl.runs.atomic import sync_folder

    assert ended(lambda: sync_folder(tmp_path / "gone") or 0) == EXIT_FAILURE
    place = r"\(cluster_rl/runs/atomic\.py, line \d+\)"
    assert re.fullmatch(rf"error: .*/gone: No such file or directory {place}\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a mistake of ours"),
        RuntimeError("another"),
        ImportError("cannot import name 'x' from 'cluster_rl.config'", name="cluster_rl.config"),
    ],
)
def test_a_mistake_of_ours_shows_where_it_was_and_asks_for_a_report(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(lambda: raising(error)) == EXIT_FAILURE
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-2] == f"{type(error).__name__}: {error}"
    assert lines[-1].startswith("error: this is a mistake in cluster_rl, not in what it was given; please report it")


# --- a full disk ---


@pytest.fixture
def few_inodes(tmp_path: Path) -> Iterator[Path]:
    """A file system with space, and no inode left."""
    with mounted(tmp_path / "small", "nr_inodes=2") as disk:
        (disk.folder / "last").touch()
        yield disk.folder


def test_inodes_are_named_where_they_are_what_is_full(few_inodes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cluster_rl.runs.atomic import write_atomic

    assert ended(lambda: (few_inodes / "new").write_text("x")) == EXIT_STORAGE
    assert "new: No space left on device; no inode is left there" in capsys.readouterr().err
    with pytest.raises(UserError, match="new: cannot be written: No space left on device; no inode is left there"):
        write_atomic(few_inodes / "new", b"x")
    with pytest.raises(UserError, match="no inode is left there"):  # in a folder that cannot be made
        write_atomic(few_inodes / "new", b"x")


def test_space_is_named_where_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    found = os.statvfs(tmp_path)
    fields = list(found)
    fields[4], fields[7] = 0, 0  # blocks, and inodes, free for us
    monkeypatch.setattr(errors.os, "statvfs", lambda _: os.statvfs_result(fields))
    assert mend(full, tmp_path / "a" / "b") == "free some space and start again"


# --- output ---

# Says much in each way that there is, then does the rest of its work.
TALKER = """
import logging, subprocess, sys
from pathlib import Path
from cluster_rl.errors import run_command
def main() -> int:
    logging.basicConfig(level="INFO", stream=sys.stderr)
    for number in range(20_000):
        print("line", number)
        if number % 2_000 == 0:
            logging.info("line %d", number)
            print("line", number, file=sys.stderr, flush=True)
    subprocess.run(["sh", "-c", "seq 100000; echo $? >said"])
    print(Path("café"), flush=True)
    Path("done").write_text("done")
    return 0
run_command(main)
"""


def test_lost_lines_of_a_log_fail_no_work() -> None:
    script = "from cluster_rl.errors import run_command; run_command(lambda: print('a line') or 0, only_logs=True)"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, "lines of it are lost" in done.stderr) == (0, True)


@pytest.mark.parametrize(
    ("python", "redirection", "code"),
    [
        ("python", "| head -1", 0),
        ("python -u", "| head -1", 0),
        ("python", "2>&1 | head -1", 0),
        ("python", "2>&1 >/dev/null | head -1", 0),
        ("python", ">&-", 0),
        ("python", ">&- 2>&-", 0),
        ("python", ">/dev/full", 1),
        ("python -u", ">/dev/full", 1),
        ("python", ">/dev/full 2>&1", 1),
    ],
)
def test_the_work_is_done_whatever_becomes_of_the_output(
    python: str, redirection: str, code: int, tmp_path: Path
) -> None:
    (tmp_path / "talker.py").write_text(TALKER)
    line = f"{python.replace('python', sys.executable)} talker.py {redirection}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert (tmp_path / "done").read_text() == "done"
    assert "Traceback" not in done.stderr + done.stdout
    assert "Error" not in done.stderr + done.stdout
    assert (tmp_path / "said").read_text() == ("1\n" if redirection.startswith(">/dev/full") else "0\n")
    if redirection == "| head -1":
        assert done.stdout == "line 0\n"
    if redirection == ">/dev/full":
        assert done.stderr.endswith(
            "error: <stdout>: No space left on device; lines of it are lost, all else is done\n"
        )


def test_a_file_opened_later_is_not_mistaken_for_a_closed_stdout(tmp_path: Path) -> None:
    script = (
        "import os, subprocess\n"
        "from cluster_rl.errors import run_command\n"
        "def main():\n"
        "    with open('kept', 'wb', 0) as kept:\n"
        "        kept.write(b'mine')\n"
        "        print('not for it', flush=True)\n"
        "        subprocess.run(['echo', 'nor this'])\n"
        "    return 0\n"
        "run_command(main)\n"
    )
    (tmp_path / "script.py").write_text(script)
    line = f"{sys.executable} script.py >&-"
    subprocess.run(["bash", "-c", line], cwd=tmp_path, check=True, timeout=60)
    assert (tmp_path / "kept").read_bytes() == b"mine"


def test_a_terminal_that_is_closed_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "talker.py").write_text(TALKER)
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "talker.py"], cwd=tmp_path, stdout=theirs, stderr=theirs)
    os.close(theirs)
    assert os.read(ours, 100).startswith(b"line")
    os.close(ours)
    assert process.wait(60) == 0
    assert (tmp_path / "done").exists()


def test_a_slow_reader_of_a_pipe_that_does_not_block_gets_everything() -> None:
    script = (
        "import os\n"
        "from cluster_rl.errors import run_command\n"
        "os.set_blocking(1, False)\n"
        "run_command(lambda: [print('x' * 99) for _ in range(5000)] and 0)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    time.sleep(0.5)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, len(out)) == (0, 500_000)


def test_a_path_that_is_no_text_comes_out_as_it_came_in() -> None:
    script = (
        "import sys\nfrom cluster_rl.errors import run_command\nrun_command(lambda: print(sys.argv[1], 'é') or 0)\n"
    )
    name = b"a\xff\xc3\xa9"
    for encoding, expected in (("utf-8", name + b" \xc3\xa9\n"), ("ascii", b"a\xff\\xe9 \\xe9\n")):
        environment = os.environ | {"PYTHONIOENCODING": encoding}
        done = subprocess.run([sys.executable, "-c", script, name], env=environment, capture_output=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, expected, b"")


def test_exits_are_described() -> None:
    assert describe_exit(3) == "exited with code 3"
    assert describe_exit(-9) == "was killed by SIGKILL (out of memory?)"
    assert describe_exit(-15) == "was killed by SIGTERM"
    assert describe_exit(-99) == "was killed by signal 99"
