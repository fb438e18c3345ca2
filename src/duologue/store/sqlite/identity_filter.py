"""Which identities surely are in no table: a bit each, in memory, so that a new message's needs no look at the tables.

A Bloom filter with one hash function (Bloom, 1970), for an identity is a hash already: its last bits say which bit is its own.
If that isn't set, no message on disk has the identity; if it is, one may have it, and the tables are asked.

It's filled from the tables while the server runs, a portion at a time, and says nothing before it has them all. None is missed:
what is filed meanwhile is entered as it's filed, and those that move, from `recent_identity` to `identity`, are read from the
one or from the other, for that is the order in which the two are read.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final

import apsw
import msgspec
from bitarray import bitarray

LEAST: Final = 18
"""Bits of the smallest filter, as a power of two: 32 kB."""

GROWS_BY: Final = 3
"""From one size to the next, in powers of two. The next one is filled from the tables again while this one is asked."""

MOST: Final = 27
"""Bits of the largest one, as a power of two: 16 MB. With 10,000,000 messages it spares 93 of 100 looks, with ten times as
many half of them."""

CROWDED: Final = 8
"""Bits for each identity, with fewer of which it grows: so it spares seven looks of eight at least, up to the largest size."""

_NEXT: Final = {
    table: f"""
        SELECT max(key), count(*), json_group_array(key & ?)
        FROM (SELECT key FROM {table} WHERE key > ? ORDER BY key LIMIT ?)
    """
    for table in ("recent_identity", "identity")
}
"""One row for all of them: SQLite makes it without the interpreter lock."""

_decoder = msgspec.json.Decoder(list[int])


class IdentityFilter:
    """Of one database. All belongs to the writer's thread."""

    def __init__(self, connection: apsw.Connection) -> None:
        """`connection` is the writing one. Reads nothing yet."""
        self._connection = connection
        self._whole: _Bits | None = None
        self._next: _Bits | None = None
        """The one that is being filled."""
        self._tables: list[str] = []
        """Those that it's still to be filled from, the present one last."""
        self._after = 0
        """The key of the present table up to which it has them."""
        self._begin(LEAST)

    @property
    def learning(self) -> bool:
        """Whether there is something to `learn`."""
        return self._next is not None

    def candidates(self, identities: Sequence[int]) -> Sequence[int]:
        """Those that may be in a table; all of them as long as it isn't known."""
        return identities if self._whole is None else self._whole.among(identities)

    def add(self, identities: Sequence[int]) -> None:
        """They will be in a table, unless the transaction fails; then a few looks more are made."""
        if self._next is not None:
            self._next.add(identities)
        if self._whole is not None:
            self._whole.add(identities)
            if self._next is None and self._whole.crowded:
                self._begin(self._whole.power + GROWS_BY)

    def learn(self, count: int) -> None:
        """Read so many of the tables' identities. Outside of a transaction, or what it read might not be there in the end."""
        bits = self._next
        if bits is None:
            return
        asked = (bits.mask, self._after, count)
        row: Any = self._connection.execute(_NEXT[self._tables[-1]], asked).fetchone()
        last, read, places = row
        bits.set(_decoder.decode(places))
        if read == count:
            self._after = last
        else:
            self._after = 0
            self._tables.pop()
        if bits.crowded:
            self._begin(bits.power + GROWS_BY)
        elif not self._tables:
            self._whole, self._next = bits, None

    def _begin(self, power: int) -> None:
        self._next = _Bits(min(power, MOST))
        self._tables = ["identity", "recent_identity"]
        self._after = 0


class _Bits:
    def __init__(self, power: int) -> None:
        self.power = power
        self.mask = (1 << power) - 1
        self._bits = bitarray(1 << power)
        self._entered = 0

    @property
    def crowded(self) -> bool:
        return self.power < MOST and self._entered * CROWDED > 1 << self.power

    def add(self, identities: Sequence[int]) -> None:
        mask = self.mask
        self.set([identity & mask for identity in identities])

    def set(self, places: list[int]) -> None:
        self._bits[places] = True
        self._entered += len(places)

    def among(self, identities: Sequence[int]) -> Sequence[int]:
        mask = self.mask
        found = self._bits[[identity & mask for identity in identities]]
        return list(itertools.compress(identities, found)) if found.any() else ()
