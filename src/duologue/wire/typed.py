"""Known events by a short way: name and ack id by one regular expression, the one argument decoded straight into a struct.

A short cut beside `socketio.decode`, never another opinion (but for what a `refused.Refuser` turns away): what isn't an event
of the main namespace with exactly one argument, an object with no other fields than the struct that its name asks for,
is declined, and the general decoder says what is wrong with it, if anything. So depth and UTF-8 need no look of their
own here: a struct without `Any` bounds the one, and msgspec has read every string.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from duologue.wire.limits import Limits
from duologue.wire.refused import Refused, Refuser

_ZERO = 0x30

_Known = tuple[str, Callable[[bytes], tuple[str, Any]], bool]


class TypedEvent(msgspec.Struct, gc=False):
    """An event of the main namespace. `argument` is of the type (of a subclass, to be exact) that its name has."""

    name: str
    argument: Any
    ack_id: int | None


class Schemas:
    """The types of the events that an application knows, by name. Names are ASCII without quotes and backslashes.

    The application's `Refuser` is asked for each event of its names that wants an ack (but for one whose id begins with 0). What
    it refuses isn't looked at, not even for being JSON, and the application doesn't hear of it.
    """

    __slots__ = ("_known", "_match", "_most", "_refuser")

    def __init__(
        self,
        types: Mapping[str, type[msgspec.Struct]],
        limits: Limits,
        refuser: Refuser | None = None,
    ) -> None:
        """`types` by the event's name."""
        self._refuser = refuser
        self._most = limits.poll_packets
        refusable = refuser.names if refuser is not None else ()
        # All that comes before the argument is read by one call: group 1 is the ack's id, and each name has a group of its own,
        # whose number the match knows.
        self._known: dict[int | None, _Known] = {
            group: (name, msgspec.json.Decoder(tuple[str, _strict(type_)]).decode, name in refusable)  # type: ignore[misc]
            for group, (name, type_) in enumerate(types.items(), 2)
        }
        names = b"|".join(b"(%b)" % re.escape(name.encode("ascii")) for name in types) or b"(?!)"
        self._match = re.compile(rb'42([0-9]{0,%d})\["(?:%b)"' % (limits.ack_digits, names)).match

    def decode(self, packet: bytes, refused: Refused | None = None) -> TypedEvent | Refused | None:
        """`packet` is a whole Engine.IO text message, `4` included. None is for the general decoder.

        An event that is refused is among what is returned, to be answered by whoever called. If that is passed with the next
        packet, it takes that as well, without asking again.
        """
        match = self._match(packet)
        if match is None:
            return None
        name, decode, refusable = self._known[match.lastindex]
        ack_id = None
        digits = match[1]
        if digits:
            # The answer has the digits as they came, so they have to be those of a number.
            if refusable and digits[0] != _ZERO and (refused or (refused := self._refuse())):
                refused.ids.append(digits)
                return refused
            ack_id = int(digits)
        try:
            return TypedEvent(name, decode(packet[match.end(1) :])[1], ack_id)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None

    def refused(self, arguments: bytes) -> Refused:
        """An empty one, to be passed with the next packets: all that the refuser is asked for will be in it. `arguments`: those
        of each ACK, a JSON array."""
        return Refused(arguments, self._most)

    def _refuse(self) -> Refused | None:
        refuser = self._refuser
        if refuser is None or (refusal := refuser.ask()) is None:
            return None
        return self.refused(refuser.answer(refusal))


def _strict(type_: type[msgspec.Struct]) -> type[msgspec.Struct]:
    return msgspec.defstruct(type_.__name__, [], bases=(type_,), forbid_unknown_fields=True, gc=False)
