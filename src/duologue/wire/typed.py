"""Known events in one pass: the packet's name, ack id and one argument, decoded straight into a struct.

A short cut beside `socketio.decode`, never another opinion: what isn't an event of the main namespace with exactly one
argument of the type that its name asks for is declined, and the general decoder says what is wrong with it, if anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from duologue.wire.json_text import is_utf8, may_be_deep
from duologue.wire.limits import Limits


class TypedEvent(msgspec.Struct, gc=False):
    """An event of the main namespace whose one argument was decoded."""

    name: str
    argument: Any
    ack_id: int | None


class Schemas:
    """The types of the events that an application knows, by name. Names are ASCII without quotes and backslashes."""

    __slots__ = ("_decoders", "_digits", "_name", "_nesting")

    def __init__(self, types: Mapping[str, type], limits: Limits) -> None:
        self._decoders: dict[bytes, tuple[str, Callable[[bytes], tuple[str, Any]]]] = {
            name.encode("ascii"): (name, msgspec.json.Decoder(tuple[str, type_]).decode)  # type: ignore[valid-type]
            for name, type_ in types.items()
        }
        self._name = max(map(len, self._decoders), default=0) + 1
        self._digits = limits.ack_digits
        self._nesting = limits.nesting

    def decode(self, packet: bytes) -> TypedEvent | None:
        """`packet` is a whole Engine.IO text message, `4` included."""
        if packet[1:2] != b"2":
            return None
        start = packet.find(b"[", 2, 3 + self._digits)
        name_at = start + 2
        known = self._decoders.get(packet[name_at : packet.find(b'"', name_at, name_at + self._name)])
        if known is None:
            return None
        if start == 2:
            ack_id = None
        else:
            digits = packet[2:start]
            if start < 0 or not digits.isdigit():
                return None
            ack_id = int(digits)
        text = packet[start:]
        if may_be_deep(text, self._nesting) or not (text.isascii() or is_utf8(text)):
            return None
        name, decode = known
        try:
            return TypedEvent(name, decode(text)[1], ack_id)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
