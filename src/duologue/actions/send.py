"""A message and a receipt on their way to the committer: who may, how often, and is it well formed."""

from __future__ import annotations

from typing import Final

from duologue.domain.content import check_content, check_message_id
from duologue.domain.errors import Code, Refusal
from duologue.domain.identity import USER_ID_LENGTH, new_message_id
from duologue.domain.limits import ChatLimits
from duologue.domain.model import User
from duologue.domain.ports import Clock, PendingMessage, PendingReceipt, Store
from duologue.domain.rate import RestingBuckets, TokenBucket

MAX_POSITION: Final = 2**53
"""The largest integer that every JSON reader keeps exactly (RFC 8259, section 6)."""


class Sender:
    """What one user may send. Shared by all their sockets on this node, as is the rate."""

    __slots__ = ("_burst", "_limits", "_now", "_rate", "_submit", "bucket", "user")

    def __init__(self, user: User, bucket: TokenBucket, store: Store, clock: Clock, limits: ChatLimits) -> None:
        self.user = user
        self._submit = store.submit
        self._now = clock.monotonic
        self._limits = limits
        self.bucket = bucket
        self._rate = limits.message_rate
        self._burst = limits.message_burst

    def share(self, nodes: int) -> None:
        """Allow an equal share of the rate, for the user is connected to so many nodes."""
        self._rate = self._limits.message_rate / nodes
        self._burst = max(1.0, self._limits.message_burst / nodes)

    def message(self, to: str, content: str, id: str | None, origin: object) -> None:
        """Submit a message; what became of it reaches the store's sink with `origin`. Raises `Refusal`."""
        if len(to) != USER_ID_LENGTH:  # whether somebody has it is for the store to say
            raise Refusal(Code.UNKNOWN_USER)
        check_content(content, self._limits.max_content)
        if id is None:
            id = new_message_id()
        else:
            check_message_id(id)
        self._submit(PendingMessage(self.user.id, to, id, content, origin))

    def receipt(self, peer: str, received: int, read: int, origin: object) -> None:
        """Submit a move of the positions (0: leave that one). As `message`."""
        if len(peer) != USER_ID_LENGTH:
            raise Refusal(Code.UNKNOWN_USER)
        if not (0 <= received <= MAX_POSITION and 0 <= read <= MAX_POSITION):
            raise Refusal(Code.BAD_REQUEST, f"`seq` is not between 0 and {MAX_POSITION}")
        self._submit(PendingReceipt(self.user.id, peer, received, read, origin))

    def spend(self) -> Refusal | None:
        """Take one from the user's allowance, of which every event costs one; RATE_LIMITED if there's none. It isn't raised, for
        who floods is refused more often than anybody is served."""
        wait = self.bucket.take(self._now(), self._rate, self._burst)
        return Refusal(Code.RATE_LIMITED, retry_after=wait) if wait else None


class Senders:
    """Makes the senders. A user's allowance outlives their last socket: who comes back has what they left."""

    def __init__(self, store: Store, clock: Clock, limits: ChatLimits) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits
        self._resting = RestingBuckets(limits.message_rate, limits.message_burst)

    def __len__(self) -> int:
        """Allowances kept for people who are not here."""
        return len(self._resting)

    def make(self, user: User) -> Sender:
        """For a user's first socket."""
        bucket = self._resting.take_back(user.id, self._clock.monotonic())
        return Sender(user, bucket, self._store, self._clock, self._limits)

    def leave(self, sender: Sender) -> None:
        """The user's last socket is gone."""
        self._resting.leave(sender.user.id, sender.bucket, self._clock.monotonic())
