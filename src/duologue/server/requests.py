"""The events that read: each answered by its ack, in a task of its own, a bounded number at once per socket."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from duologue.actions import reading
from duologue.domain.cursor import format_cursor
from duologue.domain.limits import ChatLimits
from duologue.domain.model import SyncPage
from duologue.domain.ports import Bus, Store
from duologue.server import events
from duologue.server.fitting import fit, read_fitting, sync_besides, sync_messages
from duologue.server.hub import Client
from duologue.server.presence import Presence
from duologue.server.returns import Returns
from duologue.server.sessions import Sessions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import msgspec

    Request = Callable[["Requests", Client, Any], Awaitable[bytes]]


class Requests:
    """Each method takes the client and its decoded argument, and returns the ack's JSON or raises `Refusal`."""

    def __init__(
        self, store: Store, bus: Bus, presence: Presence, sessions: Sessions, limits: ChatLimits, returns: Returns
    ) -> None:
        self._store = store
        self._bus = bus
        self._presence = presence
        self._sessions = sessions
        self._limits = limits
        self._returns = returns
        self._turns = itertools.count(1)

    async def sync(self, client: Client, asked: events.Sync) -> bytes:
        limits = self._limits

        async def read(total: int) -> tuple[SyncPage, bool]:
            return await reading.next_sync(self._store, limits, client.user_id, asked.since, asked.next, total)

        page, reset = await read_fitting(read, sync_messages, sync_besides, limits.sync_total, limits.page_bytes)
        cursor = format_cursor(self._store.epoch, page.version)
        is_online = await self._presence.sight([each.peer.id for each in page.conversations], client.user_id)
        return events.sync(page, cursor, reset, client.sender.user, self._limits, self._returns.within(), is_online)

    async def history(self, client: Client, asked: events.History) -> bytes:
        page = await reading.history(
            self._store, self._limits, client.user_id, asked.peer, asked.before, asked.after, asked.limit
        )
        kept = fit(page.messages, self._limits.page_bytes, keep_oldest=asked.after is not None)
        return events.encode({"messages": kept, "more": page.more or len(kept) < len(page.messages)})

    async def directory(self, client: Client, asked: events.Directory) -> bytes:
        page = await reading.directory(self._store, self._limits, asked.after, asked.limit)
        is_online = await self._presence.sight([each.user.id for each in page.people], client.user_id)
        people = [events.person(each, is_online(each.user.id)) for each in page.people]
        return events.encode({"people": people, "next": page.next})

    async def watch(self, client: Client, asked: events.Watch) -> bytes:
        turn = next(self._turns)
        people = await reading.people(self._store, self._limits, asked.users)
        # Of two at once the second may be answered first; what was asked for last counts.
        if client.socket.connected and turn > client.watch_turn:
            client.watch_turn = turn
            self._presence.watch(client, frozenset(each.user.id for each in people))
        await self._bus.settled()  # so that what changes after the look is told
        is_online = await self._presence.sight([each.user.id for each in people], client.user_id)
        return events.encode({"people": [events.person(each, is_online(each.user.id)) for each in people]})

    async def sign_out(self, client: Client, asked: events.SignOut) -> bytes:
        await self._sessions.end(client)
        return b"{}"


REQUESTS: dict[str, tuple[type[msgspec.Struct], Request]] = {
    "sync": (events.Sync, Requests.sync),
    "history": (events.History, Requests.history),
    "directory": (events.Directory, Requests.directory),
    "watch": (events.Watch, Requests.watch),
    "sign out": (events.SignOut, Requests.sign_out),
}
"""The argument's type and the method, by the event's name."""
