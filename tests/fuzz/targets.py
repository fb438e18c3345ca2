"""What is fuzzed: each parser that reads what a stranger sends, as a function of bytes that raises if it misbehaves.

The wire core may return anything for bad input, but must not raise; what it accepts has to be within its limits and come
back the same when it is encoded again. Above it, an argument is either decoded or refused by one of the named errors.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Final

import msgspec

from duologue.domain.content import check_content, check_message_id
from duologue.domain.cursor import format_cursor, parse_cursor
from duologue.domain.errors import Refusal
from duologue.domain.identity import check_user_id
from duologue.domain.names import normalise_username
from duologue.server import events
from duologue.server.gateway import ARGUMENTS
from duologue.wire import (
    Ack,
    Connect,
    Event,
    Limits,
    Namespaces,
    Refused,
    Refuser,
    Schemas,
    TypedEvent,
    Violation,
    encode_ack,
    encode_event,
    extract_attachments,
    resolve_attachments,
)
from duologue.wire.engineio import decode_payload
from duologue.wire.messages import CONTINUATION, Assembler
from duologue.wire.namespaces import Input
from duologue.wire.socketio import Announced, decode

LIMITS: Final = Limits(payload_packets=100, fragments=16, namespaces=4)

_SCHEMAS: Final = Schemas(ARGUMENTS, LIMITS)
_OVERLOADED: Final = Schemas(ARGUMENTS, LIMITS, Refuser(ARGUMENTS, lambda: "no", lambda _: b"[]"))

SEPARATOR: Final = b"\x1e"
BINARY_MARK: Final = b"b"


def engineio_payload(data: bytes) -> None:
    """Engine.IO payloads: what is accepted is the same when it is joined again."""
    packets = decode_payload(data, LIMITS)
    if isinstance(packets, Violation):
        return
    assert 0 < len(packets) <= LIMITS.payload_packets
    joined = SEPARATOR.join(
        BINARY_MARK + base64.b64encode(packet) if isinstance(packet, bytearray) else packet for packet in packets
    )
    again = decode_payload(joined, LIMITS)
    assert again == packets, (packets, again)


def websocket_fragments(data: bytes) -> None:
    """Websocket messages in fragments: each byte pair is an opcode with its final bit, and a length."""
    assembler = Assembler(LIMITS)
    open_parts = b""
    while len(data) >= 2:
        opcode, fin, size = data[0] % 3, bool(data[0] & 0x80), data[1]
        content, data = data[2 : 2 + size], data[2 + size :]
        message = assembler.receive(opcode, fin, content)
        if isinstance(message, Violation):
            return
        open_parts = open_parts + content if opcode == CONTINUATION else content
        if message is None:
            assert assembler.busy
            continue
        assert message[1] == open_parts
        assert not assembler.busy


def socketio_packet(data: bytes) -> None:
    """One Socket.IO packet: what is accepted keeps the limits and survives being encoded."""
    packet = decode(b"4" + data, LIMITS)
    missing = 0
    if isinstance(packet, Announced):
        packet, missing = packet.packet, packet.missing
        assert 0 < missing <= LIMITS.attachments
    if not isinstance(packet, Event | Ack):
        return
    assert len(packet.namespace.encode()) <= LIMITS.namespace
    assert packet.ack_id is None or 0 <= packet.ack_id < 10**LIMITS.ack_digits
    arguments = [bytes(argument) for argument in packet.args]
    for argument in arguments:
        json.loads(argument)
    if isinstance(packet, Event):
        assert len(packet.name) <= LIMITS.event_name
        # The name is ours to encode: one of another spelling (\u0061) is the same name.
        encoded = encode_event(packet.name, *arguments, namespace=packet.namespace, attachments=missing)
        if packet.ack_id is not None:
            return
    else:
        encoded = encode_ack(packet.ack_id, *arguments, namespace=packet.namespace, attachments=missing)
    again = decode(encoded, LIMITS)
    if isinstance(again, Announced):
        assert again.missing == missing
        again = again.packet
    assert isinstance(again, Event | Ack), (packet, again)
    assert (again.namespace, list(map(bytes, again.args))) == (packet.namespace, arguments)


def socketio_connection(data: bytes) -> None:
    """A connection's packets in order, separated by the separator; binary ones begin with `b`, as in a payload."""
    connection = Namespaces(LIMITS)
    for packet in data.split(SEPARATOR):
        if packet.startswith(BINARY_MARK):
            received = connection.receive_binary(packet[1:])
        else:
            typed = _SCHEMAS.decode(b"4" + packet) if connection.open else None
            received = connection.receive_text(b"4" + packet)
            if isinstance(refused := _OVERLOADED.decode(b"4" + packet), Refused):
                (frame,) = refused.frames()
                answer = decode(frame.payload, LIMITS)
                assert isinstance(answer, Ack)
                assert frame.payload == encode_ack(answer.ack_id)
            if isinstance(typed, TypedEvent):
                assert isinstance(received, Event)
                assert (received.name, received.ack_id) == (typed.name, typed.ack_id)
                argument = msgspec.json.decode(received.args[0], type=ARGUMENTS[received.name])
                assert msgspec.to_builtins(argument) == msgspec.to_builtins(typed.argument)
        if isinstance(received, Violation):
            return
        if isinstance(received, Connect):
            assert connection.apply(received.namespace, Input.ACCEPT)
        elif isinstance(received, Event | Ack) and received.attachments:
            values = resolve_attachments(received.args, received.attachments)
            assert not isinstance(values, Violation), "the core checks placeholders before it hands a packet on"
            _, attachments = extract_attachments(values)
            assert sorted(attachments) == sorted(received.attachments)


def chat_arguments(data: bytes) -> None:
    """The arguments of the chat's events: the first byte chooses the struct, the rest is its JSON."""
    type_ = _ARGUMENTS[data[0] % len(_ARGUMENTS)] if data else events.Auth
    try:
        asked = msgspec.json.decode(data[1:], type=type_)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    try:
        match asked:
            case events.Auth():
                normalise_username(asked.username)
            case events.PrivateMessage():
                check_user_id(asked.to)
                check_content(asked.content, 8_000)
                if asked.id is not None:
                    check_message_id(asked.id)
                # What is stored has to come back as it was.
                assert asked.content.encode().decode() == asked.content
            case events.Sync() if asked.since is not None:
                version = parse_cursor(asked.since, "epoch")
                assert version is None or parse_cursor(format_cursor("epoch", version), "epoch") == version
    except Refusal:
        pass


_ARGUMENTS: Final[list[type[msgspec.Struct]]] = [
    events.Auth,
    events.PrivateMessage,
    events.Position,
    events.History,
    events.Sync,
    events.Directory,
    events.Watch,
    events.Typing,
]

TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    target.__name__: target
    for target in (engineio_payload, websocket_fragments, socketio_packet, socketio_connection, chat_arguments)
}
