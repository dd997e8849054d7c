"""Options of the commands, which run they mean, and what they say of config keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster_rl.config import config_keys
from cluster_rl.errors import UserError
from cluster_rl.runs.arguments import Arguments, config_help, run_name_of_config, whole_number

ROOT = Path(__file__).resolve().parents[3]


def test_each_config_has_a_run_of_its_own() -> None:
    names = [run_name_of_config(config) for config in ("cluster_rl/cluster_config.json", "slim", "a/slim_cpu.yml")]
    assert names == ["cluster_config", "slim", "slim_cpu"]


def test_a_file_whose_name_is_no_name_of_a_run() -> None:
    with pytest.raises(UserError, match=r"config my config\.yaml: .* give --run-name"):
        run_name_of_config("my config.yaml")


def test_options_are_known_with_dashes_and_with_underscores() -> None:
    parser = Arguments(prog="program")
    parser.add_argument("--run-name")
    parser.add_argument("--learner_wait_seconds", type=whole_number(0))
    commands = parser.add_subparsers()
    commands.add_parser("submit").add_argument("--actor-jobs", action="store_true")
    words = ["--run_name=a_b", "--learner-wait-seconds", "3", "submit", "--actor_jobs", "--num_actors=2", "--", "--a_b"]
    known, rest = parser.parse_known_args(words)
    assert (known.run_name, known.learner_wait_seconds, known.actor_jobs) == ("a_b", 3, True)
    assert rest == ["--num_actors=2", "--", "--a_b"]


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--fps", "0"], "argument --fps: must be 1 to 120, not 0"),
        (["--fps", "121"], "argument --fps: must be 1 to 120, not 121"),
        (["--fps", "29.97"], "argument --fps: must be a whole number, 1 to 120, not '29.97'"),
        (["--episodes", "2m"], "argument --episodes: must be a whole number, at least 1, not '2m'"),
        (["--episodes"], "argument --episodes: expected one argument"),
        (["--wat"], "unrecognized arguments: --wat"),
    ],
)
def test_a_wrong_option_is_one_line(words: list[str], answer: str) -> None:
    parser = Arguments(prog="program")
    parser.add_argument("--fps", type=whole_number(1, 120))
    parser.add_argument("--episodes", type=whole_number(1))
    with pytest.raises(UserError) as caught:
        parser.parse_args(words)
    assert str(caught.value) == f"{answer}; program --help lists the options"


def test_help_lists_every_key_by_group_as_the_documents_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    lines = config_help().splitlines()
    table = (ROOT / "docs/config.md").read_text(encoding="utf-8").splitlines()
    titles = [line.removeprefix("## ") for line in table if line.startswith("## ")]
    assert [line.removesuffix(":") for line in lines if line.endswith(":")] == titles
    rows = [line.split("|") for line in table if line.startswith("| `")]
    shown = [line for line in lines if line.startswith("  --")]
    assert len(rows) == len(shown) == len(config_keys())
    for row, line in zip(rows, shown, strict=True):
        key, default, unit, bounds, meaning = (cell.strip(" `") for cell in row[1:-1])
        assert line.startswith(f"  --{key} "), line
        for words in (f"{meaning} (", unit, bounds, f"default {default})"):
            assert words in line
    monkeypatch.setenv("COLUMNS", "40")
    assert max(map(len, config_help().splitlines())) < 110
