"""The wire over real sockets: exactly once through breaks and crashes, credit, parameters, strangers, keys."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

from cluster_rl.errors import UserError
from cluster_rl.runs.rendezvous import Rendezvous, read_rendezvous, write_rendezvous
from cluster_rl.wire import keys, messages
from cluster_rl.wire.actor_channel import ActorChannel
from cluster_rl.wire.learner_channel import Event, Joined, LearnerChannel, Left, SequenceReceived, Stats
from cluster_rl.wire.sockets import identity_of

RUN, SCHEMA = "run", "schema"
WAIT_SEC = 10.0


class Desk:
    """A learner with the log that a real one has: `synced` survives a crash, `received` does not."""

    def __init__(self) -> None:
        self.synced: dict[tuple[int, int], list[bytes]] = {}
        self.received: list[SequenceReceived] = []
        self.events: list[Event] = []
        self.credit = 8
        self.channel = self.open()

    def open(self, **options: object) -> LearnerChannel:
        return LearnerChannel("127.0.0.1", RUN, SCHEMA, expected_seq=self.expected_seq, **options)  # type: ignore[arg-type]

    def expected_seq(self, actor: int, incarnation: int) -> int:
        return len(self.synced.get((actor, incarnation), []))

    def crash(self) -> None:
        """What was not synced is gone; the next learner has another port."""
        self.channel.close()
        self.received.clear()
        self.channel = self.open()

    def rendezvous(self) -> Rendezvous:
        return self.channel.rendezvous()

    def poll(self, timeout_ms: int = 5) -> None:
        for event in self.channel.poll(timeout_ms):
            self.events.append(event)
            if isinstance(event, SequenceReceived):
                self.received.append(event)

    def sync(self) -> None:
        touched = {}
        for event in self.received:
            log = self.synced.setdefault((event.actor, event.incarnation), [])
            assert event.seq == len(log), "a sequence was given out twice or out of order"
            log.append(event.block)
            touched[event.actor, event.incarnation] = len(log)
        self.received.clear()
        for (actor, incarnation), next_seq in touched.items():
            self.channel.acknowledge(actor, incarnation, next_seq, next_seq + self.credit)

    def count(self, kind: type) -> int:
        return sum(isinstance(event, kind) for event in self.events)


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.channel.close()


@pytest.fixture
def actor(desk: Desk) -> Iterator[ActorChannel]:
    with contextlib.closing(make_actor(desk.rendezvous)) as channel:
        yield channel


def make_actor(rendezvous: Callable[[], Rendezvous | None], number: int = 0, **options: object) -> ActorChannel:
    settings: dict[str, object] = {"silence_sec": 60.0, "ack_timeout_sec": 60.0} | options
    return ActorChannel(rendezvous, number, RUN, SCHEMA, **settings)  # type: ignore[arg-type]


def until(reached: Callable[[], object], *step: Callable[[], object], seconds: float = WAIT_SEC) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "it did not happen in time"
        for do in step:
            do()


def block(number: int) -> bytes:
    return b"block %d " % number * 50


def join(desk: Desk, *actors: ActorChannel) -> None:
    until(lambda: all(a.joined for a in actors), desk.poll, *[lambda a=a: a.poll(5) for a in actors])


def send_all(desk: Desk, actor: ActorChannel, total: int, disturb: Callable[[int], object] = lambda n: None) -> None:
    """Sends blocks until `total` are made and acknowledged; the desk syncs after each poll."""

    def work() -> None:
        if actor.next_seq < total and actor.can_send():
            disturb(actor.next_seq)
            actor.send(block(actor.next_seq))
        actor.poll(1)
        desk.poll(1)
        desk.sync()

    until(lambda: actor.next_seq == total and actor.unacknowledged == 0, work)


def test_sequences_arrive_once_in_order_and_are_acknowledged(desk: Desk, actor: ActorChannel) -> None:
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
    desk.channel = LearnerChannel("127.0.0.1", RUN, SCHEMA, expected_seq=lambda actor, incarnation: 13)
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


class BreakingRelay:
    """Relays TCP to an endpoint and closes each connection after a random number of bytes towards it."""

    def __init__(self, endpoint: str, seed: int) -> None:
        host, port = endpoint.removeprefix("tcp://").split(":")
        self._target = (host, int(port))
        self._random = random.Random(seed)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self.cuts = 0
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> BreakingRelay:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        # Closing alone does not wake a thread that is inside accept().
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for thread in self._threads:
            thread.join(timeout=5)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            upstream = socket.create_connection(self._target)
            budget = self._random.randrange(300, 9_000)
            for args in ((client, upstream, budget), (upstream, client, None)):
                thread = threading.Thread(target=self._relay, args=args, daemon=True)
                self._threads.append(thread)
                thread.start()

    def _relay(self, source: socket.socket, sink: socket.socket, budget: int | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                if budget is not None and len(data) >= budget:
                    sink.sendall(data[:budget])
                    self.cuts += 1
                    break
                sink.sendall(data)
                budget = budget - len(data) if budget is not None else None
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


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


def test_of_two_processes_with_one_number_the_older_is_told_to_go(desk: Desk) -> None:
    older = make_actor(desk.rendezvous)
    with contextlib.closing(make_actor(desk.rendezvous)) as newer, contextlib.closing(older):
        join(desk, newer)
        with pytest.raises(UserError, match="give each actor of the run its own number"):
            until(lambda: False, lambda: older.poll(5), lambda: newer.poll(5), desk.poll)
        assert desk.channel.actors[0].incarnation == newer.incarnation


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
    assert (desk.channel.actors[1].env_steps_per_sec, desk.channel.actors[1].params_version) == (12.5, 3)
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


@pytest.mark.parametrize(
    ("run", "schema", "says"),
    [("other", SCHEMA, "this is the learner of run 'run', not of 'other'"), (RUN, "other", "have another shape")],
)
def test_a_stranger_is_refused_in_words(desk: Desk, run: str, schema: str, says: str) -> None:
    def rendezvous() -> Rendezvous:
        return msgspec.structs.replace(desk.rendezvous(), run=run)

    with (
        contextlib.closing(ActorChannel(rendezvous, 0, run, schema)) as stranger,
        pytest.raises(UserError, match=f"the learner refused actor 0: .*{says}"),
    ):
        until(lambda: False, lambda: stranger.poll(5), desk.poll)
    assert desk.channel.refused == 1
    assert not desk.channel.actors


def test_another_protocol_is_refused_in_words(desk: Desk) -> None:
    with RawActor(desk.channel.endpoint) as raw:
        raw.socket.send(bytes([77]) + b"whatever it means there")
        until(lambda: desk.channel.refused, desk.poll)
        refusal, _ = messages.decode_from_learner(raw.socket.recv_multipart())
    assert isinstance(refusal, messages.Refused)
    assert "protocol 77" in refusal.reason


def test_garbage_is_counted_and_the_others_go_on(desk: Desk, actor: ActorChannel) -> None:
    join(desk, actor)
    noise = random.Random(2)
    with RawActor(desk.channel.endpoint) as raw:
        raw.sequence(0)  # well-formed, but nobody said Hello
        for parts in ([b""], [b"\x01"], [noise.randbytes(500)], [b"x"] * 50, [b"\x01\xc1", b"y" * 1000]):
            raw.socket.send_multipart(parts)
        channel = desk.channel
        until(lambda: channel.bad_messages + channel.refused == 5 and channel.unexpected == 1, desk.poll)
    send_all(desk, actor, 10)
    assert len(desk.synced[0, actor.incarnation]) == 10


def test_raw_tcp_noise_is_no_message(desk: Desk, actor: ActorChannel) -> None:
    host, port = desk.channel.endpoint.removeprefix("tcp://").split(":")
    with socket.create_connection((host, int(port))) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\nHost: learner\r\n\r\n")
        send_all(desk, actor, 5)
    assert desk.channel.bad_messages == 0
    assert set(desk.channel.actors) == {0}


def test_an_oversized_frame_cuts_its_sender_only(desk: Desk, actor: ActorChannel) -> None:
    desk.channel.close()
    desk.channel = desk.open(max_block_bytes=50_000)
    with pytest.raises(ValueError, match="at most 8388608"):
        actor.send(bytes(messages.MAX_BLOCK_BYTES + 1))
    join(desk, actor)
    with RawActor(desk.channel.endpoint, number=1) as raw:
        raw.hello()
        until(lambda: 1 in desk.channel.actors, desk.poll)
        raw.sequence(0, bytes(1_000_000))
        send_all(desk, actor, 10)
    assert not any(isinstance(event, SequenceReceived) and event.actor == 1 for event in desk.events)


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


def test_other_addresses_than_loopback_need_keys() -> None:
    for host in ("0.0.0.0", "*", "192.0.2.1"):
        with pytest.raises(UserError, match=r"bind_host .*CURVE keys"):
            LearnerChannel(host, RUN, SCHEMA)
    with pytest.raises(UserError, match="not a known host"):
        LearnerChannel("no-such-host.invalid", RUN, SCHEMA)


def test_an_address_of_another_machine_cannot_be_bound(tmp_path: Path) -> None:
    keys.make_keys(tmp_path / "keys")
    with pytest.raises(UserError, match=r"bind_host 192\.0\.2\.1: cannot listen there"):
        LearnerChannel("192.0.2.1", RUN, SCHEMA, keys=keys.load_learner_keys(tmp_path / "keys"))


class TestCurve:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        keys.make_keys(tmp_path / "keys")
        return tmp_path / "keys"

    @pytest.fixture
    def secure(self, folder: Path) -> Iterator[Desk]:
        desk = Desk()
        desk.channel.close()
        desk.channel = LearnerChannel("0.0.0.0", RUN, SCHEMA, keys=keys.load_learner_keys(folder))
        # Tests need not resolve this machine's name.
        desk.channel.endpoint = f"tcp://127.0.0.1:{desk.channel.endpoint.rsplit(':', 1)[1]}"
        yield desk
        desk.channel.close()

    def refusal(self, desk: Desk, actor: ActorChannel) -> str:
        with contextlib.closing(actor), pytest.raises(UserError) as caught:
            until(lambda: False, lambda: actor.poll(5), desk.poll)
        assert not desk.channel.actors
        return str(caught.value)

    def test_the_runs_own_keys_work(self, secure: Desk, folder: Path) -> None:
        with contextlib.closing(make_actor(secure.rendezvous, load_keys=lambda: keys.load_actor_keys(folder))) as actor:
            send_all(secure, actor, 20)
        assert len(secure.synced[0, actor.incarnation]) == 20

    def test_foreign_keys_are_refused(self, secure: Desk, tmp_path: Path) -> None:
        keys.make_keys(tmp_path / "foreign")
        foreign = make_actor(secure.rendezvous, load_keys=lambda: keys.load_actor_keys(tmp_path / "foreign"))
        assert "does not know this actor's key" in self.refusal(secure, foreign)

    def test_an_actor_without_keys_is_told_before_it_connects(self, secure: Desk) -> None:
        assert "requires CURVE keys and this actor has none" in self.refusal(secure, make_actor(secure.rendezvous))

    def test_a_plain_client_gets_nothing_in(self, secure: Desk) -> None:
        plain = msgspec.structs.replace(secure.rendezvous(), public_key=None)
        assert "refuses plain connections" in self.refusal(secure, make_actor(lambda: plain))

    def test_a_learner_without_the_promised_key_is_not_trusted(self, secure: Desk, folder: Path) -> None:
        other_public, _ = zmq.curve_keypair()
        lying = msgspec.structs.replace(secure.rendezvous(), public_key=other_public.decode())
        actor = make_actor(lambda: lying, load_keys=lambda: keys.load_actor_keys(folder))
        assert "cannot prove the public key" in self.refusal(secure, actor)

    def test_a_stranger_on_the_port_of_a_dead_learner_does_not_end_the_actor(self, folder: Path) -> None:
        """The keys did fit once, so they are not what is wrong; the next learner is waited for."""
        desk = Desk()
        with contextlib.closing(make_actor(desk.rendezvous)) as actor:
            join(desk, actor)
            port = desk.channel.endpoint.rsplit(":", 1)[1]
            stale = desk.rendezvous()
            actor._read_rendezvous = lambda: stale
            desk.channel.close()
            context = zmq.Context()
            gate = keys.KeyGate(context, keys.load_learner_keys(folder))
            stranger = context.socket(zmq.ROUTER)
            gate.protect(stranger, keys.load_learner_keys(folder))
            stranger.bind(f"tcp://127.0.0.1:{port}")
            connection = actor._connection
            assert connection is not None
            until(lambda: connection.handshake_failures >= 4, lambda: actor.poll(5))
            stranger.close()
            gate.close()
            context.term()
            desk.channel = desk.open()
            actor._read_rendezvous = desk.channel.rendezvous
            join(desk, actor)
        desk.channel.close()


class RawActor:
    """A DEALER that says what the test wants."""

    def __init__(self, endpoint: str, number: int = 9) -> None:
        self.number, self.incarnation = number, time.time_ns()
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVTIMEO, int(WAIT_SEC * 1000))
        self.socket.setsockopt(zmq.IDENTITY, identity_of(number, self.incarnation))
        self.socket.connect(endpoint)

    def __enter__(self) -> RawActor:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self._context.term()

    def hello(self) -> None:
        self.socket.send(
            messages.encode(
                messages.Hello(
                    run=RUN,
                    schema_hash=SCHEMA,
                    actor=self.number,
                    incarnation=self.incarnation,
                    lowest_unacked=0,
                    next_seq=0,
                )
            )
        )

    def sequence(self, seq: int, data: bytes = b"data") -> None:
        header = messages.SequenceMessage(
            incarnation=self.incarnation, seq=seq, block_bytes=len(data), crc32=zlib.crc32(data)
        )
        self.socket.send_multipart([messages.encode(header), data])


class RawLearner:
    """A ROUTER that welcomes and answers requests for parameters, with changed weights if `corrupt`."""

    def __init__(self) -> None:
        self.corrupt = False
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._port = self._socket.bind_to_random_port("tcp://127.0.0.1")

    def __enter__(self) -> RawLearner:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._context.term()

    def rendezvous(self) -> Rendezvous:
        endpoint = f"tcp://127.0.0.1:{self._port}"
        return Rendezvous(
            protocol=messages.PROTOCOL_VERSION, run=RUN, endpoint=endpoint, public_key=None, incarnation=os.getpid()
        )

    def answer(self) -> None:
        while self._socket.poll(5):
            identity, *parts = self._socket.recv_multipart()
            message, _ = messages.decode_from_actor(parts)
            if isinstance(message, messages.Hello):
                welcome = messages.Welcome(
                    learner_incarnation=1,
                    incarnation=message.incarnation,
                    expected_seq=0,
                    may_send_up_to=1,
                    params_version=0,
                )
                self._socket.send_multipart([identity, messages.encode(welcome)])
            elif isinstance(message, messages.ParamsRequest):
                digest = hashlib.sha256(b"weights").hexdigest()
                header = messages.Params(version=1, updates=2, size_bytes=7, sha256=digest)
                data = b"WEIGHTS" if self.corrupt else b"weights"
                self._socket.send_multipart([identity, messages.encode(header), data])
