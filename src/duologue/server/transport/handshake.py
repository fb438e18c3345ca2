"""Who may open or continue a session: the checks that both transports share, and the published refusals.

Sources: the Engine.IO protocol, revision 4 (query parameters), engine.io's published error codes, RFC 6454 (origins).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from urllib.parse import parse_qsl, urlsplit

import msgspec

from duologue.wire.engineio import PROTOCOL

MAX_QUERY = 2_048
"""Bytes of a query string."""
MAX_PARAMETERS = 32

KNOWN_QUERIES = 64
"""Queries without a session's id whose meaning is remembered: nearly everybody comes with the same one."""

POLLING = "polling"
WEBSOCKET = "websocket"

_HOST = re.compile(r"[A-Za-z0-9._-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")


class Refused(msgspec.Struct, frozen=True):
    """An HTTP answer that ends a request. `retry_after` is in seconds."""

    status: int
    code: int
    message: str
    retry_after: int | None = None

    @property
    def body(self) -> bytes:
        return msgspec.json.encode({"code": self.code, "message": self.message})


UNKNOWN_TRANSPORT = Refused(400, 0, "Transport unknown")
UNKNOWN_SID = Refused(400, 1, "Session ID unknown")
BAD_METHOD = Refused(400, 2, "Bad handshake method")
BAD_REQUEST = Refused(400, 3, "Bad request")
FORBIDDEN = Refused(403, 4, "Forbidden")
UNSUPPORTED_PROTOCOL = Refused(400, 5, "Unsupported protocol version")
TOO_LARGE = Refused(413, 3, "Payload too large")
TIMED_OUT = Refused(408, 3, "Request timeout")
UNAVAILABLE = Refused(503, 3, "Service unavailable", 1)
NOT_FOUND = Refused(404, 3, "Not found")


def parse_query(raw: bytes) -> Mapping[str, str] | Refused:
    if len(raw) > MAX_QUERY:
        return BAD_REQUEST
    return _parse(raw) if b"sid=" in raw else _parse_known(raw)


def _parse(raw: bytes) -> Mapping[str, str] | Refused:
    try:
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
    except ValueError:
        return BAD_REQUEST
    query = dict(pairs)
    # A name given twice means different things to different parsers; so it's refused where it matters.
    if len(query) != len(pairs) and len({name for name, _ in pairs if name in _MEANINGFUL}) != sum(
        name in _MEANINGFUL for name, _ in pairs
    ):
        return BAD_REQUEST
    return query


_parse_known = lru_cache(KNOWN_QUERIES)(_parse)

_MEANINGFUL = frozenset({"EIO", "transport", "sid", "j"})


def check_query(query: Mapping[str, str], transport: str) -> Refused | None:
    """`transport` is what the request really came by."""
    asked = query.get("transport")
    if asked not in (POLLING, WEBSOCKET):
        return UNKNOWN_TRANSPORT
    if query.get("EIO") != PROTOCOL:
        return UNSUPPORTED_PROTOCOL
    if asked != transport or "j" in query:  # j: JSONP, which revision 4 has no more
        return BAD_REQUEST
    return None


class OriginPolicy:
    """Which pages may connect. Keeps a foreign page from using its visitor's cookies or network position."""

    __slots__ = ("_allowed", "_own_hosts", "any")

    def __init__(self, allowed: Iterable[str], own_hosts: Iterable[str] = ()) -> None:
        """`own_hosts`: the only names under which a page may be our own, without ports; empty allows any name."""
        self._own_hosts = frozenset(host.lower() for host in own_hosts)
        self._allowed = frozenset(origin.rstrip("/").lower() for origin in allowed)
        self.any = "*" in self._allowed

    def allows(self, origin: str | None, host: str | None) -> bool:
        """Both as in the headers. The scheme isn't compared for the own host, for a proxy may speak TLS for us."""
        if host is None or not _HOST.fullmatch(host):
            return False
        if origin is None or self.any:
            return True
        origin = origin.lower()
        if origin in self._allowed:
            return True
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        if parts.scheme not in ("http", "https") or parts.netloc != host.lower() or parts.path:
            return False
        return not self._own_hosts or parts.hostname in self._own_hosts

    def cors_headers(self, origin: str | None) -> list[tuple[bytes, bytes]]:
        """The headers that let an allowed page of another origin read the answer."""
        if self.any:
            return [(b"access-control-allow-origin", b"*")]
        if origin is None:
            return []
        return [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-allow-credentials", b"true"),
            (b"vary", b"Origin"),
        ]


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def client_address(peer: str, forwarded: Sequence[str], trusted: Sequence[Network]) -> str:
    """Where a request comes from: the peer, or what the proxies that are trusted say of it. Each proxy appends the address
    that it was connected from to X-Forwarded-For, so the last one that isn't a trusted proxy's is the client's."""
    if not is_proxy(peer, trusted):
        return peer
    for address in reversed([each.strip() for line in forwarded for each in line.split(",")]):
        parsed = _parsed(address)
        if parsed is None:
            break
        peer = address
        if not _is_within(parsed, trusted):
            break
    return peer


def is_proxy(peer: str, trusted: Sequence[Network]) -> bool:
    """Whether the address of a connection is that of a trusted proxy."""
    return bool(trusted) and _is_within(_parsed(peer), trusted)


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _parsed(text: str) -> _Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_within(address: _Address | None, networks: Sequence[Network]) -> bool:
    return address is not None and any(address in network for network in networks)
