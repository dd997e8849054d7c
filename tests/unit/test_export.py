"""The export command: what it takes, where it writes, and a run that was really played."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from made_logs import write_log
from made_runs import episode, make_run, metrics_row

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


@pytest.mark.parametrize(
    "name", ["online_params.pt", "config.json", "run.lock", "checkpoint/a.onnx", "chain-actors-2.json"]
)
@pytest.mark.parametrize("form", ["onnx", "csv"])
def test_nothing_that_a_run_keeps_is_replaced(tmp_path: Path, name: str, form: str) -> None:
    run_dir = make_run(tmp_path)
    out = run_dir.path / name
    run_dir.online_params.write_bytes(b"published")
    (tmp_path / "elsewhere").symlink_to(run_dir.path)
    kept = "what the policy is read from|keeps files of its own|is a folder"
    for path in (out, tmp_path / "elsewhere" / name, tmp_path / "made" / ".." / "made" / name):
        with pytest.raises(UserError, match=kept):
            parse_arguments(words(tmp_path, "--to", form, "--out", str(path)))
    (tmp_path / "copy.pt").touch()  # the policy of another place
    with pytest.raises(UserError, match=kept):
        parse_arguments(["--params", str(tmp_path / "copy.pt"), "--to", "onnx", "--out", str(out)])
    run_dir.identity.unlink()  # an older run
    with pytest.raises(UserError, match=kept):
        parse_arguments(words(tmp_path, "--to", form, "--out", str(out)))
    for free in ("exports/x", "policy.x", "made.onnx"):
        if form == "csv":
            parse_arguments(words(tmp_path, "--to", form, "--out", str(run_dir.path / free)))


@pytest.mark.parametrize("link", [False, True])
def test_a_policy_does_not_replace_what_it_is_read_from(tmp_path: Path, link: bool) -> None:
    params, config = tmp_path / "policy.safetensors", tmp_path / "mine.json"
    params.touch()
    config.touch()
    more = [] if not link else ["--out", str(tmp_path / "link")]
    (tmp_path / "link").symlink_to(params)
    with pytest.raises(UserError, match="is what the policy is read from"):
        parse_arguments(["--params", str(params), "--to", "safetensors", *more])
    with pytest.raises(UserError, match="is what the policy is read from"):
        parse_arguments(["--params", str(params), "--config", str(config), "--to", "onnx", "--out", str(config)])


@pytest.mark.parametrize("out", ["/proc/x", "/proc", "n" * 300, "/dev/null/x"])
@pytest.mark.parametrize("form", ["csv", "coords"])
def test_a_place_that_takes_nothing_is_told_in_a_line(tmp_path: Path, form: str, out: str) -> None:
    run_dir = make_run(tmp_path, metrics=[metrics_row(0)], episodes=[episode(0)])
    write_log(run_dir, 0, (0, 4, 5))
    with pytest.raises(UserError, match="cannot be written"):
        run(parse_arguments(words(tmp_path, "--to", form, "--out", out)))


def test_a_failed_export_of_a_policy_leaves_nothing(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    with pytest.raises(UserError, match=r"online_params\.pt"):
        run(parse_arguments(words(tmp_path, "--to", "safetensors")))
    assert not run_dir.exports.exists()


def test_a_missing_package_is_told_before_torch_is_loaded(tmp_path: Path) -> None:
    make_run(tmp_path)
    program = (
        "import sys; sys.modules['onnx'] = None; from cluster_rl.export import parse_arguments, run\n"
        "try: run(parse_arguments(sys.argv[1:]))\n"
        "except Exception as error: print(error); assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words(tmp_path, "--to", "onnx")], capture_output=True, text=True, check=True
    )
    assert "pip install 'cluster_rl[onnx]'" in done.stdout


def test_a_run_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not found"):
        parse_arguments(["--runs", str(tmp_path), "--run-name", "other", "--to", "csv"])
