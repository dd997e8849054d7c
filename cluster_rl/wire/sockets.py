"""What both ends of the wire do with a ZeroMQ socket: options, receiving within limits, names, bind addresses.

Used by `learner_channel.py`, and by `actor_channel.py` and its `learner_connection.py`.
"""

from __future__ import annotations

import ipaddress
import socket as sockets
import time
from dataclasses import dataclass

import zmq

from cluster_rl.errors import UserError

_HEARTBEAT_INTERVAL_MS = 5_000
_HEARTBEAT_TIMEOUT_MS = 20_000
_LINGER_MS = 500
_PARTS_BETWEEN_CLOCKS = 64


def set_common_options(socket: zmq.Socket[bytes], max_frame_bytes: int) -> None:
    """Options of both ends, before bind or connect."""
    # The default LINGER is for ever: a process whose peer is gone would never end.
    socket.setsockopt(zmq.LINGER, _LINGER_MS)
    # A larger frame cuts the connection before it is in memory. It is a limit on each frame, not on a message.
    socket.setsockopt(zmq.MAXMSGSIZE, max_frame_bytes)
    # Answered by ZeroMQ's own thread: a peer that is busy stays connected, a node that lost power does not.
    socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_INTERVAL_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_TIMEOUT_MS)


class PartsReceiver:
    """Takes whole messages from `socket`, of at most `max_parts` parts.

    ZeroMQ bounds neither the number of parts nor what they come to, and hands over nothing else before all are taken.
    """

    def __init__(self, socket: zmq.Socket[bytes], max_parts: int) -> None:
        self._socket, self._max_parts = socket, max_parts
        self.is_dropping = False  # the rest of a message with too many parts

    def receive(self, until: float = float("inf")) -> list[bytes] | None:
        """The next message, or None if none is waiting.

        Of one with too many parts one more than allowed is returned, for the count. The rest is dropped by the next
        call, and goes on being dropped by the calls after it where `time.monotonic()` has passed `until`.
        """
        if self.is_dropping and not self._drop(until):
            return None
        try:
            parts = [self._socket.recv(zmq.DONTWAIT)]
        except zmq.Again:
            return None
        while self._socket.getsockopt(zmq.RCVMORE):
            if len(parts) > self._max_parts:
                self.is_dropping = True
                break
            parts.append(self._socket.recv(zmq.DONTWAIT))
        return parts

    def _drop(self, until: float) -> bool:
        """Whether the rest is dropped now."""
        dropped = 0
        while self._socket.getsockopt(zmq.RCVMORE):
            if dropped % _PARTS_BETWEEN_CLOCKS == _PARTS_BETWEEN_CLOCKS - 1 and time.monotonic() > until:
                return False
            self._socket.recv(zmq.DONTWAIT)
            dropped += 1
        self.is_dropping = False
        return True


def identity_of(actor: int, incarnation: int) -> bytes:
    """The connection name of an actor process. A process of its own has a name of its own, so two that were given the
    same number do not take each other's messages; the learner decides between them."""
    return f"actor-{actor}-{incarnation}".encode()


def new_incarnation() -> int:
    """A number no other process of the run has, larger for a later one: nanoseconds since 1970."""
    return time.time_ns()


@dataclass(frozen=True)
class BindHost:
    """A `bind_host` resolved: the numeric `address` to bind, and the host that `advertised` names to the actors."""

    address: str
    advertised: str
    is_loopback: bool


def listening_host(bind_host: str, others_come: bool) -> str:
    """The host to listen on: as configured, or without a word loopback, or this node's name if actors come from other
    nodes."""
    return bind_host or (sockets.gethostname() if others_come else "127.0.0.1")


def resolve_bind_host(bind_host: str) -> BindHost:
    """Turns a configured host into addresses. Raises `UserError` if it is not known."""
    if bind_host in ("*", "0.0.0.0", "::"):
        return BindHost("0.0.0.0", sockets.gethostname(), is_loopback=False)
    try:
        # IPv4 first: loopback is in every case reachable by it, and cluster networks usually are.
        found = sorted(sockets.getaddrinfo(bind_host, None, type=sockets.SOCK_STREAM), key=lambda info: info[0])
    except (sockets.gaierror, UnicodeError) as error:
        raise UserError(f"bind_host {bind_host!r}: not a known host or address ({error})") from None
    address = str(found[0][4][0])
    parsed = ipaddress.ip_address(address.split("%")[0])
    bracketed = f"[{address}]" if parsed.version == 6 else address
    return BindHost(bracketed, bracketed, is_loopback=parsed.is_loopback)
