"""What others send over real sockets is refused in words or counted; keys; addresses that may be bound."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq
from channel_fixtures import LIMITS, RUN, SCHEMA, Desk, RawActor, join, make_actor, send_all, until

from cluster_rl.errors import UserError
from cluster_rl.runs.rendezvous import Rendezvous
from cluster_rl.wire import keys, learner_connection, messages
from cluster_rl.wire.actor_channel import ActorChannel
from cluster_rl.wire.events import SequenceReceived
from cluster_rl.wire.learner_channel import LearnerChannel
from cluster_rl.wire.sockets import set_common_options


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
    assert desk.channel.refused >= 1  # on a busy machine it says Hello again before it reads the answer
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


def test_a_learner_that_stands_still_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its port takes connections and says nothing: that proves no wrong key."""

    def impatient(options: zmq.Socket[bytes], max_frame_bytes: int) -> None:
        set_common_options(options, max_frame_bytes)
        options.setsockopt(zmq.HANDSHAKE_IVL, 50)

    monkeypatch.setattr(learner_connection, "set_common_options", impatient)
    pair = keys.KeyPair(**dict(zip(("public", "secret"), (key.decode() for key in zmq.curve_keypair()), strict=True)))
    with socket.create_server(("127.0.0.1", 0), backlog=64) as standing:
        place = Rendezvous(
            protocol=messages.PROTOCOL_VERSION,
            run=RUN,
            endpoint=f"tcp://127.0.0.1:{standing.getsockname()[1]}",
            public_key=pair.public,
            incarnation=1,
        )
        standing.setblocking(False)
        accepted: list[socket.socket] = []

        def accept() -> None:
            with contextlib.suppress(BlockingIOError):
                accepted.append(standing.accept()[0])

        with contextlib.closing(make_actor(lambda: place, load_keys=lambda: pair)) as actor:
            until(lambda: len(accepted) >= 6, accept, lambda: actor.poll(5))
            assert not actor.joined
        for connection in accepted:
            connection.close()


def test_other_addresses_than_loopback_need_keys() -> None:
    for host in ("0.0.0.0", "*", "192.0.2.1"):
        with pytest.raises(UserError, match=r"bind_host .*CURVE keys"):
            LearnerChannel(host, RUN, SCHEMA, **LIMITS)
    with pytest.raises(UserError, match="not a known host"):
        LearnerChannel("no-such-host.invalid", RUN, SCHEMA, **LIMITS)


def test_an_address_of_another_machine_cannot_be_bound(tmp_path: Path) -> None:
    keys.make_keys(tmp_path / "keys")
    with pytest.raises(UserError, match=r"bind_host 192\.0\.2\.1: cannot listen there"):
        LearnerChannel("192.0.2.1", RUN, SCHEMA, keys=keys.load_learner_keys(tmp_path / "keys"), **LIMITS)


class TestCurve:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        keys.make_keys(tmp_path / "keys")
        return tmp_path / "keys"

    @pytest.fixture
    def secure(self, folder: Path) -> Iterator[Desk]:
        desk = Desk()
        desk.channel.close()
        desk.channel = LearnerChannel("0.0.0.0", RUN, SCHEMA, keys=keys.load_learner_keys(folder), **LIMITS)
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
