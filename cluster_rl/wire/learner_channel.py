"""The learner's end of the wire: many actors' sequences in, acknowledgements, credit and parameters out.

Used by the learner process. Each sequence of an actor comes out exactly once and in order, as one of the `Event`s of
`poll`; docs/wire.md has the rules. An actor's end is `actor_channel.ActorChannel`. Neither is thread-safe: a channel
belongs to the thread that made it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import zmq

from cluster_rl.errors import UserError
from cluster_rl.runs.rendezvous import Rendezvous
from cluster_rl.wire import messages
from cluster_rl.wire.keys import KeyGate, KeyPair
from cluster_rl.wire.messages import MessageError
from cluster_rl.wire.sockets import identity_of, new_incarnation, receive_parts, resolve_bind_host, set_common_options

# One poll hands out at most this many messages, so that a flood cannot keep the learner from its other work.
_MESSAGES_PER_POLL = 512
_SEND_TIMEOUT_ERRNOS = (zmq.EHOSTUNREACH, zmq.EAGAIN)
# An older process of the same number gives way to a newer one that was heard this recently.
_LIVE_SEC = 3.0


@dataclass(frozen=True)
class SequenceReceived:
    """The next sequence of an actor. `block` is what `codec` packed."""

    actor: int
    incarnation: int
    seq: int
    block: bytes


@dataclass(frozen=True)
class Joined:
    """An actor process took part (again). `lost_sequences` of it were acknowledged once and then lost in a crash."""

    actor: int
    incarnation: int
    expected_seq: int
    lost_sequences: int


@dataclass(frozen=True)
class Left:
    """An actor process said goodbye, fell silent, or was replaced."""

    actor: int
    incarnation: int
    reason: str


@dataclass(frozen=True)
class Stats:
    """An actor's own figures."""

    actor: int
    incarnation: int
    env_steps_per_sec: float
    params_version: int
    values: dict[str, float]


Event = SequenceReceived | Joined | Left | Stats


@dataclass
class ActorLink:
    """What the learner knows of one actor number: its newest process."""

    actor: int
    incarnation: int
    identity: bytes
    expected_seq: int
    durable_seq: int
    may_send_up_to: int
    last_seen_sec: float  # time.monotonic()
    connected: bool = True
    params_version: int = -1
    env_steps_per_sec: float = 0.0
    ack_due: bool = field(default=False, repr=False)


class LearnerChannel:
    """The learner's end: one ROUTER on a random port of `bind_host`.

    `expected_seq(actor, incarnation)` tells, when a process is first heard, the next number the *log on disk* needs
    from it (0 if it is unknown there). `initial_credit` sequences may be sent beyond that before the first
    `acknowledge`. `keys` turns CURVE on and is required unless `bind_host` is loopback.

    Counters, all since the start: `bad_messages` (not of this protocol), `refused` (Hellos), `unexpected` (from no
    known process), `duplicates`, `out_of_order` (dropped, come again), `lost_sequences`, `unsent` (peer gone or full).
    """

    def __init__(
        self,
        bind_host: str,
        run: str,
        schema_hash: str,
        max_block_bytes: int = messages.MAX_BLOCK_BYTES,
        keys: KeyPair | None = None,
        *,
        expected_seq: Callable[[int, int], int] = lambda actor, incarnation: 0,
        initial_credit: int = 8,
        silence_sec: float = 60.0,
    ) -> None:
        bound = resolve_bind_host(bind_host)
        if not bound.is_loopback and keys is None:
            raise UserError(
                f"bind_host {bind_host}: other machines can reach it, so the run needs CURVE keys; make them, or use "
                "127.0.0.1"
            )
        self.run, self.schema_hash = run, schema_hash
        self.incarnation = new_incarnation()
        self.public_key = keys.public if keys else None
        self.actors: dict[int, ActorLink] = {}
        self.bad_messages = self.refused = self.unexpected = self.duplicates = 0
        self.out_of_order = self.lost_sequences = self.unsent = 0
        self.last_problem = ""
        self._by_identity: dict[bytes, ActorLink] = {}
        self._max_block_bytes = max_block_bytes
        self._expected_seq, self._initial_credit, self._silence_sec = expected_seq, initial_credit, silence_sec
        self._params: tuple[int, bytes, bytes] | None = None  # version, header frame, weights
        self._stop: messages.Stop | None = None
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._gate = KeyGate(self._context, keys) if keys else None
        self._socket = self._context.socket(zmq.ROUTER)
        try:
            self.endpoint = self._bind(bound.address, bound.advertised, keys)
        except zmq.ZMQError as error:
            self.close()
            raise UserError(f"bind_host {bind_host}: cannot listen there: {error.strerror}") from None

    def _bind(self, address: str, advertised: str, keys: KeyPair | None) -> str:
        set_common_options(self._socket, max(self._max_block_bytes, messages.MAX_HEADER_BYTES))
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.IPV6, int(":" in address))
        if self._gate is not None and keys is not None:
            self._gate.protect(self._socket, keys)
        self._socket.bind(f"tcp://{address}:*")
        port = self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rsplit(":", 1)[1]
        return f"tcp://{advertised}:{port}"

    def rendezvous(self) -> Rendezvous:
        """What actors need to find this channel; the learner writes it to `rendezvous.json`."""
        return Rendezvous(
            protocol=messages.PROTOCOL_VERSION,
            run=self.run,
            endpoint=self.endpoint,
            public_key=self.public_key,
            incarnation=self.incarnation,
        )

    def poll(self, timeout_ms: int) -> list[Event]:
        """Waits up to `timeout_ms` for messages and returns what they mean, oldest first.

        Requests for parameters and Hellos are answered here. Nothing a peer sends raises.
        """
        events: list[Event] = []
        if self._socket.poll(timeout_ms):
            for _ in range(_MESSAGES_PER_POLL):
                parts = receive_parts(self._socket, messages.MAX_PARTS + 1)
                if parts is None:
                    break
                self._receive(parts, events)
        now = time.monotonic()
        for link in self.actors.values():
            if link.ack_due:
                self._send_ack(link)
            if link.connected and now - link.last_seen_sec > self._silence_sec:
                self._leave(link, f"silent for {self._silence_sec:.0f} s", events)
        return events

    def acknowledge(self, actor: int, incarnation: int, next_seq: int, may_send_up_to: int) -> None:
        """Tells an actor that its sequences below `next_seq` are in the synced log and that it may send those below
        `may_send_up_to`.

        `incarnation` is that of the sequences; if the actor was started again since, nothing is sent: its new process
        counts from 0.
        """
        link = self.actors.get(actor)
        if link is None or link.incarnation != incarnation:
            return
        assert next_seq <= link.expected_seq, "cannot acknowledge what has not arrived"
        link.durable_seq, link.may_send_up_to = next_seq, may_send_up_to
        if link.connected:
            self._send_ack(link)

    def set_params(self, version: int, data: bytes, updates: int) -> None:
        """Makes `data` the parameters that actors get when they ask. `version` grows with each publication."""
        header = messages.Params(
            version=version, updates=updates, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest()
        )
        self._params = (version, messages.encode(header), data)

    @property
    def params_version(self) -> int:
        """Version of the published parameters, -1 before the first."""
        return self._params[0] if self._params else -1

    def broadcast_stop(self, reason: str, complete: bool) -> None:
        """Asks all actors, and those who come later, to send what is open: this learner ends.

        `complete`: so does the run.
        """
        self._stop = messages.Stop(reason=reason, complete=complete)
        for link in self.actors.values():
            if link.connected:
                self._send(link.identity, self._stop)

    def close(self) -> None:
        """Closes the port. Actors keep what was not acknowledged and look for the next learner."""
        self._socket.close()
        if self._gate is not None:
            self._gate.close()
        self._context.term()

    def _receive(self, parts: list[bytes], events: list[Event]) -> None:
        identity = parts[0]
        try:
            message, block = messages.decode_from_actor(parts[1:], self._max_block_bytes)
        except messages.ProtocolMismatchError as error:
            self._refuse(identity, f"{error}; run the same version of cluster_rl on both sides")
            return
        except MessageError as error:
            self.bad_messages += 1
            self.last_problem = f"from {identity[:40]!r}: {error}"
            return
        if isinstance(message, messages.Hello):
            self._hello(identity, message, events)
            return
        link = self._by_identity.get(identity)
        if link is None:
            # A process that was replaced, or one that has not said Hello to this learner; its Hello will come.
            self.unexpected += 1
            return
        self._seen(link, events)
        match message:
            case messages.SequenceMessage():
                self._sequence(link, message, block, events)
            case messages.ParamsRequest():
                self._answer_params(link, message)
            case messages.ActorStats():
                link.params_version, link.env_steps_per_sec = message.params_version, message.env_steps_per_sec
                values = message.values
                events.append(Stats(link.actor, link.incarnation, link.env_steps_per_sec, link.params_version, values))
            case messages.Goodbye():
                self._leave(link, message.reason, events)

    def _hello(self, identity: bytes, hello: messages.Hello, events: list[Event]) -> None:
        if objection := self._objection(identity, hello):
            self._refuse(identity, objection)
            return
        link = self.actors.get(hello.actor)
        if link is None or link.incarnation != hello.incarnation:
            if link is not None:
                if link.connected:
                    self._leave(link, "replaced by another process of the same number", events)
                self._by_identity.pop(link.identity, None)
            logged = self._expected_seq(hello.actor, hello.incarnation)
            link = self._link(identity, hello, logged)
            lost = link.expected_seq - logged
            self.lost_sequences += lost
            events.append(Joined(link.actor, link.incarnation, link.expected_seq, lost))
        else:
            self._seen(link, events)
        self._send(
            identity,
            messages.Welcome(
                learner_incarnation=self.incarnation,
                incarnation=link.incarnation,
                expected_seq=link.expected_seq,
                may_send_up_to=link.may_send_up_to,
                params_version=self.params_version,
            ),
        )
        self._send_ack(link)
        if self._stop is not None:
            self._send(identity, self._stop)

    def _link(self, identity: bytes, hello: messages.Hello, logged: int) -> ActorLink:
        # What the actor has forgotten can never come: waiting for it would be for ever.
        expected = max(logged, hello.lowest_unacked)
        link = ActorLink(
            actor=hello.actor,
            incarnation=hello.incarnation,
            identity=identity,
            expected_seq=expected,
            durable_seq=expected,
            may_send_up_to=expected + self._initial_credit,
            last_seen_sec=time.monotonic(),
        )
        self.actors[hello.actor] = self._by_identity[identity] = link
        return link

    def _objection(self, identity: bytes, hello: messages.Hello) -> str:
        """Why this Hello is not accepted; empty if it is."""
        if hello.run != self.run:
            return f"this is the learner of run {self.run!r}, not of {hello.run!r}; check --run-name"
        if hello.schema_hash != self.schema_hash:
            return (
                f"the sequences have another shape (schema {hello.schema_hash}, the learner's is {self.schema_hash}); "
                "start the actors with the run's config.json"
            )
        if identity != identity_of(hello.actor, hello.incarnation):
            return "the identity of the connection is not that of the Hello"
        if hello.next_seq < hello.lowest_unacked:
            return "its sequence numbers contradict each other"
        link = self.actors.get(hello.actor)
        if link is not None and link.connected and hello.incarnation < link.incarnation:
            heard_sec = time.monotonic() - link.last_seen_sec
            if heard_sec < _LIVE_SEC:
                return f"a newer process runs actor {hello.actor}; give each actor of the run its own number"
        return ""

    def _sequence(self, link: ActorLink, message: messages.SequenceMessage, block: bytes, events: list[Event]) -> None:
        if message.incarnation != link.incarnation:
            self.unexpected += 1
        elif message.seq < link.expected_seq:
            self.duplicates += 1
            link.ack_due = True
        elif message.seq > link.expected_seq:
            # Something before it was lost on the way; the actor sends again from there.
            self.out_of_order += 1
        else:
            link.expected_seq += 1
            events.append(SequenceReceived(link.actor, link.incarnation, message.seq, block))

    def _answer_params(self, link: ActorLink, request: messages.ParamsRequest) -> None:
        if self._params is not None and self._params[0] > request.newer_than:
            self._send_frames([link.identity, self._params[1], self._params[2]])
        else:
            self._send(link.identity, messages.ParamsUnchanged(version=self.params_version))

    def _seen(self, link: ActorLink, events: list[Event]) -> None:
        link.last_seen_sec = time.monotonic()
        if not link.connected:
            link.connected = True
            events.append(Joined(link.actor, link.incarnation, link.expected_seq, 0))

    def _leave(self, link: ActorLink, reason: str, events: list[Event]) -> None:
        link.connected = False
        events.append(Left(link.actor, link.incarnation, reason))

    def _refuse(self, identity: bytes, reason: str) -> None:
        self.refused += 1
        self.last_problem = f"refused {identity[:40]!r}: {reason}"
        self._send(identity, messages.Refused(reason=reason))

    def _send_ack(self, link: ActorLink) -> None:
        ack = messages.Ack(incarnation=link.incarnation, next_seq=link.durable_seq, may_send_up_to=link.may_send_up_to)
        # Not sent (peer full): it stays due, and the next poll tries again.
        link.ack_due = not self._send(link.identity, ack) and link.connected

    def _send(self, identity: bytes, message: messages.LearnerMessage) -> bool:
        return self._send_frames([identity, messages.encode(message)])

    def _send_frames(self, frames: list[bytes]) -> bool:
        """False if the peer is gone or takes nothing now. One slow actor must not hold up the learner."""
        try:
            # The large frame is shared with all actors that ask; bytes cannot change under zmq.
            self._socket.send_multipart(frames, zmq.DONTWAIT, copy=len(frames) < 3)
        except zmq.ZMQError as error:
            if error.errno not in _SEND_TIMEOUT_ERRNOS:
                raise
            self.unsent += 1
            return False
        return True
