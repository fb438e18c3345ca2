"""Which messages there are already, by (conversation, sender, id): what makes a retry find its first attempt (P2).

Ids are random, so an index of them that is written at once changes another page for nearly every message. Here the
identities of new messages gather in a table in memory, `young`. When that is full it becomes the `ripe` one, and is
moved into the table `identity` in the order of its keys, a portion with each batch, so that neighbours change a page
together and no batch has to wait for all of it. (A log-structured merge tree of two levels: O'Neil et al., 1996.)

Nothing of this has to survive: the messages are on disk with their ids, and those that `identity` may not have yet are
the last ones, above `identities_up_to` in `meta`. They are read again at the next start.
"""

from __future__ import annotations

from typing import Any, Final

import apsw

from duologue.store.sqlite import schema

MAX_YOUNG: Final = 8_192
"""Identities in memory that make up a run; about twice as many at most are there, and are read at a start after a crash.
With more of them fewer pages are written, but the tables don't stay in the processor's cache: four times as many cost pairs
of people 15% of the throughput (docs/decisions/store-sqlite.md)."""

MOVED_PER_NEW: Final = 4
"""Ripe identities that are moved for each new one: the ripe table is soon empty, and while there is one, each message is
looked for in it."""

UP_TO: Final = "identities_up_to"
"""In `meta`: the key of the last message before which every one is in `identity`."""

_KEY: Final = "low, high, sender, id"

_CREATE: Final = """
    CREATE TEMP TABLE {} (
        low INTEGER NOT NULL, high INTEGER NOT NULL, sender INTEGER NOT NULL, id TEXT NOT NULL, message INTEGER NOT NULL,
        PRIMARY KEY (low, high, sender, id)
    ) STRICT, WITHOUT ROWID
"""
_KNOWN: Final = """
    SELECT EXISTS (
        SELECT 1 FROM message WHERE key > ? AND (
            EXISTS (SELECT 1 FROM identity AS known WHERE {same}) OR EXISTS (SELECT 1 FROM {ripe} AS known WHERE {same})
        )
    )
"""
_SAME: Final = " AND ".join(f"known.{column} = message.{column}" for column in ("low", "high", "sender", "id"))
_ADD: Final = f"INSERT OR {{}} INTO {{}} SELECT {_KEY}, key FROM message WHERE key > ?"
_BOUND: Final = f"SELECT {_KEY} FROM {{}} WHERE ({_KEY}) > (?, ?, ?, ?) ORDER BY {_KEY} LIMIT 1 OFFSET ?"
_MOVE: Final = f"INSERT OR IGNORE INTO identity SELECT * FROM {{}} WHERE ({_KEY}) > (?, ?, ?, ?) ORDER BY {_KEY}"
_MOVE_PART: Final = _MOVE.replace("ORDER", f"AND ({_KEY}) <= (?, ?, ?, ?) ORDER")

_FOUND: Final = """
    SELECT message.low, message.high, message.sender, message.id, seq, rev, at, sender_version, recipient_version, content
    FROM json_each(?1) AS wanted
    CROSS JOIN {} AS known ON known.low = wanted.value ->> 0 AND known.high = wanted.value ->> 1
        AND known.sender = wanted.value ->> 2 AND known.id = wanted.value ->> 3
    CROSS JOIN message ON message.key = known.message
"""

_Position = tuple[int, int, int, str]
_START: Final[_Position] = (-1, -1, -1, "")


class Identities:
    """Those of one database, on its writing connection. Every change belongs to the caller's transaction; what changes
    with it in this object is kept by `settle` and undone by `forget`."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._young, self._ripe = "temp.identity_one", "temp.identity_two"
        for table in (self._young, self._ripe):
            connection.execute(_CREATE.format(table.removeprefix("temp.")))
        self._last = int(str(connection.execute("SELECT coalesce(max(key), 0) FROM message").get))
        """The key of the last message that is committed."""
        up_to = schema.read(connection, UP_TO)
        connection.execute(_ADD.format("IGNORE", self._young), (up_to,))
        self._count = int(str(connection.execute(f"SELECT count(*) FROM {self._young}").get))
        """Entries of the young table."""
        self._ripe_up_to = 0
        """The key of the last message in the ripe table; 0 if that is empty."""
        self._position = _START
        """Up to where the ripe table has been moved."""
        self._after: tuple[int, int, int, _Position] | None = None

    def add(self, count: int, *, new: bool) -> None:
        """Enter the last `count` messages, which the transaction has inserted. Raises `apsw.ConstraintError` if one is
        there already; with `new` nobody has looked before whether that is so."""
        last, execute = self._last, self._connection.execute
        if new and execute(_KNOWN.format(same=_SAME, ripe=self._ripe), (last,)).get:
            raise apsw.ConstraintError("a message was stored before")
        execute(_ADD.format("ROLLBACK", self._young), (last,))
        position = self._position
        up_to = self._ripe_up_to
        if up_to:
            position = self._move(MOVED_PER_NEW * count)
            if position == _START:
                up_to = 0
        self._after = (last + count, self._count + count, up_to, position)

    def settle(self) -> None:
        """The transaction was committed."""
        if self._after is not None:
            self._last, self._count, self._ripe_up_to, self._position = self._after
            self._after = None
            if self._count >= MAX_YOUNG and not self._ripe_up_to:
                self._young, self._ripe = self._ripe, self._young
                self._ripe_up_to, self._count = self._last, 0

    def forget(self) -> None:
        """The transaction was rolled back."""
        self._after = None

    def find(self, keys: str) -> list[Any]:
        """The stored messages among those whose identities are the rows of a JSON text."""
        tables = ("identity", self._young, self._ripe)
        return self._connection.execute(
            " UNION ALL ".join(_FOUND.format(table) for table in tables), (keys,)
        ).fetchall()

    def move_all(self) -> None:
        """Leave nothing to be read at the next start. A transaction of its own."""
        if schema.read(self._connection, UP_TO) == self._last:
            return
        self._connection.execute("BEGIN IMMEDIATE")
        for table in (self._ripe, self._young):
            self._connection.execute(_MOVE.format(table), _START)
        schema.write(self._connection, UP_TO, self._last)
        self._connection.execute("COMMIT")

    def _move(self, count: int) -> _Position:
        """Move the next entries of the ripe table; `_START` if it was the rest."""
        execute = self._connection.execute
        bound: Any = execute(_BOUND.format(self._ripe), (*self._position, count - 1)).get
        if bound is not None:
            execute(_MOVE_PART.format(self._ripe), (*self._position, *bound))
            return (*bound,)
        execute(_MOVE.format(self._ripe), self._position)
        execute(f"DELETE FROM {self._ripe}")
        schema.write(self._connection, UP_TO, self._ripe_up_to)
        return _START


def index_rest(connection: apsw.Connection) -> None:
    """Bring `identity` up to date with `message`, for whoever writes messages without this class. In the caller's
    transaction; takes memory for what isn't there yet."""
    up_to = schema.read(connection, UP_TO)
    connection.execute(f"{_ADD.format('ABORT', 'identity')} ORDER BY {_KEY}", (up_to,))
    schema.write(connection, UP_TO, int(str(connection.execute("SELECT coalesce(max(key), 0) FROM message").get)))
