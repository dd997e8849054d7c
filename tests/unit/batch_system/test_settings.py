"""Settings of a cluster: the file as shell reads it, and the environment before it."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path

import pytest
from slurm_programs import REPOSITORY

from cluster_rl.batch_system.settings import read_settings
from cluster_rl.errors import UserError


def test_the_settings_of_the_repository() -> None:
    settings = read_settings(REPOSITORY / "slurm" / "settings.env", {})
    limits = (settings.max_jobs, settings.max_cpus, settings.max_hours, settings.max_gpumem_gb)
    assert limits == (4, 8, 4, 20)


def test_settings_as_shell_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "settings.env"
    path.write_text(
        "# a comment\nCLUSTER_RL_RUNS='/data/my runs'  # quoted\n\nCLUSTER_RL_MAX_JOBS=\nCLUSTER_RL_ROM=a.gb\n"
    )
    settings = read_settings(path, {"CLUSTER_RL_ROM": "b.gb", "CLUSTER_RL_OTHER": "not ours"})
    assert (settings.runs, settings.max_jobs, settings.rom) == ("/data/my runs", math.inf, "b.gb")
    shell = subprocess.run(
        ["bash", "-c", f". {path}; echo $CLUSTER_RL_RUNS"], capture_output=True, text=True, check=True
    )
    assert shell.stdout.strip() == settings.runs


TAKEN = (
    *("a", "", " ", "a=b", "*", "a{b,c}", "a,b", "caf\u00e9", "a~b"),
    *("'a b'", "'a'\"b\"", "a\\ b", "a\\nb", '"a\\nb"', "''", "'a;b'", '"a&b"', "a\\;b"),
    *("a#b", "#b", "a'#'b", "a\\#b", "'#'", "a #b", " #b", "a  # it's", "\t# b", "$HOME#b"),
    *("~/a", "$HOME", '"$HOME/a"', "${HOME}/a"),
)
REFUSED = (
    *("a b", " a", "a# b", 'a "#b"', "a#'b", "'a", 'a"b', "a\\"),
    *("a;true", "a;", ";", "a&", "a&&true", "a|cat", "a>/dev/null", "()", "(a b)"),
    *("~", "~root/a", "'~/a'", "\\~/a", "/a:~/b"),
    *("'$HOME'", "a\\$HOME", '"a\\$HOME"', "${HOME:-a}", "$(pwd)", "`pwd`", "a$"),
)


@pytest.mark.parametrize("text", TAKEN)
def test_a_value_is_what_the_shell_makes_of_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "settings.env"
    path.write_text(f"CLUSTER_RL_RUNS={text}\n", encoding="utf-8")
    commands = f'set -e; . {path}; printf %s "$CLUSTER_RL_RUNS"'
    shell = subprocess.run(["bash", "-c", commands], capture_output=True, text=True, check=True)
    assert (read_settings(path, {}).runs, "") == (shell.stdout, shell.stderr)


@pytest.mark.parametrize("text", REFUSED)
def test_what_the_shell_would_understand_otherwise_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "settings.env"
    path.write_text(f"CLUSTER_RL_RUNS={text}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"settings\.env, line 1: CLUSTER_RL_RUNS: "):
        read_settings(path, {})


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("CLUSTER_RL_MAX_CPU=8", "line 1: 'CLUSTER_RL_MAX_CPU=8' is no setting"),
        ("CLUSTER_RL_MAX_CPUS=eight", "line 1: CLUSTER_RL_MAX_CPUS: 'eight' is no limit"),
        ("CLUSTER_RL_MAX_JOBS=-1", "CLUSTER_RL_MAX_JOBS: '-1' is no limit"),
        ("CLUSTER_RL_MAX_HOURS=nan", "'nan' is no limit"),
        ("CLUSTER_RL_RUNS=two words", "more than one word"),
        ("CLUSTER_RL_RUNS=/data;rm x", "more than one word"),
        ("CLUSTER_RL_RUNS='open", "CLUSTER_RL_RUNS: No closing quotation"),
        ("rm -rf /", "is no setting"),
        ("CLUSTER_RL_RUNS= /data", "no space may stand after ="),
        ("CLUSTER_RL_RUNS=$NOT_SET_HERE/runs", "only .NAME of a variable that is set"),
        ("CLUSTER_RL_RUNS=${HOME:-/tmp}/runs", "only .NAME of a variable that is set"),
        ("CLUSTER_RL_RUNS='$HOME/runs'", "only .NAME of a variable that is set"),
        ("CLUSTER_RL_RUNS='~/runs'", "only as ~/, and without quotes"),
        ("CLUSTER_RL_RUNS=~other/runs", "only as ~/, and without quotes"),
        ("CLUSTER_RL_RUNS=`pwd`/runs", "only .NAME of a variable that is set"),
    ],
)
def test_broken_settings(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "settings.env"
    path.write_text(line + "\n")
    with pytest.raises(UserError, match=f"settings.env, .*{says}"):
        read_settings(path, {})


def test_settings_written_on_windows(tmp_path: Path) -> None:
    path = tmp_path / "settings.env"
    path.write_bytes(b"# a comment\r\nCLUSTER_RL_ROM=red.gb\r\n")
    with pytest.raises(UserError, match=r"settings\.env: has the line ends of Windows"):
        read_settings(path, {})


def test_no_settings(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file; .* make it here with: python -m cluster_rl.cluster init"):
        read_settings(tmp_path / "settings.env", {})
    with pytest.raises(UserError, match="the environment: CLUSTER_RL_MAX_CPUS: "):
        read_settings(REPOSITORY / "slurm" / "settings.env", {"CLUSTER_RL_MAX_CPUS": "many"})
