"""What the clients of one run write down, for the checker to compare with the store.

Nothing is judged or left out here: a record holds what was tried, what was promised and what was seen, socket by socket,
in the order in which it happened.
"""

from __future__ import annotations

import asyncio
import enum
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

Conversation = tuple[str, str]
"""The two user ids of a conversation, the smaller one first."""


def conversation(one: str, other: str) -> Conversation:
    return (one, other) if one <= other else (other, one)


class Message(NamedTuple):
    """A message as docs/protocol.md shows it."""

    sender: str
    recipient: str
    id: str
    seq: int
    at: int
    content: str

    @classmethod
    def parse(cls, value: dict[str, Any]) -> Self:
        return cls(value["from"], value["to"], value["id"], value["seq"], value["at"], value["content"])

    @property
    def conversation(self) -> Conversation:
        return conversation(self.sender, self.recipient)

    @property
    def key(self) -> MessageKey:
        return MessageKey(self.sender, self.recipient, self.id)


class MessageKey(NamedTuple):
    """What makes a message one and the same (P2); `id` is in lower case."""

    sender: str
    recipient: str
    id: str


class Sent(NamedTuple):
    """Something that a client tried to send at least once; `id` is None in the guide's form."""

    sender: str
    recipient: str
    id: str | None
    content: str


class Ack(NamedTuple):
    """A positive answer to a send; there's one for each retry that was answered."""

    key: MessageKey
    seq: int
    at: int


class How(enum.Enum):
    LIVE = "live"
    SYNC = "sync"
    HISTORY = "history"
    ROSTER = "roster"


class Sighting(NamedTuple):
    """A message that reached a socket. `batch` tells the pages of one socket apart; live events have one each."""

    message: Message
    how: How
    batch: int
    cursor: str | None


@dataclass
class SocketLog:
    """What one connection of one device saw, in order.

    `kept` is how many of the sightings the device holds for good, because its cursor is beyond them: the server must not
    bring those again. `reset` tells that the device was told to drop all it held before this connection.
    """

    reader: str
    device: str
    number: int
    seen: list[Sighting] = field(default_factory=list)
    cursors: list[str] = field(default_factory=list)
    kept: int = 0
    reset: bool = False
    batches: int = 0

    @property
    def name(self) -> str:
        return f"{self.device}#{self.number}"

    def note(self, messages: list[dict[str, Any]], how: How, cursor: str | None = None) -> None:
        self.batches += 1
        self.seen.extend(Sighting(Message.parse(value), how, self.batches, cursor) for value in messages)

    def keep(self) -> None:
        self.kept = len(self.seen)


@dataclass
class Record:
    """All of one run."""

    sent: list[Sent] = field(default_factory=list)
    acks: list[Ack] = field(default_factory=list)
    sockets: list[SocketLog] = field(default_factory=list)
    acked_to: dict[str, set[MessageKey]] = field(default_factory=dict)
    """Device -> what it was acked itself, which nobody delivers to it again."""
    complete: dict[str, str] = field(default_factory=dict)
    """Device -> reader, of those who asked for everything at the end and so must have it."""
    broken: list[str] = field(default_factory=list)
    """What a client found wrong by itself, such as a page that left out a message without a gap."""
    _opened: Counter[str] = field(default_factory=Counter, repr=False)
    """Sockets of each device."""
    _acknowledged: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    async def until_acknowledged(self, count: int) -> None:
        """Wait until there are so many answers in all."""
        while len(self.acks) < count:
            self._acknowledged.clear()
            await self._acknowledged.wait()

    async def acknowledged(self, more: int) -> None:
        """Wait until so many further ones have come."""
        await self.until_acknowledged(len(self.acks) + more)

    def open_socket(self, reader: str, device: str) -> SocketLog:
        self._opened[device] += 1
        log = SocketLog(reader, device, self._opened[device])
        self.sockets.append(log)
        return log

    def note_ack(self, device: str, ack: Ack) -> None:
        self.acks.append(ack)
        self._acknowledged.set()
        self.acked_to.setdefault(device, set()).add(ack.key)
