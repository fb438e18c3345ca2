"""Events that are answered with a no before they are read, many at a time.

An application that is overloaded refuses more than it accepts, so a refusal has to cost a small part of what a message does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

from duologue.wire.frames import Frame, encode_alike


class Refuser(NamedTuple):
    """Turns events of the main namespace away before their argument is read."""

    names: Collection[str]
    """Of the events that it's asked for."""
    ask: Callable[[], Any]
    """Why the next one is refused; None to have it read."""
    answer: Callable[[Any], bytes]
    """What its ack says then: a JSON array."""


class Refused:
    """What one peer sent in one go, from the first event that was turned away on: `ids` are those of the acks, as the peer wrote
    them; all have the same answer."""

    __slots__ = ("_arguments", "_most", "ids")

    def __init__(self, arguments: bytes, most: int) -> None:
        """`arguments`: those of each ACK, a JSON array. `most`: packets in one frame."""
        self._arguments = arguments
        self._most = most
        self.ids: list[bytes] = []

    def frames(self) -> Iterator[Frame]:
        """The ACKs, in order."""
        for start in range(0, len(self.ids), self._most):
            yield encode_alike(b"43", self.ids[start : start + self._most], self._arguments)
