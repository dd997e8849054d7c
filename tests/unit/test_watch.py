"""`watch` as a process: its line, its page, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from made_runs import episode, lines, make_run
from recorded_episodes import record

from cluster_rl.errors import UserError
from cluster_rl.rom import load_rom
from cluster_rl.watch import parse_arguments

# At the priority of all tests, and without rest: with its own it would wait for those beside it.
LINES = (
    "from cluster_rl.watching import drawing; drawing.NICE = drawing.REST = 0; "
    "from cluster_rl.watch import command; command()"
)


class Watch:
    """The process in `folder`, whose runs it shows, and what it says."""

    def __init__(self, folder: Path, *words: str, **variables: str) -> None:
        self.films = folder / "films"
        self.films.mkdir(exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SSH_")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", LINES, "--run-name", "made", "--runs", str(folder), *words],
            env=kept | {"TMPDIR": str(self.films)} | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        self.url = re.findall(r"http://[^ \n]*/", self.line)[0]

    def get(self, name: str) -> bytes:
        with urllib.request.urlopen(self.url + name, timeout=60) as answer:
            return answer.read()

    def until(self, found: Callable[[], bool], limit_sec: float = 200.0) -> None:
        deadline = time.monotonic() + limit_sec
        while True:
            with contextlib.suppress(urllib.error.HTTPError):  # before the first page
                if found():
                    return
            assert time.monotonic() < deadline, self.get("state")
            time.sleep(0.1)

    def end(self, number: signal.Signals) -> tuple[int, str, str]:
        self.process.send_signal(number)
        out, said = self.process.communicate(timeout=60)
        return self.process.returncode, out, said


@pytest.fixture
def started() -> Iterator[list[Watch]]:
    found: list[Watch] = []
    yield found
    for watch in found:
        watch.process.kill()
        watch.process.communicate()


def test_a_run_that_grows_is_watched(tmp_path: Path, started: list[Watch]) -> None:
    run_dir = make_run(tmp_path, episodes=[episode(0)])
    log = record(run_dir.episode_logs, load_rom(""), 7, 8)
    watch = Watch(tmp_path, "--every-sec", "1")
    started.append(watch)
    assert re.fullmatch(r"made: http://127\.0\.0\.1:\d+/[\w-]{43}/\n", watch.line)
    watch.until(lambda: b"The only episode of the run" in watch.get(""))
    played = {"incarnation": 7, "episode": 0, "steps": 8, "epsilon": 0.01}
    with run_dir.episodes.open("ab") as file:
        file.write(lines([episode(1, **played)]))
    assert log.name == "a000-e00-7-000000.eplog"
    watch.until(lambda: json.loads(watch.get("state"))["film"] is not None)
    state = json.loads(watch.get("state"))
    assert state["page"] == 2
    assert log.stem in watch.get("").decode()
    assert watch.get(state["film"]["video"])[4:8] == b"ftyp"
    assert len(list(watch.films.iterdir())) == 1
    before = {path: path.stat().st_mtime_ns for path in run_dir.path.rglob("*")}
    code, out, said = watch.end(signal.SIGTERM)
    assert (code, said, out) == (0, "", "signal SIGTERM: ended; the run goes on as it did\n")
    assert list(watch.films.iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in run_dir.path.rglob("*")} == before


def test_it_ends_by_ctrl_c_and_says_how_to_come_by_ssh(tmp_path: Path, started: list[Watch]) -> None:
    make_run(tmp_path)
    watch = Watch(tmp_path, "--host", "127.0.0.2", SSH_CONNECTION="192.0.2.1 50000 192.0.2.2 22")
    started.append(watch)
    assert re.match(
        r"made: http://(127\.0\.0\.2:\d+)/\S+/ \(on your own machine first: ssh -N -L \1:\1 \S+@\S+\)\n", watch.line
    )
    port = re.findall(r":(\d+)/", watch.url)[0]
    command = [sys.executable, "-m", "cluster_rl.watch", "--run-name", "made", "--runs", str(tmp_path), "--port", port]
    command += ["--host", "127.0.0.2"]
    other = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert (other.returncode, other.stdout) == (2, "")
    advice = "give another port, or --port 0 for a free one"
    assert other.stderr == f"error: --host 127.0.0.2 --port {port}: Address already in use; {advice}\n"
    code, out, said = watch.end(signal.SIGINT)
    assert (code, said, out) == (0, "", "signal SIGINT: ended; the run goes on as it did\n")
    assert list(watch.films.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--run-name", "none"], "run 'none': not found in "),
        ([], "the following arguments are required: --run-name"),
        (["--run-name", "made", "--port", "65536"], "argument --port: must be 0 to 65535, not 65536"),
        (["--run-name", "made", "--every-sec", "0"], "argument --every-sec: must be 1 to 86400, not 0"),
        (["--run-name", "made", "--speed", "0"], "argument --speed: must be 1 to 1000, not 0"),
    ],
)
def test_a_wrong_command_line(tmp_path: Path, words: list[str], answer: str) -> None:
    make_run(tmp_path)
    with pytest.raises(UserError, match=re.escape(answer)):
        parse_arguments([*words, "--runs", str(tmp_path)])


def test_a_rom_that_is_none_is_told_at_once(tmp_path: Path) -> None:
    make_run(tmp_path)
    words = ["--run-name", "made", "--runs", str(tmp_path), "--rom", str(tmp_path / "no.gb")]
    command = [sys.executable, "-m", "cluster_rl.watch", *words]
    folder = tmp_path / "temporary"
    folder.mkdir()
    variables = os.environ | {"TMPDIR": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100, env=variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: ROM {tmp_path}/no.gb: no such file")
    assert list(folder.iterdir()) == []
