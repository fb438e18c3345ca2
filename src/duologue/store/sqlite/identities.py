"""Which messages there are already, by (conversation, sender, id): what makes a retry find its first attempt (P2).

Of an identity only a short hash is kept, in one integer with its conversation's number, and beside it the seq of the
message: a fifth of the bytes of an index of ids, and a batch asks for all of its at once by an array of integers. A hash
that is there already says that a message may be known; then its id is read and compared. Two ids of one hash are two rows.

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
from duologue.store.sqlite.chunks import SEQ_BITS, decode

SALT: Final = "identity_salt"
"""In `meta`: the key of the hashes, as text."""

_KNOWN: Final = "SELECT DISTINCT key FROM carray(?) AS wanted CROSS JOIN identity ON key = wanted.value"

_CANDIDATES: Final = """
    SELECT seq, messages FROM identity CROSS JOIN chunk
    ON chunk.key = (SELECT max(key) FROM chunk WHERE key <= (:conversation << 32 | seq))
    WHERE identity.key = :identity
"""


class Identities:
    """Those of one database, on its writing connection."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        salt = str(schema.read(connection, SALT)).encode()
        # One of each side's, to be copied: that is faster than to begin with the key each time.
        self._of_low, self._of_high = (
            hashlib.blake2b(digest_size=SEQ_BITS // 8, key=salt, person=side) for side in (b"low", b"high")
        )

    def of(self, conversation: int, low: int, rows: Iterable[MessageRow]) -> list[int]:
        """The identities of a conversation's messages. `low` is the key of its low side: each side has hashes of its own."""
        base, of_low, of_high = conversation << SEQ_BITS, self._of_low, self._of_high
        found = []
        for row in rows:
            digest = of_low.copy() if row[2] == low else of_high.copy()
            digest.update(row[3].encode())
            found.append(base | int.from_bytes(digest.digest()))
        return found

    def known(self, identities: Sequence[int]) -> set[int]:
        """Those of them that some message on disk has, which may be another one."""
        found: Any = self._connection.execute(_KNOWN, (apsw.carray(array("q", identities)),))
        return {key for (key,) in found}

    def find(self, conversation: int, identity: int, sender: int, id: str) -> MessageRow | None:
        """The message on disk that has this sender and id, of those that have the identity."""
        asked = {"conversation": conversation, "identity": identity}
        found: Any = self._connection.execute(_CANDIDATES, asked)
        for seq, messages in found:
            rows = decode(messages)
            place = int(seq) - rows[0][0]
            if place < len(rows) and rows[place][2] == sender and rows[place][3] == id:
                return rows[place]
        return None


def new_salt() -> str:
    return secrets.token_hex(16)
