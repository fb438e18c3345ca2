"""What a batch changed, as one row: all that has to be on disk before its messages are acknowledged.

A row holds, for each conversation that the batch touched, its new state and its new messages, as msgpack. The tables that
are read follow later, many batches at once (`filing.py`), and then the row goes. After a crash the rows that are left say
what the tables lack, and nothing else is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import apsw
import msgspec

from duologue.store.ledger import MessageRow, Pair
from duologue.store.sqlite.young import Conversation, HeadState

Record = tuple[HeadState, list[MessageRow] | None]
"""A conversation's state after a batch, and the messages that the batch added to it."""

_ADD: Final = "INSERT INTO journal (entries) VALUES (?) RETURNING number"
_ROWS: Final = "SELECT number, entries FROM journal ORDER BY number"
_SIZES: Final = "SELECT number, length(entries) FROM journal WHERE number <= ? ORDER BY number"
_FILED: Final = "SELECT seq FROM dialog WHERE user = ? AND peer = ?"

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Record]).decode


def add(connection: apsw.Connection, records: Sequence[Record]) -> int:
    """Write a row, in the caller's transaction. Returns its number."""
    return int(str(connection.execute(_ADD, (_encode(records),)).get))


def forget(connection: apsw.Connection, up_to: int, most: int) -> bool:
    """What the rows up to this number hold is in the tables: remove the first of them, `most` bytes or little more, but two at
    least, so that fewer are left than a batch brings. In the caller's transaction. True if some are left."""
    last = size = count = 0
    left = False
    for number, length in connection.execute(_SIZES, (up_to,)):
        if size >= most and count > 1:
            left = True
            break
        last, size, count = int(str(number)), size + int(str(length)), count + 1
    connection.execute("DELETE FROM journal WHERE number <= ?", (last,))
    return left


def is_empty(connection: apsw.Connection) -> bool:
    return not connection.execute("SELECT EXISTS (SELECT 1 FROM journal)").get


def unfiled(connection: apsw.Connection) -> list[Conversation]:
    """What the tables lack. Some of a row may be in them: conversations are filed one after another."""
    found: dict[Pair, Conversation] = {}
    gathered: dict[Pair, list[MessageRow]] = {}
    filed: dict[Pair, int] = {}
    row: Any
    for row in connection.execute(_ROWS):
        for state, rows in _decode(row[1]):
            pair = state.low, state.high
            conversation = found.get(pair)
            if conversation is None:
                conversation = found[pair] = Conversation(*pair)
                gathered[pair] = []
                filed[pair] = int(str(connection.execute(_FILED, pair).get or 0))
            conversation.state = state
            gathered[pair] += [each for each in rows or () if each.seq > filed[pair]]
    for pair, conversation in found.items():
        conversation.rows = gathered[pair]
    return list(found.values())
