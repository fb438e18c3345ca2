"""From schema version 1, a row a message and an index of ids, to version 2: chunks, and short identities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

import apsw

from duologue.store.ledger import MessageRow
from duologue.store.sqlite import schema
from duologue.store.sqlite.chunks import Chunk, chunks
from duologue.store.sqlite.identities import SALT, Identities, new_salt

_NUMBERED: Final = """
    UPDATE dialog SET conversation = pair.number FROM (
        SELECT user AS low, peer AS high, row_number() OVER (ORDER BY user, peer) AS number FROM dialog WHERE user <= peer
    ) AS pair
    WHERE user = low AND peer = high;
    UPDATE dialog SET conversation = (
        SELECT conversation FROM dialog AS other WHERE other.user = dialog.peer AND other.peer = dialog.user
    )
    WHERE user > peer
"""
_MESSAGES: Final = """
    SELECT conversation, low, message.seq, message.rev, sender, id, at, sender_version, recipient_version, content
    FROM message INDEXED BY message_by_seq CROSS JOIN dialog ON user = low AND peer = high
    ORDER BY low, high, message.seq
"""
_DROP: Final = "DROP INDEX message_by_seq; DROP INDEX message_by_id; DROP TABLE message"

_AT_ONCE: Final = 10_000
"""Messages of one conversation that are in memory together."""


def to_chunks(connection: apsw.Connection) -> None:
    """Between `0002_journal.sql` and the end of its transaction."""
    schema.write(connection, SALT, new_salt())
    connection.execute(_NUMBERED)
    identities = Identities(connection)
    # Two passes: conversations are in the order of their numbers, so both tables grow at their ends.
    connection.executemany("INSERT INTO chunk VALUES (?, ?, ?, ?)", _chunks(connection))
    connection.executemany("INSERT INTO identity VALUES (?, ?)", _identified(connection, identities))
    connection.execute(_DROP)


def _chunks(connection: apsw.Connection) -> Iterator[Chunk]:
    for conversation, low, rows in _runs(connection):
        yield from chunks(conversation, low, rows)


def _identified(connection: apsw.Connection, identities: Identities) -> Iterator[tuple[int, int]]:
    for conversation, low, rows in _runs(connection):
        yield from zip(identities.of(conversation, low, rows), [row.seq for row in rows], strict=True)


def _runs(connection: apsw.Connection) -> Iterator[tuple[int, int, list[MessageRow]]]:
    """Conversation, its low side and some neighbouring messages."""
    found: Any = connection.execute(_MESSAGES)
    for (conversation, low), rows in groupby(found, key=itemgetter(0, 1)):
        run: list[MessageRow] = []
        for row in rows:
            run.append(MessageRow(*row[2:]))
            if len(run) == _AT_ONCE:
                yield conversation, low, run
                run = []
        if run:
            yield conversation, low, run


FIRST_WITH_CHUNKS: Final = 2
"""Schema version."""

CODE: Final[Mapping[int, Callable[[apsw.Connection], None]]] = {FIRST_WITH_CHUNKS: to_chunks}
