"""A learner's and an actor's channel over real sockets, and peers that say what a test wants."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import socket
import threading
import time
import zlib
from collections.abc import Callable

import zmq

from cluster_rl.runs.rendezvous import Rendezvous
from cluster_rl.wire import messages
from cluster_rl.wire.actor_channel import ActorChannel
from cluster_rl.wire.events import Event, SequenceReceived
from cluster_rl.wire.learner_channel import LearnerChannel
from cluster_rl.wire.sockets import identity_of

RUN, SCHEMA = "run", "schema"
WAIT_SEC = 10.0
LIMITS = {"total_actors": 16, "overdraft": 8}  # of every learner's channel


class Desk:
    """A learner with the log that a real one has: `synced` survives a crash, `received` does not."""

    def __init__(self) -> None:
        self.synced: dict[tuple[int, int], list[bytes]] = {}
        self.received: list[SequenceReceived] = []
        self.events: list[Event] = []
        self.credit = 8
        self.channel = self.open()

    def open(self, **options: object) -> LearnerChannel:
        settings: dict[str, object] = {"expected_seq": self.expected_seq} | LIMITS | options
        return LearnerChannel("127.0.0.1", RUN, SCHEMA, **settings)  # type: ignore[arg-type]

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
