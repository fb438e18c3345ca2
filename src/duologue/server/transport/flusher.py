"""One write per connection and turn of the event loop, however many events it got."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

log = logging.getLogger("duologue.transport")


class Flushable(Protocol):
    def flush(self) -> None: ...


class Flusher:
    """Collects the connections that have something to send, and flushes all of them in one callback of the loop."""

    __slots__ = ("_dirty",)

    def __init__(self) -> None:
        self._dirty: list[Flushable] = []

    def mark(self, connection: Flushable) -> None:
        """The caller marks a connection once until its `flush` was called."""
        if not self._dirty:
            asyncio.get_running_loop().call_soon(self._flush)
        self._dirty.append(connection)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for connection in dirty:
            try:
                connection.flush()
            except Exception:
                log.exception("a connection could not be flushed")
