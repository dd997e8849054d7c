"""Run names are safe names of folders, and nothing is on disk before `create()`."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster_rl.errors import UserError
from cluster_rl.runs.layout import MAX_RUN_NAME, RunDir, check_run_name


@pytest.mark.parametrize("name", ["a", "red-2024.11_b", "7", "_x", "A" * MAX_RUN_NAME, "v1.2"])
def test_good_names(name: str) -> None:
    assert check_run_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".hidden",
        "-rf",
        "a/b",
        "a\\b",
        "a b",
        "a..b",
        "a\n",
        "../x",
        "/abs",
        "é",
        "a\x00",
        "A" * 101,
        "~",
    ],
)
def test_bad_names_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(UserError, match="run name") as caught:
        check_run_name(name)
    assert "\n" not in str(caught.value)


def test_nothing_exists_until_create(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "runs", "one")
    assert not run_dir.exists()
    assert list(tmp_path.iterdir()) == []
    assert run_dir.create() is run_dir
    run_dir.create()
    assert run_dir.exists()
    assert sorted(p.name for p in run_dir.path.iterdir()) == [
        "checkpoint",
        "episode_logs",
        "jobs",
        "logs",
        "replay",
        "tensorboard",
    ]


def test_every_path_lies_in_the_run(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path, "one")
    paths = [value for name, value in vars(run_dir).items() if isinstance(value, Path) and name != "root"]
    assert len(paths) == len(set(paths)) >= 15
    assert all(path == run_dir.path or path.parent == tmp_path / "one" for path in paths)


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "logs").write_text("")
    with pytest.raises(UserError, match="logs: a file lies where the run needs a folder"):
        RunDir(tmp_path, "one").create()


def test_a_missing_run_names_those_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no runs are there"):
        RunDir(tmp_path, "one").require()
    RunDir(tmp_path, "two").create()
    with pytest.raises(UserError, match=r"run 'one': not found .*runs there are two"):
        RunDir(tmp_path, "one").require()
    assert RunDir(tmp_path, "two").require().exists()


def test_the_runs_of_several_seeds(tmp_path: Path) -> None:
    for name in ("red-s10", "red-s2", "red-s02", "red-s", "red-s1.old", "redder-s1", "red", "blue-s1"):
        (tmp_path / name).mkdir()
    (tmp_path / "red-s3").touch()
    run_dir = RunDir(tmp_path, "red")
    assert [run.run_name for run in run_dir.seeds()] == ["red-s2", "red-s10"]
    assert run_dir.of_seed(2).path == tmp_path / "red-s2"
    assert RunDir(tmp_path / "none", "red").seeds() == []
