"""Tables of a page, and the facts that they are made of: from a run's files to words."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
import run_golden
from made_runs import BEGAN, INCARNATION, episode, make_run, metrics_row, set_keys

from cluster_rl.config import Config, config_from_builtins, config_values
from cluster_rl.errors import StorageError
from cluster_rl.game.world import World
from cluster_rl.report.pictures import episode_curve, job_spans, milestone_charts, milestone_hours
from cluster_rl.report.run_facts import (
    BY_DEFAULTS,
    DEFAULTS,
    JobFacts,
    RunFacts,
    flat,
    read_run,
    settings_of,
    videos_in,
)
from cluster_rl.report.tables import (
    changed_keys,
    differing_keys,
    episode_lines,
    facts_table,
    job_lines,
    link,
    milestone_table,
    value_words,
)
from cluster_rl.report.video_record import VideoRecord, write_record
from cluster_rl.runs.layout import RunDir


def columns_of(run: RunFacts) -> dict[str, str]:
    return {name: value for name, (value,) in facts_table([run])}


@pytest.mark.parametrize("name", ["config.json", "progress.json", "run.json", "jobs/001.json", "videos/x.json"])
@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff\x00", b"null", b"[" * 2000])
def test_damage_costs_a_part_and_is_told(tmp_path: Path, name: str, damage: bytes) -> None:
    run_dir = make_run(tmp_path, episodes=[episode(0)])
    path = run_dir.path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(damage)
    run = read_run(run_dir)
    assert run.episodes.count == 1
    if name == "videos/x.json":
        assert run.videos.failed == (("x.json", "its record is damaged"),)
    else:
        (problem,) = run.problems
        assert problem.startswith(f"{name}: damaged")
    assert columns_of(run)["episodes"] in ("0", "1")
    if name == "config.json":
        assert problem.endswith(BY_DEFAULTS)
    if name == "run.json":  # its config names an embedded world
        assert run.world is World.cartridge()
        assert columns_of(run)["game"].startswith(f"{World.cartridge().title}, by its config (SHA-1 ")


@pytest.mark.parametrize("name", ["config.json", "episodes.jsonl", "metrics.jsonl", "jobs/001.json"])
def test_a_disk_that_fails_is_no_damage(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = make_run(tmp_path)
    run_dir.job_record(1).touch()
    opened, os_opened = Path.open, os.open

    def fails(path: object) -> None:
        if str(path).endswith(name):
            raise OSError(errno.EIO, "Input/output error", str(path))

    def open_path(path: Path, *args: Any, **options: Any) -> Any:
        fails(path)
        return opened(path, *args, **options)

    def open_descriptor(path: str | Path, *args: Any, **options: Any) -> int:
        fails(path)
        return os_opened(path, *args, **options)

    monkeypatch.setattr(Path, "open", open_path)
    monkeypatch.setattr(os, "open", open_descriptor)
    with pytest.raises(StorageError, match="Input/output error"):
        read_run(run_dir)


def test_a_newer_format_is_told_as_one(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    set_keys(run_dir.progress, {"schema_version": 99})
    (problem,) = read_run(run_dir).problems
    assert problem == "progress.json: format 99, this program reads 1; use the newer program"


def test_a_bare_folder_has_no_facts(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    run = read_run(RunDir(tmp_path, "bare"))
    missing = [problem.removesuffix(": not there") for problem in run.problems[1:]]
    assert run.problems[0] == f"config.json: not there; {BY_DEFAULTS}"
    assert missing == [
        "run.json: not there; maps and milestones have the names of Pokémon Red, and are its if the game is",
        *("progress.json", "metrics.jsonl", "episodes.jsonl", "quests.jsonl"),
    ]
    facts = columns_of(run)
    assert (facts["now"], facts["game"]) == ("unknown", "unknown")
    assert (facts["env steps"], facts["milestones"]) == ("0", "0")  # of a default nobody is told


def test_a_lost_config_is_told_by_the_newest_job(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    run_dir.config.unlink()
    record = '{"schema_version": 1, "id": %d, "started": %f, "config": {"gamma": %s}}'
    for number, gamma in enumerate(("0.9", "0.99"), start=1):
        run_dir.job_record(number).write_text(record % (number, BEGAN, gamma))
    run = read_run(run_dir)
    assert run.problems == ("config.json: not there; the config is that of job 2",)
    assert (run.config, run.settings.gamma) == ({"gamma": 0.99}, 0.99)


def test_a_game_that_only_run_json_knew_is_not_known(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, config=config_from_builtins({"rom": "game.gb"}, "test"))
    run_dir.identity.unlink()
    run = read_run(run_dir)
    assert run.rom_sha1 == ""
    (problem,) = run.problems
    assert problem.startswith("run.json: not there; maps and milestones have the names of Pokémon Red")
    set_keys(run_dir.config, {"rom": ""})
    run = read_run(run_dir)
    assert (run.problems, run.world) == (("run.json: not there",), World.cartridge())


@pytest.mark.parametrize("name", ["videos", "jobs"])
def test_a_file_in_the_place_of_a_folder_is_told(tmp_path: Path, name: str) -> None:
    run_dir = make_run(tmp_path)
    folder = run_dir.path / name
    if folder.is_dir():
        folder.rmdir()
    folder.touch()
    assert read_run(run_dir).problems == (f"{name}: a file lies where a folder was expected; move it away",)


def test_hours_without_progress_come_from_rows(tmp_path: Path) -> None:
    """Also where the clock was set back."""
    late = episode(2, time=BEGAN - 1800.0, milestones={"LEFT_HOME": 2})
    run_dir = make_run(tmp_path, episodes=[episode(0, time=BEGAN), episode(1, time=BEGAN + 1800.0), late])
    run_dir.progress.unlink()
    run = read_run(run_dir)
    assert columns_of(run)["training"] == "60 min"
    assert [line.numbers[0][0] for line in episode_lines(run, tmp_path / "page.html", 9)] == ["0 s", "60 min", "30 min"]
    assert milestone_table([run])[0][1][1] == "0 s"
    record = '{"schema_version": 1, "id": %d, "started": %f}'
    run_dir.job_record(1).write_text(record % (1, BEGAN - 3600.0))
    run_dir.job_record(2).write_text(record % (2, BEGAN + 900.0))
    assert job_spans(read_run(run_dir)) == [(BEGAN - 3600.0, BEGAN), (BEGAN + 900.0, BEGAN + 1800.0)]


def test_the_run_of_todays_writers(tmp_path: Path) -> None:
    run = read_run(run_golden.write_run(tmp_path))
    assert [problem for problem in run.problems if "damaged" in problem] == []
    assert [job.id for job in run.jobs] == [1, 2]
    assert run.jobs[1].commit
    assert run.jobs[0].versions["torch"]
    assert run.jobs[0].config is not None
    assert run.jobs[0].config.keys() == DEFAULTS.keys()
    facts = columns_of(run)
    assert "python " in facts["versions"]
    assert facts["env steps"].endswith("of 1,000")  # of progress.json, which tells of the newest job


def test_a_config_is_flat_and_comes_back(tmp_path: Path) -> None:
    config = config_from_builtins({"rewards": {"badge": 10}, "quest_budgets": {"LEFT_HOME": 50}}, "test")
    run = read_run(make_run(tmp_path, config=config))
    assert run.config == config_values(config)
    assert run.settings == config
    assert flat({"rewards": {"badge": 1}, "of_another": {"x": {"y": 2}}}) == {"rewards.badge": 1, "of_another.x.y": 2}
    assert settings_of({"gamma": 0.5, "of_another.x": 3, "rewards.badge": 10.0}).gamma == 0.5


def test_what_is_not_as_by_default() -> None:
    config = dict(DEFAULTS) | {"gamma": 0.5, "gone": [1], "rewards.badge": 10.0}
    rows = changed_keys(config)
    assert [row[:3] for row in rows] == [
        ("rewards.badge", "10.0", "5.0"),
        ("gamma", "0.5", "0.997"),
        ("gone", "[1]", ""),
    ]
    assert rows[1][3] == "discount of one step"
    assert rows[2][3] == "not known to this program"
    assert changed_keys(DEFAULTS) == []


def test_where_configs_differ() -> None:
    configs: list[dict[str, Any]] = [{"gamma": 0.5, "same": 1}, {"gamma": 0.9, "same": 1, "more": True}]
    assert differing_keys(configs) == [("gamma", ["0.5", "0.9"]), ("more", ["unset", "true"])]


@pytest.mark.parametrize(
    ("value", "words"), [("", '""'), ("red", "red"), (True, "true"), ([1, 2], "[1,2]"), (None, "null")]
)
def test_a_value_in_words(value: Any, words: str) -> None:
    assert value_words(value) == words


def test_jobs_of_records_and_of_progress(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    record = '{"schema_version": 1, "id": %d, "started": %f, "host": "n%d", "config": {"gamma": %s}, "git": %s}'
    git = '{"commit": "0123456789abcdef", "dirty": true}'
    run_dir.job_record(1).write_text(record % (1, BEGAN, 1, "0.9", "null"))
    run_dir.job_record(2).write_text(record % (2, BEGAN + 9000, 2, "0.99", git))
    first, second = job_lines(read_run(run_dir))
    assert (first.id, first.env_steps, first.lasted, first.changed) == (1, "0 to 0", "2 h 00 min", [])
    assert first.reason.startswith("target_total_steps reached")
    assert (second.env_steps, second.where, second.changed) == ("never up", "n2", ["gamma: 0.9 to 0.99"])
    assert second.program.startswith("0123456789ab with changes")


def test_a_job_that_runs_ends_with_the_files_last_word(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, activity="training")
    jobs = [{"id": 1, "host": "n", "pid": 1, "slurm_job_id": "17", "started": BEGAN, "env_steps_start": 5}]
    jobs[0]["updates_start"] = 0
    set_keys(run_dir.progress, {"jobs": jobs, "updated": BEGAN + 1800, "activity": "training"})
    run = read_run(run_dir)
    (line,) = job_lines(run)
    assert (line.lasted, line.env_steps, line.where) == ("30 min", "5 to now", "n, SLURM JOB_ID 17")
    assert columns_of(run)["now"].startswith("job 1: training, as of 2026-")


def test_milestones_in_the_order_of_play_with_steps_hours_and_episodes(tmp_path: Path) -> None:
    reached = {1: {"milestones": {"LEFT_HOME": 3}}, 2: {"milestones": {"OF_ANOTHER": 3}, "start_tag": "archive"}}
    reached[3] = {"milestones": {"TALKED_ELDER": 2, "LEFT_HOME": 9}}
    run_dir = make_run(
        tmp_path,
        episodes=[episode(number, **reached.get(number, {})) for number in range(360)],
        milestones={"TALKED_ELDER": 400, "LEFT_HOME": 150},
    )
    run = read_run(run_dir)
    assert milestone_table([run, run]) == [
        ("TALKED_ELDER", ["400", "40 s", "1"] * 2),
        ("LEFT_HOME", ["150", "20 s", "2"] * 2),
        ("OF_ANOTHER", ["", "", "1"] * 2),
    ]


def test_a_milestone_was_reached_when_metrics_had_counted_so_far(tmp_path: Path) -> None:
    """An episode's row comes when it ends."""
    rows = [metrics_row(number) for number in range(9)]  # 100 env steps in 10 s each
    run_dir = make_run(
        tmp_path,
        metrics=rows,
        episodes=[episode(80, milestones={"LEFT_HOME": 3, "GOT_BALM": 90})],
        milestones={"LEFT_HOME": 250, "GOT_BALM": 8000, "READ_SIGN": 9000},
    )
    hours = milestone_hours(read_run(run_dir))
    assert {name: round(3600 * when) for name, when in hours.items()} == {"LEFT_HOME": 30, "GOT_BALM": 810}


@pytest.mark.parametrize(("count", "most", "least"), [(12, 12, 12), (60, 20, 15), (500, 100, 90), (3000, 150, 140)])
def test_a_point_is_of_several_episodes_but_of_few_there_are(tmp_path: Path, count: int, most: int, least: int) -> None:
    run = read_run(make_run(tmp_path, episodes=[episode(number) for number in range(count)]))
    curve = episode_curve(run, "return", "a")
    assert least <= len(curve.x) <= most
    assert curve.y.mean() == pytest.approx((count - 1) / 2, rel=0.1)


def test_short_runs_are_told_in_minutes(tmp_path: Path) -> None:
    run_dir = make_run(
        tmp_path, env_steps=100, milestones={"LEFT_HOME": 50}, episodes=[episode(0, milestones={"LEFT_HOME": 4})]
    )
    set_keys(run_dir.progress, {"jobs": [job_of(run_dir) | {"started": BEGAN, "ended": BEGAN + 300.0}]})
    charts = milestone_charts([read_run(run_dir)])
    assert (charts[1].title, charts[1].x_label) == ("Milestones reached, by minutes of training", "minutes")
    assert charts[1].curves[0].x.tolist() == pytest.approx([0, 1 / 6, 5])  # the episode's row came after 10 s
    set_keys(run_dir.progress, {"jobs": [job_of(run_dir) | {"ended": BEGAN + 3 * 3600.0}]})
    charts = milestone_charts([read_run(run_dir)])
    assert charts[1].x_label == "hours"
    assert charts[1].curves[0].x[-1] == 3


def job_of(run_dir: RunDir) -> dict[str, Any]:
    """The only job of a made run."""
    (job,) = json.loads(run_dir.progress.read_bytes())["jobs"]
    found: dict[str, Any] = job
    return found


def test_the_table_has_the_newest_and_the_best(tmp_path: Path) -> None:
    run_dir = make_run(
        tmp_path, episodes=[episode(number, episode_return=float(number < 200)) for number in range(2000)]
    )
    run = read_run(run_dir)
    shown = [int(line.name[-6:]) for line in episode_lines(run, tmp_path / "page.html", 400)]
    assert len(shown) == 400
    assert set(range(1700, 2000)) <= set(shown)
    assert sum(number < 200 for number in shown) == 100
    assert shown == sorted(shown, reverse=True)
    assert len(episode_lines(run, tmp_path / "page.html", 40)) == 40


def test_links_lead_from_where_the_page_lies(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, "my.run", episodes=[episode(0), episode(1)])
    run_dir.videos.mkdir()
    name = f"a000-e00-{INCARNATION:x}-000001"
    run_dir.videos.joinpath(f"{name}.mp4").touch()
    new, old = episode_lines(read_run(run_dir), tmp_path / "my pages" / "page.html", 9)
    assert (new.video, new.picture) == (f"../my.run/videos/{name}.mp4", "")
    assert link(tmp_path / os.fsdecode(b"\xff.mp4"), tmp_path / "page.html") == "%FF.mp4"
    assert (old.video, old.picture) == ("", "")


def test_what_is_rendered_and_what_is_not(tmp_path: Path) -> None:
    run_dir = run_golden.write_run(tmp_path)
    golden = run_golden.EPISODE.removesuffix(".eplog")
    assert videos_in(run_dir.videos).failed == ((f"{golden}.mp4", "the video is missing"),)
    run_dir.videos.joinpath(f"{golden}.mp4").touch()
    run_dir.videos.joinpath(".b.mp4.partial").touch()
    found = videos_in(run_dir.videos)
    assert found.there == {golden: f"{golden}.mp4"}
    assert found.failed == ((".b.mp4.partial", "half a video, of a replayer that was killed or is at work"),)
    set_keys(run_dir.videos / f"{golden}.json", {"path_bytes": None})
    assert (f"{golden}.png", "the picture of its path could not be drawn") in videos_in(run_dir.videos).failed
    assert videos_in(tmp_path / "none").failed == ()


def test_videos_are_known_by_their_episode_whatever_their_names_tell(tmp_path: Path) -> None:
    """Of the same episode there are a GIF and a faster one, which the page leaves out, and is not told to miss."""
    known = VideoRecord(log_sha256="ab", fps=30, steps=5, frames=60, complete=True, video_bytes=0, path_bytes=0)
    for tail, kind, speed in (("_r1.0_m0_eps0", "mp4", 1), ("_r1.0_m0_eps0", "gif", 1), ("_r1.0_m0_eps0_x8", "mp4", 8)):
        video = tmp_path / f"a{tail}.{kind}"
        video.touch()
        write_record(video, msgspec.structs.replace(known, kind=kind, speed=speed, name_tail=tail))
    (tmp_path / "a_r1.0_m0_eps0.png").touch()
    found = videos_in(tmp_path)
    assert found.there == {"a": "a_r1.0_m0_eps0.mp4"}
    assert found.pictures == {"a": "a_r1.0_m0_eps0.png"}
    assert found.failed == ()


def test_jobs_of_nothing_are_none() -> None:
    run = RunFacts("r", RunDir("runs", "r"), jobs=(JobFacts(1, BEGAN),), settings=Config())
    assert job_lines(run)[0].lasted == "0 s"
