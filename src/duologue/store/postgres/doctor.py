"""Whether a PostgreSQL database can keep the promises that are made on it. Only looks."""

from __future__ import annotations

import time
from typing import Final

import asyncpg

from duologue.domain.findings import Finding, Level
from duologue.store.postgres import schema
from duologue.store.postgres.connection import ABANDONED_TIMEOUT, LOST, Connection, connect
from duologue.store.postgres.store import READERS

SKEW: Final = 2.0
"""Seconds by which this machine's clock may differ from the server's."""

CONNECTIONS_PER_NODE: Final = READERS + 3
"""The readers, the writer, the one that listens, and one to start with."""

_SETTINGS: Final = """
    SELECT name, setting FROM pg_settings WHERE name IN (
        'fsync', 'full_page_writes', 'data_checksums', 'synchronous_commit', 'synchronous_standby_names', 'max_connections',
        'idle_in_transaction_session_timeout', 'transaction_read_only'
    )
"""


async def examine(url: str) -> list[Finding]:
    try:
        connection = await connect(url)
    except (*LOST, asyncpg.PostgresError, ValueError) as error:
        return [
            Finding(
                Level.PROBLEM, "database", f"can't be reached: {' '.join(str(error).split()) or type(error).__name__}"
            )
        ]
    try:
        settings = {row[0]: row[1] for row in await connection.fetch(_SETTINGS)}
        return [
            await _version(connection),
            await _schema(connection),
            *_durability(settings),
            await _standby(connection, settings),
            _session(settings),
            await _room(connection, settings),
            await _clock(connection),
        ]
    finally:
        connection.terminate()


async def _version(connection: Connection) -> Finding:
    words = f"PostgreSQL {str(await connection.fetchval('SHOW server_version')).split(' ')[0]}"
    if connection.get_server_version().major * 10_000 < schema.OLDEST_SERVER:
        return Finding(Level.PROBLEM, "database", f"{words}: 15 or newer is needed")
    return Finding(Level.OK, "database", words)


async def _schema(connection: Connection) -> Finding:
    if await connection.fetchval("SELECT to_regclass('duologue.meta')") is None:
        allowed = await connection.fetchval("SELECT has_database_privilege(current_database(), 'CREATE')")
        if not allowed:
            return Finding(Level.PROBLEM, "schema", "this user may not make it: GRANT CREATE ON DATABASE to them")
        return Finding(Level.OK, "schema", "none yet: the first start makes it")
    if await schema.read(connection, schema.MIGRATION) is not None:
        return Finding(
            Level.PROBLEM, "schema", "a migration into it isn't finished: run the same `duologue migrate` again"
        )
    version, oldest = await schema.read(connection, "schema_version"), await schema.read(connection, "oldest_reader")
    if int(str(oldest)) > schema.VERSION:
        return Finding(
            Level.PROBLEM, "schema", f"version {version}, too new for this Duologue ({schema.VERSION}): update it"
        )
    return Finding(Level.OK, "schema", f"version {version}")


def _durability(settings: dict[str, str]) -> list[Finding]:
    found = []
    for name in ("fsync", "full_page_writes"):
        if settings[name] != "on":
            words = f"{name} is {settings[name]}: a crash of the machine loses or damages what was acknowledged; set it to on"
            found.append(Finding(Level.PROBLEM, "durability", words))
    if settings["synchronous_commit"] == "off":
        found.append(
            Finding(Level.PROBLEM, "durability", "synchronous_commit is off in our sessions: is a pooler in between?")
        )
    if settings["data_checksums"] != "on":
        words = (
            "no data checksums: a disk that returns wrong bytes isn't noticed (pg_checksums --enable, server stopped)"
        )
        found.append(Finding(Level.WARNING, "durability", words))
    return found or [Finding(Level.OK, "durability", "fsync, full_page_writes and data checksums are on")]


async def _standby(connection: Connection, settings: dict[str, str]) -> Finding:
    if settings["transaction_read_only"] == "on":
        return Finding(
            Level.PROBLEM, "failover", "this server only reads: it's a standby; name the primary, or all of them"
        )
    names = settings["synchronous_standby_names"]
    states = [state for (state,) in await connection.fetch("SELECT sync_state FROM pg_stat_replication")]
    synchronous = sum(state in ("sync", "quorum") for state in states)
    if not names:
        also = f"; {len(states)} asynchronous standby" if states else ""
        words = "no synchronous standby: if the primary is lost, so is what was acknowledged last (synchronous_standby_names)"
        return Finding(Level.WARNING, "failover", words + also)
    if states and all(state is None for state in states):
        user = await connection.fetchval("SELECT quote_ident(current_user)")
        words = f"this database user can't see whether a synchronous standby is connected: GRANT pg_monitor TO {user}"
        return Finding(Level.WARNING, "failover", words)
    if not synchronous:
        words = f"synchronous_standby_names is {names!r} and no such standby is connected: nothing can be acknowledged"
        return Finding(Level.PROBLEM, "failover", words)
    if settings["synchronous_commit"] in ("local", "off"):
        words = f"synchronous_commit is {settings['synchronous_commit']}: commits don't wait for the standby"
        return Finding(Level.PROBLEM, "failover", words)
    return Finding(
        Level.OK, "failover", f"{synchronous} synchronous standby: a failover loses nothing that was acknowledged"
    )


def _session(settings: dict[str, str]) -> Finding:
    timeout = int(settings["idle_in_transaction_session_timeout"])
    if timeout != int(ABANDONED_TIMEOUT * 1000):
        words = "settings of our sessions don't reach the server: a pooler in between has to pool sessions, not transactions"
        return Finding(Level.PROBLEM, "sessions", words)
    return Finding(Level.OK, "sessions", f"a node that stands still is put out after {timeout / 1000:g} s")


async def _room(connection: Connection, settings: dict[str, str]) -> Finding:
    # What kind they are is told to pg_monitor only. Of the server's own processes some have a database, none a user as well.
    used = await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datid IS NOT NULL AND usesysid IS NOT NULL"
    )
    most = int(settings["max_connections"])
    nodes = (most - used) // CONNECTIONS_PER_NODE
    words = f"{used} of {most} in use: room for {nodes} more nodes with {CONNECTIONS_PER_NODE} each"
    return Finding(
        Level.OK if nodes else Level.WARNING, "connections", words + ("" if nodes else "; raise max_connections")
    )


async def _clock(connection: Connection) -> Finding:
    before = time.time()
    theirs = float(await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8"))
    skew = theirs - (before + time.time()) / 2
    if abs(skew) > SKEW:
        words = f"the server's differs from this machine's by {skew:.1f} s: messages show wrong times; synchronise them"
        return Finding(Level.WARNING, "clock", words)
    return Finding(Level.OK, "clock", f"within {SKEW:g} s of the server's")
