"""An actor's connection to one learner: the socket, what ZeroMQ tells of it, and what a failed handshake means.

Used by `ActorChannel`, in the actor process. In: where the learner is, and the actor's keys. Out: message parts both
ways, and word of connections made and lost. It knows nothing of what the messages say.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator

import zmq
from zmq.utils.monitor import recv_monitor_message

from cluster_rl.errors import UserError
from cluster_rl.runs.rendezvous import Rendezvous
from cluster_rl.wire import messages
from cluster_rl.wire.keys import KeyPair, present_keys
from cluster_rl.wire.sockets import PartsReceiver, set_common_options

_RECONNECT_MS = 100
_RECONNECT_MAX_MS = 5_000
# A learner that ends in the middle of a handshake looks like one with the wrong key; only the third time is believed.
_HANDSHAKE_FAILURES = 3
# Of a handshake that the other end has broken off; one that was only not answered proves nothing, and ZeroMQ goes on.
_CLOSED_ERRNOS = (errno.EPIPE, errno.ECONNRESET)
_REOPEN_FIRST_SEC = 0.1
_REOPEN_DOUBLINGS = 7
_MONITORED = (
    zmq.Event.HANDSHAKE_SUCCEEDED
    | zmq.Event.HANDSHAKE_FAILED_AUTH
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
    | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
    | zmq.Event.DISCONNECTED
)


class LearnerConnection:
    """A DEALER socket to the learner that `rendezvous` names, and its monitor. Both are closed until `open`.

    `load_keys` is called at each opening where the learner uses CURVE. `handshake_failures` counts those since the last
    connection. `keys_fit` is the caller's to set once the learner has welcomed it: what fails then is not the keys.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        rendezvous: Rendezvous,
        identity: bytes,
        load_keys: Callable[[], KeyPair] | None,
    ) -> None:
        self.rendezvous = rendezvous
        self.keys_fit = False
        self.handshake_failures = 0
        self._context, self._identity, self._load_keys = context, identity, load_keys
        self._reopen_at: float | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._receiver: PartsReceiver | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._poller = zmq.Poller()

    @property
    def is_open(self) -> bool:
        """Whether there is a socket; ZeroMQ connects it when and as often as it can."""
        return self._socket is not None

    @property
    def reopening_is_due(self) -> bool:
        """Whether a handshake has failed, and the wait after it is over."""
        return self._reopen_at is not None and time.monotonic() >= self._reopen_at

    def open(self) -> None:
        """Makes the sockets, anew if there were any. Raises `UserError` for an endpoint that cannot be one."""
        self.close()
        self._reopen_at = None
        found = self.rendezvous
        keys = self._load_keys() if found.public_key is not None and self._load_keys is not None else None
        socket = self._context.socket(zmq.DEALER)
        set_common_options(socket, messages.MAX_PARAMS_BYTES)
        socket.setsockopt(zmq.IDENTITY, self._identity)
        socket.setsockopt(zmq.IPV6, int("[" in found.endpoint))
        # Without it messages would queue for a learner that is not there, and arrive twice after a Hello.
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MAX_MS)
        if found.public_key is not None and keys is not None:
            present_keys(socket, keys, found.public_key)
        self._socket = socket
        self._receiver = PartsReceiver(socket, messages.MAX_PARTS)
        self._monitor = socket.get_monitor_socket(_MONITORED)
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        try:
            socket.connect(found.endpoint)
        except zmq.ZMQError as error:
            raise UserError(f"rendezvous.json: endpoint {found.endpoint!r}: {error.strerror}") from None

    def close(self) -> None:
        """Closes the sockets; harmless if there are none."""
        if self._socket is None or self._monitor is None:
            return
        self._poller.unregister(self._socket)
        self._poller.unregister(self._monitor)
        self._socket.disable_monitor()
        # By hand: a traceback may hold a reference to it, and the context waits for every open socket.
        self._monitor.close(linger=0)
        self._socket.close()
        self._socket = self._receiver = self._monitor = None

    def wait(self, timeout_ms: int) -> tuple[bool, bool]:
        """Waits for the first of both: (whether a message is there, whether there are `changes`)."""
        ready = dict(self._poller.poll(timeout_ms))
        return self._socket in ready, self._monitor in ready

    def receive(self) -> list[bytes] | None:
        """The parts of one waiting message, or None."""
        return None if self._receiver is None else self._receiver.receive()

    def send(self, frames: list[bytes]) -> bool:
        """False if there is no connection or its queue is full; what matters is tried again."""
        if self._socket is None:
            return False
        try:
            self._socket.send_multipart(frames, zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def changes(self) -> Iterator[bool]:
        """What has happened since the last call, in order: True for a connection made, False for one lost.

        Raises `UserError` once it is certain that the keys do not fit.
        """
        while self._monitor is not None and self._monitor.poll(0):
            told = recv_monitor_message(self._monitor)
            event = zmq.Event(told["event"])
            if event == zmq.Event.HANDSHAKE_SUCCEEDED:
                self.handshake_failures, self._reopen_at = 0, None
                yield True
            elif event == zmq.Event.DISCONNECTED:
                yield False
            elif event != zmq.Event.HANDSHAKE_FAILED_NO_DETAIL or told["value"] in _CLOSED_ERRNOS:
                self._handshake_failed(event)

    def _handshake_failed(self, event: zmq.Event) -> None:
        self.handshake_failures += 1
        # libzmq gives up for good after most of these; a learner that ends in mid-handshake causes them too.
        wait_sec = _REOPEN_FIRST_SEC * 2 ** min(self.handshake_failures, _REOPEN_DOUBLINGS)
        self._reopen_at = time.monotonic() + wait_sec
        refused = event == zmq.Event.HANDSHAKE_FAILED_AUTH
        if self.keys_fit:
            return  # the learner is gone and its port belongs to somebody else
        if not refused and self.handshake_failures < _HANDSHAKE_FAILURES:
            return
        where = f"the learner at {self.rendezvous.endpoint}"
        if refused:
            raise UserError(f"{where} does not know this actor's key; use the keys in the run's keys/ folder")
        if self.rendezvous.public_key is None:
            raise UserError(f"{where} refuses plain connections, but rendezvous.json names no key; start it again")
        raise UserError(f"{where} cannot prove the public key in rendezvous.json; start learner and actors again")
