"""A run's rows as CSV: all that the rows have, each in its cell, and what is damaged costs nothing but itself."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made_runs import episode, lines, make_run, metrics_row, quest, quest_row

from cluster_rl.errors import UserError
from cluster_rl.exporting import tables
from cluster_rl.exporting.tables import export_tables
from cluster_rl.runs.layout import RunDir


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_all_that_rows_have(tmp_path: Path) -> None:
    run_dir = make_run(
        tmp_path,
        episodes=[
            episode(0, start_milestones=["A", "B"], start_tag="archive", entropy=None),
            episode(1, milestones={'ODD "NAME",': 5}, terms={"badge": 0.1}),
        ],
        metrics=[metrics_row(0), metrics_row(1, learner__loss=0.1 + 0.2)],
        quests=[quest_row(1, {"A": quest(0.2), "B": quest(0.9, stagnant=True)}, ["A"])],
    )
    told = export_tables(run_dir, tmp_path / "out")
    assert [line.split(": ")[1] for line in told] == [
        "2 lines, 4 columns",
        "2 lines, 24 columns",
        "2 lines, 17 columns",
    ]

    first, second = table(tmp_path / "out" / "metrics.csv")
    assert first["learner/loss"] == ""
    assert float(second["learner/loss"]) == 0.1 + 0.2  # to the last bit
    first, second = table(tmp_path / "out" / "episodes.csv")
    assert (first["start_milestones"], first["entropy"], first["terms/event"]) == ("A B", "", "0.0")
    assert (second['milestones/ODD "NAME",'], second["terms/badge"], second["terms/event"]) == ("5", "0.1", "")
    assert int(first["incarnation"]) == episode(0).incarnation  # 61 bits, more than a float has
    a, b = table(tmp_path / "out" / "quests.csv")
    assert [(row["quest"], row["in_frontier"], row["mean"], row["stagnant"]) for row in (a, b)] == [
        ("A", "1", "0.2", "0"),
        ("B", "0", "0.9", "1"),
    ]


def test_a_damaged_row_is_told_and_a_missing_file_left_out(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, episodes=[episode(0)])
    rows = lines(metrics_row(number) for number in range(3)).splitlines(keepends=True)
    run_dir.metrics.write_bytes(rows[0] + b'{"time": [}\n' + rows[1] + b'[{"a": 1}]\n' + rows[2][:-5])
    run_dir.quests.unlink()
    told = export_tables(run_dir, tmp_path / "out")
    assert len(table(tmp_path / "out" / "metrics.csv")) == 2  # the last one is being written
    assert any(line.startswith("WARNING: metrics.jsonl: 2 rows are damaged") for line in told)
    assert "quests.csv: left out, as quests.jsonl is not there" in told
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["episodes.csv", "metrics.csv"]


def test_tables_are_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = make_run(tmp_path, metrics=[metrics_row(0)], quests=[quest_row(1, {"A": quest()})])
    export_tables(run_dir, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    run_dir.metrics.write_bytes(lines([metrics_row(0), metrics_row(1)]))

    lines_of, calls = tables._of_quests, []

    def broken(rows: Any) -> Iterator[Any]:
        calls.append(rows)
        if len(calls) > 1:  # the first one looks for heads
            raise RuntimeError("in the last table")
        return iter(lines_of(rows))

    with monkeypatch.context() as patched:
        patched.setattr("cluster_rl.exporting.tables._of_quests", broken)
        with pytest.raises(RuntimeError):
            export_tables(run_dir, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    export_tables(run_dir, tmp_path / "out")
    assert len(table(tmp_path / "out" / "metrics.csv")) == 2


def test_rows_that_come_meanwhile_wait_for_the_next_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = make_run(tmp_path, metrics=[metrics_row(0), metrics_row(1)])
    lines_of = tables._as_cells

    def while_it_trains(rows: Iterable[Any]) -> Iterator[Any]:
        yield from lines_of(rows)
        with run_dir.metrics.open("ab") as file:
            file.write(lines([metrics_row(9, late__column=1.0)]))

    monkeypatch.setattr(tables, "_as_cells", while_it_trains)
    told = export_tables(run_dir, tmp_path / "out")
    assert "2 lines, 3 columns" in told[0]
    found = table(tmp_path / "out" / "metrics.csv")
    assert [row["env_steps"] for row in found] == ["100.0", "200.0"]
    assert "late/column" not in found[0]


def test_an_odd_value_costs_nothing_but_itself(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, metrics=[metrics_row(0)])
    odd = {
        "env_steps": 7,
        "loss": 0.5,
        "done": True,
        "note": "text",
        "list": [1, 2],
        "deep": {"a": {"b": 1}, "c": False},
    }
    run_dir.metrics.write_bytes(lines([metrics_row(0), odd]))
    run_dir.episodes.write_bytes(lines([{"return": 1.5, "whole": False, "odd": [[1]]}]))
    told = export_tables(run_dir, tmp_path / "out")
    row = table(tmp_path / "out" / "metrics.csv")[1]
    kept = {name: row.get(name) for name in ("env_steps", "loss", "done", "note", "list", "deep/a", "deep/c")}
    assert list(kept.values()) == ["7", "0.5", "1", "text", None, None, "0"]
    assert "WARNING: metrics.jsonl: 2 values are of another kind and left out; the first: list in line 2" in told
    assert table(tmp_path / "out" / "episodes.csv") == [{"return": "1.5", "whole": "0"}]


def test_a_table_without_lines_is_left_out(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, metrics=[metrics_row(0)], quests=[quest_row(1, {})])
    told = export_tables(run_dir, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["metrics.csv"]
    assert told[1:] == [f"{name}.csv: left out, as {name}.jsonl has no rows for it" for name in ("episodes", "quests")]
    run_dir.metrics.write_bytes(b"nothing\n")
    with pytest.raises(UserError, match=r"has no rows .* yet; metrics\.jsonl: a row is damaged"):
        export_tables(run_dir, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_run_without_rows_and_a_file_for_a_folder(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path, "bare")
    run_dir.path.mkdir()
    with pytest.raises(UserError, match="has no rows"):
        export_tables(run_dir, tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file; give --out a folder"):
        export_tables(make_run(tmp_path, metrics=[metrics_row(0)]), tmp_path / "file")
    assert not (tmp_path / "out").exists()
