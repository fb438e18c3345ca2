"""Messages on disk: a few neighbours of one conversation in one row, as long as they fit a page.

A row a message costs a search in a tree and a record of its own for each; a chunk costs them once for all its messages,
and a page of history is a few rows. The key of a chunk is its conversation's number and the seq of its first message, in
one integer, so that a conversation is a range of keys. In front of it, for a search by version, are the versions that its
first message brought both sides to.

What a chunk holds is msgpack: an array of messages, each the tuple `MessageRow` of the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from duologue.store.ledger import MessageRow

SEQ_BITS: Final = 32
"""Of a key; the conversation's number has the others, and the sign is free."""

CHUNK_BYTES: Final = 3_600
"""What the messages of a chunk should come to at most, so that it fits a page of 4 kB. A longer message is alone in its."""

CHUNK_MESSAGES: Final = 64
"""At most, however short they are: who wants one of them reads them all."""

_OVERHEAD: Final = 64
"""Bytes of a message besides its text."""

encode = msgspec.msgpack.Encoder().encode
decode: Callable[[bytes], list[MessageRow]] = msgspec.msgpack.Decoder(list[MessageRow]).decode


class Chunk(NamedTuple):
    """A row of `chunk`."""

    key: int
    low_version: int
    high_version: int
    messages: bytes


def key_of(conversation: int, seq: int) -> int:
    return conversation << SEQ_BITS | seq


def chunks(conversation: int, low: int, rows: Sequence[MessageRow]) -> Iterator[Chunk]:
    """The rows for some messages, neighbours in the order of their seq. `low` is the key of the conversation's low side."""
    start = size = 0
    for place, row in enumerate(rows):
        size += len(row[7]) + _OVERHEAD
        if place > start and (size > CHUNK_BYTES or place - start >= CHUNK_MESSAGES):
            yield _chunk(conversation, low, rows[start:place])
            start, size = place, len(row[7]) + _OVERHEAD
    if rows:
        yield _chunk(conversation, low, rows[start:])


def _chunk(conversation: int, low: int, rows: Sequence[MessageRow]) -> Chunk:
    seq, _, sender, _, _, sender_version, recipient_version, _ = rows[0]
    mine, theirs = (sender_version, recipient_version) if sender == low else (recipient_version, sender_version)
    return Chunk(key_of(conversation, seq), mine, theirs, encode(rows))
