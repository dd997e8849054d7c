"""scripts/python_env.sh: which Python the scripts take, and what they say to who has only others."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_programs import put_program

ROOT = Path(__file__).resolve().parents[3]
FIND = 'ROOT=$1; source "$ROOT/scripts/python_env.sh"; find_python; echo "$BASE_PYTHON"'
PREPARE = 'ROOT=$1; source "$ROOT/scripts/python_env.sh"; prepare_python "" torch'


def put_python(folder: Path, name: str, version: str) -> None:
    """A Python that says it is of this version; one of version `broken` does not run."""
    numbers = ", ".join(version.split("."))
    code = f"import sys; sys.version_info = ({numbers}); exec(sys.argv[1])"
    put_program(folder, name, "exit 127" if version == "broken" else f'exec {sys.executable} -S -c "{code}" "$2"')


def bash(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["/bin/bash", "-c", script, "bash", str(ROOT)]
    return subprocess.run(
        command, env={"PATH": str(folder), **environment}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        ({"python3": "3.11.0"}, "python3"),
        ({"python3": "3.13.9"}, "python3"),
        ({"python3": "3.14.0", "python3.12": "3.12.1"}, "python3.12"),
        ({"python3": "3.10.13", "python3.13": "broken", "python3.11": "3.11.7"}, "python3.11"),
        ({"python3": "broken", "python3.13": "3.13.0"}, "python3.13"),
    ],
)
def test_the_first_supported_python_is_taken(tmp_path: Path, there: dict[str, str], taken: str) -> None:
    for name, version in there.items():
        put_python(tmp_path, name, version)
    done = bash(FIND, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{taken}\n", "")


@pytest.mark.parametrize("version", ["3.10.13", "3.14.0", "4.11.0", "broken", ""])
def test_other_pythons_are_named(tmp_path: Path, version: str) -> None:
    if version:
        put_python(tmp_path, "python3", version)
    done = bash(FIND, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    found = f" (python3 is {version})" if version[:1].isdigit() else ""
    assert done.stderr.startswith(f"error: no Python of 3.11, 3.12, 3.13 found{found}; install one of them")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("version", ["3.10.13", "3.14.0"])
def test_an_environment_of_another_python_is_refused(tmp_path: Path, version: str) -> None:
    (tmp_path / "bin").mkdir()
    put_python(tmp_path / "bin", "python", version)
    for setting in ({"CLUSTER_RL_PYTHON": f"{tmp_path}/bin/python"}, {"VIRTUAL_ENV": str(tmp_path)}):
        done = bash(PREPARE, tmp_path, **setting)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: {tmp_path}/bin/python is {version}, and this needs one of 3.11, 3.12")


def test_all_that_name_versions_agree() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    listed = re.findall(r"Python :: (3\.\d+)$", setup["metadata"]["classifiers"], re.M)
    line = re.search(r'^PYTHON_VERSIONS="(.*)"$', (ROOT / "scripts" / "python_env.sh").read_text(), re.M)
    assert line is not None
    assert line[1].split() == listed
    oldest, newest = (int(version.partition(".")[2]) for version in (listed[0], listed[-1]))
    assert setup["options"]["python_requires"] == f">=3.{oldest},<3.{newest + 1}"
    assert f"Python {', '.join(listed[:-1])} or {listed[-1]}:" in (ROOT / "README.md").read_text()
    assert oldest <= sys.version_info[1] <= newest
