"""scripts/test.sh with a made-up Python: its exit code is that of its parts, and it leaves nothing behind."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from slurm_programs import REPOSITORY, put_program

# Of its tests those fail whose command line holds {fails}.
PYTHON = """case "$*" in
*"-m pytest"*) case "$*" in *"{fails}"*) exit 1 ;; esac ;;
*version_info*) echo 3.12.1 ;;
*sys.prefix*) echo "{folder}" ;;
esac"""


@pytest.mark.parametrize(
    ("fails", "code"),
    [
        ("no such test", 0),
        (" tests/system ", 1),
        ("pytest --durations=20 --durations-min=5 tests/cluster ", 1),
        ("--ignore=tests/system", 1),
    ],
)
def test_it_fails_where_one_of_its_parts_does(tmp_path: Path, fails: str, code: int) -> None:
    temporary = tmp_path / "temporary"
    for folder in (tmp_path / "scripts", temporary):
        folder.mkdir()
    for name in ("test.sh", "python_env.sh"):
        shutil.copy(REPOSITORY / "scripts" / name, tmp_path / "scripts")
    for name in ("setup.cfg", "constraints.txt"):
        (tmp_path / name).touch()
    put_program(tmp_path, "python3.12", PYTHON.format(fails=fails, folder=tmp_path))
    put_program(tmp_path, "shellcheck", "exit 0")
    put_program(tmp_path, "chromium", "exit 0")  # else it would be installed
    done = subprocess.run(
        ["bash", str(tmp_path / "scripts" / "test.sh")],
        env={
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "HOME": str(tmp_path),
            "TMPDIR": str(temporary),
            "CLUSTER_RL_PYTHON": str(tmp_path / "python3.12"),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    assert list(temporary.iterdir()) == []
