"""How a command ends: one answer and exit code 2 for what its user can mend, anything else as it is."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from cluster_rl.errors import EXIT_BAD_INPUT, EXIT_NOBODY_READS, UserError, run_command


def raising(error: Exception) -> int:
    raise error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("first\n  second"), "error: first second\n"),
        (UserError("two are wrong", ["a:\n1", "b"]), "error: two are wrong\n  a: 1\n  b\n"),
        (
            PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/home/other/red.gb"),
            "error: /home/other/red.gb: Permission denied; give another path, or ask its owner\n",
        ),
    ],
)
def test_bad_input(error: Exception, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: raising(error))
    assert ended.value.code == EXIT_BAD_INPUT
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a mistake of ours"),
        OSError(errno.EIO, "Input/output error", "/data"),
        PermissionError(errno.EPERM, "Operation not permitted"),  # no path: a signal, say
    ],
)
def test_anything_else_shows_where_it_was(error: Exception) -> None:
    with pytest.raises(type(error)):
        run_command(lambda: raising(error))


PRINTER = """
import sys
from cluster_rl.errors import run_command
def main() -> int:
    for number in range(100_000):
        print("line", number)
    return 0
run_command(main)
"""


def test_a_reader_that_leaves_gets_no_traceback() -> None:
    process = subprocess.Popen([sys.executable, "-c", PRINTER], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"line 0\n"
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait(20) == EXIT_NOBODY_READS


def test_another_broken_pipe_is_a_fault_of_ours() -> None:
    with pytest.raises(BrokenPipeError):
        run_command(lambda: raising(BrokenPipeError(errno.EPIPE, "Broken pipe")))
