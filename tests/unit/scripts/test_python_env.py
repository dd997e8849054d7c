"""Commands of minutes in scripts: whole on a terminal, a line now and then in a file, and their exit code in both."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from terminals import on_terminal

ROOT = Path(__file__).resolve().parents[3]
# Like pip: many lines, one without an end, colours, and a step that says nothing for a while.
COMMAND = r"""
printf 'Collecting torch\n\033[31m  Downloading torch (190 MB)\033[0m\n'; sleep 1.5; printf 'half a line'; exit $1
"""


def script(tmp_path: Path, exit_code: int) -> list[str]:
    (tmp_path / "pip").write_text(COMMAND)
    lines = ["set -euo pipefail", f'source "{ROOT}/scripts/python_env.sh"', "LINE_INTERVAL_SEC=1"]
    lines += [f'run_long installing bash "{tmp_path}/pip" {exit_code}', "echo done"]
    return ["bash", "-c", "\n".join(lines)]


def test_in_a_file(tmp_path: Path) -> None:
    done = subprocess.run(script(tmp_path, 0), capture_output=True, text=True, check=True)
    *shown, last = done.stdout.splitlines()
    assert last == "done"
    assert shown
    for line in shown:
        assert re.fullmatch(r"installing: \d+ s, \[31m  Downloading torch \(190 MB\)\[0m", line)
    failed = subprocess.run(script(tmp_path, 7), capture_output=True, text=True, check=False)
    assert failed.returncode == 7
    assert "done" not in failed.stdout


def test_on_a_terminal(tmp_path: Path) -> None:
    command = script(tmp_path, 0)
    shown, _ = on_terminal([*command[:2], f"exec >&2\n{command[2]}"])
    assert "Collecting torch\r\n" in shown
    assert shown.endswith("half a linedone\r\n")
    assert "installing:" not in shown
