"""Lines of a process's log: whole, with time and process before them, whichever thread prints."""

from __future__ import annotations

import os
import re
import sys
import threading

import pytest

from cluster_rl.jobs.process_log import logged


def test_each_line_has_time_and_process(capfd: pytest.CaptureFixture[str]) -> None:
    with logged("actor-3"):
        print("playing", "100 % of it", flush=True)
        print("two\nlines")
        print("error: as it was", file=sys.stderr)
    print("plain")
    out, err = capfd.readouterr()
    first, two, lines, plain = out.splitlines()
    stamp = rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d actor-3\[{os.getpid()}\] "
    assert re.fullmatch(stamp + "playing 100 % of it", first)
    assert [re.sub(stamp, "", line) for line in (two, lines)] == ["two", "lines"]
    assert (plain, err) == ("plain", "error: as it was\n")


def test_threads_do_not_mix_their_lines(capfd: pytest.CaptureFixture[str]) -> None:
    with logged("learner"):
        print("one begins", end=" ")
        other = threading.Thread(target=print, args=("another",))
        other.start()
        other.join()
        print("and ends")
    assert [line.split("] ")[1] for line in capfd.readouterr().out.splitlines()] == ["another", "one begins and ends"]


def test_last_words_without_an_end_are_kept(capfd: pytest.CaptureFixture[str]) -> None:
    def ends() -> None:
        with logged("learner"):
            other = threading.Thread(target=lambda: print("of a thread that ended", end=""))
            other.start()
            other.join()
            print("last words", end="")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        ends()
    found = [line.split("] ")[1] for line in capfd.readouterr().out.splitlines()]
    assert found == ["of a thread that ended", "last words"]


def test_it_is_a_stream_as_libraries_know_them(capfd: pytest.CaptureFixture[str]) -> None:
    below = sys.stdout
    with logged("learner"):
        sys.stdout.writelines(["one\n", "two\n"])
        sys.stdout.flush()
        assert sys.stdout.fileno() == below.fileno()
        assert (sys.stdout.encoding, sys.stdout.isatty(), sys.stdout.writable()) == (below.encoding, False, True)
    assert [line.split("] ")[1] for line in capfd.readouterr().out.splitlines()] == ["one", "two"]
