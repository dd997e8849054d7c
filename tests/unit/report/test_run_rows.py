"""Rows of a run's files: what is kept of them, and that a damaged one costs nothing but itself."""

from __future__ import annotations

from pathlib import Path

import made_runs
import numpy as np
import pytest
import run_golden
from made_runs import INCARNATION, episode, lines, metrics_row, quest, quest_row

from cluster_rl.errors import UserError
from cluster_rl.report import run_rows
from cluster_rl.report.run_rows import CURIOUS_ROWS, Metrics, read_episodes, read_metrics, read_quests
from cluster_rl.runs.episode_log import log_name, read_header
from cluster_rl.runs.metrics_tail import MAX_ROW_BYTES


def test_columns_of_all_and_rows_of_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_rows, "NEWEST_EPISODES", 2)
    monkeypatch.setattr(run_rows, "BEST_EPISODES", 2)
    path = tmp_path / "episodes.jsonl"
    changes = {1: {"episode_return": 50.0}, 2: {"start_tag": "archive", "episode_return": 99.0}, 4: {"entropy": None}}
    changes[5] = {"reason": "stopped"}
    path.write_bytes(lines(episode(number, **changes.get(number, {})) for number in range(6)))
    found, problem = read_episodes(path)
    assert (found.count, problem) == (6, "")
    assert found.columns["return"].tolist() == [0, 50, 99, 3, 4, 5]
    assert found.columns["whole"].tolist() == [1, 1, 0, 1, 1, 0]
    assert found.columns["terms/event"].tolist() == [0, 1, 2, 3, 4, 5]
    assert np.isnan(found.columns["entropy"]).tolist() == [False] * 4 + [True, False]
    assert [row.episode for row in found.newest] == [4, 5]
    assert [row.episode for row in found.best] == [1, 5]  # none that began elsewhere


def test_a_term_that_came_later_is_unknown_before(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    terms = [{"a": 1.0}, {"b": 2.0}, {"a": 3.0}]
    path.write_bytes(lines(episode(number, terms=each) for number, each in enumerate(terms)))
    columns = read_episodes(path)[0].columns
    np.testing.assert_equal(columns["terms/a"], [1, np.nan, 3])
    np.testing.assert_equal(columns["terms/b"], [np.nan, 2, np.nan])


def test_who_was_first_and_how_many_reached_it(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    reached = {1: {"start_tag": "state", "milestones": {"BADGE": 5}}, 2: {"milestones": {"BADGE": 9, "HOME": 1}}}
    reached[3] = {"milestones": {"HOME": 2}}
    path.write_bytes(lines(episode(number, **reached.get(number, {})) for number in range(4)))
    found, _ = read_episodes(path)
    assert {name: row.episode for name, row in found.first.items()} == {"BADGE": 2, "HOME": 2}
    assert found.reached == {"BADGE": 2, "HOME": 2}


def test_rows_spread_over_a_long_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_rows, "SPREAD_EPISODES", 10)
    path = tmp_path / "episodes.jsonl"
    path.write_bytes(lines(episode(number) for number in range(1000)))
    numbers = [row.episode for row in read_episodes(path)[0].spread]
    assert 10 <= len(numbers) < 20
    assert len(set(np.diff(numbers))) == 1
    assert numbers[0] == 0
    assert numbers[-1] > 850


def test_those_with_a_video_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "episodes.jsonl"
    path.write_bytes(lines(episode(number) for number in range(9)))
    name = f"a000-e00-{INCARNATION:x}-000003"
    assert [row.episode for row in read_episodes(path, {name})[0].filmed] == [3]


def test_a_row_names_its_log_as_the_recorder_does(tmp_path: Path) -> None:
    run_dir = run_golden.write_run(tmp_path)
    header = read_header(next(run_dir.episode_logs.iterdir()))
    row = made_runs.episode(
        header.episode, actor=header.actor, emulator=header.emulator, incarnation=header.incarnation
    )
    path = tmp_path / "episodes.jsonl"
    path.write_bytes(lines([row]))
    assert f"{read_episodes(path)[0].newest[0].name}.eplog" == log_name(header, header.episode)


def test_a_damaged_row_is_left_out_and_told(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    damage = b'{"time": 1, "env_st\x00\n' + b"\xff\xfe\n" + b"[1, 2]\n"
    path.write_bytes(lines([metrics_row(0)]) + damage + lines([metrics_row(1)]) + b'{"time": 3')
    found, problem = read_metrics(path)
    columns = found.columns
    assert columns["env_steps"].tolist() == [100, 200]
    assert problem.startswith("metrics.jsonl: 3 rows are damaged and left out; the first: line 2: damaged (")


def test_a_line_without_an_end_is_no_row_and_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(lines([metrics_row(0)]) + b"x" * (3 << 20) + b"\n" + lines([metrics_row(1)]))
    found, problem = read_metrics(path)
    columns = found.columns
    assert columns["env_steps"].tolist() == [100, 200]
    first = f"line 2: damaged (more than {MAX_ROW_BYTES} bytes)"
    assert problem == f"metrics.jsonl: a row is damaged and left out; the first: {first}"


@pytest.mark.parametrize(
    ("extra", "problem"),
    [
        (-1, ""),
        (0, "metrics.jsonl: a row is damaged and left out; the first: line 1: damaged (more than 1048576 bytes)"),
        (
            MAX_ROW_BYTES,
            "metrics.jsonl: a row is damaged and left out; the first: line 1: damaged (more than 1048576 bytes)",
        ),
    ],
)
def test_a_row_is_as_long_as_rows_may_be_at_most(tmp_path: Path, extra: int, problem: str) -> None:
    path = tmp_path / "metrics.jsonl"
    row = b'{"env_steps": 1%s}\n'
    path.write_bytes(row % (b" " * (MAX_ROW_BYTES - len(row) + 3 + extra)) + lines([metrics_row(1)]))
    found, told = read_metrics(path)
    columns = found.columns
    assert columns["env_steps"].tolist() == ([200] if problem else [1, 200])
    assert told == problem


def test_a_long_row_without_an_end_is_damage_and_not_a_row_that_is_being_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(lines([metrics_row(0)]) + b"x" * (3 << 20))
    assert "a row is damaged" in read_metrics(path)[1]


@pytest.mark.parametrize("odd", ['"fast"', "true", "[1]", "{}"])
def test_what_is_no_number_costs_no_other_number_of_its_row(tmp_path: Path, odd: str) -> None:
    path = tmp_path / "metrics.jsonl"
    bad = b'{"env_steps": 150, "learner/loss": %s, "note": "of nobody"}\n' % odd.encode()
    path.write_bytes(lines([metrics_row(0, learner__loss=0.5)]) + bad + bad + lines([metrics_row(1)]))
    found, problem = read_metrics(path)
    columns = found.columns
    assert columns["env_steps"].tolist() == [100, 150, 150, 200]
    np.testing.assert_equal(columns["learner/loss"], [0.5, np.nan, np.nan, np.nan])
    told = "2 values are of another kind and left out; the first: learner/loss in line 2"
    assert problem == f"metrics.jsonl: {told}"


def test_metrics_that_the_page_does_not_show_are_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(lines([metrics_row(0, learner__loss=0.5, quest__HOME=1.0), metrics_row(1)]))
    columns = read_metrics(path)[0].columns
    assert "quest/HOME" not in columns
    np.testing.assert_equal(columns["learner/loss"], [0.5, np.nan])


def test_a_null_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"time": 1, "env_steps": 2, "learner/loss": null}\n')
    assert np.isnan(read_metrics(path)[0].columns["learner/loss"]).all()


def test_curiosity_on_each_map_is_the_mean_of_the_newest_rows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    old = [metrics_row(number, **{"rnd/map_bonus/7": 5.0}) for number in range(30)]
    new = [
        metrics_row(number, **{f"rnd/map_bonus/{number % 2}": 0.5 * (1 + number % 4)}) for number in range(CURIOUS_ROWS)
    ]
    odd = {
        "rnd/map_bonus/x": 1.0,
        "rnd/map_bonus/-1": 1.0,
        "rnd/map_bonus/1": None,
        "rnd/map_bonus/0": 1e300,
        "rnd/map_bonus/2": True,
    }
    path.write_bytes(lines([*old, *new[:-1], new[-1] | odd]))
    found, problem = read_metrics(path)
    assert problem == ""
    assert found.map_bonus == {0: 1.0, 1: pytest.approx(1.5, abs=0.01)}
    assert not [name for name in found.columns if name.startswith("rnd/map")]


def test_quests_of_each_row(tmp_path: Path) -> None:
    path = tmp_path / "quests.jsonl"
    path.write_bytes(lines([quest_row(1, {"HOME": quest(0.25)}, ["HOME"]), {"time": "x"}]))
    rows, problem = read_quests(path)
    assert [(row.env_steps, row.frontier, row.quests["HOME"].mean) for row in rows] == [(10_000, ["HOME"], 0.25)]
    assert problem.startswith("quests.jsonl: a row is damaged and left out")


def test_files_that_are_not_there_or_no_files(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == (Metrics(), "metrics.jsonl: not there")
    (tmp_path / "quests.jsonl").mkdir()
    folder = "a folder lies where a file was expected; move it away"
    assert read_quests(tmp_path / "quests.jsonl") == ([], f"quests.jsonl: {folder}")
    (tmp_path / "pipe.jsonl").symlink_to("/dev/null")
    pipe = "something else lies where a file was expected; move it away"
    assert read_metrics(tmp_path / "pipe.jsonl") == (Metrics(), f"pipe.jsonl: {pipe}")
    found, problem = read_episodes(tmp_path / "episodes.jsonl")
    assert (found.count, found.columns, problem) == (0, {}, "episodes.jsonl: not there")


def test_a_file_that_may_not_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    path.touch()

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match="cannot be read: Permission denied"):
        read_metrics(path)


def test_the_rows_of_todays_writers_are_read(tmp_path: Path) -> None:
    run_dir = run_golden.write_run(tmp_path)
    assert (
        read_episodes(run_dir.episodes)[1] == read_metrics(run_dir.metrics)[1] == read_quests(run_dir.quests)[1] == ""
    )
    assert read_episodes(run_dir.episodes)[0].count == 1
    assert read_metrics(run_dir.metrics)[0].columns["env_steps"].tolist() == [640]
    assert list(read_quests(run_dir.quests)[0][0].quests) == ["LEFT_HOME"]
