"""A SQLite data folder as the source or the target of a migration."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import apsw
import msgspec

from duologue.domain.errors import StoreUnusable
from duologue.store.ledger import MessageRow
from duologue.store.migrate.rows import Cursor, Progress, Row
from duologue.store.sqlite import journal, schema
from duologue.store.sqlite.chunked import CODE
from duologue.store.sqlite.chunks import SEQ_BITS, chunks, decode
from duologue.store.sqlite.connection import open_to_look, open_writer
from duologue.store.sqlite.files import Folder
from duologue.store.sqlite.identities import Identities

BUSY_TIMEOUT: Final = 2.0

_READ: Final = {
    "person": """
        SELECT key, id, name, last_seen, coalesce((SELECT max(version) FROM dialog WHERE user = key), 0)
        FROM person WHERE key > ? ORDER BY key LIMIT ?
    """,
    "session": """
        SELECT hex(token_hash), lower(hex(token_hash)), id, created FROM session JOIN person ON key = person
        WHERE token_hash > unhex(?) ORDER BY token_hash LIMIT ?
    """,
    "dialog": """
        SELECT user, peer, mine.id, theirs.id, seq, rev, received, read, peer_received, peer_read, version
        FROM dialog JOIN person AS mine ON mine.key = user JOIN person AS theirs ON theirs.key = peer
        WHERE (user, peer) > (?, ?) ORDER BY user, peer LIMIT ?
    """,
}
# Conversations by their numbers, for chunks name them by nothing else.
_PAIRS: Final = """
    CREATE TEMP TABLE pair (conversation INTEGER PRIMARY KEY, low INTEGER, low_id TEXT, high_id TEXT);
    INSERT INTO pair SELECT conversation, user, one.id, other.id
    FROM dialog JOIN person AS one ON one.key = user JOIN person AS other ON other.key = peer WHERE user <= peer
"""
_CHUNKS: Final = f"""
    SELECT key, low, low_id, high_id, messages FROM chunk JOIN pair ON conversation = key >> {SEQ_BITS}
    WHERE key > ? ORDER BY key LIMIT ?
"""
_START: Final[dict[str, list[Any]]] = {"person": [0], "session": [""], "dialog": [-1, -1]}

_KEY = "(SELECT key FROM person WHERE id = ?{})"

_WRITE: Final = {
    "person": "INSERT INTO person (id, name, last_seen) VALUES (?1, ?2, ?3)",
    "session": f"INSERT INTO session VALUES (unhex(?1), {_KEY.format(2)}, ?3)",
    "dialog": f"""
        INSERT INTO dialog
            (user, peer, seq, rev, received, read, peer_received, peer_read, version, conversation)
        SELECT mine, theirs, ?3, ?4, ?5, ?6, ?7, ?8, ?9,
            coalesce((SELECT conversation FROM dialog WHERE user = theirs AND peer = mine), ?10)
        FROM (SELECT {_KEY.format(1)} AS mine, {_KEY.format(2)} AS theirs)
    """,
}
_CONVERSATION: Final = f"""
    SELECT conversation, user FROM dialog
    WHERE user = min({_KEY.format(1)}, {_KEY.format(2)}) AND peer = max({_KEY.format(1)}, {_KEY.format(2)})
"""


class SqliteSide:
    """Holds the folder's lock. Made by `source` or `target`."""

    def __init__(self, folder: Folder, connection: apsw.Connection) -> None:
        self._folder = folder
        self._connection: apsw.Connection | None = connection
        self.name = str(folder.path)
        self.epoch = str(schema.read(connection, "epoch"))
        self._identities = Identities(connection)
        self._has_pairs = False
        self._conversations = int(str(connection.execute("SELECT coalesce(max(conversation), 0) FROM dialog").get))

    @classmethod
    def source(cls, path: Path) -> SqliteSide:
        """Raises `StoreUnusable`; nothing is ever changed in a source."""
        if not path.is_dir():
            raise StoreUnusable(f"there is no data folder {path}")
        return cls._open(path, lambda folder: open_to_look(folder.database, BUSY_TIMEOUT), cls._check_source)

    @classmethod
    def target(cls, path: Path) -> SqliteSide:
        """Raises `StoreUnusable` if there's anything in it but the beginning of a migration."""

        def look(folder: Folder) -> apsw.Connection:
            if not folder.make_database_file():
                looking = open_to_look(folder.database, BUSY_TIMEOUT)
                try:
                    version = schema.check(looking, unfinished=True)
                    people = version and looking.execute("SELECT EXISTS (SELECT 1 FROM person)").get
                    if version and people and schema.read(looking, "migration") is None:
                        raise StoreUnusable(f"the data folder {path} isn't empty")
                finally:
                    looking.close()
            return open_writer(folder.database, BUSY_TIMEOUT, "FULL")

        return cls._open(
            path, look, lambda connection: schema.migrate(connection, schema.check(connection, unfinished=True), CODE)
        )

    @classmethod
    def _open(cls, path: Path, connect: Any, prepare: Any) -> SqliteSide:
        folder = Folder(path)
        try:
            connection = connect(folder)
            try:
                prepare(connection)
                return cls(folder, connection)
            except BaseException:
                connection.close(True)
                raise
        except BaseException as error:
            folder.release()
            if isinstance(error, apsw.Error | OSError):
                raise StoreUnusable(f"the data folder {path} can't be used: {error}") from error
            raise

    @staticmethod
    def _check_source(connection: apsw.Connection) -> None:
        if schema.check(connection) != schema.VERSION:
            raise StoreUnusable(f"{connection.filename} is older or empty: start this version's server on it once")
        if not journal.is_empty(connection):
            raise StoreUnusable(f"{connection.filename} was left by a crash: start the server on it once, and stop it")

    @property
    def _open_connection(self) -> apsw.Connection:
        assert self._connection is not None, "closed"
        return self._connection

    async def count(self, table: str) -> int:
        tables = ("identity", "recent_identity") if table == "message" else (table,)  # there's one for each message
        return sum(int(str(self._open_connection.execute(f"SELECT count(*) FROM {each}").get)) for each in tables)

    async def read(self, table: str, after: Cursor, limit: int) -> tuple[list[Row], Cursor]:
        if table == "message":
            return self._read_messages(0 if after is None else after[0], limit)
        start = _START[table] if after is None else after
        found: list[Any] = self._open_connection.execute(_READ[table], (*start, limit)).fetchall()
        width = len(_START[table])
        return [row[width:] for row in found], list(found[-1][:width]) if found else after

    async def progress(self) -> Progress | None:
        text = schema.read(self._open_connection, "migration")
        return None if text is None else msgspec.json.decode(str(text), type=Progress)

    async def write(self, table: str, rows: Sequence[Row], progress: Progress) -> None:
        connection = self._open_connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            if table == "message":
                self._write_messages(rows)
            elif table == "dialog":
                connection.executemany(_WRITE[table], [(*row, self._new_number()) for row in rows])
            else:
                # A person's version is that of their last change; SQLite's store reads it from there.
                connection.executemany(_WRITE[table], [row[:3] for row in rows] if table == "person" else rows)
            schema.write(connection, "migration", msgspec.json.encode(progress).decode())
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def _read_messages(self, after: int, limit: int) -> tuple[list[Row], Cursor]:
        """As `read`, of whole chunks: so there may be a few more rows than `limit`."""
        connection = self._open_connection
        if not self._has_pairs:
            connection.execute(_PAIRS)
            self._has_pairs = True
        rows: list[Row] = []
        found: Any = connection.execute(_CHUNKS, (after, limit))
        for key, low, low_id, high_id, messages in found:
            after = key
            one, other = sorted((low_id, high_id))
            for message in decode(messages):
                seq, rev, sender, *rest = msgspec.structs.astuple(message)
                rows.append((one, other, seq, rev, low_id if sender == low else high_id, *rest))
            if len(rows) >= limit:
                break
        return rows, [after]

    def _write_messages(self, rows: Sequence[Row]) -> None:
        """Rows of one conversation come together, in the order of their seq."""
        connection = self._open_connection
        for (one, other), group in groupby(rows, key=itemgetter(0, 1)):
            found: Any = connection.execute(_CONVERSATION, (one, other)).fetchall()
            ((conversation, low),) = found
            keys = {id: int(str(connection.execute(f"SELECT {_KEY.format(1)}", (id,)).get)) for id in (one, other)}
            messages = [MessageRow(seq, rev, keys[sender], *rest) for _, _, seq, rev, sender, *rest in group]
            connection.executemany("INSERT INTO chunk VALUES (?, ?, ?, ?)", chunks(conversation, low, messages))
            identities = self._identities.of(conversation, low, messages)
            connection.executemany(
                "INSERT INTO identity VALUES (?, ?)",
                [(identity, row.seq) for identity, row in zip(identities, messages, strict=True)],
            )

    def _new_number(self) -> int:
        self._conversations += 1
        return self._conversations

    async def finish(self, epoch: str) -> None:
        connection = self._open_connection
        incarnation = schema.new_token()
        connection.execute("BEGIN IMMEDIATE")
        schema.write(connection, "epoch", epoch)
        schema.write(connection, "incarnation", incarnation)
        connection.execute("DELETE FROM meta WHERE name = 'migration'")
        connection.execute("COMMIT")
        self._connection = None
        connection.close()
        # As after a clean stop: the first start finds the epoch that clients know.
        self._folder.claim()
        self._folder.write_mark(incarnation, clean=True)

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.close(True)
            self._connection = None
        self._folder.release()
