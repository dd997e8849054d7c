"""Which episode is worth seeing, and that it becomes a video of real play, however many logs are damaged."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from recorded_episodes import record

from cluster_rl.config import Config
from cluster_rl.errors import EXIT_STORAGE
from cluster_rl.rendering.work import Job, Outcome
from cluster_rl.report.run_facts import RunFacts
from cluster_rl.report.run_rows import EpisodeRow, Episodes
from cluster_rl.report.video import video_frames
from cluster_rl.rom import load_rom
from cluster_rl.runs.layout import RunDir
from cluster_rl.watching import projection
from cluster_rl.watching.board import Board
from cluster_rl.watching.projection import (
    AGAIN_SEC,
    MOST_FILM_SEC,
    MOST_TRIES,
    Choice,
    Projectionist,
    choose,
    film_words,
)


def row(number: int, epsilon: float = 0.01, value: float = 0.0, reason: str = "truncated") -> EpisodeRow:
    """Episode of incarnation `number`, as `record` makes it with that seed."""
    return EpisodeRow(
        time=1.8e9 + number,
        env_steps=10 * number,
        actor=0,
        incarnation=number,
        emulator=0,
        episode=0,
        steps=8,
        episode_return=value,
        epsilon=epsilon,
        reason=reason,
        milestones={"LEFT_HOME": 3},
    )


@pytest.mark.parametrize(
    ("rows", "chosen"),
    [
        ([], None),
        ([row(1, 0.05), row(2, 0.01), row(3, 0.01), row(4, 0.05)], 3),  # the newest of the greediest
        ([row(1, 0.0), row(2, 0.09)], 1),
        (
            [row(1, 0.4, 5.0), row(2, 0.3, 7.0), row(3, 0.4, 7.0), row(4, 0.1, 1.0)],
            3,
        ),  # none is greedy: the newest best
    ],
)
def test_what_is_worth_seeing(rows: list[EpisodeRow], chosen: int | None) -> None:
    choice = choose(rows)
    assert (choice.row.incarnation if choice is not None else None) == chosen


class Cinema:
    """A run, and a projectionist that shows it."""

    def __init__(self, tmp_path: Path, rom: str = "") -> None:
        self.run_dir = RunDir(tmp_path, "run")
        self.films = tmp_path / "films"
        self.films.mkdir()
        self.board = Board()
        self.projectionist = Projectionist(self.board, self.films, rom, 1)

    def record(self, number: int) -> Path:
        return record(self.run_dir.episode_logs, load_rom(""), number, 8)

    def facts(self, *rows: EpisodeRow) -> RunFacts:
        return RunFacts("run", self.run_dir, settings=Config(), episodes=Episodes(len(rows), newest=[*rows]))

    def show(self, *rows: EpisodeRow) -> float | None:
        """Until one is shown, none is left, or there is something to wait for."""
        facts = self.facts(*rows)
        while True:
            wait_sec = self.projectionist.show(facts, lambda sec: bool(time.sleep(min(sec, 0.02))))
            if wait_sec != 0.0:
                return wait_sec

    def damage(self, number: int) -> None:
        path = self.run_dir.episode_logs / f"a000-e00-{number:x}-000000.eplog"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no log")


def test_the_newest_becomes_a_video_and_the_run_stays_as_it_is(tmp_path: Path) -> None:
    cinema = Cinema(tmp_path)
    for number in (1, 2):
        cinema.record(number)
    before = sorted(path for path in cinema.run_dir.path.rglob("*"))
    cinema.show(row(1), row(2), row(3, reason="stopped"), row(4))  # the last has no log
    film = cinema.board.film
    assert film is not None
    assert film.words.startswith("a000-e00-2-000000, the newest with the lowest epsilon of 2 new episodes: return 0.00")
    assert film.video.read_bytes()[4:8] == b"ftyp"
    assert film.picture is not None
    assert sorted(path for path in cinema.run_dir.path.rglob("*")) == before
    assert cinema.board.notes == []
    stamp = film.video.stat().st_mtime_ns
    cinema.show(row(1), row(2))
    assert cinema.board.film == film  # not again
    assert film.video.stat().st_mtime_ns == stamp


def test_a_damaged_log_is_told_and_the_next_best_is_shown(tmp_path: Path) -> None:
    cinema = Cinema(tmp_path)
    cinema.record(1)
    damaged = cinema.record(2)
    data = bytearray(damaged.read_bytes())
    data[-20] ^= 0xFF
    damaged.write_bytes(data)
    notes: list[str] = []
    note = cinema.board.note
    cinema.board.note = lambda about, line: (notes.append(line), note(about, line))[1]  # type: ignore[method-assign]
    cinema.show(row(1), row(2))
    assert any("damaged" in line and damaged.name in line for line in notes)
    assert cinema.board.film is not None
    assert cinema.board.film.words.startswith("a000-e00-1-000000, ")


def test_behind_many_damaged_logs_one_is_found_without_newer_facts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run that has ended: it is offered once."""
    cinema = Cinema(tmp_path)
    cinema.record(1)
    for number in range(2, 6):
        cinema.damage(number)
    monkeypatch.setattr(projection, "work_quietly", lambda: None)
    cinema.board.ask()
    cinema.projectionist.offer(cinema.facts(*(row(number) for number in range(1, 6))))
    deadline = time.monotonic() + 100
    cinema.projectionist.run(
        lambda sec: bool(time.sleep(0.02)) or cinema.board.film is not None or time.monotonic() > deadline
    )
    assert cinema.board.film is not None
    assert cinema.board.film.words.startswith("a000-e00-1-000000, ")
    assert len(cinema.projectionist._failed) == 4


def test_where_nothing_can_be_rendered_it_is_told_and_not_tried_for_ever(tmp_path: Path) -> None:
    cinema = Cinema(tmp_path)
    for number in (1, 2):
        cinema.damage(number)
    assert cinema.show(row(1), row(2)) is None
    assert cinema.board.film is None
    assert "not an episode log" in cinema.board.notes[0]
    assert len(cinema.projectionist._failed) == 2
    assert list(cinema.films.iterdir()) == []


def test_a_rom_that_comes_later(tmp_path: Path) -> None:
    path = tmp_path / "red.gb"
    cinema = Cinema(tmp_path, str(path))
    cinema.record(1)
    assert cinema.show(row(1)) == AGAIN_SEC
    (note,) = cinema.board.notes
    assert note.startswith(f"nothing is rendered: ROM {path}: no such file; ")
    assert cinema.projectionist._failed == set()
    path.write_bytes(load_rom("").data)
    assert cinema.show(row(1)) is None
    assert cinema.board.film is not None
    assert cinema.board.notes == []


def test_facts_stay_until_they_are_shown_and_rest_after_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cinema = Cinema(tmp_path)
    now, tried, looks = [1000.0], [], iter(range(100))
    answers = iter([AGAIN_SEC, 0.0, None])

    def show(_: RunFacts, __: object) -> float | None:
        tried.append(now[0])
        return next(answers)

    def stopping(_: float) -> bool:
        now[0] += 10.0
        return next(looks) == 12

    monkeypatch.setattr(projection, "work_quietly", lambda: None)
    monkeypatch.setattr(cinema.projectionist, "show", show)
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    cinema.projectionist.offer(cinema.facts(row(1)))
    monkeypatch.setattr(Board, "is_watched", True)
    cinema.projectionist.run(stopping)
    assert tried == [1010.0, 1040.0, 1050.0]


def test_a_process_that_dies_does_not_ban_its_episode_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cinema = Cinema(tmp_path)
    for number in (1, 2):
        cinema.record(number)
    real = projection.work
    monkeypatch.setattr(projection, "work", die)
    assert cinema.show(row(1), row(2)) == AGAIN_SEC
    died = "a000-e00-2-000000: the process that rendered it died (out of memory?)"
    assert cinema.board.notes == [f"{died}; it is tried again"]
    monkeypatch.setattr(projection, "work", real)
    assert cinema.show(row(1), row(2)) is None
    assert cinema.board.film is not None
    assert cinema.board.film.words.startswith("a000-e00-2-000000, ")


def test_what_always_dies_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cinema = Cinema(tmp_path)
    cinema.record(1)
    monkeypatch.setattr(projection, "work", die)
    assert [cinema.show(row(1)) for _ in range(MOST_TRIES)] == [AGAIN_SEC] * (MOST_TRIES - 1) + [None]
    assert cinema.board.notes[0].endswith(f"it is passed over after {MOST_TRIES} tries")


def test_a_full_disk_bans_no_episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cinema = Cinema(tmp_path)
    cinema.record(1)
    full = Outcome(EXIT_STORAGE, "error: no space left")
    monkeypatch.setattr(cinema.projectionist, "_rendered", lambda *_: full)
    assert cinema.show(row(1)) == AGAIN_SEC
    assert cinema.board.notes == ["error: no space left; it is tried again"]


def test_a_long_episode_plays_faster(tmp_path: Path) -> None:
    cinema = Cinema(tmp_path)
    facts = cinema.facts()
    long = msgspec.structs.replace(row(1), steps=20_480)
    speed = cinema.projectionist._speed_of(facts, long)
    frames = long.steps * facts.settings.frame_skip
    assert video_frames(frames, 30, speed) <= 30 * MOST_FILM_SEC < video_frames(frames, 30, speed - 1)
    assert cinema.projectionist._speed_of(facts, row(1)) == 1
    words = film_words(facts, Choice(long, "why"), speed)
    assert words.endswith(f"; plays {speed} times as fast as the game")
    assert not film_words(facts, Choice(long, "why"), 1).endswith("as fast as the game")


def test_a_worker_that_does_not_listen_ends_with_the_render(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cinema = Cinema(tmp_path)
    cinema.record(1)
    monkeypatch.setattr(projection, "work", sleep_long)
    began = time.monotonic()
    cinema.projectionist.show(cinema.facts(row(1)), lambda sec: bool(time.sleep(sec)) or time.monotonic() - began > 0.5)
    assert time.monotonic() - began < 20
    assert multiprocessing.active_children() == []


def test_a_worker_dies_with_its_parent_before_it_has_imported_anything() -> None:
    """The parent ends by `kill -9` while the worker sleeps where it would import; it leaves its pid."""
    program = (
        "import multiprocessing, os, sys, time\n"
        "from cluster_rl.watching.worker import start\n"
        "def child(parent_pid):\n"
        "    sys.modules['cluster_rl.rendering.work'] = Slow()\n"
        "    start(parent_pid, '', None, None)\n"
        "class Slow:\n"
        "    def start_worker(self, *_):\n"
        "        print(os.getpid(), flush=True)\n"
        "        time.sleep(60)\n"
        "process = multiprocessing.get_context('fork').Process(target=child, args=(os.getpid(),))\n"
        "process.start()\n"
        "process.join()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline()
        parent.kill()
        killed = time.monotonic()
        assert parent.stdout.read() == ""  # its end comes when the worker has closed it too
    assert time.monotonic() - killed < 30


def test_the_first_lines_of_a_worker_import_nothing_large() -> None:
    program = (
        "import sys, cluster_rl.watching.worker; assert not {'numpy', 'cluster_rl.rendering.work'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=100)


def die(_: Job) -> None:
    os._exit(9)


def sleep_long(_: Job) -> None:
    time.sleep(300)


def test_a_stop_ends_a_render_half_way(tmp_path: Path) -> None:
    cinema = Cinema(tmp_path)
    record(cinema.run_dir.episode_logs, load_rom(""), 1, 3000)
    began = time.monotonic()
    cinema.projectionist.show(cinema.facts(row(1)), lambda sec: bool(time.sleep(sec)) or time.monotonic() - began > 0.5)
    assert cinema.board.film is None
    assert not list(cinema.films.glob("1.*"))
