"""Who is told that somebody came or went.

A user is online while one of their sockets is signed in, and for a short grace after the last one, so that a reload goes
unnoticed. Clients of the guide's form are told of everybody as long as there are few people, and of those with whom
they have a conversation beyond that; clients that sync are told of those whom they watch.

What is told is always what is, never what was: whoever is told late, because their acquaintances had to be read first,
is told the state of that moment. So whatever overlaps, the last word to each client is right.

Where there are several nodes, `elsewhere` knows of the others, and everybody is told by its look-ups.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from typing import Final

from duologue.domain.errors import DuologueError, Refusal
from duologue.domain.limits import ChatLimits
from duologue.domain.model import User
from duologue.domain.ports import Clock, Store
from duologue.server import events
from duologue.server.elsewhere import PEERS_AT_ONCE, Elsewhere
from duologue.server.hub import Client, Hub
from duologue.server.transport import Frame, encode_frame
from duologue.wire import encode_event

logger = logging.getLogger(__name__)

RETRY_PAUSE: Final = 1.0
"""Seconds until what failed is tried again."""


class Presence:
    def __init__(
        self, hub: Hub, store: Store, clock: Clock, limits: ChatLimits, elsewhere: Elsewhere | None = None
    ) -> None:
        self._elsewhere = elsewhere
        if elsewhere is not None:
            elsewhere.connect(self)
        self._hub = hub
        self._store = store
        self._clock = clock
        self._limits = limits
        self._guide_clients: set[Client] = set()
        self._watchers: dict[str, set[Client]] = {}
        self._online: dict[str, User] = {}
        self._leaving: OrderedDict[str, float] = OrderedDict()
        """Online users without a socket, each with the end of their grace, the earliest first."""
        self._untold: OrderedDict[str, None] = OrderedDict()
        """Users who came or went, of which their acquaintances have still to be told."""
        self._unseen: dict[str, None] = {}
        """Users who are gone, of which the store has still to be told."""
        self._left = asyncio.Event()
        self._gone = asyncio.Event()
        self._changed = asyncio.Event()
        self._stopped = False

    def everybody_is_announced(self) -> bool:
        # As the store counts, for the roster goes by that: whom it leaves out has to be announced before they write.
        return self._store.people_count() <= self._limits.announce_people

    def is_online(self, user_id: str) -> bool:
        """Whether the user is connected to this node."""
        return user_id in self._online

    async def sight(self, users: Collection[str], reader: str) -> Callable[[str], bool]:
        """What tells the reader of each of these users whether they're online, on whatever node."""
        if self._elsewhere is None:
            return self.is_online
        try:
            others = await self._elsewhere.online(users)
        except Refusal as refusal:
            # A page without the others' presence is better than no page.
            logger.info("who is online elsewhere can't be looked up: %s", refusal)
            others = frozenset()
            for user_id in users:
                self._elsewhere.look(user_id, reader)
        else:
            for user_id in users:
                self._elsewhere.told(user_id, user_id in self._online or user_id in others, reader)
        return lambda user_id: user_id in self._online or user_id in others

    def review(self) -> None:
        """What other nodes have said of presence may have been lost."""
        if self._elsewhere is not None:
            self._elsewhere.review()

    def correct(self, user_id: str) -> None:
        """Somebody was told what this node knows of the user: if it's otherwise they're told that as well."""
        if self._elsewhere is not None and user_id not in self._online:
            self._elsewhere.look(user_id)

    def here(self) -> Collection[str]:
        return self._online.keys()

    def expect(self, client: Client) -> None:
        """From now on a client that is being signed in is told of others. It makes nobody online yet."""
        if not client.syncs:
            self._guide_clients.add(client)
            if self._elsewhere is not None:
                self._elsewhere.expect(client.user_id)

    def arrive(self, client: Client) -> None:
        """Count in a client that is signed in, and tell of its user if they come online by that."""
        user = client.sender.user
        self._leaving.pop(user.id, None)
        if user.id not in self._online:
            self._online[user.id] = user
            self._tell(user.id)

    def depart(self, client: Client) -> None:
        """Count a client out after it was detached. Its user goes offline when the grace is over."""
        if client in self._guide_clients:
            self._guide_clients.discard(client)
            if self._elsewhere is not None:
                self._elsewhere.leave(client.user_id)
        self.watch(client, frozenset())
        user_id = client.user_id
        # A socket that is being signed in keeps its user online, for it may be what a reload looks like.
        if user_id in self._online and not self._hub.is_here(user_id) and not self._stopped:
            self._leaving[user_id] = self._clock.monotonic() + self._limits.presence_grace
            self._left.set()

    def watch(self, client: Client, users: frozenset[str]) -> None:
        for user_id in client.watched - users:
            watchers = self._watchers[user_id]
            watchers.discard(client)
            if not watchers:
                del self._watchers[user_id]
                if self._elsewhere is not None:
                    self._elsewhere.unwatch(user_id)
        for user_id in users - client.watched:
            if user_id not in self._watchers and self._elsewhere is not None:
                self._elsewhere.watch(user_id)
            self._watchers.setdefault(user_id, set()).add(client)
        client.watched = users

    async def run(self) -> None:
        """Tell what can't be told at once, for as long as the server lives."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._see_off())
            group.create_task(self._tell_acquaintances())
            group.create_task(self._write_down())
            if self._elsewhere is not None:
                group.create_task(self._elsewhere.run())

    async def leave(self) -> None:
        """Write down that everybody who is here was seen now: nobody outlives the server."""
        self._stopped = True
        self._leaving.clear()
        here = [*self._online, *self._unseen]
        if here:
            try:
                await self._store.seen(here, self._clock.wall_ms())
            except DuologueError as error:
                logger.warning("when %d users were last seen is not written down: %s", len(here), error)
        if self._elsewhere is not None:
            try:
                await self._elsewhere.retire()
            except DuologueError as error:
                logger.warning("the other nodes will notice that this one is gone only by its silence: %s", error)

    async def _see_off(self) -> None:
        while True:
            while not self._leaving:
                self._left.clear()
                await self._left.wait()
            wait = next(iter(self._leaving.values())) - self._clock.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
                continue
            self._tell_who_is_gone()

    def _tell_who_is_gone(self) -> None:
        now = self._clock.monotonic()
        while self._leaving:
            user_id, deadline = next(iter(self._leaving.items()))
            if deadline > now:
                break
            del self._leaving[user_id]
            del self._online[user_id]
            self._tell(user_id)
            self._unseen[user_id] = None
            self._gone.set()

    async def _write_down(self) -> None:
        """When who has left was last seen. Apart from the telling, which waits for no disk."""
        while True:
            while not self._unseen:
                self._gone.clear()
                await self._gone.wait()
            gone, self._unseen = self._unseen, {}
            try:
                await self._store.seen(list(gone), self._clock.wall_ms())
            except Exception as error:
                logger.warning("when %d users were last seen can't be written down, trying again: %r", len(gone), error)
                self._unseen = {**gone, **self._unseen}
                await asyncio.sleep(RETRY_PAUSE)

    def _tell(self, user_id: str) -> None:
        """Tell whoever has to know whether a user is online. Who can be told without reading is told at once: they know
        of a newcomer before the newcomer's first message."""
        if self._elsewhere is not None:
            self._elsewhere.moved(user_id)
            return
        told: set[Client] = set(self._watchers.get(user_id, ()))
        if self.everybody_is_announced():
            told |= self._guide_clients
        elif self._guide_clients:
            self._untold[user_id] = None
            self._changed.set()
        self._tell_clients(user_id, told)

    async def _tell_acquaintances(self) -> None:
        while True:
            while not self._untold:
                self._changed.clear()
                await self._changed.wait()
            users = [self._untold.popitem(last=False)[0] for _ in range(min(PEERS_AT_ONCE, len(self._untold)))]
            try:
                found = await self._store.peers(users, self._limits.roster_people)
            except Exception as error:
                logger.warning("the acquaintances of %d users can't be read, trying again: %r", len(users), error)
                self._untold.update(dict.fromkeys(users))
                await asyncio.sleep(RETRY_PAUSE)
                continue
            for user_id, peers in found.items():
                clients = (client for peer in peers for client in self._hub.clients(peer) if not client.syncs)
                self._tell_clients(user_id, list(clients))

    def tell(self, user: User, online: bool, acquaintances: Iterable[str]) -> None:
        """Tell everybody here who has to know of a user who was looked up; see `elsewhere.Local`."""
        told: set[Client] = set(self._watchers.get(user.id, ()))
        if self.everybody_is_announced():
            told |= self._guide_clients
        else:
            told.update(client for peer in acquaintances for client in self._hub.clients(peer) if not client.syncs)
        self._send(user.id, connected_frame(user, True) if online else _disconnected_frame(user.id), told)

    def _tell_clients(self, user_id: str, clients: Iterable[Client]) -> None:
        user = self._online.get(user_id)
        self._send(user_id, _disconnected_frame(user_id) if user is None else connected_frame(user, True), clients)

    def _send(self, user_id: str, frame: Frame, clients: Iterable[Client]) -> None:
        for client in clients:
            if client.user_id != user_id:
                self._hub.tell(client, frame)


def _disconnected_frame(user_id: str) -> Frame:
    return encode_frame(encode_event("user disconnected", events.encode(user_id)))


def connected_frame(user: User, connected: bool) -> Frame:
    return encode_frame(connected_packet(user, connected))


def connected_packet(user: User, connected: bool) -> bytes:
    return encode_event("user connected", events.encode(events.roster_entry(user, connected)))
