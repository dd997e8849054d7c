"""Lines that peers cause are few, and none is kept back without a word."""

from __future__ import annotations

import pytest

from cluster_rl.wire import limited_log
from cluster_rl.wire.limited_log import LimitedLog


def test_the_first_lines_of_each_kind_are_printed_and_the_rest_summed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 1000.0
    monkeypatch.setattr(limited_log.time, "monotonic", lambda: now)
    log = LimitedLog(lines=2, interval_sec=60)

    def said() -> list[str]:
        log.tick()
        return capsys.readouterr().out.splitlines()

    for number in range(2002):
        log.say("bad messages", f"bad {number}")
    log.say("left", "actor 3 left")
    assert said() == ["bad 0", "bad 1", "actor 3 left"]
    now += 59
    assert said() == []
    now += 2
    assert said() == ["bad messages: 2,000 more in the last 60 s, the newest: bad 2001"]
    log.say("bad messages", "bad again")
    now += 61
    assert said() == ["bad again"]
    now += 61
    assert said() == []
