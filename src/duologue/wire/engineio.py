"""The Engine.IO v4 codec: packets and polling payloads.

Source: the Engine.IO protocol, revision 4. A text packet is one digit, its type, and the data. A binary message is the
bare content on a websocket and `b` with base64 in a payload.
"""

from __future__ import annotations

import binascii
import enum

import msgspec

from duologue.wire.frames import SEPARATOR
from duologue.wire.limits import Limits
from duologue.wire.violation import Violation

PROTOCOL = "4"


class PacketType(enum.IntEnum):
    """The first byte of a text packet."""

    OPEN = ord("0")
    CLOSE = ord("1")
    PING = ord("2")
    PONG = ord("3")
    MESSAGE = ord("4")
    UPGRADE = ord("5")
    NOOP = ord("6")


CLOSE = b"1"
PING = b"2"
PONG = b"3"
UPGRADE = b"5"
NOOP = b"6"
PROBE_PING = b"2probe"
PROBE_PONG = b"3probe"

Payload = list[bytes | bytearray]
"""Packets in order: `bytes` is a text packet with its type, `bytearray` the content of a binary message."""


class _Open(msgspec.Struct, gc=False, rename="camel"):
    sid: str
    upgrades: tuple[str, ...]
    ping_interval: int
    ping_timeout: int
    max_payload: int


def encode_open(sid: str, upgrades: tuple[str, ...], ping_interval: int, ping_timeout: int, max_payload: int) -> bytes:
    """The handshake. The intervals are in milliseconds, `max_payload` in bytes."""
    return b"0" + msgspec.json.encode(_Open(sid, upgrades, ping_interval, ping_timeout, max_payload))


def decode_payload(body: bytes, limits: Limits) -> Payload | Violation:
    """Split a polling body. All of it is refused when one packet can't be a packet, so that nothing is half
    processed."""
    if len(body) > limits.max_payload:
        return Violation("payload is too large")
    if body.count(SEPARATOR) >= limits.payload_packets:
        return Violation("payload has too many packets")
    packets: Payload = []
    for piece in body.split(SEPARATOR):
        if not piece:
            return Violation("empty packet")
        if piece[0] == 0x62:  # b: base64
            try:
                packets.append(bytearray(binascii.a2b_base64(piece[1:], strict_mode=True)))
            except binascii.Error:
                return Violation("binary packet is not base64")
        elif not 0x30 <= piece[0] <= 0x36:
            return Violation("unknown Engine.IO packet type")
        else:
            packets.append(piece)
    return packets
