"""Messages on disk: a few neighbours of one conversation in one row, as long as they fit a page.

A row a message costs a search in a tree and a record of its own for each; a chunk costs them once for all its messages,
and a page of history is a few rows. The key of a chunk is its conversation's number and the seq of its first message, in
one integer, so that a conversation is a range of keys. In front of it, for a search by version, are the versions that its
first message brought both sides to.

What a chunk holds is msgpack: an array of messages, each an array of the fields of `MessageRow` of the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from duologue.store.ledger import MessageRow

SEQ_BITS: Final = 32
"""Of a key; the conversation's number has the others, and the sign is free."""

CHUNK_BYTES: Final = 3_600
"""What the messages of a chunk should come to at most, so that it fits a page of 4 kB. A longer message is alone in its."""

CHUNK_MESSAGES: Final = 64
"""At most, however short they are: who wants one of them reads them all."""

_FIXARRAY: Final = 0x90
_ARRAY16: Final = 0xDC

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


def chunks(conversation: int, low: int, rows: Sequence[MessageRow], tail: Chunk | None = None) -> Iterator[Chunk]:
    """The rows for some messages, neighbours in the order of their seq. `low` is the key of the conversation's low side, `tail`
    the chunk that ends where they begin: what it has room for joins it, without it being decoded."""
    start = 0
    if tail is not None:
        count, items = _items(tail.messages)
        start = _end(rows, 0, count, len(tail.messages))
        if start:
            messages = _array(count + start, (items, _items(encode(rows[:start]))[1]))
            yield Chunk(tail.key, tail.low_version, tail.high_version, messages)
    while start < len(rows):
        end = max(start + 1, _end(rows, start, 0, 0))
        first = rows[start]
        mine, theirs = first.sender_version, first.recipient_version
        if first.sender != low:
            mine, theirs = theirs, mine
        yield Chunk(key_of(conversation, first.seq), mine, theirs, encode(rows[start:end]))
        start = end


def _end(rows: Sequence[MessageRow], start: int, count: int, size: int) -> int:
    """Before which of the rows a chunk ends that has so many messages and bytes already."""
    for place in range(start, len(rows)):
        size += len(rows[place].content) + _OVERHEAD
        if size > CHUNK_BYTES or count >= CHUNK_MESSAGES:
            return place
        count += 1
    return len(rows)


def _items(array: bytes) -> tuple[int, bytes]:
    """How many items a msgpack array has, and their bytes, one after another (msgpack specification, array format family)."""
    first = array[0]
    if first & 0xF0 == _FIXARRAY:
        return first & 0x0F, array[1:]
    if first == _ARRAY16:
        return int.from_bytes(array[1:3]), array[3:]
    raise ValueError(f"a chunk begins with the byte {first:#04x}, which is no array of at most 65,535 items")


def _array(count: int, items: Iterable[bytes]) -> bytes:
    """The msgpack array of these items."""
    head = bytes((_FIXARRAY | count,)) if count < 16 else bytes((_ARRAY16, count >> 8, count & 0xFF))
    return head + b"".join(items)
