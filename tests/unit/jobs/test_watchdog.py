"""The watchdog on real processes: one stuck in compiled code, one that is alive, one that was let go."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster_rl.jobs.supervise import first_error

STUCK = "import re; re.match('(a+)+b', 'a' * 40)"  # in compiled code, which no signal handler of Python interrupts
ALIVE = "import time\nfor _ in range(30):\n    time.sleep(0.05); watchdog.alive()"
LET_GO = "import time\nwatchdog.close(); time.sleep(1.5)"


@pytest.mark.parametrize(("code", "expected"), [(STUCK, 1), (ALIVE, 0), (LET_GO, 0)])
def test_only_a_stuck_process_is_ended(tmp_path: Path, code: str, expected: int) -> None:
    program = f"from cluster_rl.jobs.watchdog import Watchdog\nwatchdog = Watchdog(0.5)\nwatchdog.alive()\n{code}"
    log = tmp_path / "log"
    started = time.monotonic()
    with log.open("wb") as file:
        done = subprocess.run([sys.executable, "-c", program], stderr=file, check=False, timeout=60)
    assert done.returncode == expected, log.read_text()
    if expected:
        assert time.monotonic() - started < 30
        assert first_error(log).startswith("Timeout (")
        assert 'File "<string>", line 4' in log.read_text()
