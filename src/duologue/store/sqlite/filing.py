"""Brings what is committed in the journal into the tables that are read: chunks of messages, identities, dialogs.

A commit of its own for each portion, and one that needn't be on disk by itself, since the journal is: it syncs nothing.
Under load a sweep takes all that has gathered, in the order of the conversations and a portion after each batch, so that
nobody waits for all of it; meanwhile the next sweep's messages gather. The more a conversation has gathered, the fewer pages
are written for a message. When nobody writes for a moment, all is filed at once. (A log-structured merge tree of two
levels, of which the smaller is in memory: O'Neil et al., 1996.)
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import apsw

from duologue.domain.errors import StoreFailed
from duologue.store.sqlite import journal
from duologue.store.sqlite.bulk import BulkInsert
from duologue.store.sqlite.chunks import CHUNK_BYTES, SEQ_BITS, Chunk, chunks
from duologue.store.sqlite.identities import Identities
from duologue.store.sqlite.young import Conversation, Part, Young, bulk_of, sides_of

RIPE: Final = 32_768
"""Messages in memory at which a sweep begins. The journal has two or three times as many at most, which are read at a start after
a crash. With more of them fewer pages are written (docs/decisions/store-sqlite.md)."""

RIPE_CHARACTERS: Final = 8_000_000
"""Characters of messages at which a sweep begins: they may be long."""

RIPE_CHANGES: Final = 65_536
"""Changes of conversations at which a sweep begins, each in one batch: of receipts alone a journal could get as long."""

MOST: Final = 4
"""Times the above at which writes are refused, for the tables can't be written: the disk is full, or the database locked."""

FILED_PER_NEW: Final = 1.1
"""Times as much is filed as batches bring while a sweep is under way. The less, the more evenly: with half as much again sweeps
took two thirds of the time, and batches in them four times as long as in the rest (docs/decisions/store-sqlite.md). But until a
sweep ends the journal grows."""

PORTION: Final = 50_000
"""Filed at once at least, for a transaction has its price: bulk as `bulk_of` has it, 19 messages of 100 characters, or 5 of
8,000; half a millisecond. A conversation that has more is filed in parts."""

FORGOTTEN_AT_ONCE: Final = 200_000
"""Bytes of the journal that are removed at once once they are in the tables: a millisecond. A whole sweep's took 35 with long
messages, in which nobody's was committed."""

SPREAD: Final = 8
"""Of what is due beyond a portion, after a burst or under load, an eighth is filed at once and the rest with the batches that
follow. Under lasting load that is as much as falls due; after a burst nobody waits for all that it brought, and more comes
meanwhile, and is filed at once, too."""

_CHUNKS: Final = BulkInsert(
    "chunk",
    ("key", "low_version", "high_version", "messages"),
    "ON CONFLICT (key) DO UPDATE SET messages = excluded.messages",
)
_DIALOGS: Final = BulkInsert(
    "dialog",
    ("user", "peer", "seq", "rev", "received", "read", "peer_received", "peer_read", "version", "conversation"),
    """ON CONFLICT (user, peer) DO UPDATE SET seq = excluded.seq, rev = excluded.rev, received = excluded.received,
        read = excluded.read, peer_received = excluded.peer_received, peer_read = excluded.peer_read,
        version = excluded.version""",
)
_TAILS: Final = f"""
    SELECT wanted.value, key, low_version, high_version, messages FROM carray(?) AS wanted CROSS JOIN chunk
    ON key = (
        SELECT max(key) FROM chunk WHERE key BETWEEN wanted.value << {SEQ_BITS} AND (wanted.value + 1 << {SEQ_BITS}) - 1
    )
    WHERE length(messages) < {CHUNK_BYTES}
"""


class Filing:
    """The writer's. Whatever a transaction that fails would have filed stays young."""

    def __init__(self, connection: apsw.Connection, identities: Identities, young: Young, synchronous: str) -> None:
        self._connection = connection
        self._identities = identities
        self._young = young
        self._synchronous = synchronous
        self._sweep: list[Conversation] = []
        """Conversations that the sweep has still to file, the next one last."""
        self._until: int | None = None
        """The seq up to which it files at least the next conversation, of which it has filed a part; None if it hasn't."""
        self._journalled = 0
        """The journal's last row when the sweep began."""
        self._filed = 0
        """The journal's rows up to this one are in the tables and still to be removed; 0 if none is."""
        self._due = 0
        """Bulk that is to be filed, once it's a portion."""

    @property
    def overdue(self) -> bool:
        return self._is_ripe(MOST)

    def after_batch(self, size: int, number: int) -> None:
        """File what is due after a batch of `size` writes, of which the journal's last row has this number."""
        if not self._sweep:
            if not self._is_ripe():
                self._forget()
                return
            self._begin_sweep(number)
        self._due += int(FILED_PER_NEW * bulk_of(size, self._young.last_characters))
        if self._due >= PORTION or self.overdue:
            room = max(PORTION, self._due // SPREAD)
            self._due = max(0, self._due - room)
            self._due = max(0, self._due + self._file(number, room))
        else:
            self._forget()

    def at_leisure(self, number: int) -> bool:
        """File a portion of whatever there is, up to the journal's row of this number, the last. True if more is left."""
        if not self._sweep and not self._young.conversations:
            self._forget()
            return bool(self._filed)
        if not self._sweep:
            self._begin_sweep(number)
        self._file(number, PORTION)
        return bool(self._young.conversations or self._filed)

    def _is_ripe(self, times: int = 1) -> bool:
        young = self._young
        return (
            young.messages >= times * RIPE
            or young.characters >= times * RIPE_CHARACTERS
            or young.changes >= times * RIPE_CHANGES
        )

    def _begin_sweep(self, number: int) -> None:
        # In the order of the conversations, whose chunks and identities are neighbours then.
        self._sweep = sorted(self._young.conversations.values(), key=lambda each: each.number, reverse=True)
        self._journalled = number
        self._due = 0

    def _file(self, number: int, room: int) -> int:
        """Returns what is left of the room, less than nothing if a message was longer than that."""
        sweep = self._sweep
        left, until = len(sweep), self._until
        portion: list[Part] = []
        while left and room > 0:
            # What has come meanwhile is taken along, but the sweep doesn't wait for what comes while a long one is filed.
            last = sweep[left - 1].state.seq if until is None else until
            part = Part.of(sweep[left - 1], room)
            room -= bulk_of(len(part.rows) or 1, part.characters)
            portion.append(part)
            if part.state.seq < last:
                until = last
                break
            left, until = left - 1, None
        with self._transaction():
            file(self._connection, self._identities, portion)
            filed = self._filed
            if not left:
                # If nothing else is young, the tables have the whole journal: also what came while the sweep was under way.
                everything = sum([part.whole for part in portion]) == len(self._young.conversations)
                filed = number if everything else self._journalled
            more = bool(filed) and journal.forget(self._connection, filed, FORGOTTEN_AT_ONCE)
            with self._young.lock:
                self._connection.execute("COMMIT")
                self._young.remove(portion)
        del sweep[left:]
        self._until = until
        self._filed = filed if more else 0
        return room

    def _forget(self) -> None:
        """Remove the next of what is filed from the journal."""
        if not self._filed:
            return
        with self._transaction():
            left = journal.forget(self._connection, self._filed, FORGOTTEN_AT_ONCE)
            self._connection.execute("COMMIT")
        if not left:
            self._filed = 0

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """A transaction, which the caller commits. Commits are in order and whole, and the next one that is synced takes
        them along."""
        try:
            self._connection.pragma("synchronous", "NORMAL")  # in force as soon as it's parsed, also if it fails then
            self._connection.execute("BEGIN IMMEDIATE")
            yield
        except BaseException:
            # Some errors have rolled the transaction back by themselves.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        finally:
            try:
                self._connection.pragma("synchronous", self._synchronous)
            except apsw.Error as error:
                # Whatever it was for: the next batch would be acknowledged before it is on disk.
                raise StoreFailed(f"the database can't be made to sync again: {error}") from error


def file(connection: apsw.Connection, identities: Identities, parts: Sequence[Part]) -> None:
    """Write them into the tables, in the caller's transaction."""
    tails = _tails(connection, [part for part in parts if part.rows and part.rows[0].seq > 1])
    messages: list[tuple[int | bytes, ...]] = []
    dialogs: list[tuple[int, ...]] = []
    for _, state, rows, _, _ in parts:
        if rows:
            messages += chunks(state.number, state.low, rows, tails.get(state.number))
        dialogs += sides_of(state)
    messages.sort(key=lambda chunk: chunk[0])
    # Each in the order of its keys: neighbours share pages, and a page is found again while it's warm.
    _CHUNKS.run(connection, messages)
    identities.add(parts)
    _DIALOGS.run(connection, sorted(dialogs))


def _tails(connection: apsw.Connection, parts: Iterable[Part]) -> dict[int, Chunk]:
    """The conversations' last chunks, by the conversation, of those that have room for more."""
    wanted = array("q", [part.state.number for part in parts])
    found: Any = connection.execute(_TAILS, (apsw.carray(wanted),)) if wanted else ()
    return {row[0]: Chunk(*row[1:]) for row in found}
