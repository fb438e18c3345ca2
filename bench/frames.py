"""The load's own frames: a chat message as the bytes that go on the wire, and what is read of it when it arrives.

Everything in a content has a fixed width (sender, the sender's counter, the time it was sent, padding), so that a frame is
one formatting step and a delivery is read at fixed offsets, without JSON. All peers send `content` first.

Frames are masked with four zero bytes (RFC 6455 section 5.3): the server unmasks as ever, the load has nothing to do.
"""

from __future__ import annotations

from typing import Final, NamedTuple

EVENT: Final = b'42["private message",{"content":"'
"""How every delivery begins: an Engine.IO message, a Socket.IO event (protocol v5), the guide's name and first field."""

CONTENT_BYTES: Final = 103
MAX_SENDER: Final = 99_999
MAX_NUMBER: Final = 899_999_999

_PADDING: Final = b" " + b"x" * (CONTENT_BYTES - 33)
_SENDER: Final = slice(len(EVENT), len(EVENT) + 5)
_NUMBER: Final = slice(_SENDER.stop + 1, _SENDER.stop + 10)
_SENT_AT: Final = slice(_NUMBER.stop + 1, _NUMBER.stop + 17)
_FIRST_ACK: Final = 100_000_000
"""Ack ids count from here, so that each has nine digits."""


def masked(payload: bytes) -> bytes:
    """A client's whole text frame (RFC 6455 section 5.2) of at most 65,535 bytes."""
    return _header(len(payload)) + payload


def _header(size: int) -> bytes:
    if size < 126:
        return b"\x81%c\0\0\0\0" % (0x80 | size)
    return b"\x81\xfe%b\0\0\0\0" % size.to_bytes(2, "big")


def address(user_id: str) -> bytes:
    """The middle of a message to that user, for `Sender.frame`. All user ids of one peer have the same length."""
    return _PADDING + b'","to":"' + user_id.encode()


class Sender:
    """Makes the frames of one sender. With `acks` each message has an id (a UUID, another one in each `run` against the same
    store) and asks for an ack."""

    def __init__(self, index: int, acks: bool, address_size: int, run: int = 0) -> None:
        start = b"%05d " % index
        if acks:
            before, after = (
                EVENT[:2] + b"%d" + EVENT[2:] + start,
                b'","id":"%08x-%04x-4000-8000-' % (index, run) + b'%012x"}]',
            )
            sample = before % _FIRST_ACK + b"%09d %016d" % (0, 0) + after % 0
        else:
            before, after = EVENT + start, b'"}]'
            sample = before + b"%09d %016d" % (0, 0) + after
        header = _header(len(sample) + address_size).replace(b"%", b"%%")
        self._template = header + before + b"%09d %016d%b" + after
        self._acks = acks

    def frame(self, number: int, sent_at: int, to: bytes) -> bytes:
        """Message `number` (1 to MAX_NUMBER) to an `address`; `sent_at` in microseconds, at most 16 digits."""
        if self._acks:
            return self._template % (_FIRST_ACK + number, number, sent_at, to, number)
        return self._template % (number, sent_at, to)


class Delivery(NamedTuple):
    sender: bytes
    number: bytes
    """Nine digits: of two numbers the larger one is the larger text."""
    sent_at: int


def acked_number(payload: bytes) -> int:
    """Which of its sender's messages an ack, a payload that begins with 43, answers."""
    return int(payload[2:11]) - _FIRST_ACK


def delivery(payload: bytes) -> Delivery:
    """What a payload that begins with EVENT says."""
    return Delivery(payload[_SENDER], payload[_NUMBER], int(payload[_SENT_AT]))
