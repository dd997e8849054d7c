"""Bars on a real terminal, lines in a file, and stdout that has neither."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from terminals import on_terminal

from cluster_rl.report import bars
from cluster_rl.report.bars import Bar, duration_words, is_live, size_words

WORK = """
import sys, time
from cluster_rl.report import bars
bars.LINE_INTERVAL_SEC = 0.2
with bars.Bar("rendering", 4000, "frames") as bar:
    for part in range(1, 6):
        bar.to(800 * part, f"{part} of 5 [episodes]")
        print("made", part, flush=True)
        time.sleep(0.25)
print("all made")
"""


def test_a_bar_on_a_terminal_and_nothing_of_it_on_stdout() -> None:
    shown, out = on_terminal([sys.executable, "-c", WORK])
    assert out == "".join(f"made {part}\n" for part in range(1, 6)) + "all made\n"
    assert re.search(r"rendering: [\d,]+ of 4,000 frames, [1-4] of 5 \[episodes\], \d+ s, about \d+ s left .*━", shown)
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # the cursor is back


@pytest.mark.parametrize(("terminal", "begin"), [("xterm", "\x1b[1m"), ("dumb", "")])
def test_a_warning_is_bold_where_that_can_be_shown(terminal: str, begin: str) -> None:
    lines = "from cluster_rl.report.bars import say; say('WARNING: a cliff'); say('device: cpu')"
    here, there = pty.openpty()
    variables = os.environ | {"TERM": terminal}
    subprocess.run([sys.executable, "-c", lines], stdout=there, env=variables, check=True, timeout=60)
    os.close(there)
    said = os.read(here, 4096).decode().splitlines()
    os.close(here)
    assert [line.removesuffix("\x1b[0m") for line in said] == [f"{begin}WARNING: a cliff", "device: cpu"]


def test_bytes_in_words() -> None:
    assert [size_words(each) for each in (0, 3_440_000, 188e6, 0.96e9, 1.24e12)] == [
        *("0.0 MB", "3.4 MB", "188 MB", "1.0 GB", "1240.0 GB")
    ]


def test_a_terminal_that_cannot_be_drawn_on_gets_lines() -> None:
    shown, _ = on_terminal([sys.executable, "-c", WORK], TERM="dumb")
    assert "\x1b" not in shown
    assert re.search(r"rendering: [\d,]+ of 4,000 frames, \d of 5 \[episodes\], \d+ s(, about \d+ s left)?\r\n", shown)


def test_lines_in_a_file_without_control_characters(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        environment = os.environ | {"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1", "TERM": "xterm"}
        subprocess.run([sys.executable, "-c", WORK], stdout=log, stderr=log, env=environment, check=True)
    text = (tmp_path / "log").read_text()
    assert not re.search(r"[^\x20-\x7e\n]", text)
    told = r"^rendering: [\d,]+ of 4,000 frames, \d of 5 \[episodes\], \d+ s(, about \d+ s left)?$"
    assert len(re.findall(told, text, re.M)) == text.count("\n") - 6 > 0
    assert text.endswith("all made\n")


def test_nobody_reads_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bars, "LINE_INTERVAL_SEC", 0.01)
    with Path(os.devnull).open() as not_to_be_written:
        monkeypatch.setattr(sys, "stderr", not_to_be_written)
        with Bar("working"):
            time.sleep(0.05)


def test_work_of_unknown_length(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bars, "LINE_INTERVAL_SEC", 0.05)
    monkeypatch.setattr(bars, "time", SimpleNamespace(monotonic=iter((100.0, *[107.0] * 1000)).__next__))
    bar = Bar("working")
    bar.to(0, "on it")
    said = ""
    with bar:
        while not said:
            time.sleep(0.01)
            said = capsys.readouterr().err
    assert set(said.splitlines()) == {"working: on it, 7 s"}
    assert not is_live(sys.stderr)


def test_no_line_comes_after_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is there a thread then, which a process that is forked would not have."""
    began = threading.Event()

    class Slow(io.StringIO):
        def write(self, text: str) -> int:
            began.set()
            time.sleep(0.2)
            return super().write(text)

    monkeypatch.setattr(bars, "LINE_INTERVAL_SEC", 0.01)
    monkeypatch.setattr(sys, "stderr", Slow())
    threads = threading.active_count()
    with Bar("working"):
        assert began.wait(30)
    assert threading.active_count() == threads


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (119, "119 s"), (121, "2 min"), (7100, "118 min"), (12_000, "3 h 20 min"), (187_200, "2 d 4 h")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration_words(seconds) == words
