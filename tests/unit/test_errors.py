"""How a command ends: one answer and exit code 2 for what its user can mend, anything else as it is."""

from __future__ import annotations

import errno
import os

import pytest

from cluster_rl.errors import EXIT_BAD_INPUT, UserError, run_command


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
