"""The class for uvicorn's `ws=` setting. picows' constructor isn't a documented interface (2.3): it's used in this
file only.

uvicorn has parsed and checked the HTTP request; it hands it over as bytes by `data_received`, then makes this object
the transport's protocol.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from picows import WSAutoPingStrategy
from picows.picows import WSProtocol  # type: ignore[attr-defined]  # its stubs leave it out

from duologue.server.transport.engine import Engine, Opening
from duologue.server.transport.handshake import (
    BAD_METHOD,
    BAD_REQUEST,
    NOT_FOUND,
    WEBSOCKET,
    Refused,
)
from duologue.server.transport.session import SERVICE_RESTART, Session
from duologue.server.transport.websocket import WebsocketConnection

if TYPE_CHECKING:
    from picows import WSListener, WSUpgradeRequest
    from uvicorn.config import Config
    from uvicorn.server import ServerState

_READ_BUFFER = 2_048
"""Bytes per connection to begin with, picows' least; it grows with the frames."""

_SHARE = 32_768
"""Bytes that one connection may send in ..."""

_SHARE_SECONDS = 0.01
"""... so many seconds. Who sends more is read later: to refuse all of a flood at once would take the time of everybody, for
libuv reads one socket up to 32 times before it looks at the next."""

_KEY_BYTES = 16
_VERSION = "13"

_STATUS = {
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    413: "Content Too Large",
    429: "Too Many Requests",
    503: "Service Unavailable",
}

# picows makes a new Logger for each connection unless it's given something that isn't one.
_picows_log = logging.LoggerAdapter(logging.getLogger("duologue.transport.picows"), {})
logging.getLogger("duologue.transport.picows").setLevel(logging.WARNING)  # below that, two lines per connection


def websocket_protocol(engines: Mapping[str, Engine]) -> type[asyncio.BufferedProtocol]:  # noqa: C901  # the class's methods are counted as its branches
    """A protocol class that serves each engine at its path, which ends with a slash; without it matches too."""
    by_path = dict(engines)
    by_path.update({path.rstrip("/"): engine for path, engine in engines.items() if path != "/"})

    class WebsocketProtocol(WSProtocol):  # type: ignore[misc]  # for lack of that stub mypy knows no class here
        __slots__ = ("_connection", "_connections", "_raw_transport", "_since", "_taken")

        def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any]) -> None:
            largest = max(engine.limits.max_payload for engine in engines.values())
            super().__init__(
                None,  # host_port: for clients
                None,  # ws_path: for clients
                False,  # is_client_side
                self._listener,
                _picows_log,
                True,  # disconnect_on_exception
                None,  # websocket_handshake_timeout: uvicorn has the whole handshake already
                False,  # enable_auto_ping: the engine's heartbeat does that
                0,
                0,
                WSAutoPingStrategy.PING_WHEN_IDLE,
                False,  # enable_auto_pong: the listener answers, unless the peer doesn't read
                largest,
                None,  # extra_headers
                _READ_BUFFER,
            )
            self._connections: set[Any] = server_state.connections
            self._connection: WebsocketConnection | None = None
            self._raw_transport: asyncio.Transport | None = None
            self._taken = 0
            self._since = 0.0

        def connection_made(self, transport: asyncio.Transport) -> None:
            self._raw_transport = transport
            # A read takes no more than the system has: picows' buffer grows to whatever a peer sends.
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SHARE)
            self._connections.add(self)
            super().connection_made(_Underlying(transport))

        def connection_lost(self, exc: Exception | None) -> None:
            self._connections.discard(self)
            super().connection_lost(exc)
            self._connection = None

        def data_received(self, data: bytes) -> None:
            """The handshake, whole, as uvicorn writes it down."""
            transport = self._raw_transport
            assert transport is not None  # uvicorn calls connection_made first
            key_or_refused = self._negotiate(data, transport)
            if isinstance(key_or_refused, Refused):
                transport.write(_http_answer(key_or_refused))
                transport.close()
                return
            # picows gets no more than it needs: it keeps the headers for as long as the connection lives, and it knows
            # only `Connection: upgrade`, where Firefox sends `keep-alive, Upgrade`.
            self._feed(
                b"GET / HTTP/1.1\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n"
                b"sec-websocket-key: " + key_or_refused.encode() + b"\r\n\r\n"
            )

        def buffer_updated(self, nbytes: int) -> None:
            super().buffer_updated(nbytes)
            self._taken += nbytes
            if self._taken >= _SHARE:
                self._wait_for_the_others()

        def _wait_for_the_others(self) -> None:
            self._taken = 0
            loop, transport = asyncio.get_running_loop(), self._raw_transport
            now = loop.time()
            early = self._since + _SHARE_SECONDS - now
            self._since = now
            if early > 0 and transport is not None and not transport.is_closing():
                self._since += early
                transport.pause_reading()
                loop.call_later(early, _resume, transport)

        def shutdown(self) -> None:
            """uvicorn is going down."""
            if self._connection is not None:
                self._connection.shut_down(SERVICE_RESTART)
            elif self._raw_transport is not None:
                self._raw_transport.close()

        def _negotiate(self, data: bytes, transport: asyncio.Transport) -> str | Refused:
            """The peer's key, once everything is checked and `_connection` is ready."""
            request_line, *lines = data.decode("latin-1").split("\r\n")
            method, target, _ = request_line.split(" ", 2)
            headers: dict[str, list[str]] = {}
            for line in lines:
                name, separator, value = line.partition(":")
                if separator:
                    headers.setdefault(name.lower(), []).append(value.strip())
            path, _, query = target.partition("?")
            engine = by_path.get(path)
            if engine is None:
                return NOT_FOUND
            peer = transport.get_extra_info("peername")
            address = engine.client_address(
                peer[0] if isinstance(peer, tuple) else "", headers.get("x-forwarded-for", [])
            )
            if method != "GET":
                return BAD_METHOD
            found = engine.check(
                WEBSOCKET, method, query.encode("latin-1"), headers.get("origin", []), headers.get("host", []), address
            )
            if isinstance(found, Refused):
                return found
            keys = headers.get("sec-websocket-key", [])
            if len(keys) != 1 or not _is_key(keys[0]) or headers.get("sec-websocket-version") != [_VERSION]:
                return BAD_REQUEST
            if "transfer-encoding" in headers or headers.get("content-length", ["0"]) != ["0"]:
                return BAD_REQUEST
            kept = {name: headers[name][0] for name in engine.config.keep_headers if name in headers}
            session = found if isinstance(found, Session) else None
            self._connection = WebsocketConnection(engine, Opening(session, address, kept), transport)
            return keys[0]

        def _listener(self, request: WSUpgradeRequest) -> WSListener | None:
            return self._connection

        def _feed(self, data: bytes) -> None:
            while data:
                buffer = self.get_buffer(len(data))
                size = min(len(buffer), len(data))
                buffer[:size] = data[:size]
                self.buffer_updated(size)
                data = data[size:]

    return WebsocketProtocol


class _Underlying:
    """The transport as picows knows it, but for its socket, and that but for the options: picows asks for four of them, for a
    line of its log that is switched off, and for each uvloop makes a socket object."""

    __slots__ = ("_transport",)

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def get_extra_info(self, name: str) -> object:
        found = self._transport.get_extra_info(name)
        return _Socket(found) if name == "socket" else found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Socket:
    __slots__ = ("fileno", "setsockopt")

    def __init__(self, real: socket.socket) -> None:
        self.fileno = real.fileno
        self.setsockopt = real.setsockopt

    def getsockopt(self, *_: int) -> int:
        return 0


def _resume(transport: asyncio.Transport) -> None:
    if not transport.is_closing():
        transport.resume_reading()


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == _KEY_BYTES
    except (binascii.Error, ValueError):
        return False


def _http_answer(refused: Refused) -> bytes:
    retry = f"retry-after: {refused.retry_after}\r\n" if refused.retry_after is not None else ""
    head = (
        f"HTTP/1.1 {refused.status} {_STATUS[refused.status]}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(refused.body)}\r\nconnection: close\r\n{retry}\r\n"
    )
    return head.encode() + refused.body
