"""Websocket messages out of frames: the rules of RFC 6455 that concern more than one frame, and the reserved bits.

The frames themselves (lengths, masks, control frames) were read by whoever calls this.
"""

from __future__ import annotations

from duologue.wire.limits import Limits
from duologue.wire.violation import Violation

CONTINUATION = 0
TEXT = 1
BINARY = 2


class Assembler:
    """Joins the fragments of one connection's messages (section 5.4). Bounded by `max_payload` and `fragments`."""

    __slots__ = ("_count", "_limits", "_opcode", "_parts")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._opcode = CONTINUATION
        self._parts = bytearray()
        self._count = 0

    @property
    def busy(self) -> bool:
        return self._opcode != CONTINUATION

    def receive(self, opcode: int, fin: bool, content: bytes) -> tuple[int, bytes] | Violation | None:
        """One data frame. A finished message comes out as its opcode and content, an unfinished one as None."""
        if opcode == CONTINUATION:
            if not self.busy:
                return Violation("continuation of nothing")
        elif self.busy:
            return Violation("new message inside a fragmented one")
        elif fin:
            return (opcode, content)
        else:
            self._opcode = opcode
        self._count += 1
        if self._count > self._limits.fragments:
            return Violation("too many fragments")
        if len(self._parts) + len(content) > self._limits.max_payload:
            return Violation("message is too large")
        self._parts += content
        if not fin:
            return None
        message = (self._opcode, bytes(self._parts))
        self._opcode = CONTINUATION
        self._parts = bytearray()
        self._count = 0
        return message
