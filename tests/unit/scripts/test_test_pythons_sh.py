"""scripts/test_pythons.sh with made-up Pythons: what it says of each."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from slurm_programs import REPOSITORY, put_program

# `-m venv DIR` gives a copy of itself; of its tests those of version {fails} fail.
PYTHON = """case "$2" in
venv) /bin/mkdir -p "$3/bin"; /bin/cp "$0" "$3/bin/python" ;;
pytest) [ {version} != {fails} ] ;;
*version_info*) echo {version}.1 ;;
esac"""


@pytest.mark.parametrize(("fails", "verdicts"), [("3.11", ["FAILED", "tested"]), ("3.13", ["tested", "FAILED"])])
def test_each_version_has_its_own_verdict(tmp_path: Path, fails: str, verdicts: list[str]) -> None:
    (tmp_path / "scripts").mkdir()
    for name in ("test_pythons.sh", "python_env.sh"):
        shutil.copy(REPOSITORY / "scripts" / name, tmp_path / "scripts")
    for version in ("3.11", "3.12", "3.13"):
        put_program(tmp_path, f"python{version}", PYTHON.format(version=version, fails=fails))
    put_program(tmp_path, "df", "echo 100G")
    done = subprocess.run(
        ["bash", str(tmp_path / "scripts" / "test_pythons.sh"), "tests"],
        env={
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "HOME": str(tmp_path),
            "CLUSTER_RL_PYTHON": str(tmp_path / "python3.12"),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    said = [line for line in done.stdout.splitlines() if " on 3." in line and "runs on it" not in line]
    assert said == [f"3.11: {verdicts[0]} on 3.11.1", f"3.13: {verdicts[1]} on 3.13.1"]
