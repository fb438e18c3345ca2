"""Known events by a short way: name and ack id by one regular expression, the one argument decoded straight into a struct.

A short cut beside `socketio.decode`, never another opinion (but for what a `Refuser` turns away): what isn't an event
of the main namespace with exactly one argument, an object with no other fields than the struct that its name asks for,
is declined, and the general decoder says what is wrong with it, if anything. So depth and UTF-8 need no look of their
own here: a struct without `Any` bounds the one, and msgspec has read every string.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from duologue.wire.limits import Limits


class Refuser(NamedTuple):
    """Turns events away before their argument is read."""

    ask: Callable[[], Any]
    """Why the next one is refused; None to have it read."""
    answer: Callable[[Any], bytes]
    """What its ack says then: a JSON array."""


_ZERO = 0x30

_Known = tuple[str, Callable[[bytes], tuple[str, Any]], Refuser | None]


class TypedEvent(msgspec.Struct, gc=False):
    """An event of the main namespace. `argument` is of the type (of a subclass, to be exact) that its name has."""

    name: str
    argument: Any
    ack_id: int | None


class Schemas:
    """The types of the events that an application knows, by name. Names are ASCII without quotes and backslashes.

    An application that is overloaded refuses more than it accepts, and needs no more than the ack's id for that: an event's
    `Refuser`, where it has one, is asked each time that an ack is wanted (but for one whose id begins with 0). What it refuses
    isn't looked at, not even for being JSON, and the application doesn't hear of it.
    """

    __slots__ = ("_known", "_match")

    def __init__(
        self,
        types: Mapping[str, type[msgspec.Struct]],
        limits: Limits,
        refusals: Mapping[str, Refuser] = MappingProxyType({}),
    ) -> None:
        """`types` and `refusals` by the event's name."""
        # All that comes before the argument is read by one call: group 1 is the ack's id, and each name has a group of its own,
        # whose number the match knows.
        self._known: dict[int | None, _Known] = {
            group: (name, msgspec.json.Decoder(tuple[str, _strict(type_)]).decode, refusals.get(name))  # type: ignore[misc]
            for group, (name, type_) in enumerate(types.items(), 2)
        }
        names = b"|".join(b"(%b)" % re.escape(name.encode("ascii")) for name in types) or b"(?!)"
        self._match = re.compile(rb'42([0-9]{0,%d})\["(?:%b)"' % (limits.ack_digits, names)).match

    def decode(self, packet: bytes) -> TypedEvent | bytes | None:
        """`packet` is a whole Engine.IO text message, `4` included. An event that is refused comes as the ACK to be sent,
        a text message as well; None is for the general decoder."""
        match = self._match(packet)
        if match is None:
            return None
        name, decode, refuser = self._known[match.lastindex]
        ack_id = None
        digits = match[1]
        if digits:
            # The answer has the digits as they came, so they have to be those of a number.
            if refuser is not None and digits[0] != _ZERO and (refusal := refuser.ask()) is not None:
                return b"43" + digits + refuser.answer(refusal)
            ack_id = int(digits)
        try:
            return TypedEvent(name, decode(packet[match.end(1) :])[1], ack_id)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None


def _strict(type_: type[msgspec.Struct]) -> type[msgspec.Struct]:
    return msgspec.defstruct(type_.__name__, [], bases=(type_,), forbid_unknown_fields=True, gc=False)
