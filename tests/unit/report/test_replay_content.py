"""What a replay holds, told by the episodes that ended within it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from made_logs import write_log
from made_runs import episode, make_run

from cluster_rl.config import Config
from cluster_rl.report.page import page_of
from cluster_rl.report.replay_content import replay_content, start_words
from cluster_rl.report.run_facts import RunFacts, read_run
from cluster_rl.report.run_rows import Start
from cluster_rl.runs.progress import ReplayProgress

HOLLOW, HOME = 0, 37


def test_it_holds_the_newest_env_steps_by_start_and_map(tmp_path: Path) -> None:
    """Ten episodes of 100 env steps; the replay holds the newest 450, in which four and the end of one more lie."""
    archive = {"start_tag": "archive", "start_milestones": ["LEFT_HOME", "TALKED_ELDER"]}
    changes = {0: archive, 5: {"start_tag": "state"}, 6: archive | {"steps": 40}, 8: archive, 9: {"steps": 60}}
    run_dir = make_run(
        tmp_path,
        episodes=[episode(number, **changes.get(number, {})) for number in range(10)],
        env_steps=1000,
        replay=ReplayProgress(transitions=450, capacity=1000),
    )
    write_log(run_dir, 4, *[(HOME, 2, 2)] * 9)  # ended before
    write_log(run_dir, 7, *[(HOME, 2, 2)] * 2, *[(HOLLOW, 4, 5)] * 4)
    write_log(run_dir, 9, *[(HOLLOW, 4, 5)] * 2)
    run = read_run(run_dir)
    found = replay_content(run)
    assert found is not None
    assert (found.transitions, found.episodes, found.logs) == (450, 5, 2)
    assert found.by_start == [
        ("the beginning", 160, pytest.approx(0.4)),
        ("the archive, after LEFT_HOME", 140, pytest.approx(0.35)),
        ("a state of yours, before any milestone", 100, pytest.approx(0.25)),
    ]
    assert found.by_map == [("HOLLOW", 6, pytest.approx(0.75)), ("HOME", 2, pytest.approx(0.25))]
    page = page_of([run], tmp_path / "report.html")
    assert 'the archive, after LEFT_HOME</th><td class="n">140</td><td class="n">35.0%' in page


def test_where_nothing_is_known_nothing_is_told(tmp_path: Path) -> None:
    empty = read_run(make_run(tmp_path, "empty", env_steps=1000))
    assert replay_content(empty) is None
    fresh = read_run(make_run(tmp_path, "fresh", episodes=[episode(0)], env_steps=1000))  # a replay that was purged
    assert replay_content(fresh) is None
    assert "What the replay holds" not in page_of([fresh], tmp_path / "report.html")


def test_a_school_is_told_by_its_name(tmp_path: Path) -> None:
    settings = msgspec.structs.replace(Config(), initial_state="school:password")
    run = RunFacts("a", make_run(tmp_path), settings=settings)
    assert start_words(Start("school"), run) == "school password"
