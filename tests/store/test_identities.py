"""Nobody can make up ids whose hash is the same: each such id costs every later one a read."""

from __future__ import annotations

import random
from collections.abc import Iterator

import apsw
import pytest

from duologue.domain.content import check_message_id
from duologue.store.ledger import MessageRow
from duologue.store.sqlite import schema
from duologue.store.sqlite.chunked import CODE
from duologue.store.sqlite.chunks import chunks
from duologue.store.sqlite.identities import Identities

CRC_32 = 0x104C11DB7


@pytest.fixture
def identities() -> Iterator[Identities]:
    connection = database()
    yield Identities(connection)
    connection.close()


def database() -> apsw.Connection:
    connection = apsw.Connection(":memory:")
    schema.migrate(connection, 0, CODE)
    return connection


def row(id: str, sender: int = 1) -> MessageRow:
    return MessageRow(1, 1, sender, id, 1, 1, 1, "text")


def swapped(id: str, one: str, other: str, polynomial: int) -> str:
    """With the two digits exchanged where the polynomial has a term: the last character's is that of x^0."""
    last = len(id) - 1
    marked = [digit if not polynomial >> last - place & 1 else "?" for place, digit in enumerate(id)]
    return "".join({"?": other if id[place] == one else one}.get(digit, digit) for place, digit in enumerate(marked))


def test_not_by_swapping_digits_where_a_linear_code_does_not_see_it(identities: Identities, rng: random.Random) -> None:
    """For bytes exchanged by any table the difference is d * M^8, M being the polynomial of the places."""
    for _ in range(50):
        one, other = rng.sample("0123456789abcdef", 2)
        digits = [rng.choice((one, other)) for _ in range(36)]
        for place in (8, 13, 18, 23):
            digits[place] = "-"
        id = "".join(digits)
        alike = swapped(id, one, other, CRC_32 << 3)
        check_message_id(alike)
        first, second = identities.of(3, 1, [row(id), row(alike)])
        assert first != second
        assert first >> 32 == second >> 32 == 3


def test_each_side_and_each_database_has_its_own(identities: Identities) -> None:
    ids = [f"id {number}" for number in range(1_000)]
    other = database()
    found = [
        *identities.of(1, 1, [row(id, 1) for id in ids]),
        *identities.of(1, 1, [row(id, 2) for id in ids]),
        *Identities(other).of(1, 1, [row(id, 1) for id in ids]),
    ]
    other.close()
    assert len(set(found)) >= 2_998
    assert list(identities.of(1, 1, [row(id, 1) for id in ids])) == found[:1_000]


def test_what_another_conversation_has_is_not_taken_for_a_first_attempt() -> None:
    """Even when somebody has removed a conversation's messages by hand, and left their identities: then a chunk of the
    neighbouring one is the next in the table."""
    connection = database()
    identities = Identities(connection)
    for conversation in (1, 2):
        (identity,) = identities.of(conversation, 1, [row("id")])
        connection.execute("INSERT INTO identity VALUES (?, 1)", (identity,))
        assert identities.find(conversation, identity, 1, "id") is None
        (chunk,) = chunks(conversation, 1, [row("id")])
        connection.execute("INSERT INTO chunk VALUES (?, ?, ?, ?)", chunk)
        assert identities.find(conversation, identity, 1, "id") == row("id")
    connection.execute("DELETE FROM chunk WHERE key = ?", (chunk.key,))
    assert identities.find(2, identity, 1, "id") is None
    connection.close()
