"""What the person who started a run sees of it: in a log, and on a terminal."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from run_golden import EVALUATION
from small_disk import SmallDisk
from terminals import on_terminal

from cluster_rl.cluster import print_status
from cluster_rl.config import config_to_json, load_config
from cluster_rl.jobs import status
from cluster_rl.jobs.status import StatusView, alarms_of, line_of, milestones_of, quests_ahead, time_of_job
from cluster_rl.rom import load_rom
from cluster_rl.runs.identity import ensure_identity
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import Progress, QuestAlarm, QuestProgress, Rates, save_progress

TOKEN = "this job"
CONFIG = load_config("quickstart")


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A run of the cartridge, whose job has played 1,200 of 101,200 steps in 100 s, and has 200 s left. Time stands."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    run_dir = RunDir(tmp_path, "r").create()
    rom = load_rom("")
    ensure_identity(run_dir.identity, rom.sha1, rom.title)
    run_dir.config.write_bytes(config_to_json(CONFIG))
    progress = Progress(run_name="r", target_total_steps=101_200)
    job = progress.continue_job(TOKEN, "new run, nothing to restore")
    job.started, job.ends = now - 100, now + 200
    progress.env_steps, progress.episodes = 1200, 3
    progress.rates = Rates(env_steps_per_sec=12.0)
    progress.milestones = {"LEFT_HOME": 40}
    progress.activity = "collecting 1,200 of 4,000 env steps before learning"
    save_progress(run_dir.progress, progress)
    return run_dir


COUNTS = (
    "env_steps 1,200 of 101,200 (12/s, about 2 h 19 min left), updates 0 (0.0/s), episodes 3, return -, "
    "milestones 1 of 9, collecting 1,200 of 4,000 env steps before learning"
)


def test_a_line_in_a_log_and_what_is_said_at_the_end(run_dir: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    with StatusView(run_dir, CONFIG, TOKEN) as view:
        view.refresh()
        view.refresh()
        restored, line = capsys.readouterr().out.splitlines()
        assert restored == "learner: new run, nothing to restore"
        assert line == f"[100 s, 3 min left] {COUNTS}"
        progress = status.read_progress(run_dir.progress)
        assert progress is not None
        progress.end_job("max_runtime_seconds reached")
        save_progress(run_dir.progress, progress)
        view.finish()
    end = capsys.readouterr().out
    assert end.startswith("[100 s] env_steps ")
    assert end.endswith(
        "milestones 1 of 9; stopped: max_runtime_seconds reached; nothing was learned: collecting 1,200 of 4,000 env "
        "steps before learning\n"
    )


def test_a_learner_that_is_not_up_yet(
    run_dir: RunDir, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "LINE_INTERVAL_SEC", 0.0)
    with StatusView(run_dir, CONFIG, "another job") as view:
        view.refresh()
        view.finish()
    starts, end = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"the learner starts: \d+ s", starts)
    assert end == "stopped before the learner was up; nothing was learned"


def test_cluster_status_says_the_same(
    run_dir: RunDir, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    print_status(run_dir)
    out = capsys.readouterr().out
    assert f"\nprogress: {COUNTS}\n" in out
    assert re.search(r"^  job 1: .*: running, 100 s, 3 min left$", out, re.M), out


def test_a_learner_that_has_gone_silent(run_dir: RunDir) -> None:
    progress = status.read_progress(run_dir.progress)
    assert progress is not None
    progress.updated -= 600
    silent = "the learner has written nothing for 10 min: its node or its job may be dead"
    assert line_of(progress, 9).endswith(f"before learning, {silent}")
    progress.jobs[-1].ends = None
    assert time_of_job(progress.jobs[-1]).endswith("s, without a limit")


def test_alarms_of_quests_are_in_the_line_and_what_is_ahead_in_the_table(
    run_dir: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = status.read_progress(run_dir.progress)
    assert progress is not None
    progress.quests = QuestProgress(
        frontier={"GATE": 0.312, "FERN_BADGE": 0.5}, stagnant=["FERN_BADGE"], alarms={"LEFT_HOME": alarm(0.96)}
    )
    words = "LEFT_HOME 0.21, critical: below 0.74"
    assert f"milestones 1 of 9, {words}, collecting" in line_of(progress, 9)
    assert quests_ahead(progress.quests) == ["GATE 0.31", "FERN_BADGE 0.50 (no growth)"]
    rows = dict(StatusView(run_dir, CONFIG, TOKEN)._rows(progress))
    assert (rows["quests ahead"], rows["alarms"]) == ("GATE 0.31; FERN_BADGE 0.50 (no growth)", words)
    progress.quests = QuestProgress(alarms={name: alarm(share) for name, share in zip("abcde", SHARES, strict=True)})
    assert [told.split()[0] for told in alarms_of(progress.quests)] == ["c", "e", "b", "2"]
    assert alarms_of(progress.quests)[-1] == "2 more alarms"


def test_the_newest_evaluation_is_told_with_its_age(run_dir: RunDir) -> None:
    progress = status.read_progress(run_dir.progress)
    assert progress is not None
    assert "greedy return" not in line_of(progress, 9)
    progress.evaluation = msgspec.structs.replace(EVALUATION, began=time.time() - 720)
    assert "return -, greedy return 3.25 +- 0.50 (12 min ago), milestones 1 of 9" in line_of(progress, 9)
    rows = dict(StatusView(run_dir, CONFIG, TOKEN)._rows(progress))
    assert rows["evaluation"] == (
        "greedy return 3.25 +- 0.50, 40 steps, task finished 12%, 8 episodes, 3 distinct; parameters of update 18 "
        "(12 min ago)"
    )


SHARES = (0.81, 0.9, 0.99, 0.82, 0.95)


def alarm(probability: float) -> QuestAlarm:
    return QuestAlarm(level="critical", probability=probability, mean=0.212, target=0.74)


def test_what_storage_does_not_take_comes_first(run_dir: RunDir) -> None:
    progress = status.read_progress(run_dir.progress)
    assert progress is not None
    progress.storage_problem = "disk full since 14:03 (/data/replay: No space left on device)"
    assert f"milestones 1 of 9, {progress.storage_problem}, collecting" in line_of(progress, 9)
    progress.end_job("signal SIGTERM")
    assert "disk full" not in line_of(progress, 9)


def test_a_full_disk_is_seen_though_the_learner_can_write_nothing(
    disk: SmallDisk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = RunDir(disk.folder, "r").create()
    progress = Progress(run_name="r", target_total_steps=1)
    progress.continue_job("token", "new run")
    save_progress(run_dir.progress, progress)
    progress.updated -= 60
    run_dir.progress.write_bytes(msgspec.json.encode(progress))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(status, "_LIVE_INTERVAL_SEC", 0.0)
    view = StatusView(run_dir, CONFIG, "token")
    view._stale_sec = 0.0
    with view:
        view.refresh()
        with disk.full():
            view.refresh()
            view.refresh()
            print_status(run_dir)
        view.refresh()
    out = capsys.readouterr().out
    since = time.strftime("%H:%M", time.localtime(progress.updated))
    words = f"disk full since {since} ({run_dir.path}: No space left on device)"
    told = [line for line in out.splitlines() if line in (words, "storage takes again what is written")]
    assert told == [words, "storage takes again what is written"]
    assert re.search(f"^progress: .*{re.escape(words)}", out, re.M)
    assert not list(run_dir.path.glob(".*"))


def test_milestones_of_a_lesson_and_those_reached_elsewhere(run_dir: RunDir) -> None:
    progress = Progress(run_name="r", target_total_steps=1)
    assert milestones_of(run_dir, "school:password", progress) == 1
    progress.milestones = {"LEFT_HOME": 1}
    assert milestones_of(run_dir, "school:password", progress) == 2


VIEW = """
import sys, time
from cluster_rl.config import load_config
from cluster_rl.jobs.status import StatusView
from cluster_rl.runs.layout import RunDir
for token in ("another job", "this job"):
    with StatusView(RunDir(sys.argv[1], "r"), load_config("quickstart"), token) as view:
        view.refresh()
        view.say("actor 0 [died]")
"""


def test_a_table_on_a_terminal_and_none_in_a_file(run_dir: RunDir) -> None:
    program = [sys.executable, "-c", VIEW, str(run_dir.root)]
    shown, _ = on_terminal(["bash", "-c", 'exec "$0" "$@" >&2', *program])
    rows = dict(re.findall(r"│ ([a-z][a-z /]*?) +│ ([^│]*?) +│", shown))
    assert rows["now"] == "collecting 1,200 of 4,000 env steps before learning"
    assert re.fullmatch(r"(\d+ s|\d min), (\d+ s|\d min) left", rows["job"])
    assert re.fullmatch(r"1,200 of 101,200, about 2 h 19 min left", rows["env steps"])
    assert rows["milestones"] == "1 of 9: LEFT_HOME at 40"
    assert re.search(r"the learner starts: \d+ s", shown)
    assert "actor 0 [died]" in shown

    log = subprocess.run(
        program, capture_output=True, text=True, check=True, env={"FORCE_COLOR": "1", "TERM": "xterm", "PATH": ""}
    )
    assert not re.search(r"[^\x20-\x7e\n]", log.stdout)
    assert log.stdout.count("milestones 1 of 9") == 1
