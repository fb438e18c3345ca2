"""Connections to PostgreSQL: how they are set up, and what their errors mean."""

from __future__ import annotations

import asyncio
from typing import Any, Final, TypeAlias

import asyncpg

CONNECT_TIMEOUT: Final = 5.0
"""Seconds to connect to one server of the URL."""

STATEMENT_TIMEOUT: Final = 10.0
"""Seconds that any one statement may take, the wait for locks and for a synchronous standby included."""

ABANDONED_TIMEOUT: Final = 5.0
"""Seconds after which the server ends a transaction whose node has gone silent: a node that was stopped or cut off
in the middle of one must not keep others from the rows that it has locked."""

SILENCE_TIMEOUT: Final = 11
"""Seconds after which the server's side of TCP gives up a node of which nothing comes, not even that its bytes have arrived."""

_PROBE_AFTER: Final = 5
_PROBE_EVERY: Final = 2

_SETTINGS: Final = {
    "application_name": "duologue",
    "synchronous_commit": "on",
    # What waits for a lock then sees what its holder has written, also in a statement without a transaction around it.
    "default_transaction_isolation": "read committed",
    "idle_in_transaction_session_timeout": str(int(ABANDONED_TIMEOUT * 1000)),
    # Half of ours: the server gives up first, and says why.
    "lock_timeout": str(int(STATEMENT_TIMEOUT * 500)),
    "tcp_keepalives_idle": str(_PROBE_AFTER),
    "tcp_keepalives_interval": str(_PROBE_EVERY),
    "tcp_keepalives_count": str((SILENCE_TIMEOUT - _PROBE_AFTER) // _PROBE_EVERY),
    # There are no probes while an answer is on its way: that would take Linux a quarter of an hour to give up.
    "tcp_user_timeout": str(SILENCE_TIMEOUT * 1000),
    # The statements are small and always the same: compiling them would cost more than it saves.
    "jit": "off",
}

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
# In quotes: only the stubs know its parameter.

LOST: Final = (
    OSError,
    TimeoutError,
    asyncio.IncompleteReadError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the server has said something between two statements: that it ends the session
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.TooManyConnectionsError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TargetServerAttributeNotMatched,
    asyncpg.InvalidCachedStatementError,
    asyncpg.InvalidSQLStatementNameError,
)
"""The connection is gone, or leads to a server that can't serve: restarting, no longer the primary, full of sessions; or what was
prepared on it is older than a table, or has been taken away by a pooler.
Whether a commit under way has happened isn't known."""

RETRYABLE: Final = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.LockNotAvailableError)
"""The transaction was rolled back for the sake of another one; the same again may succeed."""

DAMAGED: Final = (asyncpg.DataCorruptedError, asyncpg.IndexCorruptedError, asyncpg.PostgresIOError)
"""The server has read something from its disk that can't be right, or couldn't read it. It goes on with all the rest (a failed
sync or write of its log ends it, and then the connection is lost), and so do we."""


def connect_options(loop: asyncio.AbstractEventLoop) -> dict[str, Any]:
    return {
        "loop": loop,
        "timeout": CONNECT_TIMEOUT,
        "command_timeout": STATEMENT_TIMEOUT,
        # Our statements are few and always the same, and it's best that none is prepared in the middle of a transaction
        # (prepared.py): so once for each connection, not every five minutes.
        "max_cached_statement_lifetime": 0,
        "server_settings": _SETTINGS,
        "target_session_attrs": "read-write",
    }


async def connect(url: str) -> Connection:
    """Raises one of `LOST`, or a `asyncpg.PostgresError` that a retry won't heal (a wrong password, no such database)."""
    return await asyncpg.connect(url, **connect_options(asyncio.get_running_loop()))
