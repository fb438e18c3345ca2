"""What is brought over, in a form that both kinds of store can read and write, and how two sets of it are compared."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgspec

TABLES: Final = ("person", "session", "dialog", "message")
"""In the order in which they're written: people first, whom the others name.

    person   id, name, last seen or None, version
    session  token's hash in hexadecimal, person's id, created
    dialog   owner's id, peer's id, seq, rev, received, read, peer's received, peer's read, version
    message  the smaller id, the greater id, seq, rev, sender's id, message's id, at, sender's and recipient's version, content
"""

Row = tuple[Any, ...]
Cursor = list[Any] | None
"""Where a reader goes on; None for the start. Plain JSON, for it's kept with the progress."""


class Progress(msgspec.Struct, frozen=True):
    """How far a migration has come, kept in the target until all is done."""

    source: str
    """What tells this source from others: its kind and its epoch."""
    table: str
    cursor: Cursor


class Source(Protocol):
    """A store that is read. While it's open, no server can use it."""

    epoch: str
    name: str

    async def count(self, table: str) -> int: ...

    async def read(self, table: str, after: Cursor, limit: int) -> tuple[list[Row], Cursor]:
        """The next rows, in an order of the store's own, and where to go on; no rows at the end."""
        ...

    async def close(self) -> None: ...


class Target(Source, Protocol):
    """A store that is written. Until `finish` no server can use it."""

    async def progress(self) -> Progress | None:
        """How far an earlier attempt came; None if there was none."""
        ...

    async def write(self, table: str, rows: Sequence[Row], progress: Progress) -> None:
        """Both, in one transaction."""
        ...

    async def finish(self, epoch: str) -> None:
        """All is there: servers may use it."""
        ...


class Checksum:
    """Of rows in any order."""

    def __init__(self) -> None:
        self.rows = 0
        self._sum = 0

    def add(self, rows: Sequence[Row]) -> None:
        for row in rows:
            digest = hashlib.blake2b(_encode(row), digest_size=8).digest()
            self._sum = (self._sum + int.from_bytes(digest, "big")) % 2**64
        self.rows += len(rows)

    def __str__(self) -> str:
        return f"{self._sum:016x}"


_encode = msgspec.json.Encoder().encode
