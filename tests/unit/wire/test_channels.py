"""The wire's two ends over real sockets: credit, stopping, leaving, parameters, waiting for a learner."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path

import pytest
from channel_fixtures import Desk, RawActor, RawLearner, block, join, make_actor, until

from cluster_rl.runs.rendezvous import read_rendezvous, write_rendezvous
from cluster_rl.wire import messages
from cluster_rl.wire.actor_channel import ActorChannel
from cluster_rl.wire.events import Left, Stats


def test_without_credit_the_sender_waits_and_with_it_goes_on(desk: Desk, actor: ActorChannel) -> None:
    join(desk, actor)
    while actor.can_send():
        actor.send(block(actor.next_seq))
    assert actor.next_seq == 8  # initial_credit of the channel
    started = time.monotonic()
    assert not actor.wait_for_credit(0.15)
    assert time.monotonic() - started >= 0.15
    assert not actor.wait_for_credit(60, should_stop=lambda: True)
    until(lambda: len(desk.received) == 8, desk.poll)
    desk.credit = 2
    desk.sync()
    assert actor.wait_for_credit(5)
    actor.send(block(8))
    actor.send(block(9))
    assert not actor.can_send()


def test_what_is_sent_beyond_the_credit_waits_until_flush(desk: Desk, actor: ActorChannel) -> None:
    join(desk, actor)
    for n in range(12):
        actor.send(block(n))
    until(lambda: len(desk.received) == 8, desk.poll)
    desk.poll(50)
    assert len(desk.received) == 8
    assert not actor.flush(0.05)
    until(lambda: len(desk.received) == 12, desk.poll)
    desk.sync()
    assert actor.flush(5)


@pytest.mark.parametrize("complete", [False, True])
def test_a_stop_reaches_all_and_latecomers_and_lets_open_sequences_through(
    desk: Desk, actor: ActorChannel, complete: bool
) -> None:
    join(desk, actor)
    for n in range(10):
        actor.send(block(n))
    desk.channel.broadcast_stop("time is up", complete)
    until(lambda: len(desk.received) == 10, lambda: actor.poll(5), desk.poll)
    assert (actor.stop_reason, actor.run_complete) == ("time is up", complete)
    assert not actor.wait_for_credit(60)
    with contextlib.closing(make_actor(desk.rendezvous, 1)) as late:
        until(lambda: late.stop_reason, lambda: late.poll(5), desk.poll)


def test_goodbye_and_silence_are_reported(desk: Desk) -> None:
    desk.channel.close()
    desk.channel = desk.open(silence_sec=0.1)
    leaver, sleeper = make_actor(desk.rendezvous, 0), make_actor(desk.rendezvous, 1)
    join(desk, leaver, sleeper)
    leaver.goodbye("job ends")
    until(lambda: desk.count(Left) == 2, desk.poll)
    reasons = {event.actor: event.reason for event in desk.events if isinstance(event, Left)}
    assert reasons[0] == "job ends"
    assert reasons[1].startswith("silent for")
    sleeper.send_stats(12.5, 3, {"entropy": 0.5})
    until(lambda: desk.count(Stats), desk.poll)
    assert desk.channel.actors[1].connected
    (stats,) = [event for event in desk.events if isinstance(event, Stats)]
    assert (stats.env_steps_per_sec, stats.params_version, stats.values) == (12.5, 3, {"entropy": 0.5})
    sleeper.close()


def test_only_newer_params_are_taken_and_those_of_a_new_learner_whatever_their_version(
    desk: Desk, actor: ActorChannel
) -> None:
    def ask(version: int) -> None:
        def work() -> None:
            actor.request_params()
            actor.poll(2)
            desk.poll(2)

        until(lambda: actor.latest_params and actor.latest_params.version == version, work)

    join(desk, actor)
    actor.request_params()
    desk.poll(200)
    actor.poll(200)
    assert actor.latest_params is None
    desk.channel.set_params(5, b"five" * 100_000, updates=100)
    ask(5)
    assert actor.latest_params is not None
    assert actor.latest_params.data == b"five" * 100_000
    assert actor.latest_params.updates == 100
    before = actor.latest_params
    actor.request_params()
    desk.poll(200)
    actor.poll(200)
    assert actor.latest_params is before, "the same version was sent again"
    desk.crash()
    desk.channel.set_params(3, b"three", updates=60)
    ask(3)


def test_the_learner_sends_weights_only_to_those_who_lack_them(desk: Desk) -> None:
    desk.channel.set_params(5, b"five", updates=100)
    answers = []
    with RawActor(desk.channel.endpoint) as raw:
        raw.hello()
        for newer_than in (-1, 4, 5, 6):
            raw.socket.send(messages.encode(messages.ParamsRequest(newer_than=newer_than)))

        def take() -> None:
            desk.poll()
            while raw.socket.poll(5):
                answers.append(messages.decode_from_learner(raw.socket.recv_multipart()))

        until(lambda: len(answers) == 6, take)  # after Welcome and Ack
    assert [(type(message), frame) for message, frame in answers[2:]] == [
        (messages.Params, b"five"),
        (messages.Params, b"five"),
        (messages.ParamsUnchanged, b""),
        (messages.ParamsUnchanged, b""),
    ]


def test_params_with_a_wrong_digest_are_counted_and_asked_for_again() -> None:
    with RawLearner() as learner, contextlib.closing(make_actor(learner.rendezvous)) as actor:
        until(lambda: actor.joined, lambda: actor.poll(5), learner.answer)
        learner.corrupt = True
        until(lambda: actor.bad_messages == 1, actor.request_params, lambda: actor.poll(5), learner.answer)
        assert actor.latest_params is None
        assert "SHA-256" in actor.last_problem
        learner.corrupt = False
        until(lambda: actor.latest_params, actor.request_params, lambda: actor.poll(5), learner.answer)
        assert actor.latest_params is not None
        assert actor.latest_params.data == b"weights"


def test_the_actor_waits_in_words_while_there_is_no_learner(tmp_path: Path, desk: Desk) -> None:
    path = tmp_path / "rendezvous.json"
    with contextlib.closing(make_actor(lambda: read_rendezvous(path))) as actor:
        actor.send(block(0))
        assert not actor.poll(10)
        assert "no rendezvous.json yet" in actor.state
        write_rendezvous(path, desk.rendezvous())
        until(lambda: actor.joined, lambda: actor.poll(5), desk.poll)
        assert actor.state == f"joined to {desk.channel.endpoint} on {socket.gethostname()}"
        until(lambda: desk.received, desk.poll)
