"""Sequences over real sockets arrive exactly once and in order, through breaks, crashes and restarts."""

from __future__ import annotations

import contextlib
import time

import msgspec
import pytest
from channel_fixtures import BreakingRelay, Desk, RawActor, block, join, make_actor, send_all, until

from cluster_rl.runs.rendezvous import Rendezvous
from cluster_rl.wire.actor_channel import ActorChannel
from cluster_rl.wire.events import Joined, SequenceReceived


def test_sequences_arrive_once_in_order_and_are_acknowledged(
    desk: Desk, actor: ActorChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine the first Hello may wait for a second, and after another one what is open is sent again.
    monkeypatch.setattr("cluster_rl.wire.actor_channel._HELLO_FIRST_SEC", 60.0)
    monkeypatch.setattr(actor, "_hello_wait_sec", 60.0)  # which it has had since it was made
    send_all(desk, actor, 100)
    assert desk.synced[0, actor.incarnation] == [block(n) for n in range(100)]
    assert actor.resent == desk.channel.duplicates == desk.channel.out_of_order == 0
    assert desk.count(Joined) == 1


def test_a_new_learner_on_another_port_goes_on_where_the_log_ends(desk: Desk, actor: ActorChannel) -> None:
    ports = {desk.channel.endpoint}

    def crash_sometimes(number: int) -> None:
        if number in (10, 30):
            actor.send(block(number))  # one more on the way, received by nobody or by a learner that forgets it
            time.sleep(0.05)
            desk.poll()
            desk.crash()
            ports.add(desk.channel.endpoint)

    def work() -> None:
        if actor.next_seq < 50 and actor.can_send():
            crash_sometimes(actor.next_seq)
            actor.send(block(actor.next_seq))
        actor.poll(1)
        desk.poll(1)
        desk.sync()

    until(lambda: actor.next_seq >= 50 and actor.unacknowledged == 0, work)
    assert len(ports) == 3
    assert actor.reconnects == 2
    assert actor.resent > 0
    assert desk.synced[0, actor.incarnation] == [block(n) for n in range(actor.next_seq)]
    assert desk.channel.lost_sequences == 0


def test_a_learner_that_lost_acknowledged_sequences_counts_the_gap_and_goes_on(desk: Desk, actor: ActorChannel) -> None:
    send_all(desk, actor, 20)
    desk.synced[0, actor.incarnation] = desk.synced[0, actor.incarnation][:13]
    desk.crash()
    desk.synced.clear()
    desk.channel.close()
    desk.channel = desk.open(expected_seq=lambda actor, incarnation: 13)
    for _ in range(5):
        actor.send(block(actor.next_seq))
    got: list[int] = []

    def work() -> None:
        actor.poll(1)
        for event in desk.channel.poll(1):
            if isinstance(event, SequenceReceived):
                got.append(event.seq)
                desk.channel.acknowledge(0, event.incarnation, event.seq + 1, event.seq + 9)

    until(lambda: actor.unacknowledged == 0, work)
    assert got == [20, 21, 22, 23, 24]
    assert desk.channel.lost_sequences == 7


def test_a_broken_connection_is_noticed_before_the_silence_is_long(desk: Desk) -> None:
    with contextlib.closing(make_actor(desk.rendezvous)) as actor:
        join(desk, actor)
        desk.crash()
        until(lambda: not actor.joined, lambda: actor.poll(5))
        join(desk, actor)
        assert actor.reconnects == 1


def test_a_learner_that_stands_still_is_left_for_a_new_one(desk: Desk) -> None:
    with contextlib.closing(make_actor(desk.rendezvous, silence_sec=0.3)) as actor:
        join(desk, actor)
        with contextlib.closing(desk.channel):  # its connections stay open
            desk.channel = desk.open()
            until(lambda: actor.reconnects == 1, lambda: actor.poll(5))
            join(desk, actor)


def test_an_overdue_acknowledgement_is_asked_for(desk: Desk) -> None:
    with contextlib.closing(make_actor(desk.rendezvous, ack_timeout_sec=0.2)) as actor:
        join(desk, actor)
        actor.send(block(0))
        until(lambda: desk.received, desk.poll)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(desk.channel, "_send_ack", lambda link: None)  # the queue is full
            desk.sync()
        until(lambda: actor.unacknowledged == 0, lambda: actor.poll(5), desk.poll)
        assert desk.synced[0, actor.incarnation] == [block(0)]


def test_an_acknowledgement_that_was_lost_is_given_again(desk: Desk, actor: ActorChannel) -> None:
    """The log has it, the actor does not know: the next learner must neither take it twice nor leave it waiting."""
    join(desk, actor)
    actor.send(block(0))
    until(lambda: desk.received, desk.poll)
    desk.synced[0, actor.incarnation] = [desk.received[0].block]
    desk.crash()
    until(lambda: actor.unacknowledged == 0, lambda: actor.poll(5), desk.poll)
    assert desk.synced[0, actor.incarnation] == [block(0)]
    assert not desk.received


def test_exactly_once_through_a_line_that_breaks_at_any_byte(desk: Desk) -> None:
    """A TCP relay cuts the connection at random points; only the protocol, not TCP, can mend that."""
    with BreakingRelay(desk.channel.endpoint, seed=1) as relay:

        def through_relay() -> Rendezvous:
            return msgspec.structs.replace(desk.rendezvous(), endpoint=relay.endpoint)

        with contextlib.closing(make_actor(through_relay)) as actor:
            send_all(desk, actor, 60)
            assert relay.cuts >= 3
            assert desk.synced[0, actor.incarnation] == [block(n) for n in range(60)]
            assert actor.resent > 0


def test_duplicates_and_leaps_are_dropped(desk: Desk) -> None:
    with RawActor(desk.channel.endpoint) as raw:
        raw.hello()
        for seq in (0, 1, 1, 0, 3, 2):
            raw.sequence(seq)
        until(lambda: desk.channel.duplicates == 2 and len(desk.received) == 3, desk.poll)
        assert [event.seq for event in desk.received] == [0, 1, 2]
        assert desk.channel.out_of_order == 1


def test_a_restarted_actor_counts_from_zero_and_late_acknowledgements_of_the_old_one_do_not_reach_it(
    desk: Desk,
) -> None:
    first = make_actor(desk.rendezvous)
    join(desk, first)
    for n in range(3):
        first.send(block(n))
    until(lambda: len(desk.received) == 3, desk.poll)
    first.close()
    with contextlib.closing(make_actor(desk.rendezvous)) as second:
        second.send(block(100))
        second.send(block(101))
        join(desk, second)
        desk.channel.acknowledge(0, first.incarnation, 3, 11)
        assert second.poll(50) is not None
        assert second.unacknowledged == 2
        desk.sync()
        until(lambda: second.unacknowledged == 0, lambda: second.poll(5), desk.poll, desk.sync)
    assert len(desk.synced[0, first.incarnation]) == 3
    assert desk.synced[0, second.incarnation] == [block(100), block(101)]
