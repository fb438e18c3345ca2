"""What is committed in the journal and not yet in its tables: the part of the truth that is in memory.

The writer adds what it has committed and takes away what it has filed (`filing.py`); a reader needs both halves as of one
moment, the tables by a snapshot of the database and the rest from here. `lock` is held for that: by the writer while
something moves from here to there, by a reader while it begins its snapshot and copies what is a user's.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

import msgspec

from duologue.store.ledger import Head, MessageRow

PER_MESSAGE: Final = 2_500
"""Characters that a message counts for besides its own (`bulk_of`): to file one takes 10 to 35 microseconds, with 8,000
characters some 60 more. Counted for less, a few long messages would have many short ones filed after each batch."""


class HeadState(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, gc=False):
    """A conversation as of some commit, both sides."""

    low: int
    high: int
    number: int
    seq: int
    rev: int
    low_received: int
    low_read: int
    high_received: int
    high_read: int
    low_version: int
    high_version: int


Known = tuple[HeadState, Sequence[MessageRow]]
"""A conversation's state, and its last messages, which aren't in a table yet. Later ones may follow if there are many, for then
it's a list that isn't copied but only grows: `rows_of` leaves them out."""

KnownByUser = Mapping[str, Mapping[str, Known]]
"""Of each user who is asked about the young conversations, by the peer's id."""

NO_STATE: Final = HeadState(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
"""Of a conversation that isn't young."""

_KEY_BITS: Final = 32
"""Of a person's key, which are given out from 1 on; two of them make one integer, which the garbage collector has no business
with."""

FEW: Final = 64
"""Up to so many messages of a conversation are in a tuple, made anew by each batch, for the garbage collector lets go of a tuple
of structs after one look. What has more of them is a list."""

T = TypeVar("T")


class Conversation(Head):
    """All that the writer knows of one, in one object, for it comes to the processor's cache anew with each batch.

    What it is as a `Head` may be of a batch that isn't committed yet; the rest is of what is. Most that are known aren't
    young: they are heads in the ledger's cache, and hold no more than those need.
    """

    number: int = 0
    """What its keys in the tables begin with; 0 until it has one."""
    fresh: tuple[int, ...] = ()
    """The identities of `added`, in their order."""
    changes: int = 0
    """Batches that changed it while it was young; 0 if it isn't."""
    state: HeadState = NO_STATE
    """As of the last commit. This and the next two say something while it's young, and only then."""
    rows: Sequence[MessageRow] = ()
    """Its messages that are in no table yet."""
    identities: Sequence[int] = ()
    """Theirs, in their order."""

    def current(self) -> HeadState:
        """Its state, of the batch that is being entered."""
        return HeadState(
            self.low, self.high, self.number, self.seq, self.rev, self.low_received, self.low_read, self.high_received,
            self.high_read, self.low_version, self.high_version,
        )  # fmt: skip

    def reset(self) -> None:
        """To what is committed. It has to be young."""
        (
            _, _, self.number, self.seq, self.rev, self.low_received, self.low_read, self.high_received, self.high_read,
            self.low_version, self.high_version,
        ) = msgspec.structs.astuple(self.state)  # fmt: skip

    def clear(self) -> None:
        """All of it is in the tables: keep what a head needs."""
        self.changes, self.fresh = 0, ()
        self.low_id = self.high_id = ""
        self.state, self.rows, self.identities = NO_STATE, (), ()


class Part(NamedTuple):
    """Of a conversation what is filed at once: all of it, or its first messages with the state of then."""

    conversation: Conversation
    state: HeadState
    rows: Sequence[MessageRow]
    identities: Sequence[int]
    characters: int

    @property
    def whole(self) -> bool:
        return self.rows is self.conversation.rows

    @classmethod
    def of(cls, conversation: Conversation, room: int) -> Part:
        """At most so much in bulk, but at least one message, if there is any."""
        rows, identities = conversation.rows, conversation.identities
        if bulk_of(len(rows), 0) <= room:
            # Mostly it's all of them: measured in one pass.
            characters = sum([len(row.content) for row in rows])
            if bulk_of(len(rows), characters) <= room:
                return cls(conversation, conversation.state, rows, identities, characters)
        characters = 0
        for place, row in enumerate(rows):
            if place and bulk_of(place + 1, characters + len(row.content)) > room:
                state = state_at(conversation.state, rows[place - 1])
                return cls(conversation, state, rows[:place], identities[:place], characters)
            characters += len(row.content)
        return cls(conversation, conversation.state, rows, identities, characters)


class Young:
    """One database's. `conversations` and the counts belong to the writer's thread."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.conversations: dict[int, Conversation] = {}
        """By `_key`."""
        self.identities: set[int] = set()
        self.messages = 0
        self.characters = 0
        self.last_characters = 0
        """Of the last batch."""
        self.changes = 0
        """Of all conversations: as many states are in the journal."""
        self._of_user: dict[str, dict[str, Conversation]] = {}
        """By the user's id, and then by the peer's."""

    def add(self, touched: Sequence[Conversation], states: Sequence[HeadState]) -> None:
        """A batch was committed: its conversations, and their states."""
        characters = 0
        with self.lock:
            self.changes += len(touched)
            for conversation, state in zip(touched, states, strict=True):
                added = conversation.added
                if not conversation.changes:
                    self._enter(conversation)
                conversation.changes += 1
                conversation.state = state
                if added:
                    conversation.rows = _grown(conversation.rows, added)
                    conversation.identities = _grown(conversation.identities, conversation.fresh)
                    self.messages += len(added)
                    for row in added:
                        characters += len(row.content)
        self.characters += characters
        self.last_characters = characters
        self.identities.update(itertools.chain.from_iterable([each.fresh for each in touched]))

    def _enter(self, conversation: Conversation) -> None:
        self.conversations[_key(conversation.low, conversation.high)] = conversation
        low, high = conversation.low_id, conversation.high_id
        self._of_user.setdefault(low, {})[high] = conversation
        self._of_user.setdefault(high, {})[low] = conversation

    def remove(self, filed: Sequence[Part]) -> None:
        """They are in their tables. The caller holds the lock, since before they were."""
        for part in filed:
            self.messages -= len(part.rows)
            self.characters -= part.characters
            # One that a message that stays has as well is in the table now, and found there.
            self.identities.difference_update(part.identities)
            conversation = part.conversation
            if part.whole:
                self.changes -= conversation.changes
                self._leave(conversation)
                conversation.clear()
            else:
                done = len(part.rows)
                conversation.rows = conversation.rows[done:]  # another list, for readers may have this one
                conversation.identities = conversation.identities[done:]

    def _leave(self, conversation: Conversation) -> None:
        del self.conversations[_key(conversation.low, conversation.high)]
        low, high = conversation.low_id, conversation.high_id
        for user, peer in {(low, high), (high, low)}:
            of_user = self._of_user[user]
            del of_user[peer]
            if not of_user:
                del self._of_user[user]

    def of(self, user: str) -> Mapping[str, Known]:
        """The user's, by the peer's id. The caller holds the lock: for thousands of conversations half a millisecond."""
        return {peer: (each.state, each.rows) for peer, each in self._of_user.get(user, {}).items()}

    def find(self, low: int, high: int) -> Conversation | None:
        """The conversation between these two, if it's in here. The caller is the writer."""
        return self.conversations.get(_key(low, high))

    def version(self, user: str, key: int) -> int:
        """The user's last version in here, or 0. `key` is the user's own. The caller is the writer."""
        return max([version_in(each.state, key) for each in self._of_user.get(user, {}).values()], default=0)


def bulk_of(messages: int, characters: int) -> int:
    """How much it is to write some messages, in characters: one measure of long ones and short ones, for with a bound of each a
    portion was full after a few long ones, while many sweeps of short ones gathered."""
    return messages * PER_MESSAGE + characters


def _key(low: int, high: int) -> int:
    return low << _KEY_BITS | high


def rows_of(known: Known) -> Sequence[MessageRow]:
    """The messages up to the last one of the state."""
    state, rows = known
    return rows[: state.seq - rows[0].seq + 1] if rows else ()


def _grown(items: Sequence[T], added: Sequence[T]) -> Sequence[T]:
    """All of them; `items` is not to be used any more."""
    if type(items) is list:
        items += added
        return items
    return (*items, *added) if len(items) + len(added) <= FEW else [*items, *added]


def version_of(known: Known, me: int) -> int:
    """What the conversation's last change brought the user with this key to."""
    return version_in(known[0], me)


def version_in(state: HeadState, me: int) -> int:
    return state.low_version if state.low == me else state.high_version


def state_at(state: HeadState, row: MessageRow) -> HeadState:
    """A conversation as of one of its messages, given a later state. Positions may be later ones, but none beyond the message."""
    seq, low_version, high_version = row.seq, row.sender_version, row.recipient_version
    if row.sender != state.low:
        low_version, high_version = high_version, low_version
    return HeadState(
        state.low, state.high, state.number, seq, row.rev, min(state.low_received, seq), min(state.low_read, seq),
        min(state.high_received, seq), min(state.high_read, seq), low_version, high_version,
    )  # fmt: skip


def sides_of(state: HeadState) -> Iterator[tuple[int, ...]]:
    """Its rows in `dialog`, one for each side."""
    low, high, number, seq, rev, *positions, low_version, high_version = msgspec.structs.astuple(state)
    mine, theirs = positions[:2], positions[2:]
    yield low, high, seq, rev, *mine, *theirs, low_version, number
    if low != high:
        yield high, low, seq, rev, *theirs, *mine, high_version, number
