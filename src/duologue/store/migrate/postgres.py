"""A PostgreSQL database as the source or the target of a migration."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import asyncpg
import msgspec

from duologue.domain.errors import StoreUnusable
from duologue.store.migrate.rows import Cursor, Progress, Row
from duologue.store.postgres import schema
from duologue.store.postgres.connection import LOST, Connection, connect
from duologue.store.postgres.keys import conversation_of, user_id, user_key

COPY_TIMEOUT: Final = 300.0
"""Seconds for one batch, its sync to disk and to a standby included."""

_READ: Final = {
    "person": "SELECT id, name, last_seen, version FROM duologue.person WHERE id > $1 ORDER BY id LIMIT $2",
    "session": """
        SELECT token_hash, person, created FROM duologue.session WHERE token_hash > $1 ORDER BY token_hash LIMIT $2
    """,
    "dialog": """
        SELECT owner, peer, seq, rev, received, read, peer_received, peer_read, version
        FROM duologue.dialog WHERE (owner, peer) > ($1, $2) ORDER BY owner, peer LIMIT $3
    """,
    "message": """
        SELECT conversation, seq, rev, sender, id, at, sender_version, recipient_version, content
        FROM duologue.message WHERE (conversation, seq) > ($1, $2) ORDER BY conversation, seq LIMIT $3
    """,
}
_COLUMNS: Final = {
    "person": ("id", "name", "last_seen", "version"),
    "session": ("token_hash", "person", "created"),
    "dialog": (
        "owner", "peer", "peer_name", "seq", "rev", "received", "read", "peer_received", "peer_read", "version",
    ),
    "message": (
        "conversation", "seq", "rev", "sender", "id", "at", "sender_version", "recipient_version", "content",
    ),
}  # fmt: skip

_BEFORE_ALL: Final = -(2**63)
"""Below every key but that of the id of sixteen zeroes, which no generator of ids has drawn."""

_START: Final[dict[str, list[Any]]] = {
    "person": [_BEFORE_ALL],
    "session": [""],
    "dialog": [_BEFORE_ALL, _BEFORE_ALL],
    "message": ["0" * 32, 0],
}


class PostgresSide:
    """Holds the lock that keeps servers out. Made by `source` or `target`."""

    def __init__(self, connection: Connection, epoch: str, name: str) -> None:
        self._connection = connection
        self.epoch = epoch
        self.name = name

    @classmethod
    async def source(cls, url: str, name: str) -> PostgresSide:
        """Raises `StoreUnusable`."""
        connection = await _connect(url, name)
        try:
            epoch = await schema.check_for_migration(connection)
            if epoch is None:
                raise StoreUnusable(f"there is no Duologue in {name}")
            if await schema.read(connection, schema.MIGRATION) is not None:
                raise StoreUnusable(f"a migration into {name} isn't finished")
        except BaseException:
            connection.terminate()
            raise
        return cls(connection, epoch, name)

    @classmethod
    async def target(cls, url: str, name: str) -> PostgresSide:
        """Raises `StoreUnusable` if there's anything in it but the beginning of a migration."""
        connection = await _connect(url, name)
        try:
            epoch = await schema.check_for_migration(connection)
            if epoch is None:
                await schema.make(connection)
                epoch = (await schema.identify(connection)).epoch
            elif await schema.read(connection, schema.MIGRATION) is None and await connection.fetchval(
                "SELECT EXISTS (SELECT FROM duologue.person)"
            ):
                raise StoreUnusable(f"{name} isn't empty")
        except BaseException:
            connection.terminate()
            raise
        return cls(connection, epoch, name)

    async def count(self, table: str) -> int:
        return int(await self._connection.fetchval(f"SELECT count(*) FROM duologue.{table}", timeout=COPY_TIMEOUT))

    async def read(self, table: str, after: Cursor, limit: int) -> tuple[list[Row], Cursor]:
        start = list(_START[table] if after is None else after)
        if table == "session":
            start = [bytes.fromhex(start[0])]
        found = await self._connection.fetch(_READ[table], *start, limit, timeout=COPY_TIMEOUT)
        if not found:
            return [], after
        last = found[-1]
        cursors = {
            "person": lambda: [last[0]],
            "session": lambda: [last[0].hex()],
            "dialog": lambda: [last[0], last[1]],
            "message": lambda: [last[0].hex, last[1]],
        }
        return [_common(table, row) for row in found], cursors[table]()

    async def progress(self) -> Progress | None:
        text = await schema.read(self._connection, schema.MIGRATION)
        return None if text is None else msgspec.json.decode(text, type=Progress)

    async def write(self, table: str, rows: Sequence[Row], progress: Progress) -> None:
        records: list[Row]
        if table == "dialog":
            names = await self._names({row[1] for row in rows})
            records = [(_key(row[0]), _key(row[1]), names[row[1]], *row[2:]) for row in rows]
        else:
            records = [_own(table, row) for row in rows]
        # The driver's own time-out isn't looked at while the server takes no bytes.
        async with asyncio.timeout(COPY_TIMEOUT), self._connection.transaction():
            await self._connection.copy_records_to_table(
                table, schema_name="duologue", columns=_COLUMNS[table], records=records, timeout=COPY_TIMEOUT
            )
            await schema.write(self._connection, schema.MIGRATION, msgspec.json.encode(progress).decode())

    async def finish(self, epoch: str) -> None:
        async with self._connection.transaction():
            await schema.write(self._connection, "epoch", epoch)
            await self._connection.execute("DELETE FROM duologue.meta WHERE name = $1", schema.MIGRATION)
        await self._connection.execute("ANALYZE", timeout=COPY_TIMEOUT)

    async def close(self) -> None:
        try:
            await schema.end_migration(self._connection)
        except (*LOST, asyncpg.PostgresError):
            pass  # the server ends it with the connection
        finally:
            self._connection.terminate()

    async def _names(self, ids: set[str]) -> dict[str, str]:
        rows = await self._connection.fetch(
            "SELECT id, name FROM duologue.person WHERE id = ANY($1::bigint[])", [_key(id) for id in ids]
        )
        return {user_id(key): name for key, name in rows}


async def _connect(url: str, name: str) -> Connection:
    try:
        return await connect(url)
    except (*LOST, asyncpg.PostgresError, ValueError) as error:
        raise StoreUnusable(f"{name} can't be used: {' '.join(str(error).split())}") from error


def _common(table: str, row: Any) -> Row:
    """As both kinds of store have it."""
    if table == "person":
        return (user_id(row[0]), *row[1:])
    if table == "session":
        return (row[0].hex(), user_id(row[1]), row[2])
    if table == "dialog":
        return (user_id(row[0]), user_id(row[1]), *row[2:])
    conversation, seq, rev, sender, *rest = row
    return (conversation.hex[:16], conversation.hex[16:], seq, rev, user_id(sender), *rest)


def _own(table: str, row: Row) -> Row:
    """As PostgreSQL's tables have it."""
    if table == "person":
        return (_key(row[0]), *row[1:])
    if table == "session":
        return (bytes.fromhex(row[0]), _key(row[1]), row[2])
    one, other, seq, rev, sender, *rest = row
    return (conversation_of(_key(one), _key(other)), seq, rev, _key(sender), *rest)


def _key(id: str) -> int:
    key = user_key(id)
    if key is None:
        raise StoreUnusable(f"{id!r} can't be a user's id")
    return key
