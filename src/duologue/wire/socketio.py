"""The Socket.IO v5 codec: one packet to and from text.

Source: the Socket.IO protocol, revision 5: type, `n-` attachments, `/namespace,`, ack id, JSON. A packet here is the
whole Engine.IO message, so it begins with `4`, and nothing is copied to cut that off.
"""

from __future__ import annotations

import enum

import msgspec
from msgspec import Raw

from duologue.wire.json_text import check_object, split_array
from duologue.wire.limits import Limits
from duologue.wire.violation import Violation

MAIN = "/"

RESERVED_EVENTS = frozenset(
    {"connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"}
)


class PacketType(enum.IntEnum):
    """The byte after the Engine.IO type."""

    CONNECT = ord("0")
    DISCONNECT = ord("1")
    EVENT = ord("2")
    ACK = ord("3")
    CONNECT_ERROR = ord("4")
    BINARY_EVENT = ord("5")
    BINARY_ACK = ord("6")


class Connect(msgspec.Struct, gc=False):
    """The peer asks to enter a namespace; `auth` is a raw JSON object or None."""

    namespace: str
    auth: Raw | None


class Disconnect(msgspec.Struct, gc=False):
    """The peer leaves a namespace."""

    namespace: str


class Event(msgspec.Struct, gc=False):
    """An event with its arguments as raw JSON, the name taken off. `ack_id` is None when no answer is asked for."""

    namespace: str
    name: str
    args: list[Raw]
    ack_id: int | None
    attachments: tuple[bytes, ...]


class Ack(msgspec.Struct, gc=False):
    """The answer to an event that was sent with an ack id."""

    namespace: str
    ack_id: int
    args: list[Raw]
    attachments: tuple[bytes, ...]


class Announced(msgspec.Struct, gc=False):
    """A binary packet whose `missing` attachments (at least one) have still to arrive."""

    packet: Event | Ack
    missing: int


Packet = Connect | Disconnect | Event | Ack | Announced

_decode_name = msgspec.json.Decoder(str).decode

_EVENT = 0x32
_BRACKET = 0x5B
_SLASH = 0x2F


def decode(packet: bytes, limits: Limits) -> Packet | Violation:
    """Decode a whole Engine.IO text message (`4` and the rest), as a server gets it."""
    # The first two branches are the hot path: an event in the main namespace, without or with an ack id.
    if len(packet) > 2 and packet[1] == _EVENT:
        third = packet[2]
        if third == _BRACKET:
            return _event(MAIN, packet[2:], None, limits)
        if third != _SLASH:
            start = packet.find(b"[", 3, 3 + limits.ack_digits)
            digits = packet[2:start]
            if start < 0 or not digits.isdigit():
                return Violation("bad ack id")
            return _event(MAIN, packet[start:], int(digits), limits)
    return _decode_any(packet, limits)


def _decode_any(packet: bytes, limits: Limits) -> Packet | Violation:  # noqa: C901 - one step a part of the packet
    if len(packet) < 2:
        return Violation("empty Socket.IO packet")
    kind = packet[1]
    if not PacketType.CONNECT <= kind <= PacketType.BINARY_ACK:
        return Violation("unknown Socket.IO packet type")
    if kind == PacketType.CONNECT_ERROR:
        return Violation("CONNECT_ERROR from a client")
    position = 2

    missing = 0
    if kind >= PacketType.BINARY_EVENT:
        dash = packet.find(b"-", position, position + len(str(limits.attachments)) + 1)
        digits = packet[position:dash]
        if dash < 0 or not digits.isdigit() or (missing := int(digits)) > limits.attachments:
            return Violation("bad number of attachments")
        position = dash + 1

    namespace = MAIN
    if packet[position : position + 1] == b"/":
        comma = packet.find(b",", position, position + limits.namespace + 1)
        end = len(packet) if comma < 0 else comma
        if end - position > limits.namespace:
            return Violation("namespace is too long")
        try:
            namespace = packet[position:end].decode()
        except UnicodeDecodeError:
            return Violation("namespace is not UTF-8")
        namespace, query, _ = namespace.partition("?")  # what older clients put there was never part of the name
        if not namespace.isprintable() or (query and kind != PacketType.CONNECT):
            return Violation("bad namespace")
        position = end + (comma >= 0)

    rest = packet[position:]
    if kind == PacketType.CONNECT:
        return _connect(namespace, rest, limits)
    if kind == PacketType.DISCONNECT:
        return Violation("DISCONNECT with data") if rest else Disconnect(namespace)

    start = rest.find(b"[", 0, limits.ack_digits + 1)
    digits = rest[:start]
    if start < 0 or (digits and not digits.isdigit()):
        return Violation("bad ack id")
    ack_id = int(digits) if digits else None
    text = rest[start:]
    decoded: Event | Ack | Violation
    if kind in (PacketType.EVENT, PacketType.BINARY_EVENT):
        decoded = _event(namespace, text, ack_id, limits)
    elif ack_id is None:
        return Violation("ACK without an id")
    else:
        args = split_array(text, limits.nesting)
        decoded = args if isinstance(args, Violation) else Ack(namespace, ack_id, args, ())
    if missing and not isinstance(decoded, Violation):
        return Announced(decoded, missing)
    return decoded


def _event(namespace: str, text: bytes, ack_id: int | None, limits: Limits) -> Event | Violation:
    args = split_array(text, limits.nesting)
    if type(args) is not list:
        return args  # type: ignore[return-value]  # the Violation; isinstance costs a tenth of the whole packet
    if not args:
        return Violation("event without a name")
    try:
        name = _decode_name(args.pop(0))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Violation("event name is not a string")
    if name in RESERVED_EVENTS:
        return Violation("reserved event name")
    if len(name) > limits.event_name:
        return Violation("event name is too long")
    return Event(namespace, name, args, ack_id, ())


def _connect(namespace: str, text: bytes, limits: Limits) -> Connect | Violation:
    if not text:
        return Connect(namespace, None)
    auth = check_object(text, limits.nesting)
    return auth if isinstance(auth, Violation) else Connect(namespace, auth)


def _prefix(kind: PacketType, namespace: str, attachments: int = 0) -> bytes:
    head = b"4%c" % kind
    if attachments:
        head += b"%d-" % attachments
    return head if namespace == MAIN else head + namespace.encode() + b","


def encode_event(
    name: str, *json_args: bytes, namespace: str = MAIN, ack_id: int | None = None, attachments: int = 0
) -> bytes:
    """EVENT, or BINARY_EVENT when `attachments` of them follow. The arguments are JSON texts and are not checked."""
    head = _prefix(PacketType.BINARY_EVENT if attachments else PacketType.EVENT, namespace, attachments)
    if ack_id is not None:
        head += b"%d" % ack_id
    return b"%b[%b]" % (head, b",".join((msgspec.json.encode(name), *json_args)))


def encode_ack(ack_id: int, *json_args: bytes, namespace: str = MAIN, attachments: int = 0) -> bytes:
    """ACK, or BINARY_ACK when `attachments` of them follow."""
    if namespace == MAIN and not attachments:
        return b"43%d[%b]" % (ack_id, b",".join(json_args))
    head = _prefix(PacketType.BINARY_ACK if attachments else PacketType.ACK, namespace, attachments)
    return b"%b%d[%b]" % (head, ack_id, b",".join(json_args))


def encode_connect(sid: str, namespace: str = MAIN) -> bytes:
    return _prefix(PacketType.CONNECT, namespace) + msgspec.json.encode({"sid": sid})


def encode_connect_error(message: str, data: bytes | None = None, namespace: str = MAIN) -> bytes:
    """CONNECT_ERROR; `data` is a JSON text that the stock client finds in `error.data`."""
    body: dict[str, object] = {"message": message}
    if data is not None:
        body["data"] = Raw(data)
    return _prefix(PacketType.CONNECT_ERROR, namespace) + msgspec.json.encode(body)


def encode_disconnect(namespace: str = MAIN) -> bytes:
    return _prefix(PacketType.DISCONNECT, namespace)
