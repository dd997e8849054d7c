"""Records of other agents' trainings: what is read of them, what is refused, and how a page shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from made_runs import episode, make_run

from cluster_rl.config import Config
from cluster_rl.errors import UserError
from cluster_rl.report.__main__ import parse_arguments, run
from cluster_rl.report.pictures import episode_charts, milestone_charts
from cluster_rl.report.rivals import RivalFacts, read_rival, read_rivals
from cluster_rl.report.run_facts import read_run
from cluster_rl.report.tables import milestone_table, rival_lines
from scripts.bench.learning.record import read_training

RECORDS = Path(__file__).resolve().parents[3] / "results/rivals/raw"


def record(path: Path, seed: int = 1, agent: str = "ppo", end: bool = True, **config: Any) -> Path:
    """A training of 300 env steps, three episodes and two milestones; those of seed 3 stop before the second."""
    head = {"agent": agent, "seed": seed}
    rows: list[dict[str, Any]] = [{"kind": "start", **head, "env_step": 0, "settings": {"config": config}}]
    rows += [{"kind": "milestone", **head, "env_step": 40 + seed, "name": "LEFT_HOME"}]
    rows += [{"kind": "milestone", **head, "env_step": 200, "name": "GOT_BALM"}] * (seed != 3)
    for number in (1, 2, 3):
        rows.append({"kind": "episode", **head, "env_step": 90 * number, "return": number + seed, "length": 90})
    rows += [{"kind": "end", **head, "env_step": 300}] * end
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    return path


@pytest.fixture
def rivals(tmp_path: Path) -> list[RivalFacts]:
    return [read_rival(record(tmp_path / f"{seed}.jsonl", seed, episode_max_steps=70)) for seed in (1, 2, 3)]


@pytest.mark.parametrize("agent", ["maskable_ppo", "table_q"])
def test_our_own_records_are_read_as_their_writer_reads_them(agent: str) -> None:
    path = RECORDS / f"{agent}-seed2.jsonl"
    found, training = read_rival(path), read_training(path)
    assert training is not None
    assert (found.agent, found.seed, found.env_steps) == (training.agent, training.seed, training.env_steps)
    assert found.milestones == {row["name"]: row["env_step"] for row in training.milestones}
    for name, key in (("env_steps", "env_step"), ("return", "return"), ("steps", "length")):
        assert found.episodes[name].tolist() == [row[key] for row in training.episodes]
    assert found.config["rewards.talk"] == training.settings["config"]["rewards"]["talk"]


def test_a_record_that_is_being_written_is_read_so_far(tmp_path: Path) -> None:
    path = record(tmp_path / "r.jsonl", end=False)
    with path.open("ab") as file:
        file.write(b'{"kind": "episode", "ag')
    assert read_rival(path).env_steps == 270


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.replace(b'"length":90', b'"length":-1', 1), "r.jsonl: a row is damaged"),
        (lambda data: data.replace(b'"kind":"end"', b'"kind":"done"'), "r.jsonl: a row is damaged"),
        (lambda data: data.replace(b'"seed":1', b'"seed":2', 1), "several trainings"),
        (lambda data: data.partition(b"\n")[2], "does not begin with a line of kind start"),
        (lambda data: b"", "does not begin with a line of kind start"),
    ],
)
def test_what_is_no_record_is_refused_in_a_line(tmp_path: Path, change: Any, words: str) -> None:
    path = record(tmp_path / "r.jsonl")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=words) as caught:
        read_rival(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(UserError, match="not there"):
        read_rival(path)


def test_one_training_is_not_counted_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = record(tmp_path / "1.jsonl", 1, gamma=0.9), record(tmp_path / "2.jsonl", 2, gamma=0.9)
    other = record(tmp_path / "other.jsonl", 1, gamma=0.8)
    assert [rival.seed for rival in read_rivals([first, second, other])] == [1, 2, 1]
    monkeypatch.chdir(tmp_path)
    for again in (Path("1.jsonl"), record(tmp_path / "copy.jsonl", 1, end=False, gamma=0.9)):
        with pytest.raises(UserError, match=r"of agent ppo, with the seed 1 and the config of .*1\.jsonl;") as caught:
            read_rivals([first, second, again])
        assert str(caught.value).startswith(f"--rival {again}: ")


@pytest.mark.parametrize(
    ("config", "words"),
    [({"rom": "b.gb"}, "rom 'b.gb', not 'a.gb'"), ({"rewards": {"talk": 0.5}}, "rewards.talk 0.5, not 0.2")],
)
def test_records_of_an_agent_are_of_one_game(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    first = record(tmp_path / "1.jsonl", 1, rom="a.gb", rewards={"talk": 0.2})
    second = record(tmp_path / "2.jsonl", 2, **config)
    with pytest.raises(UserError, match=f"--rival .*2.jsonl: of agent ppo as .*1.jsonl, in another game: {words}; "):
        read_rivals([first, second])
    elsewhere = record(tmp_path / "3.jsonl", 2, agent="table_q", **config)
    assert len(read_rivals([first, elsewhere, record(tmp_path / "4.jsonl", 4)])) == 3


def test_our_own_records_go_together() -> None:
    assert len(read_rivals(sorted(RECORDS.glob("*.jsonl")))) == 45


def test_options_given_again_add_to_the_first(tmp_path: Path) -> None:
    make_run(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    given = ["--runs", str(tmp_path), "--rival", "x", "--run-name", "a", "--rival", "y", "z", "--run-name", "b"]
    options = parse_arguments(given)
    assert options.rivals == (Path("x"), Path("y"), Path("z"))
    assert [run_dir.run_name for run_dir in options.runs] == ["a", "b"]


def test_seeds_of_a_rival_are_a_line_and_a_band(tmp_path: Path, rivals: list[RivalFacts]) -> None:
    runs = [read_run(make_run(tmp_path, episodes=[episode(number) for number in range(5)], milestones={"X": 9}))]
    runs[0].episodes.columns["env_steps"][:] = np.arange(5) * 100.0
    by_steps, by_hours = milestone_charts(runs, rivals)
    assert [curve.label for curve in by_steps.curves] == ["made", "rival ppo (3 runs)"]
    assert [curve.label for curve in by_hours.curves] == ["made"]
    reached = by_steps.curves[1]
    assert reached.low is not None
    assert reached.high is not None
    assert (reached.low[-1], reached.y[-1], reached.high[-1]) == (1, 2, 2)
    charts = {chart.title: [curve.name for curve in chart.curves] for chart in episode_charts(runs, rivals)}
    assert charts["Return of an episode"] == charts["Length of an episode"] == ["made", "rival ppo"]
    assert charts["Coverage: map cells of an episode"] == ["made"]
    returns = next(chart for chart in episode_charts(runs, rivals) if chart.title == "Return of an episode").curves[1]
    assert returns.low is not None
    assert returns.high is not None
    assert [returns.low[0], returns.y[0], returns.high[0]] == [2, 3, 4]


def test_tables_tell_how_many_seeds_and_what_is_another_game(tmp_path: Path, rivals: list[RivalFacts]) -> None:
    runs = [read_run(make_run(tmp_path, config=Config(episode_max_steps=80), milestones={"LEFT_HOME": 50}))]
    rows = dict(milestone_table(runs, rivals))
    assert rows["LEFT_HOME"][3:] == ["42 (3 of 3)"]
    assert rows["GOT_BALM"] == ["", "", "", "200 (2 of 3)"]
    few = dict(milestone_table(runs, rivals[1:]))
    assert few["GOT_BALM"][3:] == ["- (1 of 2)"]
    ((agent, values),) = rival_lines(runs, rivals)
    assert (agent, values) == ("ppo", ["1, 2, 3", "300", "9", "episode_max_steps 70, made 80"])
    unknown = read_rival(record(tmp_path / "unknown.jsonl"))
    assert rival_lines(runs, [unknown])[0][1][3] == "its records tell no config"


def test_the_page_has_rivals(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, episodes=[episode(0)], milestones={"LEFT_HOME": 50}, env_steps=100)
    files = [str(record(tmp_path / f"{seed}.jsonl", seed, agent="<b>")) for seed in (1, 2)]
    options = parse_arguments(["--runs", str(tmp_path), "--run-name", "made", "--rival", *files, files[0]])
    assert run(options) == 0
    page = run_dir.report.read_text(encoding="utf-8")
    assert "rival &lt;b&gt; (2 runs)" in page
    assert "<b>" not in page
    assert "42 (2 of 2)" in page
    assert run(parse_arguments(["--runs", str(tmp_path), "--run-name", "made"])) == 0
    assert "ival" not in run_dir.report.read_text(encoding="utf-8").partition("<body")[2].partition("<script")[0]
