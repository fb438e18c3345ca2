"""The end of a session: the store forgets it, every node hears of it and closes the sockets that were signed in by it.

A node hears of it twice, on the bus and from a store that several share, for either may be away; of what it hears by neither, it
finds out when it next compares with the store.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, Final

from duologue.domain.errors import Refusal
from duologue.domain.identity import USER_ID_LENGTH, is_user_id
from duologue.domain.ports import Bus, Clock, Store
from duologue.server.hub import Client, Hub

logger = logging.getLogger(__name__)

TOPIC: Final = "sessions"
"""Where nodes say that a session has ended: the user's id, then the hash of the session's token."""

MAX_ENDED: Final = 100_000
"""Ended sessions that are remembered at once; beyond that the one that ended first is forgotten."""

AT_ONCE: Final = 500
"""Sessions in one query."""

_HASH_LENGTH: Final = 32


class Sessions:
    """`memory`: seconds for which an ended session is remembered, longer than anybody takes to be signed in. `spawn` owns a
    task to its end."""

    def __init__(
        self,
        hub: Hub,
        store: Store,
        bus: Bus,
        clock: Clock,
        spawn: Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]],
        memory: float,
    ) -> None:
        self._hub = hub
        self._store = store
        self._bus = bus
        self._clock = clock
        self._spawn = spawn
        self._memory = memory
        self._ended: OrderedDict[bytes, float] = OrderedDict()
        """Hashes, the earliest end first, and until when each is remembered: who was read from the store before the end and
        isn't in the hub yet is found by them."""
        self._asking: set[Client] = set()
        """Clients that wait for the answer."""

    def start(self) -> None:
        self._bus.subscribe_topic(TOPIC, self._heard)

    async def end(self, client: Client) -> None:
        """End the session of a client and close its sockets; this one in the loop's next turn, so that the caller can still
        answer. Raises `Refusal` if it can't be written down. Goes on when the caller is cancelled."""
        refusals: list[Refusal] = []
        self._asking.add(client)
        try:
            await asyncio.shield(self._spawn(self._end(client.user_id, client.session, refusals), "end of a session"))
        finally:
            self._asking.discard(client)
        if refusals:
            raise refusals[0]
        asyncio.get_running_loop().call_soon(_close, client)

    def has_ended(self, session: bytes) -> bool:
        """Whether the session, which the store knew a moment ago, has ended since."""
        return session in self._ended

    async def compare(self) -> None:
        """Close the sockets here whose session the store doesn't know any more. Raises `Refusal(UNAVAILABLE)`."""
        clients = self._hub.all_clients()
        for start in range(0, len(clients), AT_ONCE):
            some = clients[start : start + AT_ONCE]
            known = await self._store.sessions([client.session for client in some])
            for client in some:
                if client.session not in known:
                    _close(client)

    async def _end(self, user_id: str, session: bytes, refusals: list[Refusal]) -> None:
        try:
            await self._store.end_session(session)
        except Refusal as refusal:
            refusals.append(refusal)
            return
        self._bus.publish_topic(TOPIC, user_id.encode() + session)

    def _heard(self, _: str, data: bytes) -> None:
        """From any node, this one included; a stranger on the bus may have sent anything."""
        user_id, session = data[:USER_ID_LENGTH].decode(errors="replace"), data[USER_ID_LENGTH:]
        self.note_end(user_id, session)

    def note_end(self, user_id: str, session: bytes) -> None:
        """A session has ended, on whatever node; to be told it twice, or of none, does no harm."""
        if not is_user_id(user_id) or len(session) != _HASH_LENGTH:
            return
        self._remember(session)
        for client in list(self._hub.clients(user_id)):
            if client.session == session and client not in self._asking:
                _close(client)

    def _remember(self, session: bytes) -> None:
        now = self._clock.monotonic()
        ended = self._ended
        while ended and (len(ended) >= MAX_ENDED or next(iter(ended.values())) <= now):
            ended.popitem(last=False)
        ended[session] = now + self._memory


def _close(client: Client) -> None:
    if client.socket.connected:
        logger.info("user %s: signed out", client.user_id)
        client.socket.disconnect()
    else:
        client.socket.close("its session has ended")  # it's still being signed in
