"""The security limits of the wire core. Every parse has one; what passes it closes the connection with its name."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of what one peer may send. The defaults suit a messenger; none may be switched off."""

    max_payload: int = 1_000_000
    """Bytes of a websocket message, of a polling body, and of the packets in one poll's answer."""

    payload_packets: int = 10_000
    """Packets in one polling body."""

    poll_packets: int = 16
    """Packets in one poll's answer: what the strictest known client, python-engineio's, takes in one payload."""

    fragments: int = 1_024
    """Frames that one fragmented websocket message may come in."""

    attachments: int = 64
    """Binary attachments of one event."""

    attachment_bytes: int = 1_000_000
    """Bytes of all attachments of one event together."""

    nesting: int = 64
    """Depth of arrays and objects in the JSON of one packet, the packet's own array included."""

    event_name: int = 256
    """Characters of an event's name."""

    namespace: int = 128
    """Bytes of a namespace, its slash included."""

    namespaces: int = 16
    """Namespaces of one connection at a time."""

    ack_digits: int = 15
    """Decimal digits of an ack id; below 2**53, so that every client's numbers can hold it."""
