"""Outgoing packets, encoded once for every socket, whatever its transport."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from itertools import groupby

import msgspec

SEPARATOR = b"\x1e"
"""Between the packets of a polling payload (Engine.IO v4)."""

_TEXT = 0x81
_BINARY = 0x82


def encode_header(size: int, opcode: int = _TEXT) -> bytes:
    """Of an unmasked websocket frame with `size` bytes (RFC 6455 section 5.2); `opcode` carries the FIN bit."""
    if size < 126:
        return bytes((opcode, size))
    if size < 65_536:
        return bytes((opcode, 126, size >> 8, size & 255))
    return bytes((opcode, 127)) + size.to_bytes(8, "big")


def websocket_frame(payload: bytes, opcode: int = _TEXT) -> bytes:
    """One whole frame, its header included."""
    return encode_header(len(payload), opcode) + payload


_SMALL = 1024
_HEADERS = [encode_header(size) for size in range(_SMALL)]
"""The headers of the text frames that a chat is made of, by their size."""


class Frame(msgspec.Struct, gc=False):
    """An Engine.IO packet with its binary attachments, or several text packets, ready for both transports. Made by `encode_frame`
    and its like.

    `ws` is what goes to a websocket, headers included: frames of one socket are joined and written at once. `payload`
    is the same for a poll: the packets with separators between them, binary ones as base64. It's derived when first
    asked for. A frame never changes and is shared by all the sockets that it is sent to.
    """

    ws: bytes
    _attachments: Sequence[bytes] = ()
    _payload: bytes | None = None
    packets: int = 1

    @property
    def payload(self) -> bytes:
        if self._payload is None:
            size = self.ws[1]
            start = 2 if size < 126 else 4 if size == 126 else 10
            if self._attachments:
                if size >= 126:
                    size = int.from_bytes(self.ws[2:start], "big")
                encoded = (b"b" + b64encode(item) for item in self._attachments)
                self._payload = SEPARATOR.join((self.ws[start : start + size], *encoded))
            else:
                self._payload = self.ws[start:]
        return self._payload


def encode_frame(packet: bytes, attachments: Sequence[bytes] = ()) -> Frame:
    # A function, for a class with an `__init__` of its own takes half as long again, for each message twice.
    size = len(packet)
    ws = _HEADERS[size] + packet if size < _SMALL else websocket_frame(packet)
    if attachments:
        joined = b"".join((ws, *(websocket_frame(item, _BINARY) for item in attachments)))
        return Frame(joined, attachments, None, 1 + len(attachments))
    return Frame(ws)


def encode_alike(start: bytes, middles: Sequence[bytes], end: bytes) -> Frame:
    """Text packets that differ in their middle only, as one: for much less than each by itself. At least one."""
    parts: list[bytes] = []
    for size, group in groupby(middles, len):
        begin = encode_header(len(start) + size + len(end)) + start
        parts += begin, (end + begin).join(group), end
    payload = start + (end + SEPARATOR + start).join(middles) + end
    return Frame(b"".join(parts), (), payload, len(middles))


def encode_binary_frame(content: bytes) -> Frame:
    """A bare Engine.IO binary message, for servers without Socket.IO."""
    return Frame(websocket_frame(content, _BINARY), (), b"b" + b64encode(content))
