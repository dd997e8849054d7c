"""The export command: what it takes, where it writes, and a run that was really played."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_runs import make_run, metrics_row

from cluster_rl.errors import UserError
from cluster_rl.export import PolicyExport, parse_arguments, run


def words(root: Path, *more: str) -> list[str]:
    return ["--runs", str(root), "--run-name", "made", *more]


def test_where_it_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = make_run(tmp_path, metrics=[metrics_row(0)])
    assert run(parse_arguments(words(tmp_path, "--to", "csv"))) == 0
    assert (run_dir.path / "exports" / "csv" / "metrics.csv").is_file()
    assert run(parse_arguments(words(tmp_path, "--to", "csv", "--out", str(tmp_path / "a" / "b")))) == 0
    assert (tmp_path / "a" / "b" / "metrics.csv").is_file()
    assert f"{tmp_path / 'a' / 'b' / 'metrics.csv'}: 1 lines" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (["--to", "xml"], "invalid choice"),
        ([], "--to"),
        (["--to", "csv", "--episodes", "3"], "--episodes: only for --to coords"),
        (["--to", "coords", "--episodes", "0"], "at least 1"),
        (["--to", "onnx", "--params", "x.pt"], "either --run-name or --params"),
        (["--to", "onnx", "--config", "slim"], "--config: only with --params"),
        (["--to", "onnx", "--out", "nowhere/policy.onnx"], "its folder is not there"),
        (["--to", "safetensors", "--out", "."], "is a folder"),
    ],
)
def test_wrong_words_are_refused(tmp_path: Path, more: list[str], what: str) -> None:
    make_run(tmp_path)
    with pytest.raises(UserError, match=what):
        parse_arguments(words(tmp_path, *more))


def test_the_policy_of_a_file(tmp_path: Path) -> None:
    params = tmp_path / "online_params.pt"
    with pytest.raises(UserError, match="no such file"):
        parse_arguments(["--params", str(params), "--to", "onnx"])
    params.touch()
    with pytest.raises(UserError, match="needs --run-name"):
        parse_arguments(["--params", str(params), "--to", "csv"])
    found = parse_arguments(["--params", str(params), "--to", "onnx"])
    assert found == PolicyExport(params, str(tmp_path / "config.json"), "onnx", tmp_path / "online_params.onnx")
    with pytest.raises(UserError, match=r"config\.json"):
        run(found)


def test_a_run_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not found"):
        parse_arguments(["--runs", str(tmp_path), "--run-name", "other", "--to", "csv"])
