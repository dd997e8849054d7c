"""The actor's end of the wire: numbered sequences out, acknowledgements, credit and parameters in.

Used by the actor process. What was not acknowledged is kept and sent again, to the same learner after a broken
connection or to its successor, found through `rendezvous.json`. No call raises because the learner is away.
"""

from __future__ import annotations

import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import zmq
from zmq.utils.monitor import recv_monitor_message

from cluster_rl.errors import UserError
from cluster_rl.runs.rendezvous import Rendezvous
from cluster_rl.wire import messages
from cluster_rl.wire.keys import KeyPair, present_keys
from cluster_rl.wire.messages import MessageError
from cluster_rl.wire.sockets import identity_of, new_incarnation, receive_parts, set_common_options

_RENDEZVOUS_INTERVAL_SEC = 1.0
_HELLO_FIRST_SEC = 1.0
_HELLO_MAX_SEC = 30.0
_PARAMS_TIMEOUT_SEC = 15.0
_RECONNECT_MS = 100
_RECONNECT_MAX_MS = 5_000
_POLL_SLICE_MS = 100
# A learner that ends in the middle of a handshake looks like one with the wrong key; only the third time is believed.
_HANDSHAKE_FAILURES = 3
_REOPEN_FIRST_SEC = 0.1
_REOPEN_DOUBLINGS = 7
_MONITORED = (
    zmq.Event.HANDSHAKE_SUCCEEDED
    | zmq.Event.HANDSHAKE_FAILED_AUTH
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
    | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
    | zmq.Event.DISCONNECTED
)


@dataclass(frozen=True)
class ReceivedParams:
    """Parameters as published by the learner; their SHA-256 was checked."""

    version: int
    updates: int
    data: bytes


class _Kept(NamedTuple):
    seq: int
    header: bytes
    block: bytes


class ActorChannel:
    """One actor process's connection to whichever learner the run has.

    `rendezvous` reads the learner's place (None while there is none). `load_keys` loads the actors' key pair, and is
    called where the learner uses CURVE: only then are keys sure to have been made. Counted are `bad_messages`, `resent`
    (sequences sent more than once) and `reconnects` (new learners). `stop_reason` is the learner's last word;
    `run_complete` says that no other learner will follow it.
    """

    def __init__(
        self,
        rendezvous: Callable[[], Rendezvous | None],
        actor: int,
        run: str,
        schema_hash: str,
        load_keys: Callable[[], KeyPair] | None = None,
        max_block_bytes: int = messages.MAX_BLOCK_BYTES,
        *,
        silence_sec: float = 5.0,
        ack_timeout_sec: float = 5.0,
    ) -> None:
        self.actor, self.run, self.schema_hash = actor, run, schema_hash
        self.incarnation = new_incarnation()
        self.stop_reason: str | None = None
        self.run_complete = False
        self.bad_messages = self.resent = self.reconnects = 0
        self.last_problem = ""
        self.latest_params: ReceivedParams | None = None

        self._read_rendezvous, self._load_keys, self._max_block_bytes = rendezvous, load_keys, max_block_bytes
        self._silence_sec, self._ack_timeout_sec = silence_sec, ack_timeout_sec
        self._kept: deque[_Kept] = deque()  # sent or not, but not acknowledged; oldest first
        self._next_seq = 0
        self._send_seq = 0  # the next one to put on the wire
        self._sent_below = 0  # everything below was on the wire at least once
        self._credit = 0
        self._draining = False

        now = time.monotonic()
        self._found: Rendezvous | None = None
        self._look_at = now
        self._joined = False
        self._heard_at = now
        self._progress_at = now
        self._hello_at, self._hello_wait_sec = now, _HELLO_FIRST_SEC
        self._handshake_failures = 0
        self._reopen_at: float | None = None
        self._params_asked_at: float | None = None
        self._params_from = 0  # learner incarnation that `latest_params` came from
        self._learner = 0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._poller = zmq.Poller()

    # ---- what the actor calls ----

    @property
    def next_seq(self) -> int:
        """The number the next sequence will get, which is how many were given to `send`."""
        return self._next_seq

    @property
    def unacknowledged(self) -> int:
        """Sequences kept because the learner has not said that they are on the disk."""
        return len(self._kept)

    @property
    def joined(self) -> bool:
        """Whether the learner has answered on the present connection."""
        return self._joined

    @property
    def learner_incarnation(self) -> int:
        """Which learner this channel belongs to; 0 before one is found."""
        return self._found.incarnation if self._found is not None else 0

    @property
    def silent_sec(self) -> float:
        """Seconds since the last word from a learner (or since the start)."""
        return time.monotonic() - self._heard_at

    @property
    def state(self) -> str:
        """What the channel is doing, in words for a log."""
        if self.stop_reason is not None:
            return f"stopping: {self.stop_reason}"
        if self._found is None:
            return "waiting for a learner: the run has no rendezvous.json yet"
        where = f"{self._found.endpoint} on {self._found.host}"
        if self._joined:
            return f"joined to {where}"
        return f"waiting for the learner at {where}, silent for {self.silent_sec:.0f} s"

    def can_send(self) -> bool:
        """Whether the learner wants another sequence."""
        return self._next_seq < self._credit

    def wait_for_credit(self, timeout_sec: float, should_stop: Callable[[], bool] = lambda: False) -> bool:
        """Waits until `can_send()`; False if the time is up, the learner asked for a stop, or `should_stop()`."""
        return self._poll_until(self.can_send, timeout_sec, lambda: self.stop_reason is not None or should_stop())

    def send(self, block: bytes) -> None:
        """Gives a sequence block its number and sends it as soon as credit and connection allow.

        It never blocks and never drops: without credit the block is kept, so callers ask `can_send` first. Raises
        `ValueError` for a block above `max_block_bytes`, which the learner would never take.
        """
        if len(block) > self._max_block_bytes:
            raise ValueError(f"block of {len(block)} bytes, at most {self._max_block_bytes} are allowed")
        header = messages.SequenceMessage(
            incarnation=self.incarnation, seq=self._next_seq, block_bytes=len(block), crc32=zlib.crc32(block)
        )
        if not self._kept:
            self._progress_at = time.monotonic()
        self._kept.append(_Kept(self._next_seq, messages.encode(header), block))
        self._next_seq += 1
        self._pump()

    def request_params(self) -> None:
        """Asks for parameters newer than `latest_params`; the answer comes with a later `poll`.

        Of a new learner any version is taken: after a crash it may have gone back to an older checkpoint. Nothing is
        sent while not joined or while an answer is under way.
        """
        now = time.monotonic()
        under_way = self._params_asked_at is not None and now - self._params_asked_at < _PARAMS_TIMEOUT_SEC
        if self._joined and not under_way:
            have = self.latest_params
            known = have.version if have is not None and self._params_from == self._learner else -1
            if self._send(messages.ParamsRequest(newer_than=known)):
                self._params_asked_at = now

    def send_stats(self, env_steps_per_sec: float, params_version: int, values: Mapping[str, float]) -> None:
        """Sends the actor's figures, or drops them while not joined."""
        if self._joined:
            self._send(
                messages.ActorStats(
                    env_steps_per_sec=env_steps_per_sec, params_version=params_version, values=dict(values)
                )
            )

    def poll(self, timeout_ms: int = 0) -> bool:
        """Handles what has arrived and what is due; waits up to `timeout_ms` for the first message.

        Returns whether a message came. Raises `UserError`, in the learner's words, if it refused this actor, and if
        the keys do not fit.
        """
        self._maintain()
        if self._socket is None:
            time.sleep(timeout_ms / 1000)
            return False
        ready = dict(self._poller.poll(timeout_ms))
        # Messages first: the learner's last words come before the end of its connection.
        heard = self._receive_all() if self._socket in ready else False
        if self._monitor in ready:
            self._watch_connection()
        self._maintain()
        return heard

    def flush(self, timeout_sec: float, should_stop: Callable[[], bool] = lambda: False) -> bool:
        """Sends all that is kept, whatever the credit, and waits until it is acknowledged; whether it was."""
        self._draining = True
        return self._poll_until(lambda: not self._kept, timeout_sec, should_stop)

    def goodbye(self, reason: str) -> None:
        """Tells the learner that this actor ends, and closes the channel."""
        if self._joined:
            self._send(messages.Goodbye(reason=reason))
        self.close()

    def close(self) -> None:
        """Closes the sockets. What was sent but not acknowledged may be lost."""
        self._disconnect()
        self._context.term()

    # ---- inside ----

    def _poll_until(self, reached: Callable[[], bool], timeout_sec: float, should_stop: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + timeout_sec
        self.poll(0)
        while not reached():
            left_ms = (deadline - time.monotonic()) * 1000
            if left_ms <= 0 or should_stop():
                return False
            self.poll(min(_POLL_SLICE_MS, int(left_ms) + 1))
        return True

    def _maintain(self) -> None:
        """What is due now: find the learner, say Hello, send what may be sent."""
        now = time.monotonic()
        silent = now - self._heard_at > self._silence_sec
        if now >= self._look_at and (silent or not self._joined):
            self._look_at = now + _RENDEZVOUS_INTERVAL_SEC
            self._look_for_learner()
        if self._found is not None and self._reopen_at is not None and now >= self._reopen_at:
            self._connect(self._found)
        if self._socket is None:
            return
        in_flight = bool(self._kept) and self._kept[0].seq < self._send_seq
        overdue = in_flight and now - self._progress_at > self._ack_timeout_sec
        if now >= self._hello_at and (not self._joined or silent or overdue):
            self._hello(now)
        self._pump()

    def _look_for_learner(self) -> None:
        found = self._read_rendezvous()
        if found is None or (self._found is not None and found.incarnation == self._found.incarnation):
            return
        if found.run != self.run:
            raise UserError(f"rendezvous.json names run {found.run!r}, this actor belongs to {self.run!r}")
        if found.protocol != messages.PROTOCOL_VERSION:
            raise UserError(
                f"the learner speaks protocol {found.protocol}, this actor {messages.PROTOCOL_VERSION}; run the same "
                "version of cluster_rl on both sides"
            )
        if found.public_key is not None and self._load_keys is None:
            raise UserError(f"the learner at {found.endpoint} requires CURVE keys and this actor has none")
        self.reconnects += self._found is not None
        self._found, self._handshake_failures = found, 0
        self._connect(found)

    def _connect(self, found: Rendezvous) -> None:
        self._disconnect()
        self._reopen_at = None
        keys = self._load_keys() if found.public_key is not None and self._load_keys is not None else None
        socket = self._context.socket(zmq.DEALER)
        set_common_options(socket, messages.MAX_PARAMS_BYTES)
        socket.setsockopt(zmq.IDENTITY, identity_of(self.actor, self.incarnation))
        socket.setsockopt(zmq.IPV6, int("[" in found.endpoint))
        # Without it messages would queue for a learner that is not there, and arrive twice after a Hello.
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MAX_MS)
        if found.public_key is not None and keys is not None:
            present_keys(socket, keys, found.public_key)
        self._socket = socket
        self._monitor = socket.get_monitor_socket(_MONITORED)
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        try:
            socket.connect(found.endpoint)
        except zmq.ZMQError as error:
            raise UserError(f"rendezvous.json: endpoint {found.endpoint!r}: {error.strerror}") from None
        self._hello_at = time.monotonic()

    def _disconnect(self) -> None:
        self._joined = False
        self._params_asked_at = None
        if self._socket is None or self._monitor is None:
            return
        self._poller.unregister(self._socket)
        self._poller.unregister(self._monitor)
        self._socket.disable_monitor()
        # By hand: a traceback may hold a reference to it, and the context waits for every open socket.
        self._monitor.close(linger=0)
        self._socket.close()
        self._socket = self._monitor = None

    def _watch_connection(self) -> None:
        while self._monitor is not None and self._monitor.poll(0):
            event = zmq.Event(recv_monitor_message(self._monitor)["event"])
            if event == zmq.Event.HANDSHAKE_SUCCEEDED:
                self._handshake_failures, self._reopen_at = 0, None
                self._joined = False
                self._hello_at, self._hello_wait_sec = time.monotonic(), _HELLO_FIRST_SEC
            elif event == zmq.Event.DISCONNECTED:
                self._joined = False
                self._params_asked_at = None
            else:
                self._handshake_failed(event)

    def _handshake_failed(self, event: zmq.Event) -> None:
        """Notes a failed handshake; raises `UserError` once it is certain that the keys do not fit."""
        assert self._found is not None
        self._handshake_failures += 1
        # libzmq gives up for good after most of these; a learner that ends in mid-handshake causes them too.
        wait_sec = _REOPEN_FIRST_SEC * 2 ** min(self._handshake_failures, _REOPEN_DOUBLINGS)
        self._reopen_at = time.monotonic() + wait_sec
        refused = event == zmq.Event.HANDSHAKE_FAILED_AUTH
        if self._learner == self._found.incarnation:
            return  # the keys did fit: the learner is gone and its port belongs to somebody else
        if not refused and self._handshake_failures < _HANDSHAKE_FAILURES:
            return
        where = f"the learner at {self._found.endpoint}"
        if refused:
            raise UserError(f"{where} does not know this actor's key; use the keys in the run's keys/ folder")
        if self._found.public_key is None:
            raise UserError(f"{where} refuses plain connections, but rendezvous.json names no key; start it again")
        raise UserError(f"{where} cannot prove the public key in rendezvous.json; start learner and actors again")

    def _hello(self, now: float) -> None:
        lowest = self._kept[0].seq if self._kept else self._next_seq
        sent = self._send(
            messages.Hello(
                run=self.run,
                schema_hash=self.schema_hash,
                actor=self.actor,
                incarnation=self.incarnation,
                lowest_unacked=lowest,
                next_seq=self._next_seq,
            )
        )
        if sent:
            self._hello_at = now + self._hello_wait_sec
            self._hello_wait_sec = min(2 * self._hello_wait_sec, _HELLO_MAX_SEC)

    def _receive_all(self) -> bool:
        heard = False
        while self._socket is not None:
            parts = receive_parts(self._socket, messages.MAX_PARTS)
            if parts is None:
                break
            heard = True
            try:
                message, frame = messages.decode_from_learner(parts)
                self._handle(message, frame)
            except MessageError as error:
                self.bad_messages += 1
                self.last_problem = str(error)
                self._params_asked_at = None  # it may have been the answer; ask again
        return heard

    def _handle(self, message: messages.LearnerMessage, frame: bytes) -> None:
        self._heard_at = time.monotonic()
        match message:
            case messages.Welcome():
                self._welcome(message)
            case messages.Ack():
                self._acknowledged(message)
            case messages.Params():
                self._params_asked_at = None
                have = self.latest_params
                if have is None or message.version > have.version or self._params_from != self._learner:
                    self.latest_params = ReceivedParams(message.version, message.updates, frame)
                    self._params_from = self._learner
            case messages.ParamsUnchanged():
                self._params_asked_at = None
            case messages.Stop():
                self.stop_reason, self.run_complete = message.reason, message.complete
            case messages.Refused():
                raise UserError(f"the learner refused actor {self.actor}: {message.reason}")

    def _welcome(self, message: messages.Welcome) -> None:
        if message.incarnation != self.incarnation or message.expected_seq > self._next_seq:
            raise MessageError(f"Welcome to sequence {message.expected_seq}, this actor has made {self._next_seq}")
        lowest = self._kept[0].seq if self._kept else self._next_seq
        self._send_seq = max(lowest, message.expected_seq)
        self._credit = message.may_send_up_to
        self._learner = message.learner_incarnation
        self._joined = True
        self._progress_at = time.monotonic()
        self._hello_at, self._hello_wait_sec = self._progress_at + _HELLO_FIRST_SEC, _HELLO_FIRST_SEC

    def _acknowledged(self, message: messages.Ack) -> None:
        if not self._joined:
            return  # of an earlier connection; the Welcome of this one says more
        if message.incarnation != self.incarnation or message.next_seq > self._next_seq:
            raise MessageError(f"Ack of sequence {message.next_seq}, this actor has made {self._next_seq}")
        while self._kept and self._kept[0].seq < message.next_seq:
            self._kept.popleft()
            self._progress_at = time.monotonic()
        self._send_seq = max(self._send_seq, message.next_seq)
        self._credit = message.may_send_up_to

    def _pump(self) -> None:
        """Puts on the wire what credit allows, in order. At a stop all goes: the learner writes it before it ends."""
        if not self._joined:
            return
        limit = self._next_seq if self._draining or self.stop_reason is not None else min(self._next_seq, self._credit)
        while self._send_seq < limit:
            kept = self._kept[self._send_seq - self._kept[0].seq]
            if not self._send_frames([kept.header, kept.block]):
                return
            self.resent += kept.seq < self._sent_below
            self._send_seq += 1
            self._sent_below = max(self._sent_below, self._send_seq)

    def _send(self, message: messages.ActorMessage) -> bool:
        return self._send_frames([messages.encode(message)])

    def _send_frames(self, frames: list[bytes]) -> bool:
        """False if there is no connection or its queue is full; what matters is tried again."""
        if self._socket is None:
            return False
        try:
            self._socket.send_multipart(frames, zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True
