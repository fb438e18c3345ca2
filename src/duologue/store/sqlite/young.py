"""What is committed in the journal and not yet in its tables: the part of the truth that is in memory.

The writer adds what it has committed and takes away what it has filed (`filing.py`); a reader needs both halves as of one
moment, the tables by a snapshot of the database and the rest from here. `lock` is held for that: by the writer while
something moves from here to there, by a reader while it begins its snapshot and copies what is a user's.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from duologue.store.ledger import Head, MessageRow, Pair, Touched

HeadState = tuple[int, int, int, int, int, int, int, int, int, int, int]
"""low, high, conversation, seq, rev, low received, low read, high received, high read, low version, high version."""


Known = tuple[HeadState, list[MessageRow]]
"""A conversation's state, and the messages of it that aren't in a table yet. Later ones may follow in the list, which isn't
copied, for it only grows: `rows_of` leaves them out. (A plain tuple: one is made for each conversation of each batch.)"""


class Entry:
    """A conversation of which something is not in its table yet."""

    __slots__ = ("changes", "identities", "of_high", "of_low", "people", "rows", "state")

    of_low: dict[str, Known]
    """All that is young of its low side's, by the peer's id; this one among them."""
    of_high: dict[str, Known]

    def __init__(self, state: HeadState, people: tuple[str, str]) -> None:
        self.state = state
        self.people = people
        """The ids of its low and its high side."""
        self.changes = 0
        """Batches that changed it."""
        self.rows: list[MessageRow] = []
        self.identities: list[int] = []
        """Of the rows, in their order."""


class Part(NamedTuple):
    """Of an entry what is filed at once: all of it, or its first messages with the state of then."""

    entry: Entry
    state: HeadState
    rows: Sequence[MessageRow]
    identities: Sequence[int]
    characters: int

    @property
    def whole(self) -> bool:
        return self.rows is self.entry.rows

    @classmethod
    def of(cls, entry: Entry, messages: int, characters: int) -> Part:
        """At most so many messages and characters, but at least one message, if there is any."""
        rows = entry.rows
        size = 0
        for place, row in enumerate(rows):
            if place and (place >= messages or size + len(row[7]) > characters):
                return cls(entry, state_at(entry.state, rows[place - 1]), rows[:place], entry.identities[:place], size)
            size += len(row[7])
        return cls(entry, entry.state, rows, entry.identities, size)


class Young:
    """One database's. `entries` and the counts belong to the writer's thread."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.entries: dict[Pair, Entry] = {}
        self.identities: set[int] = set()
        self.messages = 0
        self.characters = 0
        self.changes = 0
        """Of all entries: as many states are in the journal."""
        self._of_user: dict[str, dict[str, Known]] = {}
        """By the user's id, and then by the peer's."""

    def add(self, touched: Collection[Touched], states: Sequence[HeadState], identities: dict[Pair, list[int]]) -> None:
        """A batch was committed: its conversations, with their states and the identities of their new messages."""
        entries, of_user = self.entries, self._of_user
        characters = 0
        with self.lock:
            self.changes += len(touched)
            for (head, low, high), state in zip(touched, states, strict=True):
                pair = head.low, head.high
                entry = entries.get(pair)
                if entry is None:
                    entry = entries[pair] = Entry(state, (low, high))
                    entry.of_low, entry.of_high = of_user.setdefault(low, {}), of_user.setdefault(high, {})
                else:
                    entry.state = state
                added = head.added
                if added is not None:
                    entry.rows += added
                    entry.identities += identities[pair]
                    self.messages += len(added)
                    for row in added:
                        characters += len(row[7])
                entry.changes += 1
                entry.of_low[high] = entry.of_high[low] = (state, entry.rows)
        self.characters += characters
        self.identities.update(itertools.chain.from_iterable(identities.values()))

    def remove(self, filed: Collection[Part]) -> None:
        """They are in their tables. The caller holds the lock, since before they were."""
        for part in filed:
            self.messages -= len(part.rows)
            self.characters -= part.characters
            # One that a message that stays has as well is in the table now, and found there.
            self.identities.difference_update(part.identities)
            entry = part.entry
            low, high = entry.people
            if not part.whole:
                done = len(part.rows)
                entry.rows, entry.identities = entry.rows[done:], entry.identities[done:]
                entry.of_low[high] = entry.of_high[low] = (entry.state, entry.rows)
                continue
            self.changes -= entry.changes
            del self.entries[entry.state[0], entry.state[1]]
            del entry.of_low[high]
            entry.of_high.pop(low, None)  # with oneself it's the same one
            for user in entry.people:
                if not self._of_user.get(user, True):
                    del self._of_user[user]

    def of(self, user: str) -> Mapping[str, Known]:
        """The user's, by the peer's id. The caller holds the lock: for thousands of conversations a tenth of a millisecond."""
        return self._of_user.get(user, {}).copy()

    def version(self, user: str, key: int) -> int:
        """The user's last version in here, or 0. `key` is the user's own. The caller holds the lock, or is the writer."""
        return max([version_of(known, key) for known in self._of_user.get(user, {}).values()], default=0)


def rows_of(known: Known) -> Sequence[MessageRow]:
    """The messages up to the last one of the state."""
    state, rows = known
    return rows[: state[3] - rows[0][0] + 1] if rows else ()


def version_of(known: Known, me: int) -> int:
    """What the conversation's last change brought the user with this key to."""
    state = known[0]
    return state[9] if state[0] == me else state[10]


def state_of(head: Head) -> HeadState:
    return (
        head.low, head.high, head.conversation, head.seq, head.rev, head.low_received, head.low_read, head.high_received,
        head.high_read, head.low_version, head.high_version,
    )  # fmt: skip


def state_at(state: HeadState, row: MessageRow) -> HeadState:
    """A conversation as of one of its messages, given a later state. Positions may be later ones, but none beyond the message."""
    low, high, conversation, _, _, low_received, low_read, high_received, high_read, _, _ = state
    seq, rev, sender, _, _, mine, theirs, _ = row
    low_version, high_version = (mine, theirs) if sender == low else (theirs, mine)
    return (
        low, high, conversation, seq, rev, min(low_received, seq), min(low_read, seq), min(high_received, seq),
        min(high_read, seq), low_version, high_version,
    )  # fmt: skip


def sides_of(state: HeadState) -> Iterator[tuple[int, ...]]:
    """Its rows in `dialog`, one for each side."""
    low, high, conversation, seq, rev, low_received, low_read, high_received, high_read, low_version, high_version = (
        state
    )
    yield low, high, seq, rev, low_received, low_read, high_received, high_read, low_version, conversation
    if low != high:
        yield high, low, seq, rev, high_received, high_read, low_received, low_read, high_version, conversation


def head_of(state: HeadState) -> Head:
    low, high, conversation, seq, rev, low_received, low_read, high_received, high_read, low_version, high_version = (
        state
    )
    head = Head(low, high, seq, rev, low_received, low_read, high_received, high_read, conversation)
    head.low_version, head.high_version = low_version, high_version
    return head
