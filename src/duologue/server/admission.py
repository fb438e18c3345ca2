"""From CONNECT to the first page: who is this, what have they missed, and who has to be told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from duologue.actions import reading
from duologue.actions.send import Senders
from duologue.actions.sessions import join, resume
from duologue.domain.cursor import format_cursor
from duologue.domain.errors import Code, Refusal
from duologue.domain.identity import token_hash
from duologue.domain.limits import ChatLimits
from duologue.domain.model import Roster, SyncPage, User
from duologue.domain.ports import Bus, Store
from duologue.server import events
from duologue.server.fitting import read_fitting, roster_besides, roster_messages, sync_besides, sync_messages
from duologue.server.hub import Client, Hub
from duologue.server.presence import Presence
from duologue.server.returns import Returns
from duologue.server.second_look import SecondLook
from duologue.server.sessions import Sessions
from duologue.server.shares import Shares
from duologue.server.transport import Frame, Socket, encode_frame
from duologue.wire import encode_event

ADMISSIONS_AT_ONCE: Final = 64
"""Sign-ins that read the store at the same time; the others wait in line, so that a herd is served one after
another instead of all late."""

_decode_auth = msgspec.json.Decoder(events.Auth).decode


class Admission:
    def __init__(
        self,
        hub: Hub,
        bus: Bus,
        presence: Presence,
        sessions: Sessions,
        shares: Shares,
        senders: Senders,
        store: Store,
        limits: ChatLimits,
        returns: Returns,
        newcomers: SecondLook | None,
    ) -> None:
        """`newcomers`, where there are other nodes: users whose socket was brought up to date, and goes on by what it hears."""
        self._hub = hub
        self._bus = bus
        self._senders = senders
        self._presence = presence
        self._sessions = sessions
        self._shares = shares
        self._store = store
        self._limits = limits
        self._returns = returns
        self._newcomers = newcomers
        self._line = asyncio.Semaphore(ADMISSIONS_AT_ONCE)

    async def admit(self, socket: Socket, raw: msgspec.Raw | None) -> None:
        """Sign the socket in, bring it up to date and let it go live; `socket.data` is then its `Client`.

        The client's backlog begins before the store is read, so that nothing falls between the page and what
        follows it. Raises `Refusal` if it can't be signed in. The gateway cancels the call when the socket is gone.
        """
        auth = _auth(raw)
        async with self._line:
            user = await resume(self._store, auth.session_id)
        token: str = auth.session_id
        if user is None:
            # Outside the line: those who are known have only to be read, also while nothing can be written.
            user, token = await join(self._store, auth.username)
        session = token_hash(token)
        async with self._line:
            if self._sessions.has_ended(session):
                raise Refusal(Code.INVALID_USERNAME, "the session has just ended")
            if self._hub.count(user.id) + self._shares.elsewhere(user.id) >= self._limits.max_user_connections:
                raise Refusal(Code.OVERLOADED, "the user has too many connections")
            sender = self._hub.sender_of(user.id) or self._senders.make(user)
            syncs = isinstance(auth.sync, dict)
            client = Client(socket, sender, session, syncs)
            self._hub.attach(client)
            self._shares.came(user.id)
            self._presence.expect(client)
            socket.data = client
            await self._bus.settled()
            if syncs:
                version, first = await self._sync_page(user, auth.sync.get("since"))
            else:
                version, first = await self._roster(user)
        socket.accept()
        if not socket.connected:
            return
        self._presence.arrive(client)  # before the page, which lists its own reader as online
        socket.send(encode_frame(encode_event("session", events.session(token, user))))
        socket.send(first())  # encoded only now, so that it says who is online now
        self._hub.go_live(client, version)
        self._returns.one_more()
        if self._newcomers is not None:
            self._newcomers.note(user.id)

    async def _sync_page(self, user: User, since: object) -> tuple[int, Callable[[], Frame]]:
        limits = self._limits

        async def read(total: int) -> tuple[SyncPage, bool]:
            return await reading.first_sync(self._store, limits, user.id, since, total)

        page, reset = await read_fitting(read, sync_messages, sync_besides, limits.sync_total, limits.page_bytes)
        cursor = format_cursor(self._store.epoch, page.version)
        is_online = await self._presence.sight([each.peer.id for each in page.conversations], user.id)

        def frame() -> Frame:
            body = events.sync(page, cursor, reset, user, limits, self._returns.within(), is_online)
            return encode_frame(encode_event("sync", body))

        return page.version, frame

    async def _roster(self, user: User) -> tuple[int, Callable[[], Frame]]:
        limits = self._limits

        async def read(total: int) -> Roster:
            return await reading.roster(self._store, limits, user.id, total)

        roster = await read_fitting(read, roster_messages, roster_besides, limits.roster_total, limits.page_bytes)

        is_online = await self._presence.sight([each.id for each, _ in roster.people], user.id)

        def frame() -> Frame:
            people = [events.roster_entry(each, is_online(each.id), messages) for each, messages in roster.people]
            return encode_frame(encode_event("users", events.encode(people)))

        return roster.version, frame


def _auth(raw: msgspec.Raw | None) -> events.Auth:
    if raw is None:
        return events.Auth()
    try:
        return _decode_auth(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Refusal(Code.INVALID_USERNAME, "the auth payload is not an object") from None
