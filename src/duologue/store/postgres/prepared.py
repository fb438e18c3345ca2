"""Statements that are prepared when their connection is made, and never under a lock.

The server ends a silent session by its `idle_in_transaction_session_timeout`, whose clock starts when a command has been ended
by Sync. The driver prepares a statement the first time it runs, with Parse, Describe and Flush (PostgreSQL documentation,
"Frontend/Backend Protocol", "Extended Query"): until the next message comes no clock runs. A node that was cut off just then
would keep its locks until TCP gives up, and behind a proxy that holds the connection for ever. (What's left of that is a
command whose last bytes, Execute and Sync, were parted from the rest on their way.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement

from duologue.store.postgres.connection import Connection

Prepared: TypeAlias = "Mapping[str, PreparedStatement[asyncpg.Record]]"
"""By the statement's text. In quotes: only the stubs know the parameter."""


async def prepare(connection: Connection, statements: Iterable[str]) -> Prepared:
    """Good for as long as the connection, which is to be given up on an `asyncpg.InvalidCachedStatementError`: some table isn't
    what it was."""
    return {statement: await connection.prepare(statement) for statement in statements}
