"""Which messages there are already, by (conversation, sender, id): what makes a retry find its first attempt (P2).

Of an identity only a short hash is kept, in one integer with its conversation's number, and beside it the seq of the
message: a fifth of the bytes of an index of ids, and a batch asks for all of its at once by an array of integers. A hash
that is there already says that a message may be known; then its id is read and compared. Two ids of one hash are two rows.

Hashes have no order that their messages have, so in a long conversation each new one is on a page of its own, to be read,
changed and written. Therefore the newest ones of long conversations are in a table of theirs, a page or two for each, and move
on many at once. (A log-structured merge tree of two levels, a small one for each conversation.)

Most new ones are known to be in neither table without a look (`identity_filter.py`).

The hash is BLAKE2b with the database's own key, so that nobody can make up ids that share one and have the server read more
and more of them for each message. CRC-32 over secretly exchanged bytes takes a third of its time, but is linear whatever the
secret: swap two digits at 15 certain places of a UUID, and it stays the same (`test_identities.py`).
"""

from __future__ import annotations

import hashlib
import secrets
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, Final

import apsw

from duologue.store.ledger import MessageRow
from duologue.store.sqlite import schema
from duologue.store.sqlite.bulk import BulkInsert
from duologue.store.sqlite.chunks import SEQ_BITS, decode
from duologue.store.sqlite.identity_filter import IdentityFilter
from duologue.store.sqlite.young import Part

SALT: Final = "identity_salt"
"""In `meta`: the key of the hashes, as text."""

LONG: Final = 2_048
"""Messages of a conversation from which on its new identities are recent ones at first: until then all are on a few pages."""

RECENT: Final = 512
"""Messages after which a conversation's recent identities move on."""

_STAGGER: Final = 317
"""Conversations with neighbouring numbers move on so many messages apart (modulo `RECENT`): those that began together
would all be at it together."""

_KNOWN: Final = """
    SELECT key FROM carray(?) AS wanted CROSS JOIN identity ON key = wanted.value
    UNION ALL
    SELECT key FROM carray(?) AS wanted CROSS JOIN recent_identity ON key = wanted.value
"""

_CANDIDATES: Final = """
    WITH known AS MATERIALIZED (
        SELECT seq FROM identity WHERE key = :identity UNION ALL SELECT seq FROM recent_identity WHERE key = :identity
    )
    SELECT seq, messages FROM known CROSS JOIN chunk
    ON chunk.key = (SELECT max(key) FROM chunk WHERE key BETWEEN :conversation << 32 AND (:conversation << 32 | seq))
"""

_MOVE: Final = (
    "INSERT OR ROLLBACK INTO identity SELECT key, seq FROM recent_identity WHERE key BETWEEN :first AND :last",
    "DELETE FROM recent_identity WHERE key BETWEEN :first AND :last",
)
_INSERT: Final = BulkInsert("identity", ("key", "seq"))
_INSERT_RECENT: Final = BulkInsert("recent_identity", ("key", "seq"))


class Identities:
    """Those of one database, on its writing connection."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self.filter: Final = IdentityFilter(connection)
        salt = str(schema.read(connection, SALT)).encode()
        # One of each side's, to be copied: that is faster than to begin with the key each time.
        self._of_low, self._of_high = (
            hashlib.blake2b(digest_size=SEQ_BITS // 8, key=salt, person=side) for side in (b"low", b"high")
        )

    def of(self, conversation: int, low: int, rows: Iterable[MessageRow]) -> tuple[int, ...]:
        """The identities of a conversation's messages. `low` is the key of its low side: each side has hashes of its own."""
        base, of_low, of_high = conversation << SEQ_BITS, self._of_low, self._of_high
        found = []
        for row in rows:
            digest = of_low.copy() if row.sender == low else of_high.copy()
            digest.update(row.id.encode())
            found.append(base | int.from_bytes(digest.digest()))
        return tuple(found)

    def known(self, identities: Sequence[int]) -> set[int]:
        """Those of them that some message on disk has, which may be another one."""
        candidates = self.filter.candidates(identities)
        if not candidates:
            return set()
        wanted = array("q", candidates)
        found: Any = self._connection.execute(_KNOWN, (apsw.carray(wanted), apsw.carray(wanted)))
        return {key for (key,) in found}

    def add(self, parts: Iterable[Part]) -> None:
        """Those of the messages of these parts, in the caller's transaction."""
        settled: list[tuple[int, int]] = []
        recent: list[tuple[int, int]] = []
        entered: list[int] = []
        moving: list[int] = []
        for _, state, rows, identities, _ in parts:
            if not rows:
                continue
            conversation = state.number
            identities = identities or self.of(conversation, state.low, rows)
            entered += identities
            is_long = state.seq > LONG
            (recent if is_long else settled).extend(zip(identities, [row.seq for row in rows], strict=True))
            if is_long and _turn(conversation, rows[0].seq - 1) < _turn(conversation, state.seq):
                moving.append(conversation)
        self.filter.add(entered)
        # Each in the order of its keys: neighbours share pages, and a page is found again while it's warm.
        _INSERT.run(self._connection, sorted(settled))
        _INSERT_RECENT.run(self._connection, sorted(recent))
        for conversation in sorted(moving):
            first = conversation << SEQ_BITS
            for statement in _MOVE:
                self._connection.execute(statement, {"first": first, "last": first | (1 << SEQ_BITS) - 1})

    def find(self, conversation: int, identity: int, sender: int, id: str) -> MessageRow | None:
        """The message on disk that has this sender and id, of those that have the identity."""
        asked = {"conversation": conversation, "identity": identity}
        found: Any = self._connection.execute(_CANDIDATES, asked)
        for seq, messages in found:
            rows = decode(messages)
            place = int(seq) - rows[0].seq
            if place < len(rows) and rows[place].sender == sender and rows[place].id == id:
                return rows[place]
        return None


def _turn(conversation: int, seq: int) -> int:
    """How often its recent identities have moved on when it has so many messages."""
    return (seq + conversation * _STAGGER) // RECENT


def new_salt() -> str:
    return secrets.token_hex(16)
