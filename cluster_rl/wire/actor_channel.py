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

from cluster_rl.errors import UserError
from cluster_rl.runs.crash_points import crash_point
from cluster_rl.runs.rendezvous import Rendezvous
from cluster_rl.wire import messages
from cluster_rl.wire.keys import KeyPair
from cluster_rl.wire.learner_connection import LearnerConnection
from cluster_rl.wire.messages import MessageError
from cluster_rl.wire.sockets import identity_of, new_incarnation

_RENDEZVOUS_INTERVAL_SEC = 1.0
_HELLO_FIRST_SEC = 1.0
_HELLO_MAX_SEC = 30.0
_PARAMS_TIMEOUT_SEC = 15.0
_POLL_SLICE_MS = 100


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
        self.told_to_wait = ""  # the learner's words, until it takes this actor
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
        self._look_at = now
        self._joined = False
        self._heard_at = now
        self._progress_at = now
        self._hello_at, self._hello_wait_sec = now, _HELLO_FIRST_SEC
        self._params_asked_at: float | None = None
        self._params_from = 0  # learner incarnation that `latest_params` came from
        self._learner = 0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._connection: LearnerConnection | None = None  # to the learner that was found last

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
        return self._connection.rendezvous.incarnation if self._connection is not None else 0

    @property
    def silent_sec(self) -> float:
        """Seconds since the last word from a learner (or since the start)."""
        return time.monotonic() - self._heard_at

    @property
    def state(self) -> str:
        """What the channel is doing, in words for a log."""
        if self.stop_reason is not None:
            return f"stopping: {self.stop_reason}"
        if self._connection is None:
            return "waiting for a learner: the run has no rendezvous.json yet"
        found = self._connection.rendezvous
        where = f"{found.endpoint} on {found.host}"
        if self.told_to_wait:
            return f"the learner at {where} lets this actor wait: {self.told_to_wait}"
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
        connection = self._connection
        if connection is None or not connection.is_open:
            time.sleep(timeout_ms / 1000)
            return False
        message_waits, has_changed = connection.wait(timeout_ms)
        # Messages first: the learner's last words come before the end of its connection.
        heard = self._receive_all(connection) if message_waits else False
        if has_changed:
            self._watch(connection)
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
        self._joined = False
        self._params_asked_at = None
        if self._connection is not None:
            self._connection.close()
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
        if self._connection is None:
            return
        if self._connection.reopening_is_due:
            self._open(self._connection)
        if not self._connection.is_open:
            return
        in_flight = bool(self._kept) and self._kept[0].seq < self._send_seq
        overdue = in_flight and now - self._progress_at > self._ack_timeout_sec
        if now >= self._hello_at and (not self._joined or silent or overdue):
            self._hello(now)
        self._pump()

    def _look_for_learner(self) -> None:
        found = self._read_rendezvous()
        before = self._connection
        if found is None or (before is not None and found.incarnation == before.rendezvous.incarnation):
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
        if before is not None:
            self.reconnects += 1
            before.close()
        identity = identity_of(self.actor, self.incarnation)
        self._connection = LearnerConnection(self._context, found, identity, self._load_keys)
        self._open(self._connection)

    def _open(self, connection: LearnerConnection) -> None:
        self._joined = False
        self._params_asked_at = None
        connection.open()
        self._hello_at = time.monotonic()

    def _watch(self, connection: LearnerConnection) -> None:
        for is_made in connection.changes():
            self._joined = False
            if is_made:
                self._hello_at, self._hello_wait_sec = time.monotonic(), _HELLO_FIRST_SEC
            else:
                self._params_asked_at = None

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
            crash_point("actor.hello_sent")
            self._hello_at = now + self._hello_wait_sec
            self._hello_wait_sec = min(2 * self._hello_wait_sec, _HELLO_MAX_SEC)

    def _receive_all(self, connection: LearnerConnection) -> bool:
        heard = False
        while (parts := connection.receive()) is not None:
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
            case messages.Wait():
                self._joined, self.told_to_wait = False, message.reason
                self._hello_wait_sec = _HELLO_FIRST_SEC
            case messages.Refused():
                raise UserError(f"the learner refused actor {self.actor}: {message.reason}")

    def _welcome(self, message: messages.Welcome) -> None:
        if message.incarnation != self.incarnation or message.expected_seq > self._next_seq:
            raise MessageError(f"Welcome to sequence {message.expected_seq}, this actor has made {self._next_seq}")
        lowest = self._kept[0].seq if self._kept else self._next_seq
        self._send_seq = max(lowest, message.expected_seq)
        self._credit = message.may_send_up_to
        self._learner = message.learner_incarnation
        if self._connection is not None:
            self._connection.keys_fit = self._learner == self.learner_incarnation
        self._joined, self.told_to_wait = True, ""
        self._progress_at = time.monotonic()
        self._hello_at, self._hello_wait_sec = self._progress_at + _HELLO_FIRST_SEC, _HELLO_FIRST_SEC

    def _acknowledged(self, message: messages.Ack) -> None:
        if not self._joined:
            return  # of an earlier connection; the Welcome of this one says more
        if message.incarnation != self.incarnation or message.next_seq > self._next_seq:
            raise MessageError(f"Ack of sequence {message.next_seq}, this actor has made {self._next_seq}")
        while self._kept and self._kept[0].seq < message.next_seq:
            self._kept.popleft()
            crash_point("actor.acknowledged")
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
            crash_point("actor.before_send")
            if not self._send_frames([kept.header, kept.block]):
                return
            crash_point("actor.sent")
            self.resent += kept.seq < self._sent_below
            self._send_seq += 1
            self._sent_below = max(self._sent_below, self._send_seq)

    def _send(self, message: messages.ActorMessage) -> bool:
        return self._send_frames([messages.encode(message)])

    def _send_frames(self, frames: list[bytes]) -> bool:
        return self._connection is not None and self._connection.send(frames)
