"""What a batch is made of: messages, receipts, and the one-off writes that share their group commit.

A one-off is plain data plus the future of whoever awaits it, so that an engine needs no callbacks: it reads the fields and,
where it refuses, sets `failure`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from duologue.domain.errors import Code
from duologue.domain.ports import Pending, PendingMessage


class OneOff:
    """A write that somebody awaits. `future` belongs to the event loop and is never touched by the writer thread."""

    __slots__ = ("failure", "future")

    def __init__(self, future: asyncio.Future[None]) -> None:
        self.future = future
        self.failure: Code | None = None


class NewGuest(OneOff):
    """A user with their first session. Fails with BAD_REQUEST if the id or the token's hash is taken."""

    __slots__ = ("created", "id", "name", "token_hash")

    def __init__(self, future: asyncio.Future[None], id: str, name: str, token_hash: bytes, created: int) -> None:
        super().__init__(future)
        self.id = id
        self.name = name
        self.token_hash = token_hash
        self.created = created


class Departure(OneOff):
    """The moment at which the last connections of some users ended. Of unknown users it says nothing."""

    __slots__ = ("at", "users")

    def __init__(self, future: asyncio.Future[None], users: Sequence[str], at: int) -> None:
        super().__init__(future)
        self.users = users
        self.at = at


class SessionEnd(OneOff):
    """A session that nobody is to be signed in by any more."""

    __slots__ = ("token_hash",)

    def __init__(self, future: asyncio.Future[None], token_hash: bytes) -> None:
        super().__init__(future)
        self.token_hash = token_hash


Work = Pending | OneOff


def fail(batch: Sequence[Work], code: Code) -> None:
    """Nothing of the batch was stored, for this reason."""
    for work in batch:
        work.failure = code


def encodable(batch: Sequence[Pending]) -> Sequence[Pending]:
    """The batch without what can't be stored as UTF-8: lone surrogates are refused long before, but one that slipped
    through may cost its own message only, not the store."""
    try:
        for work in batch:
            if isinstance(work, PendingMessage) and not (work.content.isascii() and work.id.isascii()):
                work.content.encode(), work.id.encode()
    except UnicodeEncodeError:
        return [work for work in batch if not _refuse_unencodable(work)]
    return batch


def _refuse_unencodable(work: Pending) -> bool:
    if not isinstance(work, PendingMessage):
        return False
    try:
        (work.content + work.id).encode()
    except UnicodeEncodeError:
        work.failure = Code.INVALID_CONTENT
        return True
    return False
