"""What Duologue talks about: people, messages, positions and the pages they are read in.

All values are immutable. Times are milliseconds since the Unix epoch, UTC. A `seq` counts the messages of one
conversation from 1 without gaps; a `rev` counts its changes; a `version` counts, from 1 and without gaps, the changes
that one *user* can see in all conversations together. A user's version is what a sync cursor holds.
"""

from __future__ import annotations

import msgspec


class User(msgspec.Struct, frozen=True, gc=False):
    """A person. Two people may bear one name; the id (16 hex digits) tells them apart."""

    id: str
    name: str


class Message(msgspec.Struct, frozen=True, gc=False):
    """A stored message. `id` is the sender's own UUID, unique per sender and conversation."""

    sender: str
    recipient: str
    id: str
    seq: int
    rev: int
    at: int
    content: str


class Positions(msgspec.Struct, frozen=True, gc=False):
    """How far one side has come in a conversation: `read` <= `received` <= last seq. Both only ever grow."""

    received: int
    read: int


class Gap(msgspec.Struct, frozen=True, gc=False):
    """Messages with `after < seq < before` exist, are new to the reader, and were left out of a page."""

    after: int
    before: int


class Conversation(msgspec.Struct, frozen=True):
    """A conversation as one side sees it, with the messages that are new to that side (ascending by seq)."""

    peer: User
    seq: int
    rev: int
    mine: Positions
    theirs: Positions
    messages: tuple[Message, ...]
    gap: Gap | None

    @property
    def unread(self) -> int:
        """Sending moves one's own read position to the message sent, so the difference is exact."""
        return self.seq - self.mine.read


class SyncPage(msgspec.Struct, frozen=True):
    """One page of what changed for a user, the most recently changed conversation first.

    `version` is the user's version in the snapshot that was read. With `next` not None there are older changes: ask
    again with `before=next`. `known` is False when `since` can't be a cursor that this store gave this user.
    """

    version: int
    known: bool
    conversations: tuple[Conversation, ...]
    next: int | None


class Roster(msgspec.Struct, frozen=True):
    """What a client of the guide's form gets at connect: people, each with the latest messages exchanged with them."""

    version: int
    people: tuple[tuple[User, tuple[Message, ...]], ...]


class HistoryPage(msgspec.Struct, frozen=True):
    """Messages ascending by seq; `more` tells whether there are further ones in the direction asked for."""

    messages: tuple[Message, ...]
    more: bool


class Person(msgspec.Struct, frozen=True, gc=False):
    """A user as the directory lists them; `last_seen` is None for somebody who never left."""

    user: User
    last_seen: int | None


class DirectoryPage(msgspec.Struct, frozen=True):
    """People in the order of their ids; `next` is the id to continue after, or None at the end."""

    people: tuple[Person, ...]
    next: str | None
