"""The one-off writes that share the group commit with messages and receipts.

Each is plain data plus the future of whoever awaits it, so that an engine needs no callbacks: it reads the fields and,
where it refuses, sets `failure`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from duologue.domain.errors import Code
from duologue.domain.ports import Pending


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


Work = Pending | OneOff
