"""What the actions need from the world outside, with the guarantees that they rely on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from duologue.domain.errors import Code, Refusal
from duologue.domain.model import DirectoryPage, HistoryPage, Person, Roster, SyncPage, User


class PendingMessage(msgspec.Struct, eq=False, gc=False):
    """A message on its way through the committer, and afterwards what became of it.

    The store fills in the lower half before it hands the object to the sink. With `failure` set nothing was stored by
    this request. With `duplicate` set the same message had been stored before: seq, at and rev are those of the first
    time, and it must not be delivered again. `origin` belongs to the caller and is not looked at.

    `recipient_name` is filled in for the first message of a conversation only, so that the sender's other devices
    can be told who this is. (Not tracked by the garbage collector: nothing that it refers to refers back to it.)
    """

    sender: str
    recipient: str
    id: str
    content: str
    origin: object
    seq: int = 0
    rev: int = 0
    at: int = 0
    sender_version: int = 0
    recipient_version: int = 0
    recipient_name: str | None = None
    duplicate: bool = False
    failure: Code | None = None


class PendingReceipt(msgspec.Struct, eq=False, gc=False):
    """A move of `user`'s positions in the conversation with `peer`; positions beyond the last seq are ignored.

    The store fills in the lower half: the positions after the commit and, where one moved, the new version of each
    side (0 where nothing moved, and then there is nobody to tell).
    """

    user: str
    peer: str
    received: int
    read: int
    origin: object
    user_version: int = 0
    peer_version: int = 0
    failure: Code | None = None


Pending = PendingMessage | PendingReceipt
Sink = Callable[[Sequence[Pending]], None]


class Clock(Protocol):
    def wall_ms(self) -> int:
        """Milliseconds since the Unix epoch. May jump either way; never used for order."""
        ...

    def monotonic(self) -> float:
        """Seconds that only ever grow."""
        ...


class Store(Protocol):
    """The truth. Whatever a call has returned, or the sink was given, is on disk and survives a loss of power.

    Reads see one committed snapshot each. Reads and one-off writes raise `Refusal(UNAVAILABLE)` when the store can't
    answer in time and `Refusal(STORAGE_FULL)` when there's no space to write. All methods belong to the event loop's
    thread.
    """

    @property
    def epoch(self) -> str:
        """Changes when a backup was restored or another server took over, so that no cursor of the lost future is taken for a
        known one. It may change at any time."""
        ...

    def refusal(self) -> Refusal | None:
        """What `submit` would raise now, OVERLOADED or UNAVAILABLE; None if it would take a write. To be asked before any work
        is done for one, and not to be raised: a server that is overloaded makes more refusals than anything else."""
        ...

    def submit(self, pending: Pending) -> None:
        """Queue a write for the next group commit. Never blocks and never loses what it accepted: each accepted object
        comes back exactly once, in the order of submission, in some call of the sink on the event loop. Raises
        `Refusal(OVERLOADED)` when the queue is full.

        Messages of one conversation get their seqs in the order of submission. A message's commit moves the sender's
        own positions to it. Failures of a single message: UNKNOWN_USER, CONFLICT; of a whole batch: STORAGE_FULL,
        UNAVAILABLE.
        """
        ...

    async def create_guest(self, user: User, token_hash: bytes) -> None:
        """Store a new user with their first session. Raises `Refusal(BAD_REQUEST)` if the id is taken."""
        ...

    async def session_user(self, token_hash: bytes) -> User | None: ...

    async def sessions(self, token_hashes: Sequence[bytes]) -> frozenset[bytes]:
        """Those of the sessions that exist."""
        ...

    async def end_session(self, token_hash: bytes) -> None:
        """From now on nobody can be signed in by it. Of a session that doesn't exist it says nothing."""
        ...

    async def people(self, ids: Sequence[str]) -> list[Person]:
        """Those of the ids that exist, in no particular order."""
        ...

    def people_count(self) -> int:
        """How many there are now; at least as many as any read that has returned, or any message in the sink, shows."""
        ...

    async def directory(self, after: str, limit: int) -> DirectoryPage:
        """People with ids above `after` ('' for the start)."""
        ...

    async def peers(self, users: Sequence[str], limit: int) -> dict[str, list[str]]:
        """For each of the users the ids of those with whom they have a conversation (themselves too, if they wrote to
        themselves), of the `limit` conversations that changed last; in no particular order. Nobody for a user who doesn't
        exist."""
        ...

    async def versions(self, users: Sequence[str]) -> dict[str, int]:
        """The version of each of the users who exists."""
        ...

    async def sync(
        self, user: str, since: int | None, before: int | None, conversations: int, per_conversation: int, total: int
    ) -> SyncPage:
        """Conversations whose last change has `since < version` (and `< before`), most recent change first.

        At most `conversations` of them. Each carries its messages newer than `since`, the latest ones up to
        `per_conversation`, up to `total` in the page, but always at least its last new one; what is left out becomes
        the conversation's gap. The work is proportional to what is returned, not to the history. `since=None` reads
        all. A `since` above the user's version isn't known: then the page is that of `since=None` with
        `known=False`.
        """
        ...

    async def roster(
        self, user: str, everybody_up_to: int, acquaintances: int, per_conversation: int, total: int
    ) -> Roster:
        """Everybody, if there are at most `everybody_up_to` people; else those with whom the user has a conversation,
        of the `acquaintances` that changed last, and the user. The user is always among them."""
        ...

    async def history(self, user: str, peer: str, before: int | None, after: int | None, limit: int) -> HistoryPage:
        """A page of a conversation: below `before`, above `after`, or the latest. Raises `Refusal(UNKNOWN_CURSOR)` for
        a position outside 0..last+1 and `Refusal(UNKNOWN_USER)` if the peer doesn't exist."""
        ...

    async def seen(self, users: Sequence[str], at: int) -> None:
        """Write down, in one commit, when the last connections of these users ended. Only forward: of all times that were
        written, in whatever order, the latest stays. For a node that is gone may be spoken for later, with the time of
        its last sign of life, than it spoke for itself.

        So what a clock wrote that was ahead stays when it's put right, until the right time has passed it."""
        ...

    async def close(self) -> None:
        """Commit what was submitted, hand it to the sink, and release the files. Further submits are refused."""
        ...


class Renewal(NamedTuple):
    """Of whom a renewal has made it this node's business to tell the others."""

    anew: frozenset[str]
    """Its own users, registered again because others had begun to take over from it. Repeated until a renewal has returned."""

    taken_over: frozenset[str]
    """Users of dead nodes. Each of a node's is given to one other only, and to none when the answer to the commit was lost."""


class Registry(Protocol):
    """Who is connected to any live node, where there are several. A node is alive as long as it renews its lease.

    Every method raises `Refusal(UNAVAILABLE)` when the registry can't answer, and may then be called again.
    """

    @property
    def node(self) -> str:
        """This node's name, another at each start: hexadecimal digits."""
        ...

    async def nodes(self) -> frozenset[str]:
        """The names of the other nodes that are alive and have renewed their lease lately, within half of it. So one that was
        killed is soon none of them, long before its lease ends."""
        ...

    async def arrive(self, users: Sequence[str]) -> None:
        """These users have sockets on this node now. Refused, and nobody is written down, while the node isn't registered: before
        its first renewal, and from when others have begun to take over from it until the next one."""
        ...

    async def leave(self, users: Sequence[str]) -> None:
        """These users have none any more."""
        ...

    async def online(self, users: Sequence[str]) -> frozenset[str]:
        """Those of the users who have a socket on some live node."""
        ...

    async def renew(self, here: Sequence[str]) -> Renewal:
        """Renew this node's lease and take over from nodes whose lease has ended; `here` are all its users.

        Those of a dead node were last seen at its last sign of life (see `Store.seen`). That is written down in the commit
        which takes them over, so whoever takes over may die as well. It's one for each portion of them; those who are left are
        offline already, and whoever renews next goes on.
        """
        ...

    async def retire(self, grace: float) -> None:
        """This node leaves: its users count as connected for `grace` more seconds, in which they can come back elsewhere."""
        ...


class Bus(Protocol):
    """Carries events to the nodes where a user is connected. A hint, not the truth: a publication may be lost, repeated
    or late; the versions tell, and the store has what was missed. The publications of one node to one user arrive in
    their order, those that arrive."""

    def subscribe(self, user: str) -> None:
        """A socket of the user is here. Called once for each socket."""
        ...

    def unsubscribe(self, user: str) -> None:
        """A socket of the user is gone."""
        ...

    async def settled(self) -> None:
        """Return once the bus has taken every subscription made before the call, or it's known that the bus is out of reach.
        What is published at the same server of the bus from then on arrives, if anything does. Other servers may learn of a
        subscription a moment later, and what is published there until then is lost: whoever reads the store after this
        call, and relies on hearing of what changes, reads it once more a moment later."""
        ...

    def wanted(self, user: str, besides: int = 0) -> bool:
        """False only if certainly no more than `besides` sockets of the user are connected anywhere, so that encoding
        an event for the others would be in vain."""
        ...

    def publish(self, user: str, version: int, packet: bytes, exclude: str = "", announcement: bool = False) -> None:
        """Hand an encoded event to all sockets of the user.

        `version` is the user's version that it brings them to, or 0 for what isn't stored. `exclude` is the id of the
        one socket that already knows, or ''. With `announcement` set it is for those sockets only that aren't told of
        everybody anyway.
        """
        ...

    def notify(self, user: str, data: bytes) -> None:
        """Tell the other nodes where the user has a socket."""
        ...

    def subscribe_notices(self, receiver: TopicReceiver) -> None:
        """Hear of what other nodes tell of users who have a socket here. One receiver, given before the first user."""
        ...

    def subscribe_topic(self, pattern: str, receiver: TopicReceiver) -> None:
        """Hear of what any node, this one included, publishes to a topic: words parted by `.`; a last word `*` stands for any
        one. At most one receiver a pattern."""
        ...

    def unsubscribe_topic(self, pattern: str) -> None: ...

    def publish_topic(self, topic: str, data: bytes) -> None:
        """Tell all nodes that subscribed to the topic."""
        ...


Receiver = Callable[[str, int, bytes, str, bool], None]
"""Where a bus delivers what was published for the users that this node subscribed to: the arguments of `publish`."""

TopicReceiver = Callable[[str, bytes], None]
"""Gets the topic, or the user, and the data of what was published there."""
