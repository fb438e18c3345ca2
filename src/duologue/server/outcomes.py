"""From a committed batch to the sockets: first the ack, then the bus, each event encoded once."""

from __future__ import annotations

from collections.abc import Sequence

from duologue.domain.errors import Refusal
from duologue.domain.model import User
from duologue.domain.ports import Bus, Pending, PendingMessage, PendingReceipt, Store
from duologue.server import events
from duologue.server.answers import refuse
from duologue.server.hub import Client, Hub
from duologue.server.presence import Presence, connected_packet
from duologue.server.transport import encode_frame
from duologue.wire import encode_event

_RECEIPT = encode_event("receipt")[:-1] + b","
"""The packet up to its argument."""

Origin = tuple[Client, int | None]
"""What the gateway submits with a write: who asked, and the id of the ack they want."""


class Outcomes:
    """The store's sink."""

    def __init__(self, hub: Hub, presence: Presence, bus: Bus, store: Store) -> None:
        self._hub = hub
        self._presence = presence
        self._bus = bus
        self._store = store

    def __call__(self, batch: Sequence[Pending]) -> None:
        for pending in batch:
            if type(pending) is PendingMessage:
                self._message(pending)
            elif type(pending) is PendingReceipt:
                self._receipt(pending)

    def _message(self, pending: PendingMessage) -> None:
        origin: Origin = pending.origin  # type: ignore[assignment]  # the gateway submits nothing else
        client, ack_id = origin
        if pending.failure is not None:
            refuse(client, "private message", ack_id, Refusal(pending.failure), pending.id)
            return
        socket = client.socket
        if ack_id is not None:
            socket.send(encode_frame(events.message_ack(pending, ack_id)))
        if pending.duplicate:
            return
        sender, recipient, bus = pending.sender, pending.recipient, self._bus
        to_recipient = sender != recipient and bus.wanted(recipient)
        here = socket.connected  # or gone since, and then no longer one of those who are counted
        to_sender = bus.wanted(sender, 1 if here else 0)
        if not to_sender:
            if here:
                self._hub.advance(client, pending.sender_version)
            if not to_recipient:
                return
        content = events.encode(pending.content).decode()
        epoch = self._store.epoch
        if pending.recipient_name is not None:
            self._introduce(client.sender.user, User(recipient, pending.recipient_name), socket.id)
        if to_recipient:
            version = pending.recipient_version
            bus.publish(recipient, version, events.message_packet(pending, content, epoch, version))
        if to_sender:
            version = pending.sender_version
            packet = events.message_packet(pending, content, epoch, version)
            bus.publish(sender, version, packet, socket.id)

    def _introduce(self, sender: User, recipient: User, origin: str) -> None:
        """Before the first message of a conversation each side is told who the other is."""
        if sender.id != recipient.id:
            # As presence sees it: of what it has told nobody, neither side will be told anything else later.
            is_online = self._presence.is_online
            self._bus.publish(recipient.id, 0, connected_packet(sender, is_online(sender.id)), announcement=True)
            known = connected_packet(recipient, is_online(recipient.id))
            self._bus.publish(sender.id, 0, known, origin, announcement=True)
            self._presence.correct(recipient.id)

    def _receipt(self, pending: PendingReceipt) -> None:
        origin: Origin = pending.origin  # type: ignore[assignment]  # the gateway submits nothing else
        client, ack_id = origin
        if pending.failure is not None:
            refuse(client, "read" if pending.read else "received", ack_id, Refusal(pending.failure))
            return
        if ack_id is not None:
            client.socket.ack(ack_id, b'{"received":%d,"read":%d}' % (pending.received, pending.read))
        if not pending.user_version:
            return
        user, peer = pending.user, pending.peer
        event = events.receipt(user, peer, pending.received, pending.read)
        if user != peer:
            self._publish_receipt(peer, pending.peer_version, event)
        self._publish_receipt(user, pending.user_version, event, client.socket.id)

    def _publish_receipt(self, user: str, version: int, event: bytes, exclude: str = "") -> None:
        packet = b"%b%b]" % (_RECEIPT, events.with_cursor(event, self._store.epoch, version))
        self._bus.publish(user, version, packet, exclude)
