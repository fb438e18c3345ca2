"""What the bus has lost without a trace: the versions and the sessions of who is here are compared with the store's, at an
interval.

A lost hint is noticed at the next one for the same user; this is for the last one, and for the time in which there are none
because the bus, or part of it, is away. One query for some hundred users, nothing for a user or a socket.

Whoever has just come is compared once by themselves (`second_look`), and everybody when the bus is back.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from duologue.domain.ports import Store
from duologue.server.hub import LATE_HINT_PATIENCE, Hub
from duologue.server.sessions import Sessions

logger = logging.getLogger(__name__)

CALM_INTERVAL: Final = 30.0
"""Seconds between two comparisons while the bus works."""

ALERT_INTERVAL: Final = 1.0
"""Seconds between two while it doesn't: how late a message from another node arrives then. So long, too, until what failed is
tried again."""

AFTER_CHANGE: Final = 2
"""Comparisons when the bus is back, at once and after `ALERT_INTERVAL`: its servers learn of subscriptions one after another."""

AT_ONCE: Final = 500
"""Users in one query."""


class Comparison:
    """`run` until cancelled."""

    def __init__(
        self,
        hub: Hub,
        sessions: Sessions,
        store: Store,
        calm_interval: float = CALM_INTERVAL,
        alert_interval: float = ALERT_INTERVAL,
    ) -> None:
        self._hub = hub
        self._sessions = sessions
        self._store = store
        self._calm_interval = calm_interval
        self._alert_interval = alert_interval
        self._works = False
        self._due = 0
        """Comparisons that still have to come soon, although the bus works."""
        self._changed = asyncio.Event()

    def bus_changed(self, works: bool) -> None:
        """Whether all of the bus works; to be called when that changes, and when it has lost something."""
        self._works = works
        self._due = AFTER_CHANGE  # also when it's back: what was published meanwhile was lost
        self._changed.set()

    def look_soon(self) -> None:
        """Something may have been missed, whatever the bus does."""
        self._due = max(self._due, 1)
        self._changed.set()

    async def run(self) -> None:
        while True:
            calm = self._works and not self._due
            try:
                async with asyncio.timeout(self._calm_interval if calm else self._alert_interval):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            due = max(0, self._due - 1)
            try:
                await self.compare(self._hub.users())
                await self._sessions.compare()
            except Exception as error:  # whatever it is: without comparisons lost hints stay lost
                logger.warning("the store can't be compared with, trying again: %r", error)
                due = max(1, self._due)
            if not self._changed.is_set():
                self._due = due

    async def compare(self, users: list[str]) -> None:
        """Bring those of the users up to date who are behind. Raises `Refusal(UNAVAILABLE)`."""
        ahead: dict[str, int] = {}
        for start in range(0, len(users), AT_ONCE):
            versions = await self._store.versions(users[start : start + AT_ONCE])
            ahead.update((user, version) for user, version in versions.items() if self._is_behind(user, version))
        if ahead:
            await asyncio.sleep(LATE_HINT_PATIENCE)  # their hints may be on the way
        for user, version in ahead.items():
            self._hub.behind(user, version)

    def _is_behind(self, user: str, version: int) -> bool:
        lowest = self._hub.lowest(user)
        return lowest is not None and lowest < version
