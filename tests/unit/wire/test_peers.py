"""Who is muted, and how credit is shared out: rules without sockets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster_rl.wire import peers
from cluster_rl.wire.peers import Allowances, share_credit


@given(st.integers(0, 300), st.lists(st.integers(0, 40), max_size=30), st.integers(1, 60))
def test_room_is_shared_out_whole_in_equal_parts_and_what_was_given_stays(
    room: int, unused: list[int], most: int
) -> None:
    shares = share_credit(room, unused, most)
    assert len(shares) == len(unused)
    raised = [share for share, before in zip(shares, unused, strict=True) if share > before]
    assert all(share >= before for share, before in zip(shares, unused, strict=True))
    assert all(share <= most for share in raised)
    assert sum(shares) <= max(room, sum(unused))
    if raised:
        assert max(raised) - min(shares) <= 1, "one was given more while another had less"
    if sum(shares) < room:
        assert all(share >= most for share in shares), "room was left although somebody could take it"


def test_who_comes_first_gets_what_does_not_go_round() -> None:
    assert share_credit(2, [0, 0, 0], 8) == [1, 1, 0]
    assert share_credit(7, [3, 0, 0], 8) == [3, 2, 2]
    assert share_credit(4, [5, 0], 8) == [5, 0]
    assert share_credit(100, [5, 0], 8) == [8, 8]
    assert share_credit(100, [], 8) == []


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(peers.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_connection_is_muted_beyond_its_allowance_for_a_time_and_others_are_not(clock: Clock) -> None:
    allowances = Allowances(3)
    assert [allowances.charge(b"bad", 1) for _ in range(4)] == [False, False, False, True]
    assert allowances.is_muted(b"bad")
    assert not allowances.is_muted(b"other")
    clock.now += 9.9
    assert allowances.is_muted(b"bad")
    clock.now += 0.2
    assert not allowances.is_muted(b"bad")
    assert not allowances.charge(b"bad", 3), "it begins anew"


def test_what_is_unwanted_now_and_then_is_forgiven(clock: Clock) -> None:
    allowances = Allowances(3)
    for _ in range(1000):
        clock.now += 0.1
        assert not allowances.charge(b"slow", 1)


def test_a_hundred_thousand_connections_are_not_all_remembered(clock: Clock) -> None:
    allowances = Allowances(3)
    assert allowances.charge(b"first", 4)
    for number in range(100_000):
        allowances.charge(b"%d" % number, 4)
    assert len(allowances) <= 1024
    assert allowances.is_muted(b"99999")
    assert not allowances.is_muted(b"first")
