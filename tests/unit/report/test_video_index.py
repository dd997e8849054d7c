"""The list of videos: all of them in order, and nothing that a file's or a log's name could do to the page."""

from __future__ import annotations

import csv
import html.parser
import os
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from small_disk import mounted

from cluster_rl.errors import StorageError
from cluster_rl.game.world import World
from cluster_rl.report.video_index import write_index
from cluster_rl.report.video_record import VideoRecord
from cluster_rl.runs.episode_log import Milestone

WORLD = World.cartridge()
OLD = VideoRecord(log_sha256="ab", fps=30, steps=64, frames=768, complete=True, video_bytes=5)


def record(value: float | None, **fields: object) -> VideoRecord:
    known = {"log_sha256": "ab", "fps": 30, "steps": 1234, "frames": 90, "complete": value is not None}
    return VideoRecord(**known | {"video_bytes": 5, "path_bytes": 9, "episode_return": value, "epsilon": 0.02} | fields)


class Page(html.parser.HTMLParser):
    """The words of each row's cells, every link, and every tag that there is."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name == "href"]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1] and "tbody" in self.tags:
            self.rows[-1][-1] += data.rstrip("\n")


def test_the_best_come_first_and_what_has_no_return_last(tmp_path: Path) -> None:
    reached = [Milestone("LEFT_HOME", 20), Milestone("GOT_BALM", 99)]
    records = {
        tmp_path / "a.mp4": OLD,
        tmp_path / "b.mp4": record(-2.0),
        tmp_path / "c.gif": record(None, speed=8),
        tmp_path / "d.mp4": record(12.5, milestones=reached, overlay=True, started="2026-11-29T12:00:00+00:00"),
    }
    write_index(tmp_path, records, WORLD)
    with (tmp_path / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["video"] for row in rows] == ["d.mp4", "b.mp4", "a.mp4", "c.gif"]
    assert rows[0] | {"started": ""} == {
        "video": "d.mp4",
        "return": "12.5",
        "steps": "1234",
        "milestones": "LEFT_HOME@20 GOT_BALM@99",
        "epsilon": "0.02",
        "seconds": "3.0",
        "started": "",
        "complete": "1",
        "overlay": "1",
        "speed": "1",
    }
    assert (rows[2]["return"], rows[3]["complete"], rows[3]["speed"]) == ("", "0", "8")
    page = Page(tmp_path / "index.html")
    assert [row[1] for row in page.rows[1:]] == ["d.mp4panel", "b.mp4", "a.mp4", "c.gif8 x"]
    assert page.rows[1][:5] == ["12.5", "d.mp4panel", "1,234", "2", f"{WORLD.milestone_title('GOT_BALM')}, step 99"]
    assert page.rows[4][0] == "unfinished"
    assert page.links[:2] == ["d.mp4", "d.png"]
    once = [(tmp_path / name).read_bytes() for name in ("index.html", "index.csv")]
    write_index(tmp_path, dict(reversed(records.items())), WORLD)
    assert [(tmp_path / name).read_bytes() for name in ("index.html", "index.csv")] == once


HOSTILE = [
    "<script>alert(1)<",
    '"><img src=x onerror=a',
    "javascript:a",
    "a&amp;b 100%25#?",
    "caf\udce9",
    "tab\tor\nline",
]


def test_names_are_words_and_links_and_nothing_else(tmp_path: Path) -> None:
    records = {
        tmp_path / f"{name}.mp4": record(1.0, milestones=[Milestone(name.replace("\udce9", "é"), 3)], started='<b>"')
        for name in HOSTILE
    }
    write_index(tmp_path, records, WORLD)
    page = Page(tmp_path / "index.html")
    assert {tag for tag in page.tags if tag not in ("tr", "td", "th", "a", "span", "br")} == {
        *("html", "head", "meta", "title", "style", "body", "h1", "p", "table", "thead", "tbody", "script")
    }
    assert page.tags.count("script") == 1
    assert not any(":" in link or link.startswith("/") for link in page.links)
    led_to = {os.fsdecode(unquote_to_bytes(link)) for link in page.links}
    assert led_to == {f"{name}{ending}" for name in HOSTILE for ending in (".mp4", ".png")}
    with (tmp_path / "index.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert {row["video"] for row in csv.DictReader(file)} == {f"{name}.mp4" for name in HOSTILE}


def test_none_is_left_is_a_list_too(tmp_path: Path) -> None:
    write_index(tmp_path, {}, WORLD)
    assert Page(tmp_path / "index.html").rows[1:] == []


def test_a_full_disk_leaves_the_old_list(tmp_path: Path) -> None:
    with mounted(tmp_path / "small") as disk:
        write_index(disk.folder, {disk.folder / "a.mp4": record(1.0)}, WORLD)
        before = {path.name: path.read_bytes() for path in disk.folder.iterdir()}
        with disk.full(), pytest.raises(StorageError, match=r"index\.csv: cannot be written: No space left"):
            write_index(disk.folder, {disk.folder / "b.mp4": record(2.0)}, WORLD)
        assert {path.name: path.read_bytes() for path in disk.folder.iterdir()} == before
