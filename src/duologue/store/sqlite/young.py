"""What is committed in the journal and not yet in its tables: the part of the truth that is in memory.

The writer adds what it has committed and takes away what it has filed (`filing.py`); a reader needs both halves as of one
moment, the tables by a snapshot of the database and the rest from here. `lock` is held for that: by the writer while
something moves from here to there, by a reader while it begins its snapshot and copies what is a user's.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Collection, Sequence
from typing import NamedTuple

from duologue.store.ledger import Head, MessageRow, Pair, Touched

HeadState = tuple[int, int, int, int, int, int, int, int, int, int, int]
"""low, high, conversation, seq, rev, low received, low read, high received, high read, low version, high version."""


class Known(NamedTuple):
    """A conversation's state, and its last messages: those that aren't in a table yet."""

    state: HeadState
    rows: Sequence[MessageRow]


class Entry:
    """A conversation of which something is not in its table yet."""

    __slots__ = ("identities", "people", "rows", "state")

    def __init__(self, state: HeadState, people: tuple[str, ...]) -> None:
        self.state = state
        self.people = people
        self.rows: list[MessageRow] = []
        self.identities: list[int] = []
        """Of the rows, in their order."""


class Young:
    """One database's. `entries` and the counts belong to the writer's thread."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.entries: dict[Pair, Entry] = {}
        self.identities: set[int] = set()
        self.messages = 0
        self.characters = 0
        self._of_user: dict[str, set[Pair]] = {}

    def add(self, touched: Collection[Touched], states: Sequence[HeadState], identities: dict[Pair, list[int]]) -> None:
        """A batch was committed: its conversations, with their states and the identities of their new messages."""
        entries = self.entries
        characters = 0
        with self.lock:
            for (head, one, other), state in zip(touched, states, strict=True):
                pair = head.low, head.high
                entry = entries.get(pair)
                if entry is None:
                    entry = entries[pair] = Entry(state, (one, other) if one != other else (one,))
                    for user in entry.people:
                        self._of_user.setdefault(user, set()).add(pair)
                else:
                    entry.state = state
                added = head.added
                if added is not None:
                    entry.rows += added
                    entry.identities += identities[pair]
                    self.messages += len(added)
                    for row in added:
                        characters += len(row[7])
        self.characters += characters
        self.identities.update(itertools.chain.from_iterable(identities.values()))

    def remove(self, filed: Collection[Entry]) -> None:
        """They are in their tables. The caller holds the lock, since before they were."""
        for entry in filed:
            pair = entry.state[0], entry.state[1]
            del self.entries[pair]
            for user in entry.people:
                left = self._of_user[user]
                left.remove(pair)
                if not left:
                    del self._of_user[user]
            self.identities.difference_update(entry.identities)
            self.messages -= len(entry.rows)
            self.characters -= sum([len(row[7]) for row in entry.rows])

    def of(self, user: str) -> list[Known]:
        """The user's, copied. The caller holds the lock."""
        found = [self.entries[pair] for pair in self._of_user.get(user, ())]
        return [Known(entry.state, entry.rows.copy()) for entry in found]

    def version(self, user: str, key: int) -> int:
        """The user's last version in here, or 0. `key` is the user's own. The caller holds the lock, or is the writer."""
        states = [self.entries[pair].state for pair in self._of_user.get(user, ())]
        return max((state[9] if state[0] == key else state[10] for state in states), default=0)


def state_of(head: Head) -> HeadState:
    return (
        head.low, head.high, head.conversation, head.seq, head.rev, head.low_received, head.low_read, head.high_received,
        head.high_read, head.low_version, head.high_version,
    )  # fmt: skip


def head_of(state: HeadState) -> Head:
    low, high, conversation, seq, rev, low_received, low_read, high_received, high_read, low_version, high_version = (
        state
    )
    head = Head(low, high, seq, rev, low_received, low_read, high_received, high_read, conversation)
    head.low_version, head.high_version = low_version, high_version
    return head
