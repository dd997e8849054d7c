"""The learner's end of the wire: many actors' sequences in, acknowledgements, credit and parameters out.

Used by the learner process. Each sequence of an actor comes out exactly once and in order, as one of the `Event`s of
`poll`; docs/wire.md has the rules. An actor's end is `actor_channel.ActorChannel`. Neither is thread-safe: a channel
belongs to the thread that made it.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable

from cluster_rl.runs.crash_points import crash_point
from cluster_rl.runs.rendezvous import Rendezvous
from cluster_rl.wire import messages
from cluster_rl.wire.codec import MAX_GAP_SEQUENCES
from cluster_rl.wire.events import Event, Joined, Left, SequenceReceived, Stats
from cluster_rl.wire.keys import KeyPair
from cluster_rl.wire.learner_socket import Delivery, LearnerSocket
from cluster_rl.wire.limited_log import LimitedLog
from cluster_rl.wire.messages import MessageError
from cluster_rl.wire.peers import ActorLink, Allowance, Allowances, new_credit, overdraft_of
from cluster_rl.wire.sockets import identity_of, new_incarnation

# What an unwanted message costs its sender: what an honest actor may send too often, and what it never sends.
_UNWANTED, _WRONG = 1.0, 20.0
# Unwanted messages at once, beside as many as an actor may have on the way when its connection breaks.
_ALLOWANCE = 200.0
_PROBE_SEC = 0.5
# Between two calls of `poll`; a longer time, such as for a slow disk, is this process's absence and not the actors'.
_BETWEEN_POLLS_SEC = 1.0


class LearnerChannel:
    """The learner's end: one ROUTER on a random port of `bind_host`.

    Actors are numbered below `total_actors`. `expected_seq(actor, incarnation)` tells, when a process is first heard,
    the next number the *log on disk* needs from it (0 if it is unknown there). `initial_credit` sequences may be sent
    beyond that before the first `acknowledge`. `overdraft` is how many the processes of an actor number may send beyond
    their credit: as many as one can have open when it ends. `keys` turns CURVE on and is required unless `bind_host` is
    loopback. `log` is told of peers' faults. `room` is how many sequences may come out until the owner, who keeps them,
    sets it anew; no limit unless it does.

    Counters, all since the start: `bad_messages` (not of this protocol), `refused` (Hellos), `waiting` (Hellos for a
    number that another process holds), `unexpected` (from no known process), `duplicates`, `out_of_order` and
    `over_credit` (dropped, come again), `muted` (dropped unread), `lost_sequences`, `unsent` (peer gone or full).
    """

    def __init__(
        self,
        bind_host: str,
        run: str,
        schema_hash: str,
        max_block_bytes: int = messages.MAX_BLOCK_BYTES,
        keys: KeyPair | None = None,
        *,
        total_actors: int,
        overdraft: int,
        expected_seq: Callable[[int, int], int] = lambda actor, incarnation: 0,
        initial_credit: int = 8,
        silence_sec: float = 60.0,
        log: LimitedLog | None = None,
    ) -> None:
        self._socket = LearnerSocket(bind_host, max_block_bytes, keys)
        self.endpoint = self._socket.endpoint
        self.run, self.schema_hash = run, schema_hash
        self.incarnation = new_incarnation()
        self.room: float = math.inf
        self.public_key = keys.public if keys else None
        self.actors: dict[int, ActorLink] = {}
        self.bad_messages = self.refused = self.waiting = self.unexpected = self.duplicates = 0
        self.out_of_order = self.over_credit = self.muted = self.lost_sequences = 0
        self._log = log or LimitedLog()
        self._allowances = Allowances(_ALLOWANCE + overdraft)
        self._total_actors, self._overdraft_sequences = total_actors, initial_credit + overdraft
        self._overdrafts: dict[int, Allowance] = {}  # by actor
        self._polled_sec = time.monotonic()
        self._by_identity: dict[bytes, ActorLink] = {}
        self._max_block_bytes = max_block_bytes
        self._expected_seq, self._initial_credit, self._silence_sec = expected_seq, initial_credit, silence_sec
        self._params: tuple[int, bytes, bytes] | None = None  # version, header frame, weights
        self._stop: messages.Stop | None = None

    @property
    def unsent(self) -> int:
        """Messages to actors that were gone or full."""
        return self._socket.unsent

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
        absence_sec = time.monotonic() - self._polled_sec
        if absence_sec > _BETWEEN_POLLS_SEC:
            for link in self.actors.values():
                link.excuse(absence_sec)
        self._socket.receive(timeout_ms, lambda parts: self._receive(parts, events))
        self._log.tick()
        now = time.monotonic()
        for link in self.actors.values():
            if link.ack_due:
                self._send_ack(link)
            if link.connected and now - link.last_seen_sec > self._silence_sec:
                self._leave(link, f"silent for {self._silence_sec:.0f} s", events)
        self._polled_sec = time.monotonic()
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
        link.durable_seq = next_seq
        link.grant(may_send_up_to)
        if link.connected:
            self._send_ack(link)

    def acknowledge_all(self, room: int, most: int) -> None:
        """Acknowledges all that has arrived, which is in the synced log, and shares out the `room` for what is to come.

        Those who have sent, and go on doing so, get it in equal shares of at most `most` sequences; who has waited
        longest is first.
        """
        connected = [link for link in self.actors.values() if link.connected]
        credit = new_credit(connected, room, most)
        for link in connected:
            if link.actor in credit or link.expected_seq != link.durable_seq:
                may_send_up_to = credit.get(link.actor, link.may_send_up_to)
                crash_point("wire.before_ack")
                self.acknowledge(link.actor, link.incarnation, link.expected_seq, may_send_up_to)
                crash_point("wire.acked")

    def count_live(self, heard_sec: float) -> int:
        """How many processes take part that were heard within `heard_sec` or whose connection is up.

        Who was killed is neither, and who is busy with something else may well be silent.
        """
        now = time.monotonic()
        connected = [link for link in self.actors.values() if link.connected]
        return sum(now - link.last_seen_sec < heard_sec or self._is_reachable(link) for link in connected)

    def charge_for_block(self, actor: int, incarnation: int) -> None:
        """Counts a block that could not be used against the connection it came by, if that is still the actor's."""
        link = self.actors.get(actor)
        if link is not None and link.incarnation == incarnation:
            self._charge(link.identity, _WRONG, "blocks that are refused")

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

        `complete`: so does the run. What was taken beyond the credit until now is forgiven.
        """
        if self._stop is None:
            self._overdrafts.clear()
        self._stop = messages.Stop(reason=reason, complete=complete)
        for link in self.actors.values():
            if link.connected:
                self._send(link.identity, self._stop)

    def close(self) -> None:
        """Closes the port. Actors keep what was not acknowledged and look for the next learner."""
        self._socket.close()

    def _receive(self, parts: list[bytes], events: list[Event]) -> bool:
        """Handles one message; whether it was a new sequence. All else is charged to its sender."""
        identity = parts[0]
        if self._allowances.is_muted(identity):
            self.muted += 1
            return False
        try:
            message, block = messages.decode_from_actor(parts[1:], self._max_block_bytes)
        except messages.ProtocolMismatchError as error:
            self._refuse(identity, f"{error}; run the same version of cluster_rl on both sides")
            return False
        except MessageError as error:
            self.bad_messages += 1
            self._log.say("bad messages", f"bad message from {identity[:40]!r}: {error}")
            self._charge(identity, _WRONG, "bad messages")
            return False
        link = self._by_identity.get(identity)
        if isinstance(message, messages.SequenceMessage) and link is not None:
            self._seen(link, events)
            return self._sequence(link, message, block, events)
        self._charge(identity, _UNWANTED, f"too many messages ({message.__struct_config__.tag})")
        if isinstance(message, messages.Hello):
            self._hello(identity, message, events)
        elif link is None:
            # A process that was replaced, or one that has not said Hello to this learner; its Hello will come.
            self.unexpected += 1
        else:
            self._seen(link, events)
            self._answer(link, message, events)
        return False

    def _answer(self, link: ActorLink, message: messages.ActorMessage, events: list[Event]) -> None:
        match message:
            case messages.ParamsRequest():
                self._answer_params(link, message)
            case messages.ActorStats():
                figures = message.env_steps_per_sec, message.params_version, message.values
                events.append(Stats(link.actor, link.incarnation, *figures))
            case messages.Goodbye():
                self._leave(link, message.reason, events)

    def _charge(self, identity: bytes, cost: float, reason: str) -> None:
        if self._allowances.charge(identity, cost):
            self._log.say("muted peers", f"{identity[:40]!r} is not listened to for some seconds: {reason}")

    def _hello(self, identity: bytes, hello: messages.Hello, events: list[Event]) -> None:
        link = self.actors.get(hello.actor)
        is_known = link is not None and link.incarnation == hello.incarnation
        logged = self._expected_seq(hello.actor, hello.incarnation)
        if objection := self._objection(identity, hello, logged):
            self._refuse(identity, objection)
            return
        if link is not None and not is_known and self._holds_number(link):
            self._let_wait(identity, hello)
            return
        if link is None or not is_known:
            if link is not None:
                if link.connected:
                    self._leave(link, "replaced by another process of the same number", events)
                self._by_identity.pop(link.identity, None)
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
        crash_point("wire.welcomed")
        if self._stop is not None:
            self._send(identity, self._stop)

    def _holds_number(self, link: ActorLink) -> bool:
        """Whether the process of this link keeps its number although another one asks for it."""
        return link.connected and not link.is_idle() and self._is_reachable(link)

    def _is_reachable(self, link: ActorLink) -> bool:
        now = time.monotonic()
        if now - link.probed_sec >= _PROBE_SEC:
            link.probed_sec = now
            probe = [link.identity, messages.encode(self._ack(link))]
            link.is_unreachable = self._socket.probe(probe) is Delivery.GONE
        return not link.is_unreachable

    def _let_wait(self, identity: bytes, hello: messages.Hello) -> None:
        self.waiting += 1
        reason = f"another process plays as actor {hello.actor}; give each actor of the run its own number"
        self._log.say("actors that wait", f"a second process of actor {hello.actor} waits: {reason}")
        self._send(identity, messages.Wait(reason=reason))
        if self._stop is not None:
            self._send(identity, self._stop)

    def _link(self, identity: bytes, hello: messages.Hello, logged: int) -> ActorLink:
        # What the actor has forgotten can never come: waiting for it would be for ever.
        expected = max(logged, hello.lowest_unacked)
        now = time.monotonic()
        link = ActorLink(
            actor=hello.actor,
            incarnation=hello.incarnation,
            identity=identity,
            expected_seq=expected,
            durable_seq=expected,
            may_send_up_to=expected + self._initial_credit,
            granted_up_to=expected,
            last_seen_sec=now,
            busy_sec=now,
        )
        self.actors[hello.actor] = self._by_identity[identity] = link
        return link

    def _objection(self, identity: bytes, hello: messages.Hello, logged: int) -> str:
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
        if hello.actor >= self._total_actors:
            return (
                f"the run has {self._total_actors} actors, numbered from 0, and no actor {hello.actor}; start the "
                "learner with other --num_actors or --actor_jobs"
            )
        if not hello.lowest_unacked <= hello.next_seq or hello.lowest_unacked - logged > MAX_GAP_SEQUENCES:
            return f"its sequence numbers contradict each other or the log, which has {logged} of it"
        return ""

    def _sequence(self, link: ActorLink, message: messages.SequenceMessage, block: bytes, events: list[Event]) -> bool:
        """Whether it is the next one and within what its actor may send."""
        if message.incarnation != link.incarnation:
            self.unexpected += 1
        elif message.seq < link.expected_seq:
            self.duplicates += 1
            link.ack_due = True
        elif message.seq > link.expected_seq:
            # Something before it was lost on the way; the actor sends again from there.
            self.out_of_order += 1
        elif self.room < 1:
            self.over_credit += 1
            link.busy_sec = time.monotonic()  # nor is it the sender's fault
            return False
        elif message.seq >= link.granted_up_to and not self._take_overdraft(link.actor):
            self.over_credit += 1
        else:
            self.room -= 1
            link.expected_seq += 1
            link.has_sent, link.busy_sec = True, time.monotonic()
            events.append(SequenceReceived(link.actor, link.incarnation, message.seq, block))
            return True
        self._charge(link.identity, _UNWANTED, "sequences out of turn")
        return False

    def _take_overdraft(self, actor: int) -> bool:
        overdraft = self._overdrafts.get(actor)
        if overdraft is None:
            overdraft = self._overdrafts[actor] = overdraft_of(self._overdraft_sequences)
        return overdraft.take()

    def _answer_params(self, link: ActorLink, request: messages.ParamsRequest) -> None:
        if self._params is not None and self._params[0] > request.newer_than:
            self._socket.send([link.identity, self._params[1], self._params[2]])
        else:
            self._send(link.identity, messages.ParamsUnchanged(version=self.params_version))

    def _seen(self, link: ActorLink, events: list[Event]) -> None:
        link.last_seen_sec, link.is_unreachable = time.monotonic(), False
        if not link.connected:
            link.connected = True
            events.append(Joined(link.actor, link.incarnation, link.expected_seq, 0))

    def _leave(self, link: ActorLink, reason: str, events: list[Event]) -> None:
        link.connected = False
        events.append(Left(link.actor, link.incarnation, reason))

    def _refuse(self, identity: bytes, reason: str) -> None:
        self.refused += 1
        self._log.say("refused actors", f"refused {identity[:40]!r}: {reason}")
        self._charge(identity, _WRONG, "refused before")
        self._send(identity, messages.Refused(reason=reason))

    def _ack(self, link: ActorLink) -> messages.Ack:
        return messages.Ack(incarnation=link.incarnation, next_seq=link.durable_seq, may_send_up_to=link.may_send_up_to)

    def _send_ack(self, link: ActorLink) -> None:
        # To a full peer it stays due, and the next poll tries again; one that comes back says Hello.
        delivery = self._send(link.identity, self._ack(link))
        link.ack_due = delivery is Delivery.FULL and link.connected
        link.is_unreachable = delivery is Delivery.GONE

    def _send(self, identity: bytes, message: messages.LearnerMessage) -> Delivery:
        return self._socket.send([identity, messages.encode(message)])
