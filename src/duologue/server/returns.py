"""How far apart those who are here should come back if this server is restarted, as clients that sync are told.

A server that ends without a word leaves everybody without a connection at the same moment, and their clients' own first
pauses are all about a second. What they need to know for something better has to be with them before: the time in which
this server can sign in as many as it has. Each comes back at a random moment within it. It's told with each sync, and to
everybody when the number has grown by a quarter.
"""

from __future__ import annotations

from typing import Final

from duologue.server import events
from duologue.server.hub import Hub
from duologue.server.transport import encode_frame
from duologue.wire import encode_event

PER_SECOND: Final = 2_000
"""Sign-ins with a sync that one core carries (docs/benchmarks, "reconnect")."""

FEW: Final = 1_000
"""Sockets up to which nobody has to wait for anybody."""

GROWTH: Final = 1.25
"""Times as many as when it was last told to everybody."""


class Returns:
    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._told = FEW
        """The number that everybody was told the time for, at least."""

    def within(self) -> int:
        """Milliseconds; 0 if there are few."""
        sockets = self._hub.sockets
        return 0 if sockets <= FEW else sockets * 1000 // PER_SECOND

    def one_more(self) -> None:
        """A socket went live."""
        sockets = self._hub.sockets
        if sockets * GROWTH * GROWTH < self._told:
            self._told = max(FEW, sockets)  # many have left, and those who come now are told less
        elif sockets > self._told * GROWTH:
            self._told = sockets
            frame = encode_frame(encode_event("server", events.encode({"returnWithin": self.within()})))
            for client in self._hub.all_clients():
                if client.syncs:
                    client.socket.send(frame)
