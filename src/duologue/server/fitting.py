"""Pages cut to what may wait for one socket.

A page is bounded in messages, and a message in characters; but the product of both can be more than a socket's queue
takes, and a client that gets such a page would be closed as a slow reader at every attempt. What doesn't fit is left out
from the old end, and announced as every other gap is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, TypeVar

import msgspec

from duologue.domain.model import Message, Roster, SyncPage
from duologue.server import events

_PERSON: Final = 256
_CONVERSATION: Final = 448
"""Bytes of JSON that one has beside the messages; a name of 32 characters has up to 128."""

Page = TypeVar("Page")

_MOST_BYTES_A_CHARACTER: Final = 6
"""Of JSON: a control character is written as \\u001f."""

_OVERHEAD: Final = 256
"""Bytes of JSON that a message has beside its content, generously."""


async def read_fitting(
    read: Callable[[int], Awaitable[Page]],
    messages: Callable[[Page], Iterable[Message]],
    besides: Callable[[Page], int],
    total: int,
    max_bytes: int,
) -> Page:
    """`read(total)`, with a smaller total until the page's messages, with what there is besides, have at most
    `max_bytes` of JSON, or total is 0."""
    while True:
        page = await read(total)
        room = max(0, max_bytes - besides(page))
        size = _size(messages(page), room)
        if size <= room or total == 0:
            return page
        # An eighth less than the average message suggests, so that a second attempt usually does.
        total = total * room // (size + size // 8)


def sync_messages(answer: tuple[SyncPage, bool]) -> Iterable[Message]:
    return (message for conversation in answer[0].conversations for message in conversation.messages)


def sync_besides(answer: tuple[SyncPage, bool]) -> int:
    return _CONVERSATION * len(answer[0].conversations)


def roster_besides(roster: Roster) -> int:
    return _PERSON * len(roster.people)


def roster_messages(roster: Roster) -> Iterable[Message]:
    return (message for _, messages in roster.people for message in messages)


def fit(messages: Sequence[Message], max_bytes: int, keep_oldest: bool) -> list[msgspec.Raw]:
    """As many as fit, encoded, ascending; from the old end or from the new one, and at least one."""
    kept: list[msgspec.Raw] = []
    size = 0
    for message in messages if keep_oldest else reversed(messages):
        encoded = events.stored(message)
        size += len(bytes(encoded))
        if kept and size > max_bytes:
            break
        kept.append(encoded)
    return kept if keep_oldest else kept[::-1]


def _size(messages: Iterable[Message], enough: int) -> int:
    """Bytes of JSON; an upper bound where that is below `enough`, which spares encoding everything twice."""
    messages = list(messages)
    bound = sum(len(message.content) * _MOST_BYTES_A_CHARACTER + _OVERHEAD for message in messages)
    return bound if bound <= enough else sum(len(bytes(events.stored(message))) for message in messages)
