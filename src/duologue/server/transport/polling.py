"""The HTTP long-polling transport as an ASGI endpoint.

Sources: the Engine.IO protocol, revision 4, section HTTP long-polling; CORS of the Fetch standard.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from duologue.server.transport.config import TransportConfig
from duologue.server.transport.handshake import (
    BAD_REQUEST,
    FORBIDDEN,
    POLLING,
    TIMED_OUT,
    TOO_LARGE,
    UNKNOWN_SID,
    OriginPolicy,
    Refused,
)
from duologue.server.transport.session import Session
from duologue.wire.engineio import decode_payload
from duologue.wire.limits import Limits
from duologue.wire.violation import Violation

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_PREFLIGHT: Headers = [
    (b"access-control-allow-methods", b"GET, POST"),
    (b"access-control-max-age", b"600"),
    (b"content-length", b"0"),
]
_HEADER_NAMES = re.compile(r"[A-Za-z0-9_, -]{1,512}")


class Sessions(Protocol):
    """What this endpoint needs of an engine."""

    config: TransportConfig
    limits: Limits
    origins: OriginPolicy

    def check(
        self, transport: str, method: str, raw_query: bytes, origins: list[str], hosts: list[str], address: str
    ) -> Session | Refused | None: ...

    def client_address(self, peer: str, forwarded: list[str]) -> str: ...

    def open_polling(self, address: str, headers: dict[str, str]) -> Session: ...


class PollingEndpoint:
    """Opens sessions by a GET without `sid`, takes bodies by POST and holds the other GETs until there's something to
    say."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError("the polling endpoint serves HTTP only")
        method: str = scope["method"]
        origins = _header(scope, b"origin")
        hosts = _header(scope, b"host")
        peer = scope["client"][0] if scope.get("client") else ""
        address = self._sessions.client_address(peer, _header(scope, b"x-forwarded-for"))
        cors = self._sessions.origins.cors_headers(origins[0] if origins else None)
        if method == "OPTIONS":
            await self._preflight(scope, origins, hosts, cors, send)
            return
        found = self._sessions.check(POLLING, method, scope["query_string"], origins, hosts, address)
        if found is FORBIDDEN:
            cors = []
        if found is None:
            keep = self._sessions.config.keep_headers
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            session = self._sessions.open_polling(address, {name: headers[name] for name in keep if name in headers})
            first = session.begin_poll()
            assert isinstance(first, bytes)  # the handshake is queued
            answer: bytes | Refused = first
        elif isinstance(found, Refused):
            answer = found
        elif not found.polled:
            answer = BAD_REQUEST
        elif method == "GET":
            answer = await self._poll(found, receive)
        elif method == "POST":
            answer = await self._post(found, scope, receive)
        else:
            answer = BAD_REQUEST
        await _answer(answer, method, cors, send)

    async def _preflight(self, scope: Scope, origins: list[str], hosts: list[str], cors: Headers, send: Send) -> None:
        if len(origins) == 1 and len(hosts) == 1 and self._sessions.origins.allows(origins[0], hosts[0]):
            asked = ",".join(_header(scope, b"access-control-request-headers"))
            allowed = asked if _HEADER_NAMES.fullmatch(asked) else "content-type"
            headers = [*_PREFLIGHT, (b"access-control-allow-headers", allowed.encode()), *cors]
            await send({"type": "http.response.start", "status": 204, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
        else:
            await _answer(FORBIDDEN, "OPTIONS", [], send)

    async def _poll(self, session: Session, receive: Receive) -> bytes | Refused:
        answer = session.begin_poll()
        if answer is None:
            return BAD_REQUEST
        if isinstance(answer, bytes):
            return answer
        # The wait ends at the latest with the session: its heartbeat is the time-out.
        gone = asyncio.ensure_future(_peer_gone(receive))
        try:
            await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                session.abandon_poll()
                return BAD_REQUEST
            return answer.result()
        finally:
            gone.cancel()

    async def _post(self, session: Session, scope: Scope, receive: Receive) -> bytes | Refused:
        if not session.begin_post():
            return BAD_REQUEST
        try:
            kinds = _header(scope, b"content-type")
            if any(kind.startswith("application/octet-stream") for kind in kinds):
                session.violate("binary body")
                return BAD_REQUEST
            body = await self._body(scope, receive)
        finally:
            session.end_post()
        if isinstance(body, Refused):
            session.violate(body.message)
            return body
        if not session.polled:  # closed or upgraded meanwhile
            return UNKNOWN_SID
        packets = decode_payload(body, self._sessions.limits)
        if isinstance(packets, Violation):
            session.violate(packets.reason)
            return BAD_REQUEST
        return _deliver(session, packets)

    async def _body(self, scope: Scope, receive: Receive) -> bytes | Refused:
        """The whole body, never more of it in memory than is allowed."""
        limit = self._sessions.limits.max_payload
        lengths = _header(scope, b"content-length")
        if lengths and (len(lengths) > 1 or not lengths[0].isdecimal() or len(lengths[0]) > 19):
            return BAD_REQUEST
        if lengths and int(lengths[0]) > limit:
            return TOO_LARGE
        body = bytearray()
        try:
            async with asyncio.timeout(self._sessions.config.body_timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return BAD_REQUEST
                    body += message.get("body", b"")
                    if len(body) > limit:
                        return TOO_LARGE
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            return TIMED_OUT


def _deliver(session: Session, packets: list[bytes | bytearray]) -> bytes | Refused:
    for packet in packets:
        if isinstance(packet, bytearray):
            session.receive_binary(bytes(packet))
        else:
            session.receive_text(packet)
        if session.closed:
            # Nothing after a close is heard, and after a violation nobody shall believe that it was.
            return b"ok" if packet[:1] == b"1" else BAD_REQUEST
    return b"ok"


def _header(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


async def _peer_gone(receive: Receive) -> None:
    """Returns when the connection of a GET breaks, or says more than a GET has to say."""
    while (message := await receive())["type"] != "http.disconnect":
        if message.get("body"):
            return


async def _answer(answer: bytes | Refused, method: str, cors: Headers, send: Send) -> None:
    if isinstance(answer, Refused):
        status, body, content_type = answer.status, answer.body, b"application/json"
    else:
        status, body = 200, answer
        content_type = b"text/html" if method == "POST" else b"text/plain; charset=UTF-8"
    headers: Headers = [
        (b"content-type", content_type),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        *cors,
    ]
    if isinstance(answer, Refused):
        if answer.retry_after is not None:
            headers.append((b"retry-after", b"%d" % answer.retry_after))
        if answer is TIMED_OUT:
            headers.append((b"connection", b"close"))  # the rest of the body is not waited for
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
