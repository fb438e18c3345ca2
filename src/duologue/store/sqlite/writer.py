"""The writing half of the SQLite store: one batch, one transaction, one row of the journal.

The rest is for later: what the journal has is kept in memory as well (`young.py`), and brought into the tables that are
read when many batches have gathered (`filing.py`). A statement reads or writes hundreds of rows, and SQLite runs it without
the interpreter lock, so that the event loop goes on meanwhile.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import apsw
import msgspec

from duologue.domain.errors import Code, StoreFailed
from duologue.domain.ports import Clock, Pending
from duologue.store.committer import LEISURE
from duologue.store.ledger import Account, Ledger, MessageKey, MessageRow, Pair, Stored
from duologue.store.sqlite import journal
from duologue.store.sqlite.chunks import SEQ_BITS
from duologue.store.sqlite.connection import keep_log
from duologue.store.sqlite.filing import Filing, file
from duologue.store.sqlite.identities import Identities
from duologue.store.sqlite.wal import Wal
from duologue.store.sqlite.young import Conversation, Part, Young
from duologue.store.work import Departure, NewGuest, OneOff, SessionEnd, Work, encodable, fail

RETRY_FILING = 1.0
"""Seconds until filing is tried again after it failed for want of space, or for another process's lock."""

LEARNED_PER_NEW = 20
"""Identities that the filter learns for each write of a batch, while it isn't whole: about as much work as it'll spare."""

LEARNED_AT_ONCE = (100, 20_000)
"""The least and the most of them: 0.04 and 4 milliseconds."""

LEARNING_RESTS = 9
"""Times as long as a portion took nothing is learned when nobody writes: after a start everybody comes back, and comes first."""

LEAST_REST = 0.005
"""Seconds of that at least."""

_log = logging.getLogger(__name__)
_json = msgspec.json.Encoder()

_ACCOUNTS = """
    SELECT id, key, name, coalesce((SELECT max(version) FROM dialog WHERE user = key), 0)
    FROM person WHERE id IN (SELECT value FROM json_each(?))
"""
_HEADS = """
    SELECT user, peer, seq, rev, received, read, peer_received, peer_read, conversation
    FROM json_each(?) AS pair CROSS JOIN dialog ON user = pair.value ->> 0 AND peer = pair.value ->> 1
"""
_LEFT = """
    UPDATE person SET last_seen = max(coalesce(last_seen, 0), ?) WHERE id IN (SELECT value FROM json_each(?))
"""
_LAST_CONVERSATION = f"""
    SELECT max(
        (SELECT coalesce(max(key), 0) >> {SEQ_BITS} FROM chunk), (SELECT coalesce(max(conversation), 0) FROM dialog)
    )
"""
_TAKEN = """
    SELECT EXISTS (SELECT 1 FROM person WHERE id = ?) OR EXISTS (SELECT 1 FROM session WHERE token_hash = ?)
"""


class Writer:
    """The committer's engine for SQLite. Owns the writing connection and, from the first batch on, its thread."""

    def __init__(
        self,
        connection: apsw.Connection,
        wal: Wal,
        young: Young,
        clock: Clock,
        synchronous: str,
        on_close: Callable[[], None],
    ) -> None:
        """`synchronous` is that of the connection; `on_close` runs after it was closed cleanly, never after a failure.
        What a crash left in the journal is filed at once."""
        self._connection = connection
        self._wal = wal
        self._young = young
        self._clock = clock
        self._on_close = on_close
        self._ledger: Ledger[Conversation] = Ledger(self._load_accounts, self._load_conversations)
        self._identities = Identities(connection)
        self._filing = Filing(connection, self._identities, young, synchronous)
        self._file_again_at = 0.0
        self._trouble: Code | None = None
        """Why filing failed the last time; None if it didn't."""
        self._number = 0
        """The journal's last row."""
        self._sound = True
        self._file_the_rest()
        self.people = int(str(connection.execute("SELECT count(*) FROM person").get))
        # Not of the chunks alone, which are found sooner: the last conversation may have none any more.
        self._conversations = int(str(connection.execute(_LAST_CONVERSATION).get))
        """The greatest number that a conversation has been given."""

    def write(self, batch: Sequence[Work]) -> None:
        """See `Engine.write`. A full disk fails the batch with STORAGE_FULL and a busy database with UNAVAILABLE;
        any other error of the database is a `StoreFailed`, for after it no commit can be trusted."""
        if self._checkpointing(self._wal.too_long):
            fail(batch, Code.UNAVAILABLE)
            return
        if self._filing.overdue and (trouble := self._file(lambda: self._filing.after_batch(0, self._number))):
            fail(batch, trouble)
            return
        people = self.people
        try:
            self._commit(batch)
        except BaseException as error:
            failure = self._survivable(error)
            if failure is None:
                raise self._fatal(error) from error
            self._roll_back()
            self.people = people
            _log.error("a batch of %d was refused as %s: %s", len(batch), failure, error)
            fail(batch, failure)

    def rest(self, size: int) -> None:
        self._file(lambda: self._filing.after_batch(size, self._number))
        least, most = LEARNED_AT_ONCE
        self._learn(min(most, max(least, LEARNED_PER_NEW * size)))
        self._checkpointing(lambda: self._wal.tidy(size))

    def leisure(self) -> float | None:
        more = False

        def file_some() -> None:
            nonlocal more
            more = self._filing.at_leisure(self._number)

        trouble = self._file(file_some)
        untidy = self._checkpointing(lambda: self._wal.tidy(0))
        if trouble:
            return RETRY_FILING
        if more:
            return 0.0
        began = self._clock.monotonic()
        if self._learn(LEARNED_AT_ONCE[1]):
            return max(LEAST_REST, LEARNING_RESTS * (self._clock.monotonic() - began))
        return LEISURE if untidy else None

    def close(self) -> None:
        try:
            while self._sound and self.leisure() == 0.0:  # not until it's due again: the next start files the rest
                pass
            if self._sound:
                self._wal.empty()
        except apsw.Error as error:
            raise self._fatal(error) from error
        finally:
            if not self._sound:
                keep_log(self._connection)
            self._wal.close()
            self._connection.close(True)
        if self._sound:
            try:
                self._on_close()
            except OSError as error:
                # A full disk, most likely. All is committed; the next start only checks more than it would have to.
                _log.warning("the clean end couldn't be written down: %s", error)

    def _commit(self, batch: Sequence[Work]) -> None:
        one_offs = [work for work in batch if isinstance(work, OneOff)]
        pendings: Sequence[Pending] = [work for work in batch if not isinstance(work, OneOff)]
        self._connection.execute("BEGIN IMMEDIATE")
        self.people += self._write_one_offs(one_offs)  # before a read can show them: the count is never behind
        if not pendings:
            self._connection.execute("COMMIT")
        else:
            touched = self._enter(encodable(pendings))
            states = [each.current() for each in touched]
            number = self._number
            if touched:
                added = [each.added for each in touched]
                number = journal.add(self._connection, list(zip(states, added, strict=True)))
            self._connection.execute("COMMIT")
            self._number = number
            self._young.add(touched, states)
            self._ledger.settle()

    def _enter(self, batch: Sequence[Pending]) -> Sequence[Conversation]:
        """Give out the batch's numbers. Returns the conversations that it changes."""
        at = self._clock.wall_ms()
        touched = self._ledger.enter(batch, at, None)
        self._identify(touched)
        suspected = self._suspected(touched)
        if suspected:
            # Some message may have been stored before: once more from the start, knowing which.
            earlier = self._earlier(touched, suspected)
            self._ledger.forget()
            touched = self._ledger.enter(batch, at, earlier)
            self._identify(touched)
        return touched

    def _identify(self, touched: Sequence[Conversation]) -> None:
        identities = self._identities.of
        for conversation in touched:
            added = conversation.added
            if not added:
                conversation.fresh = ()
                continue
            number = conversation.number
            if not number:
                # One that is given out for a batch that fails stays unused.
                number = conversation.number = self._conversations = self._conversations + 1
            conversation.fresh = identities(number, conversation.low, added)

    def _suspected(self, touched: Sequence[Conversation]) -> set[int]:
        """The identities of new messages that another message has, too, or that stand here twice."""
        every = list(itertools.chain.from_iterable([each.fresh for each in touched]))
        different = set(every)
        suspected = self._identities.known(every) | (different & self._young.identities) if every else set()
        if len(different) < len(every):
            seen: set[int] = set()
            suspected |= {identity for identity in every if identity in seen or seen.add(identity)}  # type: ignore[func-returns-value]
        return suspected

    def _earlier(self, touched: Sequence[Conversation], suspected: set[int]) -> dict[MessageKey, Stored]:
        """What is stored of the suspected messages."""
        found: dict[MessageKey, Stored] = {}
        for conversation in touched:
            for row, identity in zip(conversation.added or (), conversation.fresh, strict=True):
                if identity not in suspected:
                    continue
                sender, id = row.sender, row.id
                first = _find(conversation.rows, sender, id) if conversation.changes else None
                first = first or self._identities.find(conversation.number, identity, sender, id)
                if first is not None:
                    found[conversation.low, conversation.high, sender, id] = Stored(
                        first.seq, first.rev, first.at, first.sender_version, first.recipient_version, first.content
                    )
        return found

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

    def _file_the_rest(self) -> None:
        """What the last run left in the journal when it was killed."""
        left = journal.unfiled(self._connection)
        if left:
            _log.info("filing what is in the journal of %d conversations", len(left))
            self._connection.execute("BEGIN IMMEDIATE")
            file(self._connection, self._identities, [Part(each, each.state, each.rows, (), 0) for each in left])
            self._connection.execute("DELETE FROM journal")
            self._connection.execute("COMMIT")

    def _file(self, work: Callable[[], None]) -> Code | None:
        """Why it can't be done for now, None if it's done. Else it stays where it is, in the journal and in memory."""
        if self._clock.monotonic() < self._file_again_at:
            return self._trouble
        try:
            work()
        except BaseException as error:
            trouble = self._survivable(error)
            if trouble is None:
                raise self._fatal(error) from error
            if trouble is not self._trouble:
                _log.warning("messages stay in the journal for now: %s", error)
            self._trouble = trouble
            # From now: to wait for another process's lock may have taken longer than that.
            self._file_again_at = self._clock.monotonic() + RETRY_FILING
            return trouble
        self._trouble = None
        return None

    def _learn(self, count: int) -> bool:
        """Let the filter read so many identities. True if it isn't whole yet."""
        identities = self._identities.filter
        if identities.learning:
            self._file(lambda: identities.learn(count))
        return identities.learning

    def _checkpointing(self, call: Callable[[], bool]) -> bool:
        try:
            return call()
        except Exception as error:
            self._sound = False
            raise StoreFailed(f"moving the log into the database failed: {error}") from error

    def _survivable(self, error: BaseException) -> Code | None:
        """What a failed transaction is refused as; None if nothing can be trusted after it."""
        if isinstance(error, apsw.FullError):
            return Code.STORAGE_FULL
        if isinstance(error, apsw.BusyError):
            return Code.UNAVAILABLE
        # No space for the shared memory file is a full disk as well; SQLite has no better word for it.
        if isinstance(error, apsw.IOError) and getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_SHMSIZE:
            return Code.STORAGE_FULL
        return None

    def _fatal(self, error: BaseException) -> BaseException:
        """What to raise for it."""
        self._sound = False
        if isinstance(error, apsw.CorruptError | apsw.NotADBError):
            return StoreFailed(f"the database is damaged: {error}")
        if isinstance(error, apsw.IOError):
            return StoreFailed(f"writing to the database failed: {error}")
        return error

    def _roll_back(self) -> None:
        # Some errors have rolled the transaction back by themselves.
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        self._ledger.forget()

    def _load_accounts(self, ids: Sequence[str]) -> Iterable[tuple[str, Account]]:
        row: Any
        for row in self._connection.execute(_ACCOUNTS, (_text(ids),)):
            user, key, name, version = row
            yield user, Account(key, name, max(version, self._young.version(user, key)))

    def _load_conversations(self, pairs: Sequence[Pair]) -> Iterable[Conversation]:
        stored: dict[Pair, Conversation] = {}
        row: Any
        for row in self._connection.execute(_HEADS, (_text([pair for pair in pairs if not self._young.find(*pair)]),)):
            low, high, seq, rev, received, read, peer_received, peer_read, number = row
            stored[low, high] = Conversation(
                low, high, seq, rev, received, read, peer_received, peer_read, number=number
            )
        for pair in pairs:
            conversation = self._young.find(*pair)
            if conversation is not None:
                conversation.reset()
            yield conversation or stored.get(pair) or Conversation(*pair)


def _find(rows: Sequence[MessageRow], sender: int, id: str) -> MessageRow | None:
    return next((row for row in rows if row.id == id and row.sender == sender), None)


def _text(rows: Sequence[object]) -> str:
    return _json.encode(rows).decode()
