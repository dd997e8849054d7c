"""The learner's ROUTER socket: many peers on one port, none of which can hold up the others.

Used by `LearnerChannel`, in the learner process. In and out: the parts of messages, the first of which is the identity
of a peer's connection. What they mean is not known here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum

import zmq

from cluster_rl.errors import UserError
from cluster_rl.wire import messages
from cluster_rl.wire.keys import KeyGate, KeyPair
from cluster_rl.wire.sockets import PartsReceiver, resolve_bind_host, set_common_options

# One call takes at most this many messages, so that a flood cannot keep the learner from its other work.
_MESSAGES_PER_CALL = 512
# And spends at most so long on what was not wanted; the next call then rests as long, and leaves the CPU to training.
# ZeroMQ takes messages from all connections in turn, so that those who wait behind a flood wait for one round of it.
_UNWANTED_SEC = 0.002
# Messages that wait for each connection. More would hold memory for each that connects: a sender is slowed down by TCP,
# and an answer that finds no room is asked for again.
_RECEIVE_QUEUE_MESSAGES, _SEND_QUEUE_MESSAGES = 16, 64


class Delivery(Enum):
    """What became of a message to a peer: on its way, or none because the peer takes nothing now, or has no connection.

    That of a process that was killed is gone at once, that of a dead node by ZeroMQ's heartbeat.
    """

    SENT = "sent"
    FULL = "full"
    GONE = "gone"


class LearnerSocket:
    """Listens on a random port of `bind_host`, which actors reach at `endpoint`.

    `keys` turns CURVE on. Raises `UserError` for a host that is not known or cannot be listened on, and without keys
    for one that other machines can reach. `unsent` counts messages to peers that were gone or full.
    """

    def __init__(self, bind_host: str, max_block_bytes: int, keys: KeyPair | None) -> None:
        bound = resolve_bind_host(bind_host)
        if not bound.is_loopback and keys is None:
            raise UserError(
                f"bind_host {bind_host}: other machines can reach it, so the run needs CURVE keys; make them, or use "
                "127.0.0.1"
            )
        self.unsent = 0
        self._rests = False
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._gate = KeyGate(self._context, keys) if keys else None
        self._socket = self._context.socket(zmq.ROUTER)
        self._receiver = PartsReceiver(self._socket, messages.MAX_PARTS + 1)
        set_common_options(self._socket, max(max_block_bytes, messages.MAX_HEADER_BYTES))
        self._socket.setsockopt(zmq.RCVHWM, _RECEIVE_QUEUE_MESSAGES)
        self._socket.setsockopt(zmq.SNDHWM, _SEND_QUEUE_MESSAGES)
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.IPV6, int(":" in bound.address))
        try:
            if self._gate is not None and keys is not None:
                self._gate.protect(self._socket, keys)
            self._socket.bind(f"tcp://{bound.address}:*")
        except zmq.ZMQError as error:
            self.close()
            raise UserError(f"bind_host {bind_host}: cannot listen there: {error.strerror}") from None
        port = self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rsplit(":", 1)[1]
        self.endpoint = f"tcp://{bound.advertised}:{port}"

    def receive(self, timeout_ms: int, handle: Callable[[list[bytes]], bool]) -> None:
        """Waits up to `timeout_ms` for messages and calls `handle` with each, which says whether it was wanted.

        Of one with too many parts only the first are handed over; it cannot have been wanted.
        """
        if self._rests:
            self._rests = False
            time.sleep(_UNWANTED_SEC)
        if not self._socket.poll(timeout_ms):
            return
        unwanted_sec = 0.0
        for _ in range(_MESSAGES_PER_CALL):
            started = time.monotonic()
            parts = self._receiver.receive(started + _UNWANTED_SEC)
            if parts is None:
                self._rests = self._receiver.is_dropping
                return
            if not handle(parts):
                unwanted_sec += time.monotonic() - started
                if unwanted_sec > _UNWANTED_SEC:
                    self._rests = True
                    return

    def send(self, frames: list[bytes]) -> Delivery:
        """Sends without waiting: one slow actor must not hold up the learner."""
        delivery = self.probe(frames)
        self.unsent += delivery is not Delivery.SENT
        return delivery

    def probe(self, frames: list[bytes]) -> Delivery:
        """`send` of what need not arrive, and does not count as unsent."""
        try:
            # The large frame is shared with all actors that ask; bytes cannot change under zmq.
            self._socket.send_multipart(frames, zmq.DONTWAIT, copy=len(frames) < 3)
        except zmq.Again:
            return Delivery.FULL
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return Delivery.GONE
        return Delivery.SENT

    def close(self) -> None:
        """Closes the port."""
        self._socket.close()
        if self._gate is not None:
            self._gate.close()
        self._context.term()
