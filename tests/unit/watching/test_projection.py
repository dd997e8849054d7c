"""Which episode is worth seeing, and that it becomes a video of real play, however many logs are damaged."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from recorded_episodes import record

from cluster_rl.config import Config
from cluster_rl.report.run_facts import RunFacts
from cluster_rl.report.run_rows import EpisodeRow, Episodes
from cluster_rl.rom import load_rom
from cluster_rl.runs.layout import RunDir
from cluster_rl.watching.board import Board
from cluster_rl.watching.projection import MOST_TRIES, Projectionist, choose


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

    def show(self, *rows: EpisodeRow) -> None:
        facts = RunFacts("run", self.run_dir, settings=Config(), episodes=Episodes(len(rows), newest=[*rows]))
        self.projectionist.show(facts, lambda sec: bool(time.sleep(min(sec, 0.02))))


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


def test_where_nothing_can_be_rendered_it_is_told_and_not_tried_for_ever(tmp_path: Path) -> None:
    cinema = Cinema(tmp_path)
    for number in range(1, MOST_TRIES + 3):
        path = cinema.run_dir.episode_logs / f"a000-e00-{number:x}-000000.eplog"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no log")
    cinema.show(*(row(number) for number in range(1, MOST_TRIES + 3)))
    assert cinema.board.film is None
    assert "not an episode log" in cinema.board.notes[0]
    assert len(cinema.projectionist._failed) == MOST_TRIES
    assert list(cinema.films.iterdir()) == []


def test_a_rom_that_is_not_here(tmp_path: Path) -> None:
    cinema = Cinema(tmp_path, str(tmp_path / "red.gb"))
    cinema.record(1)
    cinema.show(row(1))
    assert cinema.board.notes == [
        f"nothing is rendered: ROM {tmp_path}/red.gb: no such file; an empty path plays the small world"
    ]
    assert cinema.projectionist._failed == set()


def test_a_stop_ends_a_render_half_way(tmp_path: Path) -> None:
    cinema = Cinema(tmp_path)
    record(cinema.run_dir.episode_logs, load_rom(""), 1, 3000)
    facts = RunFacts("run", cinema.run_dir, settings=Config(), episodes=Episodes(1, newest=[row(1)]))
    began = time.monotonic()
    cinema.projectionist.show(facts, lambda sec: bool(time.sleep(sec)) or time.monotonic() - began > 0.5)
    assert cinema.board.film is None
    assert list(cinema.films.iterdir()) == []
