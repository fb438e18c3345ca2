"""The writing half of the SQLite store: one batch, one transaction, a handful of statements.

A statement writes hundreds of rows, and SQLite runs it without the interpreter lock, so that the event loop goes on
meanwhile. What is read comes in one statement as well, its keys as one JSON text.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import apsw
import msgspec

from duologue.domain.errors import Code, StoreFailed
from duologue.domain.ports import Clock, Pending, PendingMessage
from duologue.store.ledger import Account, Head, Ledger, MessageKey, Pair, Stored
from duologue.store.sqlite.bulk import BulkInsert
from duologue.store.sqlite.identities import Identities
from duologue.store.sqlite.wal import Wal
from duologue.store.work import Departure, NewGuest, OneOff, SessionEnd, Work, encodable, fail

WARY_BATCHES = 32
"""After a batch with a repeated message this many batches look for repetitions first instead of being surprised: in a
storm of retries nothing is done twice."""

_log = logging.getLogger(__name__)
_json = msgspec.json.Encoder()

_ACCOUNTS = """
    SELECT id, key, name, coalesce((SELECT max(version) FROM dialog WHERE user = key), 0)
    FROM person WHERE id IN (SELECT value FROM json_each(?))
"""
_HEADS = """
    SELECT user, peer, seq, rev, received, read, peer_received, peer_read
    FROM json_each(?) AS pair CROSS JOIN dialog ON user = pair.value ->> 0 AND peer = pair.value ->> 1
"""
_MESSAGES = BulkInsert(
    "message",
    ("low", "high", "seq", "rev", "sender", "id", "at", "sender_version", "recipient_version", "content"),
)
_DIALOGS = BulkInsert(
    "dialog",
    ("user", "peer", "seq", "rev", "received", "read", "peer_received", "peer_read", "version"),
    """ON CONFLICT (user, peer) DO UPDATE SET seq = excluded.seq, rev = excluded.rev, received = excluded.received,
        read = excluded.read, peer_received = excluded.peer_received, peer_read = excluded.peer_read,
        version = excluded.version""",
)
_LEFT = "UPDATE person SET last_seen = ? WHERE id IN (SELECT value FROM json_each(?))"
_TAKEN = """
    SELECT EXISTS (SELECT 1 FROM person WHERE id = ?) OR EXISTS (SELECT 1 FROM session WHERE token_hash = ?)
"""


class Writer:
    """The committer's engine for SQLite. Owns the writing connection and, from the first batch on, its thread."""

    def __init__(self, connection: apsw.Connection, wal: Wal, clock: Clock, on_close: Callable[[], None]) -> None:
        """`on_close` runs after the connection was closed cleanly, never after a failure."""
        self._connection = connection
        self._wal = wal
        self._clock = clock
        self._on_close = on_close
        self._ledger = Ledger(self._load_accounts, self._load_heads)
        self._identities = Identities(connection)
        self._wary = 0
        self._sound = True
        self.people = int(str(connection.execute("SELECT count(*) FROM person").get))

    def write(self, batch: Sequence[Work]) -> None:
        """See `Engine.write`. A full disk fails the batch with STORAGE_FULL and a busy database with UNAVAILABLE;
        any other error of the database is a `StoreFailed`, for after it no commit can be trusted."""
        if self._wal.too_long():
            fail(batch, Code.UNAVAILABLE)
            return
        try:
            guests = self._commit(batch)
        except apsw.FullError as error:
            self._roll_back()
            _log.error("the disk is full, a batch of %d was refused: %s", len(batch), error)
            fail(batch, Code.STORAGE_FULL)
        except apsw.BusyError as error:
            self._roll_back()
            _log.warning("another process locks the database, a batch of %d was refused: %s", len(batch), error)
            fail(batch, Code.UNAVAILABLE)
        except apsw.IOError as error:
            # No space for the shared memory file is a full disk as well; SQLite has no better word for it.
            if getattr(error, "extendedresult", 0) != apsw.SQLITE_IOERR_SHMSIZE:
                self._sound = False
                raise StoreFailed(f"writing to the database failed: {error}") from error
            self._roll_back()
            fail(batch, Code.STORAGE_FULL)
        except BaseException as error:
            self._sound = False
            if isinstance(error, apsw.CorruptError | apsw.NotADBError):
                raise StoreFailed(f"the database is damaged: {error}") from error
            raise
        else:
            self._ledger.settle()
            self._identities.settle()
            self.people += guests

    def rest(self, idle: bool) -> None:
        try:
            self._wal.tidy(idle)
        except apsw.Error as error:
            self._sound = False
            raise StoreFailed(f"moving the log into the database failed: {error}") from error

    def close(self) -> None:
        try:
            if self._sound:
                self._identities.move_all()
                self._wal.tidy(idle=True, all=True)
        except apsw.Error as error:
            self._sound = False
            raise StoreFailed(f"moving the log into the database failed: {error}") from error
        finally:
            self._connection.close(True)
        if self._sound:
            try:
                self._on_close()
            except OSError as error:
                # A full disk, most likely. All is committed; the next start only checks more than it would have to.
                _log.warning("the clean end couldn't be written down: %s", error)

    def _commit(self, batch: Sequence[Work]) -> int:
        one_offs = [work for work in batch if isinstance(work, OneOff)]
        pendings: Sequence[Pending] = [work for work in batch if not isinstance(work, OneOff)]
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        guests = self._write_one_offs(one_offs)
        if pendings:
            pendings = encodable(pendings)
            try:
                self._write_pendings(pendings)
            except apsw.ConstraintError:
                if self._wary:
                    raise
                # Some message was stored before. Once more from the start, looking first.
                self._wary = WARY_BATCHES
                self._roll_back()
                execute("BEGIN IMMEDIATE")
                guests = self._write_one_offs(one_offs)
                self._write_pendings(pendings)
        execute("COMMIT")
        if self._wary:
            self._wary -= 1
        return guests

    def _write_pendings(self, batch: Sequence[Pending]) -> None:
        earlier = self._load_earlier(self._ledger.keys(batch)) if self._wary else None
        entries = self._ledger.enter(batch, self._clock.wall_ms(), earlier)
        if entries.messages:
            _MESSAGES.run(self._connection, entries.messages)
            self._identities.add(len(entries.messages), new=earlier is None)
        _DIALOGS.run(self._connection, entries.dialogs)
        if any(isinstance(work, PendingMessage) and work.duplicate for work in batch):
            self._wary = WARY_BATCHES

    def _write_one_offs(self, works: Sequence[OneOff]) -> int:
        """Write them and return how many people were added."""
        execute = self._connection.execute
        guests = 0
        for work in works:
            work.failure = None
            if isinstance(work, NewGuest):
                taken = execute(_TAKEN, (work.id, work.token_hash)).get
                if taken:
                    work.failure = Code.BAD_REQUEST
                    continue
                execute("INSERT INTO person (id, name) VALUES (?, ?)", (work.id, work.name))
                execute("INSERT INTO session VALUES (?, last_insert_rowid(), ?)", (work.token_hash, work.created))
                guests += 1
            elif isinstance(work, Departure):
                execute(_LEFT, (work.at, _text([user for user in work.users if user.isascii()])))
            elif isinstance(work, SessionEnd):
                execute("DELETE FROM session WHERE token_hash = ?", (work.token_hash,))
        return guests

    def _roll_back(self) -> None:
        # Some errors have rolled the transaction back by themselves.
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        self._ledger.forget()
        self._identities.forget()

    def _load_accounts(self, ids: Sequence[str]) -> Iterable[tuple[str, Account]]:
        row: Any
        for row in self._connection.execute(_ACCOUNTS, (_text(ids),)):
            user, key, name, version = row
            yield user, Account(key, name, version)

    def _load_heads(self, pairs: Sequence[Pair]) -> Iterable[Head]:
        row: Any
        for row in self._connection.execute(_HEADS, (_text(pairs),)):
            yield Head(*row)

    def _load_earlier(self, keys: Sequence[MessageKey]) -> dict[MessageKey, Stored]:
        rows = self._identities.find(_text(keys))
        return {(low, high, sender, name): Stored(*rest) for low, high, sender, name, *rest in rows}


def _text(rows: Sequence[object]) -> str:
    return _json.encode(rows).decode()
