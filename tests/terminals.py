"""Programs on a real terminal, which a pseudo-terminal is."""

from __future__ import annotations

import os
import pty
import subprocess


def on_terminal(program: list[str], **environment: str) -> tuple[str, str]:
    """What a program writes on its terminal, which stdin and stderr are, and on stdout, which is a pipe."""
    main, side = pty.openpty()
    full = os.environ | {"TERM": "xterm", "COLUMNS": "100"} | environment
    process = subprocess.Popen(program, stdin=side, stdout=subprocess.PIPE, stderr=side, env=full)
    os.close(side)
    shown = b""
    while True:
        try:
            shown += os.read(main, 65536)
        except OSError:  # the program has ended
            break
    os.close(main)
    assert process.stdout is not None
    with process:
        out = process.stdout.read().decode()
    assert process.returncode == 0, shown
    return shown.decode(), out
