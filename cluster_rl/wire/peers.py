"""What the learner's channel knows of its peers: the process behind each actor number, who is muted, whose turn it is.

Used by `LearnerChannel`, in the learner process. In: what peers sent. Out: whom to listen to, and how many sequences
each may send. Bounded whatever they do: a link for each actor number of the run, `_MAX_ACCOUNTS` connections that sent
what was not wanted.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

# An actor with credit that has sent no sequence for so long holds up nobody: its share goes to the others, and its
# number to another process that asks for it.
IDLE_SEC = 30.0
# An overdraft that was used up is whole again after so long.
OVERDRAFT_REGAINED_SEC = 300.0
# Of the allowance that comes back; an honest actor's Hellos, questions and figures together are fewer.
_REGAINED_PER_SEC = 10.0
_MUTE_SEC = 10.0
_MAX_ACCOUNTS = 1024


@dataclass
class ActorLink:
    """What the learner knows of one actor number: the process that holds it."""

    actor: int
    incarnation: int
    identity: bytes
    expected_seq: int
    durable_seq: int
    may_send_up_to: int
    granted_up_to: int  # of the room; what a process may send as it joins is not
    last_seen_sec: float  # time.monotonic(), as all times here
    busy_sec: float  # when its newest sequence came, or the credit that it had waited for
    connected: bool = True
    has_sent: bool = False  # a sequence, since it joined this learner
    is_unreachable: bool = False  # its connection was found gone, and it was not heard since
    ack_due: bool = field(default=False, repr=False)
    probed_sec: float = field(default=float("-inf"), repr=False)

    @property
    def unused_credit(self) -> int:
        """Sequences that it may send and has not."""
        return max(0, self.may_send_up_to - self.expected_seq)

    def is_idle(self) -> bool:
        """Whether it could have sent a sequence for `IDLE_SEC` and did not."""
        return self.unused_credit > 0 and time.monotonic() - self.busy_sec > IDLE_SEC

    def grant(self, may_send_up_to: int) -> None:
        """Lets it send the sequences below `may_send_up_to`. What was granted stays so: it may be on its way."""
        if not self.unused_credit:
            self.busy_sec = time.monotonic()
        if may_send_up_to > self.may_send_up_to:
            self.may_send_up_to = self.granted_up_to = may_send_up_to

    def excuse(self, absence_sec: float) -> None:
        """Leaves out of account a time in which nobody listened to it."""
        now = time.monotonic()
        self.busy_sec = min(now, self.busy_sec + absence_sec)
        self.last_seen_sec = min(now, self.last_seen_sec + absence_sec)


class Allowance:
    """What may be taken: at first the `whole`, and what was taken comes back with time."""

    def __init__(self, whole: float, regained_per_sec: float) -> None:
        self._whole, self._regained_per_sec = whole, regained_per_sec
        self._left, self._at_sec = whole, time.monotonic()

    def take(self, cost: float = 1.0) -> bool:
        """Takes `cost` if there is as much; whether there was."""
        now = time.monotonic()
        regained = (now - self._at_sec) * self._regained_per_sec
        self._left, self._at_sec = min(self._whole, self._left + regained), now
        if self._left < cost:
            return False
        self._left -= cost
        return True


def overdraft_of(sequences: int) -> Allowance:
    """What the processes of one actor number together may send beyond what they were granted."""
    return Allowance(sequences, sequences / OVERDRAFT_REGAINED_SEC)


def share_credit(room: int, unused: Sequence[int], most: int) -> list[int]:
    """Shares out the sequences that may come, `room`, among actors that have `unused` credit of it, first come first.

    Returns what each has unused afterwards: no less than before, no more than `most` unless it had, as equal as may be,
    and all together no more than `room` unless they had.
    """
    free = room - sum(unused)
    if free <= 0 or not unused:
        return list(unused)

    def cost(level: int) -> int:
        return sum(max(0, level - have) for have in unused)

    level = bisect.bisect_right(range(most + 1), free, key=cost) - 1
    left = free - cost(level)
    shares = []
    for have in unused:
        one_more = left > 0 and have <= level < most
        shares.append(max(have, level) + one_more)
        left -= one_more
    return shares


def new_credit(connected: Iterable[ActorLink], room: int, most: int) -> dict[int, int]:
    """The number below which each actor may now send, for those that get more of the `room`, see `share_credit`.

    Those who have sent, and go on doing so, share in it; who has waited longest is first.
    """
    senders = [link for link in connected if link.has_sent and not link.is_idle() and not link.is_unreachable]
    senders.sort(key=lambda link: link.busy_sec)
    before = [link.unused_credit for link in senders]
    shares = share_credit(room, before, most)
    return {
        link.actor: link.expected_seq + share
        for link, unused, share in zip(senders, before, shares, strict=True)
        if share > unused
    }


@dataclass
class _Account:
    """What one connection may still send of what is not wanted."""

    left: Allowance
    muted_until_sec: float = 0.0  # time.monotonic()


class Allowances:
    """Which connections are muted: those that sent more than `allowance` of what was not wanted, of late.

    A connection is known by its identity. Of too many the ones that were charged longest ago are forgiven.
    """

    def __init__(self, allowance: float) -> None:
        self._allowance = allowance
        self._accounts: dict[bytes, _Account] = {}  # by identity, the newest charge last

    def __len__(self) -> int:
        return len(self._accounts)

    def is_muted(self, identity: bytes) -> bool:
        """Whether what it sends should be dropped unread."""
        account = self._accounts.get(identity)
        return account is not None and time.monotonic() < account.muted_until_sec

    def charge(self, identity: bytes, cost: float) -> bool:
        """Counts something unwanted; whether its sender is muted from now on."""
        account = self._accounts.pop(identity, None) or _Account(self._whole())
        self._accounts[identity] = account
        if len(self._accounts) > _MAX_ACCOUNTS:
            del self._accounts[next(iter(self._accounts))]
        if account.left.take(cost):
            return False
        account.left, account.muted_until_sec = self._whole(), time.monotonic() + _MUTE_SEC
        return True

    def _whole(self) -> Allowance:
        return Allowance(self._allowance, _REGAINED_PER_SEC)
