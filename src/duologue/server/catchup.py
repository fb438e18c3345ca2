"""Bringing a connected socket up to date after a hint was lost: the store is read, and what was missed is sent."""

from __future__ import annotations

import logging
from collections.abc import Callable

from duologue.actions import reading
from duologue.domain.limits import ChatLimits
from duologue.domain.model import Conversation
from duologue.domain.ports import Store
from duologue.server import events
from duologue.server.hub import Client, Hub
from duologue.server.presence import Presence, connected_frame
from duologue.server.transport import encode_frame
from duologue.wire import encode_event

logger = logging.getLogger(__name__)


class CatchUp:
    def __init__(self, hub: Hub, presence: Presence, store: Store, limits: ChatLimits) -> None:
        self._hub = hub
        self._presence = presence
        self._store = store
        self._limits = limits

    async def run(self, client: Client) -> None:
        """Send what the client missed since its version and let it go on from there.

        If more than a page was missed the socket is closed: its next sync announces the gaps and pages through them. So
        is one of the guide's form: it knows no ids and would show what it sent itself a second time.
        """
        if not client.syncs:
            client.socket.close("it missed something")
            return
        page = await reading.missed(self._store, self._limits, client.user_id, client.version)
        is_online = await self._presence.sight([each.peer.id for each in page.conversations], client.user_id)
        if client.backlog is None:
            return
        if not page.known or page.next is not None or any(each.gap for each in page.conversations):
            client.socket.close("it missed more than a page")
            return
        for conversation in page.conversations:
            self._send(client, conversation, is_online)
        if page.conversations:
            # The events came conversation by conversation, not version by version: only now is the cursor reached.
            last = page.conversations[0]
            receipt = events.receipt(client.user_id, last.peer.id, last.mine.received, last.mine.read)
            self._emit(client, "receipt", events.with_cursor(receipt, self._store.epoch, page.version))
        self._hub.go_live(client, page.version)

    def _send(self, client: Client, conversation: Conversation, is_online: Callable[[str], bool]) -> None:
        peer = conversation.peer
        if conversation.messages and conversation.messages[0].seq == 1 and peer.id != client.user_id:
            client.socket.send(connected_frame(peer, is_online(peer.id)))
        for message in conversation.messages:
            self._emit(client, "private message", events.stored(message))
        theirs, mine = conversation.theirs, conversation.mine
        self._emit(client, "receipt", events.receipt(peer.id, client.user_id, theirs.received, theirs.read))
        self._emit(client, "receipt", events.receipt(client.user_id, peer.id, mine.received, mine.read))

    @staticmethod
    def _emit(client: Client, name: str, body: bytes) -> None:
        client.socket.send(encode_frame(encode_event(name, body)))
