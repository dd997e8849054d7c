"""Peers that misbehave, over real sockets: they take neither room nor time nor a number from those that behave."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest
import zmq
from channel_fixtures import LIMITS, RUN, SCHEMA, Desk, RawActor, block, join, make_actor, send_all, until

from cluster_rl.wire import messages, peers
from cluster_rl.wire.actor_channel import ActorChannel
from cluster_rl.wire.events import Joined, Left, SequenceReceived
from cluster_rl.wire.sockets import PartsReceiver


@pytest.fixture
def raw(desk: Desk) -> Iterator[RawActor]:
    with RawActor(desk.channel.endpoint) as stranger:
        yield stranger


def answers(raw: RawActor) -> list[messages.LearnerMessage]:
    found = []
    while raw.socket.poll(0):
        found.append(messages.decode_from_learner(raw.socket.recv_multipart())[0])
    return found


def hello(raw: RawActor, **changes: int) -> None:
    fields = {"actor": raw.number, "incarnation": raw.incarnation, "lowest_unacked": 0, "next_seq": 0} | changes
    raw.socket.send(messages.encode(messages.Hello(run=RUN, schema_hash=SCHEMA, **fields)))


def test_a_number_that_the_run_has_not_is_refused_in_words(desk: Desk) -> None:
    with RawActor(desk.channel.endpoint, number=LIMITS["total_actors"]) as raw:
        raw.hello()
        until(lambda: desk.channel.refused, desk.poll)
        until(lambda: raw.socket.poll(1), desk.poll)
        (refusal,) = answers(raw)
    assert isinstance(refusal, messages.Refused)
    assert "no actor 16" in refusal.reason
    assert not desk.channel.actors


@pytest.mark.parametrize(
    ("lowest_unacked", "next_seq"), [(1_000_001, 1_000_001), (2**61, 2**61), (5, 4), (2**62 - 1, 2**62 - 1)]
)
def test_numbers_that_the_log_cannot_have_lost_are_refused(
    desk: Desk, raw: RawActor, lowest_unacked: int, next_seq: int
) -> None:
    hello(raw, lowest_unacked=lowest_unacked, next_seq=next_seq)
    until(lambda: desk.channel.refused, desk.poll)
    assert not desk.channel.actors
    assert desk.channel.lost_sequences == 0


def test_what_is_sent_beyond_the_credit_and_the_overdraft_is_dropped_and_earns_no_credit(
    desk: Desk, raw: RawActor
) -> None:
    raw.hello()
    for seq in range(20):
        raw.sequence(seq)
    until(lambda: desk.channel.over_credit, desk.poll)
    allowed = 8 + LIMITS["overdraft"]
    assert [event.seq for event in desk.received] == list(range(allowed))
    for _ in range(3):
        desk.channel.acknowledge_all(room=0, most=8)
        raw.sequence(allowed)
        until(lambda: raw.socket.poll(1), desk.poll)
    until(lambda: desk.channel.over_credit == 4, desk.poll)
    assert len(desk.received) == allowed
    desk.channel.acknowledge_all(room=1, most=8)
    raw.sequence(allowed)
    until(lambda: len(desk.received) == allowed + 1, desk.poll)


def test_the_overdraft_is_a_numbers_and_not_each_process_of_its(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that join, send what is beyond the credit and say goodbye, one after the other under one number."""
    desk.channel.close()
    desk.channel = desk.open(initial_credit=1)
    allowed = 1 + LIMITS["overdraft"]

    def join_send_and_leave() -> None:
        left = desk.count(Left)
        with RawActor(desk.channel.endpoint) as raw:
            raw.hello()
            for seq in range(allowed + 5):
                raw.sequence(seq)
            raw.socket.send(messages.encode(messages.Goodbye(reason="next")))
            until(lambda: desk.count(Left) > left, desk.poll)

    for _ in range(5):
        join_send_and_leave()
    assert desk.count(Joined) == 5
    assert len(desk.received) == allowed
    assert desk.channel.over_credit == 5, "of each process the first that it may not; more are out of order"
    desk.channel.broadcast_stop("time is up", complete=False)
    join_send_and_leave()
    assert len(desk.received) == 2 * allowed, "a learner that stops takes what an actor holds"
    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + peers.OVERDRAFT_REGAINED_SEC)
    join_send_and_leave()
    assert len(desk.received) > 2 * allowed, "it comes back with time"


def test_an_actor_that_ends_delivers_what_it_holds_although_its_number_has_ended_before(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "OVERDRAFT_REGAINED_SEC", 5.0)
    desk.channel.close()
    desk.channel = desk.open(initial_credit=1)
    for _ in range(2):
        with contextlib.closing(make_actor(desk.rendezvous, silence_sec=0.2, ack_timeout_sec=0.2)) as actor:
            join(desk, actor)
            for number in range(1 + LIMITS["overdraft"]):
                actor.send(block(number))
            until(lambda actor=actor: actor.flush(0.01), desk.poll, desk.sync, seconds=30)
            actor.goodbye("ended")
    assert [len(log) for log in desk.synced.values()] == [1 + LIMITS["overdraft"]] * 2


def test_forty_silent_hellos_take_no_room_from_those_who_send(desk: Desk) -> None:
    """One sequence of room comes at a time, as from a learner that is slower than its actors."""
    desk.channel.close()
    desk.channel = desk.open(total_actors=64, initial_credit=1)
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(RawActor(desk.channel.endpoint, number)) for number in range(2, 42)]
        honest = [stack.enter_context(contextlib.closing(make_actor(desk.rendezvous, number))) for number in (0, 1)]
        for raw in silent:
            raw.hello()
        until(lambda: len(desk.channel.actors) == 40, desk.poll)
        rounds = 0

        def work() -> None:
            nonlocal rounds
            for actor in honest:
                if actor.can_send():
                    actor.send(block(actor.next_seq))
                actor.poll(1)
            desk.poll(1)
            if desk.received:
                rounds += 1
                desk.received.clear()
            desk.channel.acknowledge_all(room=1, most=8)

        until(lambda: all(actor.next_seq >= 20 for actor in honest), work)
        assert rounds >= 20
        assert all(link.unused_credit <= 1 for link in desk.channel.actors.values())


def test_a_sender_that_falls_silent_holds_its_share_only_for_a_time(
    desk: Desk, actor: ActorChannel, raw: RawActor, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw.hello()
    raw.sequence(0)
    join(desk, actor)
    actor.send(block(0))
    until(lambda: len(desk.received) == 2, desk.poll)
    desk.channel.acknowledge_all(room=100, most=50)
    assert [link.unused_credit for link in desk.channel.actors.values()] == [50, 50]
    for _ in range(20):
        until(actor.can_send, lambda: actor.poll(1))
        actor.send(block(actor.next_seq))
    until(lambda: len(desk.received) == 22, desk.poll)
    desk.channel.acknowledge_all(room=40, most=50)
    assert desk.channel.actors[0].unused_credit == 30, "50 of the room of 40 are with the silent one"
    monkeypatch.setattr(peers, "IDLE_SEC", 0.0)
    desk.channel.actors[0].busy_sec = time.monotonic() + 1000
    desk.channel.acknowledge_all(room=40, most=50)
    assert desk.channel.actors[0].unused_credit == 40


def test_a_number_stays_with_the_process_that_plays_and_goes_over_when_it_is_gone(desk: Desk) -> None:
    """Whichever is the older: a clock may have been set back, and a newer one may be a mistake."""
    first = make_actor(desk.rendezvous)
    with contextlib.closing(make_actor(desk.rendezvous)) as second:
        join(desk, second)
        send_all(desk, second, 5)
        until(lambda: "another process plays as actor 0" in first.state, lambda: first.poll(5), desk.poll)
        send_all(desk, second, 10)
        assert not first.joined
    with contextlib.closing(first):
        join(desk, first)
        send_all(desk, first, 10)
    assert len(desk.synced[0, first.incarnation]) == len(desk.synced[0, second.incarnation]) == 10
    assert desk.channel.waiting >= 1
    assert desk.channel.refused == 0
    assert desk.count(Joined) == 2


def test_a_restarted_actor_is_in_at_once_although_its_predecessor_said_no_goodbye(desk: Desk) -> None:
    with RawActor(desk.channel.endpoint, number=0) as killed:
        killed.hello()
        until(lambda: desk.channel.actors, desk.poll)
    with contextlib.closing(make_actor(desk.rendezvous, 0)) as restarted:
        began = time.monotonic()
        join(desk, restarted)
        assert time.monotonic() - began < 5


def test_a_silent_process_cannot_keep_a_number_from_an_actor(
    desk: Desk, raw: RawActor, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw.hello()
    until(lambda: desk.channel.actors, desk.poll)
    with contextlib.closing(make_actor(desk.rendezvous, raw.number)) as honest:
        until(lambda: honest.told_to_wait, lambda: honest.poll(5), desk.poll)
        monkeypatch.setattr(peers, "IDLE_SEC", 0.0)
        join(desk, honest)
        assert desk.channel.actors[raw.number].incarnation == honest.incarnation
        monkeypatch.undo()
        send_all(desk, honest, 3)
        raw.hello()
        until(lambda: desk.channel.waiting >= 2, desk.poll)
        assert desk.channel.actors[raw.number].incarnation == honest.incarnation


def test_a_learner_that_stood_still_does_not_take_its_own_absence_for_the_actors(
    desk: Desk, raw: RawActor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as in an fsync of a minute: what they sent meanwhile waits behind another process's Hello."""
    raw.hello()
    until(lambda: desk.channel.actors, desk.poll)
    with RawActor(desk.channel.endpoint) as second:
        second.hello()
        until(lambda: desk.channel.waiting, desk.poll)
        monotonic = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: monotonic() + 61)
        second.hello()
        until(
            lambda: desk.channel.waiting == 2 or desk.channel.actors[raw.number].incarnation != raw.incarnation,
            desk.poll,
        )
        monkeypatch.undo()
    raw.sequence(0)
    until(lambda: desk.received, desk.poll)
    assert desk.count(Left) == 0
    assert desk.channel.unexpected == 0


def test_who_waits_for_a_number_hears_of_a_stop(desk: Desk, raw: RawActor) -> None:
    raw.hello()
    until(lambda: desk.channel.actors, desk.poll)
    desk.channel.broadcast_stop("time is up", complete=False)
    with contextlib.closing(make_actor(desk.rendezvous, raw.number)) as second:
        until(lambda: second.stop_reason, lambda: second.poll(5), desk.poll)
    assert desk.channel.waiting


WRONG = {
    "random bytes": [b"\x00\xffnoise" * 20],
    "deep nesting": [bytes([messages.PROTOCOL_VERSION]) + b"\x82\xa4type\xa7goodbye\xa6reason" + b"\x91" * 10_000],
    "many parts": [b"x"] * 3000,
    "unknown field": [messages.encode(messages.ParamsRequest(newer_than=1))[:1] + b"\x82\xa4type\xa1x\xa1y\x01"],
}


@pytest.mark.parametrize("parts", WRONG.values(), ids=WRONG.keys())
def test_who_sends_what_is_no_message_is_muted_and_the_others_go_on(
    desk: Desk, actor: ActorChannel, raw: RawActor, parts: list[bytes]
) -> None:
    join(desk, actor)

    def flood() -> None:
        with contextlib.suppress(zmq.Again):
            raw.socket.send_multipart(parts, zmq.DONTWAIT)

    until(lambda: desk.channel.muted >= 10, flood, desk.poll)
    wrong = desk.channel.bad_messages + desk.channel.refused
    send_all(desk, actor, 20, disturb=lambda number: flood())
    assert desk.channel.bad_messages + desk.channel.refused == wrong, "a muted peer was listened to"


@pytest.mark.parametrize("kind", ["hello", "params", "stats", "duplicates", "goodbye"])
def test_who_says_too_much_is_muted_and_what_is_said_in_measure_is_heard(desk: Desk, raw: RawActor, kind: str) -> None:
    raw.hello()
    raw.sequence(0)
    until(lambda: desk.received, desk.poll)
    say = {
        "hello": raw.hello,
        "params": lambda: raw.socket.send(messages.encode(messages.ParamsRequest(newer_than=-1))),
        "stats": lambda: raw.socket.send(
            messages.encode(messages.ActorStats(env_steps_per_sec=1.0, params_version=0, values={}))
        ),
        "duplicates": lambda: raw.sequence(0),
        "goodbye": lambda: raw.socket.send(messages.encode(messages.Goodbye(reason="again"))),
    }[kind]
    for _ in range(100):
        say()
    until(lambda: not desk.channel._socket._socket.poll(100), desk.poll)
    assert desk.channel.muted == 0
    until(lambda: desk.channel.muted >= 10, say, desk.poll, lambda: answers(raw))


def test_who_sends_blocks_that_are_refused_is_muted(desk: Desk, raw: RawActor) -> None:
    raw.hello()
    sent = 0

    def refuse() -> None:
        nonlocal sent
        if raw.number in desk.channel.actors:
            raw.sequence(sent)
            sent += 1
        for event in desk.channel.poll(5):
            if isinstance(event, SequenceReceived):
                desk.channel.charge_for_block(event.actor, event.incarnation)
                desk.channel.acknowledge(event.actor, event.incarnation, event.seq + 1, event.seq + 100)

    until(lambda: desk.channel.muted, refuse)
    assert sent < 100


def test_a_successor_does_not_pay_for_the_blocks_of_its_predecessor(desk: Desk) -> None:
    with RawActor(desk.channel.endpoint, number=0) as first:
        first.hello()
        until(lambda: desk.channel.actors, desk.poll)
        first.socket.send(messages.encode(messages.Goodbye(reason="ended")))
        until(lambda: desk.count(Left), desk.poll)
    with contextlib.closing(make_actor(desk.rendezvous, 0)) as second:
        join(desk, second)
        for _ in range(100):
            desk.channel.charge_for_block(0, first.incarnation)
        send_all(desk, second, 3)
    assert desk.channel.muted == 0


def test_who_was_killed_is_told_nothing_and_holds_no_room(desk: Desk, actor: ActorChannel) -> None:
    with RawActor(desk.channel.endpoint) as killed:
        killed.hello()
        killed.sequence(0)
        until(lambda: desk.received, desk.poll)
        desk.received.clear()
        desk.channel.acknowledge_all(room=8, most=8)
    send_all(desk, actor, 1)
    desk.channel.actors[killed.number].ack_due = True
    until(lambda: desk.channel.unsent, desk.poll)
    unsent = desk.channel.unsent
    for _ in range(20):
        desk.poll(1)
    assert desk.channel.unsent == unsent
    desk.channel.acknowledge_all(room=8, most=8)
    assert desk.channel.actors[0].unused_credit == 8


def test_who_is_connected_lives_however_long_it_says_nothing(desk: Desk) -> None:
    """At its end an actor closes its emulators and writes its logs; who was killed is waited for only a moment."""
    with RawActor(desk.channel.endpoint) as busy:
        busy.hello()
        until(lambda: desk.channel.actors, desk.poll)
        desk.channel.actors[busy.number].last_seen_sec -= 30
        for _ in range(3):
            desk.channel.actors[busy.number].probed_sec = float("-inf")
            assert desk.channel.count_live(heard_sec=6.0) == 1
            answers(busy)
    until(lambda: desk.channel.count_live(heard_sec=6.0) == 0, desk.poll)
    desk.channel.actors[busy.number].last_seen_sec = time.monotonic()
    assert desk.channel.count_live(heard_sec=6.0) == 1, "it may be between two connections"


def test_the_rest_of_a_message_with_too_many_parts_is_dropped_in_slices() -> None:
    context = zmq.Context()
    with contextlib.closing(context.socket(zmq.PULL)) as sink, contextlib.closing(context.socket(zmq.PUSH)) as source:
        source.connect(f"tcp://127.0.0.1:{sink.bind_to_random_port('tcp://127.0.0.1')}")
        source.send_multipart([b"p"] * 1000)
        source.send(b"next")
        assert sink.poll(10_000)
        receiver = PartsReceiver(sink, max_parts=3)
        assert receiver.receive() == [b"p"] * 4
        slices = 0
        while (parts := receiver.receive(until=0.0)) is None:
            assert receiver.is_dropping or sink.poll(10_000)
            slices += 1
        assert (parts, receiver.is_dropping) == ([b"next"], False)
        assert 2 <= slices < 100
    context.term()
