"""Who is told that somebody came or went.

A user is online while one of their sockets lives, and for a short grace after the last one, so that a reload goes
unnoticed. Clients of the guide's form are told of everybody as long as there are few people, and of those with whom
they have a conversation beyond that; clients that sync are told of those whom they watch.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from duologue.domain.errors import DuologueError
from duologue.domain.limits import ChatLimits
from duologue.domain.model import User
from duologue.domain.ports import Clock, Store
from duologue.server import events
from duologue.server.hub import Client, Hub
from duologue.server.transport import Frame
from duologue.wire import encode_event

logger = logging.getLogger(__name__)


class Presence:
    def __init__(self, hub: Hub, store: Store, clock: Clock, limits: ChatLimits) -> None:
        self._hub = hub
        self._store = store
        self._clock = clock
        self._limits = limits
        self._people = 0
        self._guide_clients: set[Client] = set()
        self._watchers: dict[str, set[Client]] = {}
        self._leaving: dict[str, float] = {}
        self._deadlines: deque[tuple[float, str]] = deque()
        self._left = asyncio.Event()
        self._stopped = False

    async def start(self) -> None:
        self._people = await self._store.people_count()

    def somebody_joined(self) -> None:
        self._people += 1

    def everybody_is_announced(self) -> bool:
        return self._people <= self._limits.announce_people

    def is_online(self, user_id: str) -> bool:
        return self._hub.is_here(user_id) or user_id in self._leaving

    def arrive(self, client: Client) -> bool:
        """Count a client in before it's attached. True if that makes its user come online."""
        came = not self.is_online(client.user_id)
        self._leaving.pop(client.user_id, None)
        if not client.syncs:
            self._guide_clients.add(client)
        return came

    async def announce(self, user: User) -> None:
        await self._tell(user.id, connected_frame(user, True))

    def depart(self, client: Client) -> None:
        """Count a client out after it was detached. Its user goes offline when the grace is over."""
        self._guide_clients.discard(client)
        self.watch(client, frozenset())
        user_id = client.user_id
        if not self._hub.is_here(user_id) and not self._stopped:
            deadline = self._clock.monotonic() + self._limits.presence_grace
            self._leaving[user_id] = deadline
            self._deadlines.append((deadline, user_id))
            self._left.set()

    def watch(self, client: Client, users: frozenset[str]) -> None:
        for user_id in client.watched - users:
            watchers = self._watchers[user_id]
            watchers.discard(client)
            if not watchers:
                del self._watchers[user_id]
        for user_id in users - client.watched:
            self._watchers.setdefault(user_id, set()).add(client)
        client.watched = users

    async def run(self) -> None:
        """Tell who has left, for as long as the server lives."""
        while True:
            while not self._deadlines:
                self._left.clear()
                await self._left.wait()
            wait = self._deadlines[0][0] - self._clock.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
                continue
            gone = self._gone_by_now()
            try:
                for user_id in gone:
                    await self._tell(user_id, Frame(encode_event("user disconnected", events.encode(user_id))))
                await self._store.seen(gone, self._clock.wall_ms())
            except DuologueError as error:
                logger.warning("%d users left, which not everybody may have been told: %s", len(gone), error)

    def _gone_by_now(self) -> list[str]:
        now = self._clock.monotonic()
        gone = []
        while self._deadlines and self._deadlines[0][0] <= now:
            deadline, user_id = self._deadlines.popleft()
            if self._leaving.get(user_id) == deadline:
                del self._leaving[user_id]
                gone.append(user_id)
        return gone

    async def leave(self) -> None:
        """Write down that everybody who is here was seen now: nobody outlives the server."""
        self._stopped = True
        here = {client.user_id for client in self._hub.all_clients()} | self._leaving.keys()
        if here:
            await self._store.seen(list(here), self._clock.wall_ms())

    async def _tell(self, user_id: str, frame: Frame) -> None:
        told: set[Client] = set(self._watchers.get(user_id, ()))
        if self.everybody_is_announced():
            told |= self._guide_clients
        elif self._guide_clients:
            for peer in await self._store.peers(user_id):
                told.update(client for client in self._hub.clients(peer) if not client.syncs)
        for client in told:
            if client.user_id != user_id:
                self._hub.tell(client, frame)


def connected_frame(user: User, connected: bool) -> Frame:
    return Frame(connected_packet(user, connected))


def connected_packet(user: User, connected: bool) -> bytes:
    return encode_event("user connected", events.encode(events.roster_entry(user, connected)))
