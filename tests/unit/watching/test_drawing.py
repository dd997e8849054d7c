"""The page of a run that grows, is damaged, goes away and comes again."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from made_runs import INCARNATION, episode, lines, make_run, metrics_row

from cluster_rl.errors import StorageError
from cluster_rl.jobs.signals import STOP_SIGNALS
from cluster_rl.report.run_facts import RunFacts
from cluster_rl.runs.layout import RunDir
from cluster_rl.runs.progress import readable_progress, save_progress
from cluster_rl.watching import drawing
from cluster_rl.watching.board import Board
from cluster_rl.watching.drawing import NICE, SILENCE_SEC, Drawer, work_quietly


class Pages:
    """Stands for the drawing of a page, and counts."""

    def __init__(self) -> None:
        self.drawn: list[int] = []
        self.before: Callable[[], None] = lambda: None

    def __call__(self, runs: list[RunFacts], out: Path, live: int) -> str:
        self.before()
        self.drawn.append(live)
        return f"{runs[0].episodes.count} episodes"


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Pages:
    pages = Pages()
    monkeypatch.setattr(drawing, "page_of", pages)
    return pages


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return make_run(tmp_path, episodes=[episode(0)], metrics=[metrics_row(0)])


def append(run_dir: RunDir, number: int) -> None:
    with run_dir.episodes.open("ab") as file:
        file.write(lines([episode(number)]))


def test_a_run_that_grows(run_dir: RunDir, pages: Pages) -> None:
    board, offered = Board(), []
    drawer = Drawer(run_dir, board, 0.0, offered.append)
    assert [drawer.look() for _ in range(3)] == [True, False, False]
    assert board.page == b"1 episodes"
    append(run_dir, 1)
    assert [drawer.look() for _ in range(2)] == [True, False]
    assert (board.page, pages.drawn) == (b"2 episodes", [1, 2])
    assert [run.episodes.count for run in offered] == [1, 2]


@pytest.mark.parametrize("part", ["progress", "metrics", "quests", "config", "jobs", "videos"])
def test_each_file_counts(run_dir: RunDir, pages: Pages, part: str) -> None:
    run_dir.videos.mkdir()
    drawer = Drawer(run_dir, Board(), 0.0, lambda _: None)
    drawer.look()
    path: Path = getattr(run_dir, part)
    if path.is_dir():
        (path / "new").touch()
    else:
        path.write_bytes(path.read_bytes() + b"\n")
    assert drawer.look()


def test_a_run_that_goes_away_and_comes_again(run_dir: RunDir, pages: Pages) -> None:
    board = Board()
    drawer = Drawer(run_dir, board, 0.0, lambda _: None)
    drawer.look()
    aside = run_dir.path.rename(run_dir.root / "aside")
    assert not drawer.look()
    assert board.page == b"1 episodes"
    assert board.notes == [f"{run_dir.path}: the run is gone; this is what was last seen of it"]
    aside.rename(run_dir.path)
    drawer.look()
    assert board.notes == []


def test_a_run_that_goes_away_while_it_is_read(run_dir: RunDir, pages: Pages) -> None:
    board = Board()
    drawer = Drawer(run_dir, board, 0.0, lambda _: None)
    drawer.look()
    append(run_dir, 1)
    pages.before = lambda: shutil.rmtree(run_dir.path)
    assert not drawer.look()
    assert board.page == b"1 episodes"


@pytest.mark.parametrize("error", [StorageError("the disk is away", "x", 5), FileNotFoundError(2, "No such file")])
def test_what_cannot_be_read_now_is_told_and_tried_again(run_dir: RunDir, pages: Pages, error: Exception) -> None:
    board = Board()
    drawer = Drawer(run_dir, board, 0.0, lambda _: None)
    drawer.look()
    append(run_dir, 1)

    def fail() -> None:
        raise error

    pages.before = fail
    assert not drawer.look()
    assert board.notes == [f"the page is not drawn anew: {error}"]
    assert board.page == b"1 episodes"
    pages.before = lambda: None
    assert drawer.look()
    assert (board.page, board.notes) == (b"2 episodes", [])


def test_it_draws_for_nobody_but_the_first_page(run_dir: RunDir, pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look comes a minute after the one before; a file has changed each time."""
    monkeypatch.setattr(drawing, "work_quietly", lambda: None)
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    board = Board()
    drawer = Drawer(run_dir, board, 30.0, lambda _: None)
    looks: list[int] = []

    def stopping(_: float) -> bool:
        looks.append(len(pages.drawn))
        append(run_dir, len(looks))
        now[0] += 100.0 if len(looks) < 5 else 10.0
        if len(looks) >= 4:
            board.ask()
        return len(looks) == 12

    drawer.run(stopping)
    # At the first look; at none of the next two; from the fourth on, when somebody looks, at most every 30 s.
    assert looks == [0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4]


def test_the_death_of_the_learner_is_told_though_no_file_changes(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real page, of a job without an end; and none is drawn again once it has one."""
    told = readable_progress(run_dir.progress)
    assert told is not None
    told.jobs[-1].ended = None
    save_progress(run_dir.progress, told)
    clocks = {"monotonic": 1000.0, "time": time.time()}
    monkeypatch.setattr("time.monotonic", lambda: clocks["monotonic"])
    monkeypatch.setattr("time.time", lambda: clocks["time"])
    board = Board()
    drawer = Drawer(run_dir, board, 0.0, lambda _: None)
    assert [drawer.look(), drawer.look()] == [True, False]
    assert b"has no end, and wrote nothing" not in board.page
    drawn = []
    for _ in range(7):
        clocks = {name: sec + SILENCE_SEC / 2 for name, sec in clocks.items()}
        drawn.append(drawer.look())
    assert drawn == [False, True, False, True, False, True, False]
    assert b"has no end, and wrote nothing for 0." in board.page
    told.jobs[-1].ended = told.jobs[-1].started + 1
    save_progress(run_dir.progress, told)
    assert drawer.look()
    clocks["monotonic"] += 10 * SILENCE_SEC
    assert not drawer.look()


def test_it_looks_as_often_as_a_page_asks(run_dir: RunDir, pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "work_quietly", lambda: None)
    waits: list[float] = []
    drawer = Drawer(run_dir, Board(), 0.0, lambda _: None)
    drawer.run(lambda sec: (waits.append(sec), len(waits) == 4)[1])
    assert waits == [0.0, 2.0, 2.0, 2.0]


def test_a_page_that_takes_long_is_drawn_seldom(run_dir: RunDir, pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the CPU time that it takes: what it waits for others is no cost."""
    now, used = [1000.0], [5.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.thread_time", lambda: used[0])

    def slow() -> None:
        now[0] += 70.0
        used[0] += 20.0

    pages.before = slow
    drawer = Drawer(run_dir, Board(), 1.0, lambda _: None)
    drawer.look()
    assert drawer._not_before == pytest.approx(1000.0 + 70.0 + 9 * 20.0)


def test_the_real_page_and_what_it_links_to(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, episodes=[episode(0)], metrics=[metrics_row(number) for number in range(3)])
    run_dir.videos.mkdir()
    name = f"a000-e00-{INCARNATION:x}-000000.mp4"
    (run_dir.videos / name).write_bytes(b"video")
    board = Board()
    Drawer(run_dir, board, 0.0, lambda _: None).look()
    page = board.page.decode()
    assert f'href="videos/{name}"' in page
    assert '<body data-page="1">' in page
    assert "connect-src &#39;self&#39;; media-src &#39;self&#39;" in page
    assert board.file(f"videos/{name}") == run_dir.videos / name
    assert not run_dir.report.exists()


def test_who_works_quietly_lets_others_go_first() -> None:
    """The thread and what it starts, not the threads beside it; signals wait for the main thread."""
    found: list[tuple[int, bool]] = []

    def work() -> None:
        work_quietly()
        held = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        found.append((os.getpriority(os.PRIO_PROCESS, threading.get_native_id()), set(STOP_SIGNALS) <= held))

    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(max(before, NICE), True)]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before
