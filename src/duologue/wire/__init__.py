"""Engine.IO v4 and Socket.IO v5 as codecs and state machines, without I/O, clock or event loop.

Usable alone as the core of a Socket.IO server: `Namespaces` takes the messages of one connection and says what they
mean; `encode_*` make what goes back; `engineio`, `session` and `messages` serve the transports below. No
input makes anything here raise: it returns a `Violation` with the reason for which the connection has to be closed.
"""

from __future__ import annotations

from duologue.wire.attachments import extract_attachments, resolve_attachments
from duologue.wire.frames import Frame, encode_binary_frame, encode_frame
from duologue.wire.limits import Limits
from duologue.wire.namespaces import Namespaces
from duologue.wire.refused import Refused, Refuser
from duologue.wire.socketio import (
    MAIN,
    Ack,
    Connect,
    Disconnect,
    Event,
    encode_ack,
    encode_connect,
    encode_connect_error,
    encode_disconnect,
    encode_event,
)
from duologue.wire.typed import Schemas, TypedEvent
from duologue.wire.violation import Violation

__all__ = [
    "MAIN",
    "Ack",
    "Connect",
    "Disconnect",
    "Event",
    "Frame",
    "Limits",
    "Namespaces",
    "Refused",
    "Refuser",
    "Schemas",
    "TypedEvent",
    "Violation",
    "encode_ack",
    "encode_binary_frame",
    "encode_connect",
    "encode_connect_error",
    "encode_disconnect",
    "encode_event",
    "encode_frame",
    "extract_attachments",
    "resolve_attachments",
]
