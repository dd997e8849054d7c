"""The page of a run: one file, whole, that says what is there and what is missing, and lets nothing out or in."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shlex
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import run_golden
from made_logs import write_log
from made_runs import BEGAN, INCARNATION, episode, lines, make_run, metrics_row, quest, quest_row, set_keys

from cluster_rl.config import Config
from cluster_rl.errors import UserError
from cluster_rl.report.__main__ import MOST_RUNS, main, parse_arguments, run
from cluster_rl.report.glance import glance_table
from cluster_rl.report.page import MOST_PROBLEMS
from cluster_rl.report.pictures import evaluation_curve
from cluster_rl.report.run_facts import read_run
from cluster_rl.runs.layout import RunDir

VOID = {"meta", "input", "br", "link", "img"}
NEWEST = f"a000-e00-{INCARNATION:x}-000059"
HOSTILE = "</script><img src=x onerror=alert(1)>&\"'{{ 7*7 }}"


class Reader(HTMLParser):
    """Elements that are closed in the order in which they were opened, ids, links, and texts by element."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.found: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"{tag} at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def all_of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.found if name == tag]

    @property
    def text(self) -> str:
        return " ".join(text for tag, text in self.texts if tag not in ("script", "style"))


def page_of(*run_dirs: RunDir, out: Path | None = None) -> str:
    """The page that the command makes."""
    names = [run_dir.run_name for run_dir in run_dirs]
    words = ["--runs", str(run_dirs[0].root), *(["--out", str(out)] if out is not None else [])]
    options = parse_arguments(["--run-name", *names, *words])
    assert run(options) == 0
    return options.out.read_text(encoding="utf-8")


def lively(root: Path, name: str = "lively", config: Config | None = None, steps: int = 60) -> RunDir:
    """A run in which something of everything happened."""
    reached = {3: {"milestones": {"LEFT_HOME": 4}}, 9: {"milestones": {"LEFT_HOME": 4, "GOT_BALM": 40}}}
    quests = {"LEFT_HOME": quest(0.9), "GOT_BALM": quest(0.2, level="critical", alarm=0.99, target=0.7)}
    return make_run(
        root,
        name,
        config,
        episodes=[episode(number, **reached.get(number, {})) for number in range(steps)],
        metrics=[
            metrics_row(number, env_steps_per_sec=10.0 + number, updates_per_sec=1.0, lag__acting__p50=20.0)
            for number in range(steps)
        ],
        quests=[quest_row(number, quests, ["GOT_BALM"]) for number in range(1, 5)],
        env_steps=100 * steps,
        milestones={"LEFT_HOME": 400, "GOT_BALM": 1000},
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """That of a lively run with a video."""
    run_dir = lively(tmp_path_factory.mktemp("runs"))
    run_dir.videos.mkdir()
    for suffix in (".mp4", ".png"):
        run_dir.videos.joinpath(NEWEST + suffix).touch()
    return page_of(run_dir)


def test_a_page_is_whole_html_and_has_all_parts(page: str) -> None:
    read = Reader(page)
    assert page.startswith("<!DOCTYPE html>")
    assert len(read.ids) == len(set(read.ids))
    for link in read.all_of("a"):
        if link["href"].startswith("#"):
            assert link["href"][1:] in read.ids
    charts = [svg for svg in read.all_of("svg") if svg.get("role") == "img"]
    assert len(charts) >= 8
    for svg in charts:
        assert all(name in read.ids for name in svg["aria-labelledby"].split())
    for words in ("GOT_BALM is reached by 20%", "Env steps a second", "target_total_steps reached", "0 to 0"):
        assert words in read.text


def test_a_page_shows_evaluations_by_the_age_of_their_parameters(tmp_path: Path) -> None:
    points = {3: {"evaluate__env_steps": 250.0, "evaluate__return": 1.5, "evaluate__finished": 0.0}}
    points[8] = {"evaluate__env_steps": 600.0, "evaluate__return": 4.5, "evaluate__finished": 0.25}
    metrics = [metrics_row(number, **points.get(number, {})) for number in range(20)]
    run_dir = make_run(tmp_path, metrics=metrics, evaluation=run_golden.EVALUATION)
    curve = evaluation_curve(read_run(run_dir), "evaluate/return", "made")
    assert (curve.x.tolist(), curve.y.tolist()) == ([250.0, 600.0], [1.5, 4.5])
    text = Reader(page_of(run_dir)).text
    assert "Return of greedy episodes by the published parameters (evaluation)" in text
    assert "from 0 to 0.25" in page_of(run_dir)
    assert "greedy return 3.25 +- 0.50, 40 steps, task finished 12%, 8 episodes, 3 distinct; parameters of" in text


def test_a_page_needs_no_network_and_runs_its_own_script_alone(page: str) -> None:
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", page)
    read = Reader(page)
    (policy,) = [meta["content"] for meta in read.all_of("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none'; ")
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "connect-src" not in policy  # so default-src holds
    assert not [name for _, attributes in read.found for name in attributes if name.startswith("on")]
    fetched = [found.get("src") or found.get("href", "") for tag, found in read.found if tag != "a"]
    assert all(not link or link.startswith(("data:image/png;base64,", "#")) for link in fetched)


def test_what_comes_from_files_is_text(tmp_path: Path) -> None:
    run_dir = make_run(
        tmp_path,
        episodes=[
            episode(n, milestones={HOSTILE: 5}, start_id=HOSTILE[:60], terms={HOSTILE: 1.0, "a\x00\x07b": 2.0})
            for n in range(3)
        ],
        quests=[quest_row(1, {HOSTILE: quest(0.2, level="critical", stagnant=True)}, [HOSTILE])],
        milestones={HOSTILE: 100},
        activity=HOSTILE,
    )
    set_keys(run_dir.config, {"rom": HOSTILE, HOSTILE: HOSTILE})
    set_keys(run_dir.identity, {"rom_title": HOSTILE})
    run_dir.jobs.joinpath("002.json").write_text(
        f'{{"schema_version": 1, "id": 2, "started": {BEGAN}, "host": "</title><script>", "command": ["<b>"]}}'
    )
    read = Reader(page_of(run_dir))
    assert len(read.all_of("script")) == 1
    assert read.all_of("img") == read.all_of("b") == []
    assert HOSTILE in read.text
    assert "49" not in [text for _, text in read.texts if HOSTILE[:9] in text]
    options = [found["value"] for found in read.all_of("option")]
    assert options == ["", "0"]
    assert "a\ufffd\ufffdb" in read.text


@pytest.mark.parametrize("letter", ["\x00", "\x07", "\x1b", "\x85", "\u202e"])
def test_no_control_character_of_a_name_is_on_the_page(tmp_path: Path, letter: str) -> None:
    run_dir = make_run(
        tmp_path,
        episodes=[episode(0, milestones={f"a{letter}b": 5}, start_id=f"c{letter}")],
        quests=[quest_row(1, {f"a{letter}b": quest(0.2, level="critical")}, ["a"])],
        milestones={f"a{letter}b": 100},
        activity=f"d{letter}",
    )
    run_dir.videos.mkdir()
    run_dir.videos.joinpath(os.fsdecode(b"\xff.mp4")).touch()  # a name that is no text
    page = page_of(run_dir)
    assert letter not in page
    assert "a\ufffdb" in page


def test_milestones_of_any_name_can_be_chosen(tmp_path: Path) -> None:
    """Rows name them by their numbers, not by what names may have."""
    rows = [episode(n, milestones=reached) for n, reached in enumerate([{"a\nb": 1, "c d": 2}, {"c d": 1}, {}])]
    page = page_of(make_run(tmp_path, episodes=rows))
    assert re.findall(r'data-milestones="(.*?)"', page) == ["", "0", "1 0"]
    assert re.findall(r'<option value="(\d)">(.*?)</option>', page, re.DOTALL) == [("0", "c d"), ("1", "a\nb")]


def test_one_is_not_told_as_several(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, episodes=[episode(0, steps=1)], quests=[quest_row(1, {"LEFT_HOME": quest(0.5)})])
    run_dir.metrics.unlink()
    text = Reader(page_of(run_dir)).text
    assert "The only episode of the run." in text
    assert "The quest, as of the newest row" in text
    assert not re.search(r"(?<![\d.,])1 (episodes|steps|times|files|quests|maps|tiles|logs|milestones|trials)\b", text)


def test_logs_that_are_not_named_are_counted(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, episodes=[episode(number) for number in range(13)], env_steps=1300)
    write_log(run_dir, 0, (0, 4, 5))
    for number in range(1, 13):
        write_log(run_dir, number, (0, 4, 5)).write_bytes(b"nothing")
    text = Reader(page_of(run_dir)).text
    assert text.count("not an episode log") == MOST_PROBLEMS
    assert "more logs that could not be read" in text


def test_a_newcomer_finds_the_goal_what_pays_and_what_to_watch(page: str) -> None:
    rows = dict(re.findall(r'<tr><th scope="row">([a-z ]+)</th><td>(.*?)</td>', page))
    assert rows["the goal"] == "FERN_BADGE: received the Fern badge; not reached yet"
    reached = "first reached at env step 400, after 40 s of training; 2 episodes reached it"
    assert rows["furthest so far"] == f"LEFT_HOME: stepped out of the house; {reached}"  # what is optional is no way
    assert rows["what pays most"] == "event 29.5 (100%); mean of the newest 60 whole episodes"
    assert rows["best episode to watch"].endswith(f'epsilon 0.4 <a href="videos/{NEWEST}.mp4">video</a>')
    assert rows["first to come furthest"].endswith("; its log is not there, so no video can be made of it")


def test_a_command_that_makes_a_video_can_be_pasted(tmp_path: Path) -> None:
    root = tmp_path / "my runs"
    run_dir = make_run(root, episodes=[episode(0, milestones={"IT'S; ODD": 5})], milestones={"IT'S; ODD": 100})
    out = tmp_path / "page.html"
    rows = dict(glance_table([read_run(run_dir)], out))
    assert rows["first to come furthest"][0].words.endswith("its log is not there, so no video can be made of it")
    write_log(run_dir, 0, (0, 4, 5))
    rows = dict(glance_table([read_run(run_dir)], out))
    for question, choice in (
        ("first to come furthest", ["--milestone", "IT'S; ODD"]),
        ("best episode to watch", ["--best", "1"]),
    ):
        command = rows[question][0].words.split("; ", 1)[1].removesuffix(" makes its video")
        begin = ["python", "-m", "cluster_rl.replayer", "--runs", str(root), "--run-name", "made"]
        assert shlex.split(command) == begin + choice


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path, "bare")
    run_dir.path.mkdir()
    text = Reader(page_of(run_dir)).text
    for name in ("episodes.jsonl", "metrics.jsonl", "quests.jsonl", "progress.json", "config.json", "run.json"):
        assert f"{name}: " in text
    for words in (
        "No whole episode is known yet.",
        "There are no metrics yet.",
        "No quest was tried yet.",
        "No milestone",
    ):
        assert words in text
    assert str(tmp_path) not in text


def test_the_run_that_todays_writers_make(tmp_path: Path) -> None:
    run_dir = run_golden.write_run(tmp_path)
    text = Reader(page_of(run_dir)).text
    assert "LEFT_HOME" in text
    assert "damaged" not in text
    assert "0123456789ab" not in text or "torch" in text


def test_runs_side_by_side(tmp_path: Path) -> None:
    lively(tmp_path, "one", Config(base_seed=1))
    two = lively(tmp_path, "two", Config(base_seed=2), steps=40)
    other = lively(tmp_path, "other", Config(gamma=0.5))
    page = page_of(RunDir(tmp_path, "one"), two, other)
    read = Reader(page)
    assert "one (2 runs, all up to 4,000), median: from 0 to 2" in read.text
    assert "its band from the least to the most of them" in read.text
    assert "other: from 0 to 2" in read.text
    rows = re.findall(r"<code>(\w+)</code></th><td><code>(.*?)</code></td><td><code>(.*?)</code></td>", page)
    assert ("base_seed", "1", "2") in rows
    assert (tmp_path / "report-one-and-2-more.html").is_file()


def test_what_a_job_changed(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    record = '{"schema_version": 1, "id": %d, "started": %f, "config": {"gamma": %s, "model": {"kind": "slim"}}}'
    for number, gamma in enumerate(("0.9", "0.99"), start=1):
        run_dir.job_record(number).write_text(record % (number, BEGAN, gamma))
    assert "gamma: 0.9 to 0.99" in Reader(page_of(run_dir)).text


def test_videos_are_linked_from_where_the_page_lies(page: str) -> None:
    read = Reader(page)
    links = [a["href"] for a in read.all_of("a") if not a["href"].startswith("#")]
    assert links[1:] == [f"videos/{NEWEST}.mp4", f"videos/{NEWEST}.png"]
    assert f"{NEWEST}.mp4: its record is missing" in read.text


def test_a_long_run_makes_a_small_page_soon(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    reached = [f"MILESTONE_{number}" for number in range(30)]
    terms = {f"term{number}": 0.1 for number in range(11)}

    made = [
        lines([episode(7, terms=terms, milestones=dict.fromkeys(reached[: n % 30], 5), loop_share=n / 100)])
        for n in range(100)
    ]
    templates = [
        row.replace(b'"env_steps":800,', b'"env_steps":%d,').replace(b'"episode":7,', b'"episode":%d,') for row in made
    ]
    run_dir = make_run(tmp_path, quests=[quest_row(n, {name: quest(0.4) for name in reached}) for n in range(1, 1000)])
    run_dir.episodes.write_bytes(b"".join(templates[n % 100] % (100 * n, n) for n in range(100_000)))
    many = {f"other/{number}": 0.5 for number in range(200)}
    values = random.random((20_000, 3))
    run_dir.metrics.write_bytes(
        lines(
            metrics_row(n, env_steps_per_sec=a, updates_per_sec=b, lag__acting__p50=c) | many
            for n, (a, b, c) in enumerate(values.tolist())
        )
    )
    began = time.process_time()
    page = page_of(run_dir)
    assert time.process_time() - began < 20
    assert len(Reader(page).all_of("tr")) > 400
    assert len(page.encode()) < 5_000_000
    assert "100,000 episodes: the newest" in page


@pytest.mark.parametrize("name", ["env_steps", "time", "learner/loss", "episode/return", "env_steps_per_sec"])
@pytest.mark.parametrize("figure", [1e300, -1e308])
def test_figures_of_no_run_end_nothing(tmp_path: Path, name: str, figure: float) -> None:
    odd = [metrics_row(number, learner__loss=0.1) | ({name: figure} if number == 3 else {}) for number in range(9)]
    assert "<h1" in page_of(make_run(tmp_path, metrics=odd, episodes=[episode(0), episode(1, episode_return=figure)]))


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--run-name", "none"], "run 'none': not found in "),
        (["--run-name", "a/../b"], "run name 'a/../b': use letters"),
        ([], "the following arguments are required: --run-name"),
        (["--run-name", "made", "--out", "no/folder/page.html"], "its folder is not there; make it first"),
        (["--run-name", "made", "--out", "."], "is a folder; give the name of a file in it"),
        (["--run-name", "made", "--out", "made/progress.json"], "a page's name ends in .html"),
        (["--run-name", *(f"r{n}" for n in range(MOST_RUNS + 1))], "at most 10 can be told apart on one page"),
    ],
)
def test_a_wrong_command_line(tmp_path: Path, words: list[str], answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(answer)):
        parse_arguments([*words, "--runs", str(tmp_path)])


def test_the_command_says_what_it_made_and_imports_no_torch(tmp_path: Path) -> None:
    make_run(tmp_path)
    lines_ = (
        "import sys; from cluster_rl.report.__main__ import main; code = main(); "
        "print('torch' in sys.modules); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", lines_, "--run-name", "made", "--runs", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    told, torch = done.stdout.splitlines()
    assert re.fullmatch(rf"{re.escape(str(tmp_path))}/made/report.html: [\d.]+ MB", told)
    assert torch == "False"


def test_an_unknown_run_is_exit_code_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cluster_rl.report", "--run-name", "none", "--runs", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: run 'none': not found in")
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = make_run(tmp_path)
    page_of(run_dir)
    before = run_dir.path.joinpath("report.html").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cluster_rl.runs.atomic.write_synced", full)
    monkeypatch.setattr(sys, "argv", ["report", "--run-name", "made", "--runs", str(tmp_path)])
    with pytest.raises(UserError, match="No space left"):
        main()
    assert run_dir.path.joinpath("report.html").read_bytes() == before
    assert not list(run_dir.path.glob(".report*"))
