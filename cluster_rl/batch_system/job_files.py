"""The job scripts as an installed package brings them, and how they come into a folder to work in.

`python -m cluster_rl.cluster init` uses it, where there is no checkout. `shipped/` here is a link to the checkout's
`slurm/`, and a copy of its files in an installed package. In: a folder. Out: its `slurm/`.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from cluster_rl.batch_system.job_script import SCRIPTS
from cluster_rl.batch_system.settings import SETTINGS_FILE
from cluster_rl.batch_system.submission import LOGS
from cluster_rl.runs.atomic import write_atomic

_SHIPPED = Path(__file__).parent / "shipped"
_NO_PYTHON = b"CLUSTER_RL_PYTHON=\n"


def write_job_files(folder: Path, python: str) -> list[Path]:
    """Writes to `folder` what it has not yet of the job scripts and their settings; returns what was written.

    `python` is the interpreter that new settings name. Raises `UserError` or `OSError` if the folder cannot be
    written to.
    """
    (folder / LOGS).mkdir(parents=True, exist_ok=True)  # a job whose log folder is missing fails before its first line
    written = []
    for shipped in sorted(_SHIPPED.iterdir()):
        path = folder / SCRIPTS / shipped.name
        if not shipped.is_file() or path.exists():
            continue
        data = shipped.read_bytes()
        if path.name == SETTINGS_FILE.name:
            data = data.replace(_NO_PYTHON, _NO_PYTHON.rstrip() + shlex.quote(python).encode() + b"\n")
        write_atomic(path, data)
        written.append(path)
    return written
