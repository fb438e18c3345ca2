"""A second look at whatever began with a subscription, a moment after the first.

The bus confirms a subscription when the server that this node is connected to has it. The other servers of a cluster learn
of it a moment later, and what is published there until then is lost without a trace. So whoever subscribes, and then
looks at what is, looks once more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

logger = logging.getLogger(__name__)

SECOND_LOOK: Final = 1.0
"""Seconds, at least, from the first look to the second, and twice as many at most: longer than a subscription takes to every
server of a cluster."""

MAX_WAITING: Final = 100_000
"""Keys that wait for their second look. Those beyond have to wait until everything is compared."""


class SecondLook:
    """`look` gets the keys, in batches. `run` until cancelled: one task and one timer, however many wait."""

    def __init__(self, look: Callable[[list[str]], Awaitable[None]]) -> None:
        self._look = look
        self._waiting: dict[str, None] = {}
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def note(self, key: str) -> None:
        """The first look at this happens now."""
        if len(self._waiting) < MAX_WAITING:
            self._waiting[key] = None
            self._wake.set()
        elif key not in self._waiting:
            logger.warning("%d wait for a second look, a further one is left out", MAX_WAITING)

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                noted, self._waiting = (
                    self._waiting,
                    {},
                )  # those who come meanwhile get the next turn: it would be too early
                await asyncio.sleep(SECOND_LOOK)
                try:
                    await self._look(list(noted))
                except Exception as error:  # whatever it is: who is looked at next has nothing to do with it
                    logger.info("a second look at %d failed and is taken later: %r", len(noted), error)
                    self._waiting = dict([*noted.items(), *self._waiting.items()][:MAX_WAITING])
